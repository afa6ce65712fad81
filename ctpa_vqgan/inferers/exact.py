"""Encode and decode whole volumes by tiles whose halo makes them equal the whole."""

# B batch, C channels, E embedding, H W D voxels, h w d latent positions (H = h * factor, rounded up)

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type

from ctpa_vqgan.inferers.memory import COPIES, largest_core, peak_bytes
from ctpa_vqgan.inferers.precision import PRECISIONS, numerics
from ctpa_vqgan.inferers.tiles import Tile, grid_tiles, in_voxels, latent_grid, length
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.progress import progress_bar

Volume = TypeVar("Volume", torch.Tensor, np.ndarray)
PerTile = Callable[[torch.Tensor], torch.Tensor]
DEFAULT_TILE = (128, 128, 128)


class ExactTileInferer(Inferer):
    """Whole-volume codes and decoding at bounded memory, equal to one pass over the volume up to rounding.

    Each tile is computed with the network's halo around it, and only its core is kept. At the borders of the volume the
    network pads by itself, as it would for the whole. So the grid of tiles changes nothing: in float64 codes are
    identical, in float32 they are but for ties within rounding. Choose it to make codes, and to decode them;
    :class:`~ctpa_vqgan.inferers.VQGANInferer` blends windows that disagree.

    Volumes stream: tensors and arrays, memory-mapped ones too and of any strides, are read and written one tile at a
    time, and only tiles go to the network's device. Sides that are no multiple of the network's factor are padded with
    air at their end, within the tiles that touch it.

    Args:
        tile_size: core of a tile in voxels, each side a multiple of the network's factor; 128 x 128 x 128 by default.
        memory_bytes: choose the core instead, as large as this budget allows. It counts what tiles need on the
            network's device, above the weights and the volumes given and returned.
        offset: voxels from the volume's corner to the first whole tile, a multiple of the factor; changes nothing but
            rounding, which is what tests do it for.
        precision: ``"float32"`` (no TensorFloat-32; a float64 network stays float64), or, where speed counts more than
            codes that anyone can reproduce, ``"tf32"`` (convolutions on CUDA) or ``"bf16"`` (autocast).
        cval: what padding holds; -1 is air on the scale of [-1, 1].
        progress: show a bar over the tiles, with the precision.

    Raises:
        ValueError: if ``tile_size`` and ``memory_bytes`` are both given, or ``precision`` is unknown.

    Example:
        >>> network = VQGAN(channels=(4, 8), num_embeddings=16, embedding_dim=4).eval()
        >>> hu = torch.full((1, 1, 30, 20, 9), -1000, dtype=torch.int16)
        >>> tiles = ExactTileInferer(tile_size=(16, 16, 16))
        >>> codes = tiles.encode(hu, network, before=lambda tile: tile / 1000)
        >>> codes.shape
        torch.Size([1, 8, 5, 3])
        >>> decoded = tiles.decode(codes, network, out=torch.empty_like(hu), after=lambda tile: tile * 1000)
        >>> decoded.shape, decoded.dtype
        (torch.Size([1, 1, 30, 20, 9]), torch.int16)
    """

    def __init__(
        self,
        tile_size: Sequence[int] | None = None,
        memory_bytes: int | None = None,
        offset: Sequence[int] = (0, 0, 0),
        precision: str = "float32",
        cval: float = -1.0,
        progress: bool = False,
    ) -> None:
        super().__init__()
        if tile_size is not None and memory_bytes is not None:
            raise ValueError(f"give tile_size or memory_bytes, not both; found {tuple(tile_size)} and {memory_bytes}")
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, found {precision!r}")
        self.tile_size = None if memory_bytes is not None else tuple(tile_size or DEFAULT_TILE)
        self.memory_bytes, self.offset, self.precision = memory_bytes, tuple(offset), precision
        self.cval, self.progress = cval, progress

    def __call__(
        self, inputs: torch.Tensor, network: VQGAN, before: PerTile | None = None, after: PerTile | None = None
    ) -> torch.Tensor:
        """Volumes [B, C, H, W, D] -> what their codes decode to, on the same grid; see :meth:`encode`."""
        volume = self.decode(self.encode(inputs, network, before=before), network, after=after)
        volume = volume[(..., *(slice(s) for s in inputs.shape[2:]))]
        return convert_to_dst_type(volume, inputs, dtype=volume.dtype)[0]

    @torch.no_grad()
    def encode(
        self,
        inputs: Volume,
        network: VQGAN,
        out: Volume | None = None,
        before: PerTile | None = None,
        latents: Volume | None = None,
    ) -> Volume:
        """Volumes -> codes, each core quantized by itself: the same as quantizing all latents at once.

        Args:
            inputs: [B, C, H, W, D], a tensor or array; never copied as a whole.
            network: with a ``factor`` and a finite ``halo``.
            out: [B, h, w, d] of integers that hold a code, where codes go (a memory map, for example).
            before: takes a tile [1, C, ...] of ``inputs`` on the network's device to the network's scale.
            latents: [B, E, h, w, d] of floating point, where the continuous latents go if they are wanted too.

        Returns:
            ``out``, or a tensor [B, h, w, d], int64, on the device of ``inputs``.

        Raises:
            ValueError: if tile size, offset, ``out`` or ``latents`` do not fit, if integers come without ``before``, or
                if no finite halo exists.
            BudgetTooSmall: if no tile fits ``memory_bytes``.
        """
        network, volume = _unwrapped(network), _tensor(inputs)
        shape = (len(volume), *latent_grid(volume.shape[2:], network.factor))
        codes = torch.empty(shape, dtype=torch.int64, device=volume.device) if out is None else _target(out, "out")
        _check_codes(codes, shape, network.num_embeddings)
        for at, core in self._encoded(volume, network, before, latents):
            codes[at] = network.quantizer.quantize(core)[0].to(codes)
        return codes if out is None else out
