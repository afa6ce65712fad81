"""The scanner: table, blur of the reconstruction kernel, correlated noise and padding outside the field of view."""

import math

import numpy as np

from ctpa_vqgan.data.phantom.canvas import HU, LABELS, Canvas, Slice

KERNEL_MM = 0.6  # standard deviation of a soft reconstruction kernel in the plane
FINEST_KERNEL = 0.55  # of a voxel: coarse grids see partial volume too
SHARED_NOISE = 0.5  # correlation of the noise of neighbouring slices
STORED_HU = (-1024, 3071)  # 12 bits: what a scanner can store besides padding


def paint_table(s: Slice) -> None:
    """Paint the two carbon skins of a curved table top under the patient."""
    depth = -120 + s.x**2 / 1000 - s.y  # below the upper surface, mm
    skin = ((depth > 0) & (depth < 3)) | ((depth > 24 + s.x**2 / 900) & (depth < 27 + s.x**2 / 900))
    s.paint(skin & s.holds("outside"), "table")
    s.paint((depth > 0) & (depth < 24) & s.holds("outside"), "outside", -960)  # foam


def scan(canvas: Canvas, noise_hu: float, rng: np.random.Generator) -> None:
    """Turn the painted HU into a reconstruction, in place and slice by slice.

    Edges are blurred in three directions. Noise is filtered like the image, so it is grainy and not white, and it is
    stronger in the middle, where fewer photons arrive.

    Args:
        canvas: painted patient and table.
        noise_hu: standard deviation of the noise at 0.7 of the radius; 1.2 times that in the middle, 0.8 at the rim.
        rng: source of the noise.
    """
    depth, height, width = canvas.hu.shape
    rim_x, rim_y = (np.linspace(-1 + 1 / n, 1 - 1 / n, n, dtype=np.float32) for n in (width, height))
    squared_radius = rim_x[None, :] ** 2 + rim_y[:, None] ** 2
    padding = squared_radius > 1
    strength = noise_hu * (1.2 - 0.4 * squared_radius)
    kernels = [_kernel(max(KERNEL_MM / mm, FINEST_KERNEL)) for mm in canvas.voxel_mm[:2]]
    gain = math.prod(math.sqrt(float((kernel**2).sum())) for kernel in kernels)

    def smooth_slice(k: int) -> np.ndarray:
        return _smooth(canvas.hu[k].astype(np.float32), kernels)

    grain = _smooth(rng.standard_normal(padding.shape, dtype=np.float32), kernels) / gain
    below, here = smooth_slice(0), smooth_slice(0)
    for k in range(depth):
        above = smooth_slice(k + 1) if k + 1 < depth else here  # not yet scanned, unlike the slices below
        image = 0.2 * below + 0.6 * here + 0.2 * above + strength * grain
        canvas.hu[k] = np.where(padding, HU["padding"], np.rint(np.clip(image, *STORED_HU)))
        canvas.labels[k][padding] = LABELS["padding"]
        below, here = here, above
        # Neighbouring slices share noise: this recursion correlates them and keeps the variance at one.
        fresh = _smooth(rng.standard_normal(padding.shape, dtype=np.float32), kernels) / gain
        grain = SHARED_NOISE * grain + math.sqrt(1 - SHARED_NOISE**2) * fresh


def _kernel(sigma: float) -> np.ndarray:
    """Sampled Gaussian that sums to one, float32, cut at three standard deviations."""
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def _smooth(image: np.ndarray, kernels: list[np.ndarray]) -> np.ndarray:
    """Convolve [H, W] with one kernel along x and one along y, repeating the border."""
    for axis, kernel in zip((1, 0), kernels):
        reach = len(kernel) // 2
        pad = [(reach, reach) if a == axis else (0, 0) for a in (0, 1)]
        padded = np.pad(image, pad, mode="edge")
        n = image.shape[axis]
        parts = (padded[:, i : i + n] if axis else padded[i : i + n] for i in range(len(kernel)))
        image = sum(weight * part for weight, part in zip(kernel, parts))
    return image
