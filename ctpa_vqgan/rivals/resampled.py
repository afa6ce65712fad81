"""A volume on a coarser grid and back: what trilinear interpolation alone makes of it."""

# X Y Z voxels, x y z voxels of the coarser grid

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from ctpa_vqgan.metrics.slabs import read_slab, slabs

HU_RANGE = (-1000, 1000)  # what the tokenizer sees, and the metrics compare
BITS = 12  # kept of a voxel of the coarser grid, as CT has them; HU within -1000..1000 would fit into 11


@torch.no_grad()
def shrink(volume: Any, size: Sequence[int]) -> torch.Tensor:
    """Bring a volume to a coarser grid, trilinearly with antialiasing.

    As ``torch.nn.functional.interpolate(antialias=True)``, which knows no volumes: along each axis a triangle as wide
    as two voxels of the coarser grid. Both grids cover the same box (``align_corners=False``). HU are clipped to
    -1000..1000 first, so that scanner padding (-2048, -3024) is air.

    Args:
        volume: [X, Y, Z] array or tensor, HU; read in slabs of 32 slices.
        size: x, y, z, none above the volume's.

    Returns:
        int16 [x, y, z] on the CPU, whole HU.

    Raises:
        ValueError: if a side of ``size`` is not from 1 to the volume's.
    """
    shape = tuple(volume.shape)
    if len(size) != 3 or not all(1 <= few <= many for few, many in zip(size, shape, strict=True)):
        raise ValueError(f"size must be three sides of 1 up to those of the volume {shape}, got {tuple(size)}")
    planes = torch.empty(*size[:2], shape[2])  # slices first, so that the volume is read once and never copied whole
    for start, stop in slabs(shape[2]):
        planes[..., start:stop] = _in_plane(read_slab(volume, start, stop, "cpu").clamp(*HU_RANGE), size)
    return _along_z(planes, size[2]).round_().to(torch.int16)


@torch.no_grad()
def enlarge(volume: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """Bring a volume to a finer grid, trilinearly; the way back from :func:`shrink`.

    Args:
        volume: [x, y, z], HU; clipped to -1000..1000.
        size: X, Y, Z, none below the volume's.

    Returns:
        int16 [X, Y, Z] on the CPU, whole HU.

    Raises:
        ValueError: if a side of ``size`` is less than the volume's.
    """
    shape = tuple(volume.shape)
    if len(size) != 3 or any(many < few for few, many in zip(shape, size, strict=True)):
        raise ValueError(f"size must be three sides not below those of the volume {shape}, got {tuple(size)}")
    tall = _along_z(read_slab(volume, 0, shape[2], "cpu").clamp(*HU_RANGE), size[2])
    large = torch.empty(*size, dtype=torch.int16)
    for start, stop in slabs(size[2]):
        large[..., start:stop] = _in_plane(tall[..., start:stop], size).round_()
    return large


def size_at_rate(shape: Sequence[int], bits_per_voxel: float, bits: float = BITS) -> tuple[int, int, int]:
    """The grid whose voxels of ``bits`` cost about ``bits_per_voxel`` of the full grid; all axes shrink alike.

    >>> size_at_rate((512, 512, 133), 12 / 64)
    (128, 128, 33)
    """
    factor = max(1.0, (bits / bits_per_voxel) ** (1 / 3))
    return tuple(max(1, round(side / factor)) for side in shape)


def _in_plane(slab: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """[X, Y, n] -> [x, y, n]."""
    slices = slab.permute(2, 0, 1)[:, None].contiguous()
    slices = F.interpolate(slices, tuple(size[:2]), mode="bilinear", align_corners=False, antialias=True)
    return slices[:, 0].permute(1, 2, 0)


def _along_z(volume: torch.Tensor, size: int) -> torch.Tensor:
    """[X, Y, Z] -> [X, Y, size]; lines along z are the rows of one tall picture."""
    num_x, num_y, num_z = volume.shape
    lines = volume.reshape(1, 1, num_x * num_y, num_z)
    lines = F.interpolate(lines, (num_x * num_y, size), mode="bilinear", align_corners=False, antialias=True)
    return lines.view(num_x, num_y, size)
