"""Read volumes slab by slab, so that a metric never holds a second copy of a 512 x 512 x 604 scan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

SLAB = 32  # voxels along the last axis: about 34 MB of float32 per 512 x 512 slab


def check_volumes(reconstruction: Any, original: Any) -> None:
    """Refuse what is not a pair of volumes on one grid.

    Raises:
        ValueError: if either is not [X, Y, Z], is empty, or the two shapes differ.
    """
    for name, volume in (("reconstruction", reconstruction), ("original", original)):
        shape = tuple(volume.shape)
        if len(shape) != 3 or 0 in shape:
            raise ValueError(f"{name} must be a volume [X, Y, Z], got shape {shape}; take out batch and channel first")
    if tuple(reconstruction.shape) != tuple(original.shape):
        raise ValueError(
            f"reconstruction {tuple(reconstruction.shape)} and original {tuple(original.shape)} must lie on one grid; "
            "crop the padding off the reconstruction first"
        )


def read_slab(volume: Any, start: int, stop: int, device: torch.device | str | None = None) -> torch.Tensor:
    """Slices ``start`` to ``stop`` of the last axis as float32.

    Args:
        volume: [X, Y, Z] array, tensor, MetaTensor or anything that slices to an array (a memory map, nibabel's
            ``dataobj``), in any byte order.
        start: first slice.
        stop: one past the last slice.
        device: where the slab is wanted; None leaves a tensor where it lies and puts an array on the CPU.

    Returns:
        Plain tensor [X, Y, stop - start], float32; it may share memory with ``volume``, so do not write to it.
    """
    slab = volume[..., start:stop]
    if isinstance(slab, torch.Tensor):
        slab = slab.detach().as_subclass(torch.Tensor)  # MetaTensor would track an affine through every operation
    else:
        slab = torch.from_numpy(np.array(slab, dtype=np.float32, order="C"))
    return slab.to(device=device, dtype=torch.float32).contiguous()


def slabs(num_slices: int, halo: int = 0) -> Iterator[tuple[int, int]]:
    """Ranges that cover ``num_slices`` in steps of ``SLAB``, each ``halo`` slices longer (overlapping) at its end.

    >>> list(slabs(70, halo=10))
    [(0, 42), (32, 70)]
    """
    for start in range(0, num_slices - halo, SLAB):
        yield start, min(start + SLAB + halo, num_slices)


def finite_slab(name: str, volume: Any, start: int, stop: int, device: torch.device | str | None) -> torch.Tensor:
    """:func:`read_slab`, which refuses voxels that are not finite.

    Args:
        name: what the volume is, for the message.
        volume: [X, Y, Z].
        start: first slice.
        stop: one behind the last.
        device: where the slab goes.

    Raises:
        ValueError: names the volume, the slices and how many voxels are bad.
    """
    slab = read_slab(volume, start, stop, device)
    bad = slab.numel() - int(slab.isfinite().sum())
    if bad:
        raise ValueError(
            f"{name} has {bad} voxels that are NaN or infinite in slices {start} to {stop - 1}; "
            "look for a diverged network (half precision?) or a damaged file"
        )
    return slab
