"""Whether a reconstruction shows where its windows begin and end: jumps of the error on those planes.

The field's index is the mean absolute first difference of the error on window planes over that elsewhere (blockiness:
Liu and Heynderickx, EURASIP 2009). It is given as ``ratio``, but it is blind to what the eye sees first: a step of
5 HU in noise of 30 HU changes it by less than 1 %. So here jumps are first averaged over blocks of 16 x 16 voxels of
the plane, which leaves a step whole and divides white noise by 16.
"""

# X Y Z voxels; plane p of an axis lies between its voxels p - 1 and p; u v blocks of a plane

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ctpa_vqgan.data.patches import grid_windows
from ctpa_vqgan.metrics.jumps import Jumps
from ctpa_vqgan.metrics.slabs import check_volumes, read_slab, slabs

GUARD = 1  # planes on either side of a window plane that stand for neither: a seam may be smeared
TREND = 5  # planes on either side that tell how a smooth error goes on
NEARBY = 10  # planes on either side that tell what is usual there
MIN_NEARBY = 6  # fewer are no comparison
OUTLIERS = 2  # planes nearby that may stand out as much, by steps of the anatomy's own
FLOOR_HU = 0.1  # coherent jumps below it are nobody's concern
MIN_SPREAD = 0.2  # least spread, as a share of the usual, that other planes are taken to have
Z_FOUND = 5.0


class SeamPlane(NamedTuple):
    """One window plane.

    Attributes:
        axis: 0, 1 or 2.
        plane: it lies between the voxels ``plane - 1`` and ``plane``.
        hu: root of the mean square jump, above what is usual nearby; NaN if too few planes lie nearby.
        z: the same in standard deviations of the other planes.
        found: whether it is a seam: ``z`` of at least 5, and above all but two planes nearby.
    """

    axis: int
    plane: int
    hu: float
    z: float
    found: bool


class Seams(NamedTuple):
    """The seam index of a volume; what has no window planes to tell of is NaN.

    Attributes:
        hu: root mean square seam over all window planes; noise alone leaves it a little above 0, see ``found``.
        axis_hu: the same for each axis.
        axis_z: mean of an axis' planes in standard deviations of that mean.
        ratio: mean absolute jump of the error on window planes over that on planes nearby, for each axis: the field's
            seam index, 0.98 to 1.02 where there is no seam.
        planes: every window plane.
    """

    hu: float
    axis_hu: tuple[float, float, float]
    axis_z: tuple[float, float, float]
    ratio: tuple[float, float, float]
    planes: tuple[SeamPlane, ...]

    @property
    def found(self) -> tuple[SeamPlane, ...]:
        """The planes that are seams; empty where there are none."""
        return tuple(plane for plane in self.planes if plane.found)


