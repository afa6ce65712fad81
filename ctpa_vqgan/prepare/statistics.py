"""What the values of a volume tell: range, histogram, tissues, and whether its vessels are filled with contrast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

PERCENTILES = (0.5, 5, 50, 95, 99.5)
HISTOGRAM_START, HISTOGRAM_STOP, HISTOGRAM_STEP = -1024, 3072, 32  # HU
# from the first value up to, not including, the second; what lies between lung and soft tissue is mostly their edge
SHARES_HU = {
    "air": (-32768, -950),  # with padding
    "lung": (-950, -500),
    "soft_tissue": (-150, 250),
    "bone_or_contrast": (250, 32768),  # and metal
}

# Contrast-filled blood is bright and even over the width of a large vessel. Spongy bone is as bright but seldom even,
# cortical bone and the table are thin.
BLOCK_MM = 5.0  # a large vessel holds several blocks across
SAMPLE_MM = 1.5  # a voxel each so many mm is enough for the mean of a block
BLOOD_HU = (180, 700)  # less is not told from spongy bone, more is bone or undiluted contrast
SOFT_TISSUE_HU = (0, 100)  # where the noise is measured
MAX_SD = (1.5, 5.0)  # sd of an even block: at most this many times the noise, and so many HU more
CONTRAST_ML = (
    20.0  # so much even bright volume makes a contrast scan; none was found without contrast, 148 ml and more with
)

_SLAB_VOXELS = 1 << 20  # read at once: fits a cache


def volume_statistics(voxels: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, Any]:
    """Values of a volume as plain JSON: exact range and percentiles, histogram, shares of tissues, contrast.

    The contrast is estimated without a segmentation: the volume is cut into blocks of about 5 mm, blocks count as
    blood if their mean lies in 180..700 HU, if they are as even as the noise in the soft tissue allows, and if they
    are part of a cube of 2 x 2 x 2 such blocks. 20 ml of blood make a contrast scan.

    Args:
        voxels: [X, Y, Z], int16, HU; any strides, a memory map will do: it is read slab by slab, never copied whole.
        spacing_mm: size of a voxel along X, Y, Z.

    Returns:
        ``min``, ``max``; ``percentiles`` by name ("0.5" ... "99.5"); ``histogram`` with ``start``, ``step`` (HU),
        ``counts`` (bins from ``start`` upwards), ``under``, ``over``; ``shares`` of air, lung, soft tissue, and bone or
        contrast; ``contrast``, ``contrast_ml``, and ``contrast_hu``, the level that the brightest tenth of the filled
        vessels exceeds (None without contrast).
    """
    axes = memory_order(voxels)
    view = voxels.transpose(axes)
    counts = _value_counts(view)
    values = np.flatnonzero(counts)
    return {
        "min": int(values[0]) - 32768,
        "max": int(values[-1]) - 32768,
        "percentiles": _percentiles(counts),
        "histogram": _histogram(counts),
        "shares": {name: _between(counts, *limits) / voxels.size for name, limits in SHARES_HU.items()},
        **_contrast(view, [float(spacing_mm[axis]) for axis in axes]),
    }


def memory_order(voxels: np.ndarray) -> tuple[int, ...]:
    """The axes from the slowest to the fastest in memory, to read an array of any strides in its own order."""
    return tuple(sorted(range(voxels.ndim), key=lambda axis: -abs(voxels.strides[axis])))


def _value_counts(view: np.ndarray) -> np.ndarray:
    """How often each int16 value occurs; entry 0 is -32768."""
    counts = np.zeros(1 << 16, np.int64)
    slices = max(1, _SLAB_VOXELS // view[0].size)
    for start in range(0, len(view), slices):
        slab = np.ascontiguousarray(view[start : start + slices], np.int16)
        counts += np.bincount(slab.reshape(-1).view(np.uint16), minlength=1 << 16)
    return np.roll(counts, 1 << 15)


def _between(counts: np.ndarray, low: int, high: int) -> int:
    return int(counts[low + 32768 : high + 32768].sum())


def _percentiles(counts: np.ndarray) -> dict[str, int]:
    """The smallest value that so many percent of the voxels do not exceed: a value that occurs, not a mean of two."""
    cumulated = np.cumsum(counts)
    ranks = [max(1, int(np.ceil(percent / 100 * cumulated[-1]))) for percent in PERCENTILES]
    return {f"{percent:g}": int(np.searchsorted(cumulated, rank)) - 32768 for percent, rank in zip(PERCENTILES, ranks)}


def _histogram(counts: np.ndarray) -> dict[str, Any]:
    start, stop, step = HISTOGRAM_START, HISTOGRAM_STOP, HISTOGRAM_STEP
    return {
        "start": start,
        "step": step,
        "counts": counts[start + 32768 : stop + 32768].reshape(-1, step).sum(1).tolist(),
        "under": _between(counts, -32768, start),
        "over": _between(counts, stop, 32768),
    }


def _contrast(view: np.ndarray, spacing_mm: Sequence[float]) -> dict[str, Any]:
    steps = [max(1, int(SAMPLE_MM / mm)) for mm in spacing_mm]
    # an sd needs some voxels: at least 2 x 2 of the two finest axes
    finest = sorted(range(3), key=lambda axis: spacing_mm[axis])[:2]
    sides = [
        max(2 if axis in finest else 1, round(BLOCK_MM / (mm * step)))
        for axis, (mm, step) in enumerate(zip(spacing_mm, steps))
    ]
    sides = [min(side, -(-length // step)) for side, length, step in zip(sides, view.shape, steps)]
    rows = list(_block_rows(view, steps, sides))
    mean, sd = (np.stack(part) for part in zip(*rows))
    block_mm = [mm * step * side for mm, step, side in zip(spacing_mm, steps, sides)]
    blood = _in_cubes(_even(mean, sd) & (mean >= BLOOD_HU[0]) & (mean < BLOOD_HU[1]), block_mm)
    block_ml = float(np.prod(block_mm)) / 1000
    volume_ml = float(blood.sum()) * block_ml
    contrast = volume_ml >= CONTRAST_ML
    return {
        "contrast": contrast,
        "contrast_hu": round(float(np.percentile(mean[blood], 90)), 1) if contrast else None,
        "contrast_ml": round(volume_ml, 1),
    }


def _block_rows(
    view: np.ndarray, steps: Sequence[int], sides: Sequence[int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Mean and sd of the blocks, one row of blocks along the slowest axis after the other."""
    rows, *grid = (-(-length // step) // side for length, step, side in zip(view.shape, steps, sides))
    inner = tuple(slice(0, n * side * step, step) for n, side, step in zip(grid, sides[1:], steps[1:]))
    for start in range(0, rows * sides[0] * steps[0], sides[0] * steps[0]):
        samples = view[(slice(start, start + sides[0] * steps[0], steps[0]), *inner)].astype(np.float32)
        blocks = samples.reshape(sides[0], grid[0], sides[1], grid[1], sides[2])
        yield blocks.mean((0, 2, 4)), blocks.std((0, 2, 4))


def _even(mean: np.ndarray, sd: np.ndarray) -> np.ndarray:
    soft = sd[(mean > SOFT_TISSUE_HU[0]) & (mean < SOFT_TISSUE_HU[1])]
    # the lower quartile: most blocks of soft tissue hold an edge as well as noise
    noise = float(np.percentile(soft, 25)) if soft.size else 0.0
    return sd <= MAX_SD[0] * noise + MAX_SD[1]


def _in_cubes(marked: np.ndarray, block_mm: Sequence[float]) -> np.ndarray:
    """The marked blocks that belong to a cube of 2 x 2 x 2 marked ones (a morphological opening).

    Along an axis where one block of coarse voxels is as long as two, one will do.
    """
    axes = [axis for axis, mm in enumerate(block_mm) if mm < 2 * BLOCK_MM]
    for axis in axes:
        marked = np.delete(marked, 0, axis) & np.delete(marked, -1, axis)
    for axis in axes:
        marked = np.pad(marked, [(int(k == axis),) * 2 for k in range(3)])
        marked = np.delete(marked, 0, axis) | np.delete(marked, -1, axis)
    return marked
