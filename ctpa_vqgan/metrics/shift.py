"""Whether a reconstruction depends on where its windows lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ctpa_vqgan.metrics.slabs import read_slab


class ShiftSD(NamedTuple):
    """How much each voxel depends on where the windows lie.

    Attributes:
        sd: [X, Y, Z], float32, HU: standard deviation over the offsets (divided by their number).
        mean_hu: its mean.
        p95_hu: its 95th percentile.
    """

    sd: torch.Tensor
    mean_hu: float
    p95_hu: float


@torch.no_grad()
def shift_sd(
    reconstruct: Callable[[torch.Tensor], torch.Tensor],
    volume: Any,
    offsets: Sequence[Sequence[int]],
    air_hu: float = -1000.0,
) -> ShiftSD:
    """Reconstruct a volume at several offsets to the windows; a tokenizer that is exact gives the same every time.

    The volume is moved within one larger box of air, so that the windows themselves never move, and the results are
    moved back. Near the volume's borders, context differs between offsets too: air on one side or the other.
    Memory: two volumes of float32, besides the box and what ``reconstruct`` takes.

    >>> shift_sd(lambda box: box, torch.zeros(8, 8, 8), [(0, 0, 0), (3, 0, 1)]).mean_hu
    0.0

    Args:
        reconstruct: from a box [X', Y', Z'], float32 HU, to its reconstruction of the same shape.
        volume: [X, Y, Z] array or tensor, HU.
        offsets: where the volume begins in the box, in voxels; at least two, and multiples of the network's factor
            where codes are to be compared like with like.
        air_hu: what fills the box.

    Raises:
        ValueError: if there are fewer than two offsets, one is not three numbers from 0 on, ``volume`` is none, or
            ``reconstruct`` gives back another shape.
    """
    if len(offsets) < 2 or any(len(offset) != 3 or min(offset) < 0 for offset in offsets):
        raise ValueError(f"offsets must be at least two of three numbers from 0 on, got {list(offsets)}")
    size = tuple(volume.shape)
    if len(size) != 3 or 0 in size:
        raise ValueError(f"volume must be [X, Y, Z], got shape {size}; take out batch and channel first")
    volume = read_slab(volume, 0, size[2])
    box_size = [side + max(steps) for side, steps in zip(size, zip(*offsets))]
    for number, offset in enumerate(offsets, start=1):
        where = tuple(slice(step, step + side) for step, side in zip(offset, size))
        box = volume.new_full(box_size, air_hu)
        box[where] = volume
        result = reconstruct(box)
        if tuple(result.shape) != tuple(box_size):
            raise ValueError(f"reconstruct must keep the shape {tuple(box_size)}, it gave {tuple(result.shape)}")
        result = read_slab(result[where], 0, size[2])
        if number == 1:
            mean, squares = result.clone(), torch.zeros_like(result)
            continue
        # Welford: no large sums to subtract from each other, so an exact tokenizer gives exactly 0
        delta = result - mean
        mean += delta / number
        squares += delta.mul_(result.sub(mean))
    sd = squares.div_(len(offsets)).sqrt_()
    return ShiftSD(sd, sd.mean(dtype=torch.float64).item(), float(np.percentile(sd.cpu().numpy(), 95)))
