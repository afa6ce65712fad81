"""The HU scale: what inserts of known HU measure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ctpa_vqgan.metrics.slabs import check_volumes, read_slab, slabs


class HuLinearity(NamedTuple):
    """How measured HU follow the known ones."""

    slope: float
    intercept_hu: float
    max_residual_hu: float  # largest distance from the fitted line
    max_deviation_hu: float  # largest distance from the known value


def insert_means(volume: Any, labels: Any) -> dict[int, float]:
    """Mean HU of each insert of a phantom, read slab by slab.

    Args:
        volume: [X, Y, Z], HU.
        labels: [X, Y, Z], 0 for what is left out and 1, 2, ... (at most 65535) for the inserts; keep two or three
            voxels away from their edges, or blur counts as error of the scale.

    Returns:
        Mean HU by label, in rising order of labels.

    Raises:
        ValueError: if shapes differ, a label is no whole number from 0 to 65535, there is none above 0, or a voxel
            of an insert is NaN or infinite.
    """
    check_volumes(volume, labels)
    counts, sums = np.zeros((2, 65536))
    for start, stop in slabs(volume.shape[2]):
        label = read_slab(labels, start, stop, "cpu").numpy()
        index = label.clip(0, 65535).astype(np.int64) if np.isfinite(label).all() else None
        if index is None or (index != label).any():
            raise ValueError(f"labels must be whole numbers from 0 to 65535 (slices {start} to {stop - 1} are not)")
        hu = read_slab(volume, start, stop, "cpu").numpy()[index > 0].astype(np.float64)
        counts += np.bincount(index[index > 0], minlength=65536)
        sums += np.bincount(index[index > 0], hu, minlength=65536)
    found = np.flatnonzero(counts)
    if not found.size:
        raise ValueError("labels hold no insert: every voxel is 0")
    if not np.isfinite(sums).all():
        raise ValueError(f"inserts {np.flatnonzero(~np.isfinite(sums)).tolist()} hold NaN or infinite voxels")
    return {int(label): float(sums[label] / counts[label]) for label in found}


def hu_linearity(measured_hu: Sequence[float], known_hu: Sequence[float]) -> HuLinearity:
    """Least-squares line through the HU of inserts, against what they are known to be.

    >>> hu_linearity([-990, 10, 1010], [-1000, 0, 1000])
    HuLinearity(slope=1.0, intercept_hu=10.0, max_residual_hu=0.0, max_deviation_hu=10.0)

    Source: AAPM Report 39, "Specification and acceptance testing of computed tomography scanners", 1993 (CT number
    linearity).

    Args:
        measured_hu: [N] mean of each insert, as ``insert_means`` gives it.
        known_hu: [N], in the same order.

    Returns:
        Slope (1 is ideal), intercept in HU at 0 HU, largest distance from the line and from the known value.

    Raises:
        ValueError: if there are not two or more different known values with one finite measurement each.
    """
    measured, known = np.asarray(measured_hu, dtype=np.float64), np.asarray(known_hu, dtype=np.float64)
    if measured.ndim != 1 or measured.shape != known.shape or len(np.unique(known)) < 2:
        raise ValueError(
            f"need one measured value for each of two or more different known HU, got {measured_hu} and {known_hu}"
        )
    if not (np.isfinite(measured).all() and np.isfinite(known).all()):
        raise ValueError(f"HU must be finite, got {measured_hu} and {known_hu}")
    centred = known - known.mean()
    slope = (centred @ (measured - measured.mean())) / (centred @ centred)
    intercept = measured.mean() - slope * known.mean()
    residual, deviation = abs(measured - intercept - slope * known).max(), abs(measured - known).max()
    return HuLinearity(float(slope), float(intercept), float(residual), float(deviation))
