"""The coarser grid as a rival: how small it may be at a rate. How a volume gets there is an affair of the data."""

from __future__ import annotations

from collections.abc import Sequence

from ctpa_vqgan.data.resampled import HU_RANGE, enlarge, shrink

__all__ = ["BITS", "HU_RANGE", "enlarge", "shrink", "size_at_rate"]

BITS = 12  # kept of a voxel of the coarser grid, as CT has them; HU within -1000..1000 would fit into 11


def size_at_rate(shape: Sequence[int], bits_per_voxel: float, bits: float = BITS) -> tuple[int, int, int]:
    """The grid whose voxels of ``bits`` cost about ``bits_per_voxel`` of the full grid; all axes shrink alike.

    >>> size_at_rate((512, 512, 133), 12 / 64)
    (128, 128, 33)
    """
    factor = max(1.0, (bits / bits_per_voxel) ** (1 / 3))
    return tuple(max(1, round(side / factor)) for side in shape)
