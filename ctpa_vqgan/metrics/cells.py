"""Means over cells of about 2 mm: coarse enough to find anatomy quickly and to leave most noise out."""

# X Y Z voxels, x y z cells (a cell is num_x * num_y * num_z voxels, less at the far borders)

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from ctpa_vqgan.metrics.slabs import SLAB, finite_slab

CELL_MM = 2.0
HU_RANGE = (-1000.0, 1000.0)  # what a network sees; scanner padding is air


class Cells(NamedTuple):
    """A volume in cells.

    Attributes:
        means: [x, y, z], float32, HU, of voxels clipped to ``HU_RANGE``.
        num_voxels: [x, y, z], int64, in each cell.
        cell: voxels of a whole cell along each axis.
        shape: voxels of the volume.
        spacing_mm: of the cells.
    """

    means: np.ndarray
    num_voxels: np.ndarray
    cell: tuple[int, int, int]
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]


def in_cells(volume: Any, spacing_mm: Sequence[float], name: str = "volume") -> Cells:
    """Average a volume over cells of about 2 mm a side, at least one voxel; read slab by slab.

    Args:
        volume: [X, Y, Z] array, tensor or memory map, HU.
        spacing_mm: voxel size along X, Y and Z.
        name: of the volume, for messages.

    Raises:
        ValueError: if the volume holds NaN or infinity.
    """
    cell = tuple(max(1, round(CELL_MM / mm)) for mm in spacing_mm)
    num_x, num_y, num_z = (np.minimum(num, side - np.arange(0, side, num)) for num, side in zip(cell, volume.shape))
    return Cells(
        means=np.concatenate(
            [
                pooled(finite_slab(name, volume, start, stop, "cpu").clamp(*HU_RANGE), cell)
                for start, stop in cell_slabs(volume.shape[2], cell[2])
            ],
            axis=2,
        ),
        num_voxels=num_x[:, None, None] * num_y[:, None] * num_z,
        cell=cell,
        shape=tuple(volume.shape),
        spacing_mm=tuple(num * float(mm) for num, mm in zip(cell, spacing_mm)),
    )


def cell_slabs(num_slices: int, cell_z: int) -> Iterator[tuple[int, int]]:
    """Ranges of slices that hold whole cells, but for the volume's end.

    >>> list(cell_slabs(70, cell_z=3))
    [(0, 30), (30, 60), (60, 70)]
    """
    step = max(1, SLAB // cell_z) * cell_z
    for start in range(0, num_slices, step):
        yield start, min(start + step, num_slices)


def pooled(slab: torch.Tensor, cell: Sequence[int]) -> np.ndarray:
    """Mean of each cell of a slab [X, Y, n]; at a far border, of the voxels that there are."""
    kernel = [min(num, side) for num, side in zip(cell, slab.shape)]
    return F.avg_pool3d(slab[None], kernel, ceil_mode=True)[0].numpy()


def spread(marks: np.ndarray, cell: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """Give every voxel of ``shape`` what its cell has: marks [x, y, z] to [X, Y, Z]."""
    for axis, (num, side) in enumerate(zip(cell, shape)):
        marks = np.repeat(marks, num, axis=axis)[(slice(None),) * axis + (slice(side),)]
    return marks
