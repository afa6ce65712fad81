"""Noise texture: the power spectrum of homogeneous regions.

Network and original are measured by the same functions on the same regions, and the two answers are compared.
"""

# F frequencies, X Y Z voxels

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ctpa_vqgan.metrics.lengths import positive_lengths
from ctpa_vqgan.metrics.slabs import check_volumes, read_slab, slabs


class NoisePower(NamedTuple):
    """Two-dimensional noise power spectrum, zero frequency first (as ``numpy.fft.fftfreq`` orders it)."""

    x_per_mm: np.ndarray  # [X], cycles per mm
    y_per_mm: np.ndarray  # [Y], cycles per mm
    nps: np.ndarray  # [X, Y], HU^2 mm^2
    variance_hu2: float  # the integral of ``nps``


class RadialNoisePower(NamedTuple):
    """Noise power by spatial frequency, all directions taken together, up to Nyquist."""

    frequency_per_mm: np.ndarray  # [F], mean of the frequencies in each ring, zero left out
    nps: np.ndarray  # [F], HU^2 mm^2
    mean_frequency_per_mm: float  # the spectrum's centre of mass, the corners beyond Nyquist left out
    peak_frequency_per_mm: float


def noise_power(rois: Any, spacing_mm: Sequence[float], degree: int = 2) -> NoisePower:
    """In-plane noise power spectrum of homogeneous regions, the mean of one periodogram for each slice.

    From every slice a polynomial of x and y is taken first (cupping and gradients are not noise); that costs white
    noise the share ``coefficients / voxels`` of its variance, 0.15 % for degree 2 in 64 x 64, all at low frequency.
    The integral over all frequencies is the variance of what is left, exactly (Parseval).

    Source: ICRU Report 87, 2012; Samei et al., Med. Phys. 46, 2019 (AAPM TG-233). Sizes and numbers of regions: Dolly
    et al., "Practical considerations for noise power spectra estimation for clinical CT scanners", JACMP 17, 2016.

    Args:
        rois: [X, Y, N], HU: N slices or squares of one size; put regions together along the last axis. Noise of the
            estimate falls as 1 / sqrt(N).
        spacing_mm: voxel size along X and Y (a third value is left unused).
        degree: highest power of the polynomial: 0 takes the mean, 1 a plane, 2 a bowl too.

    Returns:
        The spectrum in HU^2 mm^2: white noise of standard deviation s in pixels of a by b mm has s^2 a b everywhere.

    Raises:
        ValueError: if ``rois`` is not [X, Y, N], a side is under 8, a voxel is NaN or infinite, ``degree`` is not 0,
            1 or 2, or a spacing is not positive.
    """
    check_volumes(rois, rois)
    num_x, num_y, num_rois = rois.shape
    if min(num_x, num_y) < 8:
        raise ValueError(f"regions must be 8 x 8 voxels or larger to hold a spectrum, got {num_x} x {num_y}")
    if degree not in (0, 1, 2):
        raise ValueError(f"degree must be 0 (mean), 1 (plane) or 2 (bowl), got {degree}")
    spacing = positive_lengths("spacing_mm", spacing_mm[:2], 2)
    x, y = np.meshgrid(np.linspace(-1, 1, num_x), np.linspace(-1, 1, num_y), indexing="ij")
    terms = [x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)]
    basis = np.linalg.qr(np.stack(terms, -1).reshape(num_x * num_y, -1))[0]
    power = np.zeros((num_x, num_y))
    for start, stop in slabs(num_rois):
        slab = read_slab(rois, start, stop, "cpu").numpy().astype(np.float64)
        if not np.isfinite(slab).all():
            raise ValueError(f"rois hold NaN or infinite voxels in slices {start} to {stop - 1}")
        slab -= slab.mean()  # so that the fit below loses no digits to a large mean
        flat = slab.reshape(num_x * num_y, -1)
        noise = (flat - basis @ (basis.T @ flat)).reshape(slab.shape)
        power += (abs(np.fft.fft2(noise, axes=(0, 1))) ** 2).sum(-1)
    nps = power * spacing[0] * spacing[1] / (num_x * num_y * num_rois)
    cell = 1 / (num_x * spacing[0] * num_y * spacing[1])  # per mm^2: area of one coefficient in frequency
    x_per_mm, y_per_mm = np.fft.fftfreq(num_x, spacing[0]), np.fft.fftfreq(num_y, spacing[1])
    return NoisePower(x_per_mm, y_per_mm, nps, float(nps.sum() * cell))


def radial_noise_power(power: NoisePower) -> RadialNoisePower:
    """Average a spectrum over rings, each as wide as the coarser frequency step, up to the lower Nyquist frequency.

    The mean frequency tells noise texture in one number (a smoothing network lowers it); AAPM TG-233 has it beside the
    peak frequency, which jumps from ring to ring.

    Raises:
        ValueError: if the spectrum is zero: noise-free regions have no frequency.
    """
    frequency = _frequency(power)
    width = float(max(power.x_per_mm[1], power.y_per_mm[1]))
    nyquist = float(min(abs(power.x_per_mm).max(), abs(power.y_per_mm).max()))
    ring = np.round(frequency / width).astype(np.int64)
    kept = (ring > 0) & (frequency <= nyquist * (1 + 1e-9))
    if not power.nps[kept].sum() > 0:
        raise ValueError("the noise power is zero at all frequencies; are the regions constant?")
    counts, radius, total = (
        np.bincount(ring[kept], weights)[1:] for weights in (None, frequency[kept], power.nps[kept])
    )
    radius, nps = radius / counts, total / counts
    centroid = float((frequency[kept] * power.nps[kept]).sum() / power.nps[kept].sum())
    return RadialNoisePower(radius, nps, centroid, float(radius[nps.argmax()]))


def _frequency(power: NoisePower) -> np.ndarray:
    return np.hypot(power.x_per_mm[:, None], power.y_per_mm[None, :])
