"""Whether voxels are a CT in HU, slice after slice: the checks that every format shares."""

from __future__ import annotations

import itertools
import os

import numpy as np

from ctpa_vqgan.data.checks.rules import (
    AIR_BELOW_HU,
    MAX_JUMP,
    MAX_MASK_VALUES,
    MIN_SOFT_TISSUE,
    PADDING_BELOW_HU,
    SOFT_TISSUE_HU,
    TISSUE_ABOVE_HU,
    Finding,
    refuse,
)

OFFSET = 1024  # the usual rescale intercept
MIN_SHIFTED = 0.08  # share of voxels where soft tissue would lie if the intercept were wrong
MAX_AIR_OF_OFFSET = 0.005  # share of voxels below air's bound that a volume with an offset may have
PADDING_VALUES = 3
NORMALISED_RANGE = 50  # values with fractions that span less are no HU
MAX_SAMPLES = 256  # in-plane samples per axis when slices are compared
CHANGES_HU = (-1000, 400)  # between slices, as far as they are looked at
MIN_CHANGE_HU = 5


def check_voxels(voxels: np.ndarray, path: str | os.PathLike, fractions: bool = False) -> list[Finding]:
    """Check values and slices.

    Args:
        voxels: [X, Y, Z] int16 in RAS, any strides.
        path: for messages.
        fractions: whether the values had fractions before they became int16.

    Returns:
        Warnings.

    Raises:
        BadVolume: a rule of values or slices is broken.
    """
    _check_values(Histogram(voxels), path, fractions)
    return _check_slices(voxels, path)


class Histogram:
    """How often each int16 value occurs."""

    def __init__(self, voxels: np.ndarray) -> None:
        counts = np.zeros(2**16, dtype=np.int64)
        # along the axis that is slowest in memory: planes are then read in order
        for plane in np.moveaxis(voxels, int(np.argmax(np.abs(voxels.strides))), 0):
            counts += np.bincount(plane.ravel(order="K").view(np.uint16), minlength=2**16)
        self.counts = np.roll(counts, 2**15)  # uint16 puts the negative half last
        self.total = int(counts.sum())

    def count(self, low: int, high: int) -> int:
        """Voxels from ``low`` to ``high``, both included."""
        return int(self.counts[max(low, -(2**15)) + 2**15 : high + 2**15 + 1].sum())

    def share(self, low: int, high: int) -> float:
        """Like :meth:`count`, as a share of all voxels that are not scanner padding."""
        return self.count(low, high) / max(self.total - self.count(-(2**15), PADDING_BELOW_HU), 1)

    def scattered(self, low: int, high: int) -> float:
        """Share of all voxels from ``low`` to below ``high`` without the commonest values.

        Padding, which may be shifted too, is one value or two; air is noise of many.
        """
        return float(np.sort(self.counts[low + 2**15 : high + 2**15])[:-PADDING_VALUES].sum() / self.total)

    def values(self) -> np.ndarray:
        """The values that occur, in order."""
        return np.flatnonzero(self.counts) - 2**15


def _check_values(histogram: Histogram, path: str | os.PathLike, fractions: bool) -> None:
    values = histogram.values()
    low, high = int(values[0]), int(values[-1])
    spread = f"{low} to {high}"
    if low == high and abs(low) < 2**15 - 1:  # at the ends of int16 it is what was clipped
        raise refuse("hu-constant", path, f"{low} everywhere")
    if fractions and high - low <= NORMALISED_RANGE:
        raise refuse("hu-normalised", path, f"fractions from {spread}")
    if not fractions and -1 <= low < high and len(values) <= MAX_MASK_VALUES:
        raise refuse("hu-mask", path, f"{len(values)} different whole numbers from {spread}")
    if low >= 0 and high <= 255:
        raise refuse("hu-8bit", path, f"values from {spread}")
    soft_low, soft_high = SOFT_TISSUE_HU
    share = histogram.share(soft_low + OFFSET, soft_high + OFFSET)
    if share >= MIN_SHIFTED and histogram.scattered(PADDING_BELOW_HU, AIR_BELOW_HU) < MAX_AIR_OF_OFFSET:
        raise refuse("hu-offset", path, f"{share:.0%} of the voxels where soft tissue plus {OFFSET} would lie")
    if (share := histogram.scattered(-2200, PADDING_BELOW_HU)) >= MIN_SHIFTED:
        raise refuse("hu-double-intercept", path, f"{share:.0%} of the voxels scattered around {-1000 - OFFSET}")
    physical = values[values > PADDING_BELOW_HU]
    soft = histogram.share(soft_low, soft_high)
    if not physical.size or physical[0] > AIR_BELOW_HU or high < TISSUE_ABOVE_HU or soft < MIN_SOFT_TISSUE:
        raise refuse("hu-range", path, f"{spread}, {soft:.1%} soft tissue")


def _check_slices(voxels: np.ndarray, path: str | os.PathLike) -> list[Finding]:
    number = voxels.shape[2]
    samples = _sampled(voxels)
    blank = np.array([s.min() == s.max() and _is_blank(voxels[:, :, z]) for z, s in enumerate(samples)])
    # what is blank at the ends may be air; what a reader fills in for missing data is not
    air = np.array([is_blank and voxels[0, 0, z] < AIR_BELOW_HU for z, is_blank in enumerate(blank)])
    inside = np.flatnonzero(~air)
    first, last = int(inside[0]), int(inside[-1])
    if (gaps := np.flatnonzero(blank[first : last + 1]) + first).size:
        raise refuse("slices-blank", path, f"{gaps.size} of {number} slices of one value, the first {gaps[0]}")
    changes = np.array([np.abs(b - a).mean() for a, b in itertools.pairwise(samples)])
    for z in range(first, last):
        if changes[z] == 0 and np.array_equal(voxels[:, :, z], voxels[:, :, z + 1]):
            raise refuse("slices-duplicate", path, f"slices {z} and {z + 1} of {number} are equal")
    return _jumps(changes, first, last)


def _sampled(voxels: np.ndarray) -> list[np.ndarray]:
    """Slices thinned and clipped: neither padding nor metal should outweigh the body."""
    steps = [-(-side // MAX_SAMPLES) for side in voxels.shape[:2]]
    thinned = voxels[:: steps[0], :: steps[1]]
    return [np.clip(thinned[:, :, z], *CHANGES_HU).astype(np.int32) for z in range(voxels.shape[2])]


def _is_blank(plane: np.ndarray) -> bool:
    return bool(plane.min() == plane.max())


def _jumps(changes: np.ndarray, first: int, last: int) -> list[Finding]:
    """Where two slices differ far more than their neighbours do, some may be missing between them.

    A warning only: a table or an implant that begins there looks alike, and the geometry of a file cannot tell.
    """
    between = range(first + 1, last - 1)
    ratios = {z: changes[z] / max(changes[z - 1], changes[z + 1], MIN_CHANGE_HU) for z in between}
    worst = max(ratios, key=ratios.get, default=None)
    if worst is None or ratios[worst] <= MAX_JUMP:
        return []
    return [Finding("slices-missing", f"{ratios[worst]:.1f} times between slices {worst} and {worst + 1}")]
