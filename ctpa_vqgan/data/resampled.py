"""A volume on a coarser grid and back: what trilinear interpolation alone makes of it."""

# X Y Z voxels, x y z voxels of the coarser grid

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

HU_RANGE = (-1000, 1000)  # what the tokenizer sees, and the metrics compare
SLAB = 32  # slices that are float32 at a time


@torch.no_grad()
def shrink(volume: Any, size: Sequence[int], hu_range: Sequence[int] | None = HU_RANGE) -> torch.Tensor:
    """Bring a volume to a coarser grid, trilinearly with antialiasing.

    As ``torch.nn.functional.interpolate(antialias=True)``, which knows no volumes: along each axis a triangle as wide
    as two voxels of the coarser grid. Both grids cover the same box (``align_corners=False``); :func:`shrunk_affine`
    says where its voxels lie.

    Args:
        volume: [X, Y, Z] array or tensor, HU; read in slabs of 32 slices.
        size: x, y, z, none above the volume's.
        hu_range: to which HU are clipped first, so that scanner padding (-2048, -3024) is air; None clips nothing.

    Returns:
        int16 [x, y, z] on the CPU, whole HU.

    Raises:
        ValueError: if a side of ``size`` is not from 1 to the volume's.
    """
    shape = tuple(volume.shape)
    if len(size) != 3 or not all(1 <= few <= many for few, many in zip(size, shape, strict=True)):
        raise ValueError(f"size must be three sides of 1 up to those of the volume {shape}, got {tuple(size)}")
    planes = torch.empty(*size[:2], shape[2])  # slices first, so that the volume is read once and never copied whole
    for start in range(0, shape[2], SLAB):
        part = slice(start, min(start + SLAB, shape[2]))
        planes[..., part] = _in_plane(_clipped(volume[..., part], hu_range), size)
    return _along_z(planes, size[2]).round_().to(torch.int16)


def shrunk_affine(affine: np.ndarray, shape: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """The affine [4, 4] of what :func:`shrink` makes: the same box in the world, cut into fewer voxels.

    A voxel's position is its centre, so the first one moves inwards by half of what a voxel has grown.

    Args:
        affine: [4, 4], voxel indices of the volume to mm.
        shape: X, Y, Z.
        size: x, y, z.
    """
    scale = np.asarray(shape) / np.asarray(size)
    to_old = np.diag([*scale, 1.0])
    to_old[:3, 3] = (scale - 1) / 2
    return np.asarray(affine, dtype=np.float64) @ to_old


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
    tall = _along_z(_clipped(volume, HU_RANGE), size[2])
    large = torch.empty(*size, dtype=torch.int16)
    for start in range(0, size[2], SLAB):
        part = slice(start, min(start + SLAB, size[2]))
        large[..., part] = _in_plane(tall[..., part], size).round_()
    return large


def _clipped(volume: Any, hu_range: Sequence[int] | None) -> torch.Tensor:
    """A copy [X, Y, n] as plain float32 on the CPU."""
    if isinstance(volume, torch.Tensor):  # MetaTensor would track an affine through every operation
        copy = volume.detach().as_subclass(torch.Tensor).to("cpu", torch.float32, copy=True).contiguous()
    else:
        copy = torch.from_numpy(np.array(volume, dtype=np.float32, order="C"))
    return copy if hu_range is None else copy.clamp_(*hu_range)


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