def window_planes(
    size: Sequence[int], roi_size: Sequence[int], stride: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Planes inside a volume on which windows of the sliding-window inferer begin or end, for each axis.

    For tiles that do not overlap, let ``stride`` be ``roi_size``.

    >>> window_planes((512, 512, 604), (256, 256, 128), (192, 192, 96))[2]
    (96, 128, 192, 224, 288, 320, 384, 416, 476, 512)

    Args:
        size: of the volume as the windows see it: padded, where the inferer pads.
        roi_size: voxels of a window.
        stride: voxels from window to window.

    Raises:
        ValueError: if these are not three positive numbers each.
    """
    for name, numbers in (("size", size), ("roi_size", roi_size), ("stride", stride)):
        if len(numbers) != 3 or min(numbers) < 1:
            raise ValueError(f"{name} must be three positive numbers of voxels, got {tuple(numbers)}")
    return tuple(map(_axis_planes, size, roi_size, stride))


def _axis_planes(size: int, roi: int, stride: int) -> tuple[int, ...]:
    windows = [window for (window,) in grid_windows((size,), (roi,), (stride,))]
    return tuple(sorted({int(p) for w in windows for p in (w.start, w.stop) if 0 < p < size}))


@torch.no_grad()
def seam_index(
    reconstruction: Any,
    original: Any,
    planes: Sequence[Sequence[int]],
    hu_range: tuple[float, float] = (-1000.0, 1000.0),
    device: torch.device | str | None = None,
) -> Seams:
    """Look for jumps of the error (reconstruction - original) on window planes that planes nearby do not have.

    Anatomy does not count, as the original is subtracted and as the planes nearby cross the same anatomy. Jumps are
    averaged over blocks of 16 x 16 voxels of the plane, then freed of the smooth trend (the median of the same block's
    jumps 2 to 5 planes away), then their squares averaged over the plane. Of this, a seam is what lies above the
    median of the other planes up to 10 voxels away. ``z`` measures it by the spread of all other planes of the axis
    (a median absolute deviation, so that a few steps elsewhere do not hide it).

    White noise of s HU leaves a step in a plane of n voxels a standard error of about 1.6 s / sqrt(n): 0.5 HU for 30 HU
    and 96 x 96 voxels, 0.1 HU for 512 x 512; smooth noise leaves more. A step that covers a share of the
    plane counts as its root mean square, so air around the patient thins it out. Gaussian blending can hide that
    windows disagree: see :func:`~ctpa_vqgan.metrics.shift_sd`. Memory is bounded, slabs of 32 slices: about 0.4 GB for
    512 x 512 slices.

    Args:
        reconstruction: [X, Y, Z] array or tensor, HU.
        original: [X, Y, Z], HU.
        planes: window planes of each axis, as :func:`window_planes` gives them. Those at or beyond the end of the
            volume lie in the inferer's padding and do not count.
        hu_range: both are first clipped to it, as for ``volume_fidelity``.
        device: where slabs are computed; None takes the volumes' own.

    Raises:
        ValueError: if the two are not volumes of one shape or hold a NaN or infinity, ``hu_range`` is empty, or
            ``planes`` are not three lists of positive numbers.
    """
    low, high = hu_range
    if not low < high:
        raise ValueError(f"hu_range must be (lowest, highest), got {hu_range}")
    if len(planes) != 3 or any(p < 1 for axis in planes for p in axis):
        raise ValueError(f"planes must be three lists of positive numbers, as of window_planes(), got {planes}")
    check_volumes(reconstruction, original)
    jumps = Jumps(tuple(original.shape))
    for start, stop in slabs(original.shape[-1]):
        pair = [read_slab(volume, start, stop, device) for volume in (reconstruction, original)]
        for name, slab in zip(("reconstruction", "original"), pair):
            if not slab.isfinite().all():
                raise ValueError(f"{name} holds NaN or infinite voxels in slices {start} to {stop - 1}")
        jumps.add(pair[0].clamp(low, high).sub_(pair[1].clamp(low, high)), start)
    inside = [sorted({int(p) for p in axis if p < side}) for axis, side in zip(planes, original.shape)]
    axes = [_axis_seams(axis, inside[axis], *jumps.of(axis)) for axis in range(3)]
    return _together(axes)


class _Axis(NamedTuple):
    planes: list[SeamPlane]
    excess: np.ndarray  # [planes] HU^2, may be negative
    z: float
    ratio: float


def _axis_seams(axis: int, windows: list[int], jumps: np.ndarray, counts: np.ndarray, absolute: np.ndarray) -> _Axis:
    near_window = {p + i for p in windows for i in range(-GUARD, GUARD + 1)}
    others = np.array([p for p in range(1, len(jumps)) if p not in near_window], dtype=int)
    squares = _mean_squares(jumps, counts, others)
    shares = np.array([squares[p] / usual - 1 for p in others if (usual := _usual(squares, others, p)) is not None])
    if not windows or not len(shares):
        planes = [SeamPlane(axis, p, math.nan, math.nan, False) for p in windows]
        return _Axis(planes, np.full(len(windows), np.nan), math.nan, math.nan)
    # the spread of one plane, were its blocks independent, is sqrt(2 / blocks): the least to believe in
    spread = max(1.4826 * np.median(np.abs(shares - np.median(shares))), math.sqrt(2 / counts.size), MIN_SPREAD)
    found = [_window_plane(axis, p, squares, others, spread) for p in windows]
    z = np.array([plane.z for plane, _ in found])
    z = z[np.isfinite(z)]
    nearby = np.unique(np.concatenate([_nearby(others, p) for p in windows]))
    usual = absolute[nearby].mean() if len(nearby) else math.nan
    on_windows = absolute[windows].mean()
    return _Axis(
        planes=[plane for plane, _ in found],
        excess=np.array([excess for _, excess in found]),
        z=float(z.sum() / math.sqrt(len(z))) if len(z) else math.nan,
        ratio=float(on_windows / usual) if usual else (math.inf if on_windows else 1.0),
    )


def _window_plane(
    axis: int, plane: int, squares: np.ndarray, others: np.ndarray, spread: float
) -> tuple[SeamPlane, float]:
    """The plane and its excess in HU^2."""
    usual = _usual(squares, others, plane)
    if usual is None:
        return SeamPlane(axis, plane, math.nan, math.nan, False), math.nan
    excess = float(squares[plane] - usual)
    z = float(excess / usual / spread)
    above = np.sum(squares[_nearby(others, plane)] >= squares[plane]) <= OUTLIERS
    return SeamPlane(axis, plane, math.sqrt(max(excess, 0.0)), z, bool(z >= Z_FOUND and above)), excess


def _mean_squares(jumps: np.ndarray, counts: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Mean square over each plane of the jumps that do not follow the trend around it; [planes], HU^2."""
    squares = np.full(len(jumps), FLOOR_HU**2)
    known = set(others.tolist())
    for plane in range(1, len(jumps)):
        around = [q for i in range(GUARD + 1, TREND + 1) for q in (plane - i, plane + i) if q in known]
        trend = np.median(jumps[around], axis=0) if around else 0.0
        squares[plane] += np.average((jumps[plane] - trend) ** 2, weights=counts)
    return squares


def _nearby(others: np.ndarray, plane: int) -> np.ndarray:
    """Planes to compare ``plane`` with."""
    away = np.abs(others - plane)
    return others[(away > GUARD) & (away <= NEARBY)]


def _usual(squares: np.ndarray, others: np.ndarray, plane: int) -> float | None:
    """Median of the planes nearby; None if there are too few."""
    nearby = _nearby(others, plane)
    return float(np.median(squares[nearby])) if len(nearby) >= MIN_NEARBY else None


def _together(axes: list[_Axis]) -> Seams:
    return Seams(
        hu=_root_mean(np.concatenate([axis.excess for axis in axes])),
        axis_hu=tuple(_root_mean(axis.excess) for axis in axes),
        axis_z=tuple(axis.z for axis in axes),
        ratio=tuple(axis.ratio for axis in axes),
        planes=tuple(plane for axis in axes for plane in axis.planes),
    )


def _root_mean(excess: np.ndarray) -> float:
    excess = excess[np.isfinite(excess)]
    return math.sqrt(max(float(excess.mean()), 0.0)) if len(excess) else math.nan
