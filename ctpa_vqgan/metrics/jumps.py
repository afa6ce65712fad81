"""Jumps of an error across every plane of a volume, averaged over blocks of the plane."""

# X Y Z voxels; plane p of an axis lies between its voxels p - 1 and p; u v blocks of a plane

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from ctpa_vqgan.metrics.slabs import SLAB

BLOCK = 16  # voxels a side; divides SLAB, so that blocks never lie in two slabs


class Jumps:
    """Jumps of the error across every plane: their mean over blocks, and their mean absolute value.

    Kept in float64 on the CPU: 13 MB for 512 x 512 x 604 voxels.
    """

    def __init__(self, size: tuple[int, int, int]) -> None:
        assert SLAB % BLOCK == 0
        self.size = size
        self.last: torch.Tensor | None = None  # [X, Y, 1]: the slice before this slab
        self.absolute = [np.zeros(side) for side in size]
        self.sums, self.counts = [], []
        for axis in range(3):
            u, v = (size[other] for other in range(3) if other != axis)
            self.sums.append(np.zeros((size[axis], -(-u // BLOCK), -(-v // BLOCK))))
            self.counts.append(np.multiply.outer(_block_lengths(u), _block_lengths(v)))

    def add(self, error: torch.Tensor, start: int) -> None:
        """Take the error of the slices from ``start`` on, [X, Y, z]; slabs come in order."""
        stop = start + error.shape[-1]
        within = slice(start // BLOCK, -(-stop // BLOCK))
        for axis in (0, 1):
            jump = error.diff(dim=axis).movedim(axis, 0)  # [planes, u, z]
            self.sums[axis][1:, :, within] += _block_sums(jump)
            self.absolute[axis][1:] += _absolute(jump)
        joined = error if self.last is None else torch.cat((self.last, error), dim=-1)
        jump = joined.diff(dim=-1).movedim(-1, 0)
        self.sums[2][stop - len(jump) : stop] = _block_sums(jump)
        self.absolute[2][stop - len(jump) : stop] = _absolute(jump)
        self.last = error[..., -1:].clone()

    def of(self, axis: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean jumps [planes, u, v], the voxels of each block [u, v] and mean absolute jumps [planes], in HU."""
        counts = self.counts[axis]
        return self.sums[axis] / counts, counts, self.absolute[axis] / counts.sum()


def _block_lengths(side: int) -> np.ndarray:
    return np.minimum(BLOCK, side - np.arange(0, side, BLOCK))


def _block_sums(jump: torch.Tensor) -> np.ndarray:
    """[planes, U, V] -> [planes, u, v]."""
    num_planes, *sides = jump.shape
    u, v = (-(-side // BLOCK) for side in sides)
    padded = F.pad(jump, (0, v * BLOCK - sides[1], 0, u * BLOCK - sides[0]))
    return padded.reshape(num_planes, u, BLOCK, v, BLOCK).sum(dim=(2, 4)).cpu().double().numpy()


def _absolute(jump: torch.Tensor) -> np.ndarray:
    return jump.abs().sum(dim=(1, 2), dtype=torch.float64).cpu().numpy()
