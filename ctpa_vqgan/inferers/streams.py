"""Read tiles from, and write them to, tensors and arrays that may lie in a file."""

# B batch, C channels, H W D voxels, h w d latent positions

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from monai.data import MetaTensor

from ctpa_vqgan.inferers.tiles import Slices, in_voxels, latent_grid

PerTile = Callable[[torch.Tensor], torch.Tensor]


def source(volume: torch.Tensor | np.ndarray) -> torch.Tensor:
    """The same memory as a plain tensor; a MetaTensor's affine would be wrong for tiles, latents and codes."""
    if isinstance(volume, torch.Tensor):
        return volume.as_tensor() if isinstance(volume, MetaTensor) else volume
    with warnings.catch_warnings():
        # torch warns of read-only memory, and nobody writes here
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(volume)


def target(name: str, memory: torch.Tensor | np.ndarray, shape: Sequence[int]) -> torch.Tensor:
    """Memory to write to, as a plain tensor.

    Raises:
        ValueError: if it has another shape, or is read-only.
    """
    if tuple(memory.shape) != tuple(shape):
        raise ValueError(f"{name} must have the shape {tuple(shape)}, found {tuple(memory.shape)}")
    if isinstance(memory, np.ndarray) and not memory.flags.writeable:
        raise ValueError(f"{name} is read-only; open a memory map with mode='r+' or 'w+'")
    return source(memory)


def codes_target(memory: torch.Tensor | np.ndarray, shape: Sequence[int], num_embeddings: int) -> torch.Tensor:
    """:func:`target` for codes.

    Raises:
        ValueError: also if its type does not hold every code.
    """
    codes = target("out", memory, shape)
    if codes.is_floating_point() or torch.iinfo(codes.dtype).max < num_embeddings - 1:
        raise ValueError(f"out must hold integers up to {num_embeddings - 1}, found {codes.dtype}")
    return codes


def volume_target(
    memory: torch.Tensor | np.ndarray, shape: Sequence[int], factor: Sequence[int], after: PerTile | None
) -> torch.Tensor:
    """:func:`target` for a volume of which ``shape`` [B, C, h, w, d] tells the latent positions.

    Raises:
        ValueError: also if it is no integer type's place without ``after``: [-1, 1] would become 0 everywhere.
    """
    grid, size = tuple(shape[2:]), tuple(memory.shape[2:])
    if latent_grid(size, factor) != grid:
        whole = tuple(g * f for g, f in zip(grid, factor))
        raise ValueError(f"out must have (H, W, D) of {whole} or less by under {tuple(factor)}, found {size}")
    volume = target("out", memory, (*shape[:2], *size))
    if after is None and not volume.is_floating_point():
        raise ValueError(f"out holds {volume.dtype} and the network gives [-1, 1]; give after=, for example to_hu")
    return volume


def read_tile(
    volume: torch.Tensor,
    place: Slices,
    factor: Sequence[int],
    like: torch.Tensor,
    before: PerTile | None,
    cval: float,
) -> torch.Tensor:
    """A tile of [C, H, W, D] for the network: [1, C, ...] of the type and on the device of ``like``.

    Only here does the volume leave its file, and only its last tiles are padded.

    Args:
        volume: [C, H, W, D].
        place: of the tile in latent positions; may reach beyond the volume's end by less than a position.
        factor: voxels per latent position.
        like: a parameter of the network.
        before: takes the tile to the network's scale.
        cval: what is beyond the end holds, on the network's scale.
    """
    tile = volume[(slice(None), *in_voxels(place, factor, volume.shape[1:]))][None]
    if before:
        # a copy: what works in place must not change the volume
        tile = source(before(tile.to(like.device, copy=True)))
    tile = tile.to(like)
    missing = [(p.stop - p.start) * f - s for p, f, s in zip(place, factor, tile.shape[2:])]
    padding = [n for m in reversed(missing) for n in (0, m)]
    # one layout, so that a result does not depend on the order in which a file keeps its voxels
    return F.pad(tile, padding, value=cval) if any(missing) else tile.contiguous()


def read_codes(codes: torch.Tensor, place: Slices, num_embeddings: int, device: torch.device) -> torch.Tensor:
    """Codes [1, h, w, d], int64, of a tile of [h, w, d].

    Raises:
        ValueError: if one is none of the network's.
    """
    tile = codes[place][None].to(torch.int64)
    low, high = (int(end) for end in tile.aminmax())
    if low < 0 or high >= num_embeddings:
        raise ValueError(f"codes must be 0 to {num_embeddings - 1} for this network, found {low} to {high}")
    return tile.to(device)


def crop(tile: torch.Tensor, inside: Slices, size: Sequence[int]) -> torch.Tensor:
    """The core of a tile [1, C, ...] without its halo and without what lies beyond the volume's end."""
    return tile[(..., *(slice(i.start, i.start + s) for i, s in zip(inside, size)))]
