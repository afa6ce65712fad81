"""Encode and decode whole volumes by tiles whose halo makes them equal the whole."""

# B batch, C channels, E embedding, H W D voxels, h w d latent positions

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type, convert_to_tensor

from ctpa_vqgan.inferers.sliding import network_factor, pad_to_multiple
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.progress import progress_bar


class ExactTileInferer(Inferer):
    """Whole-volume codes and decoding at bounded memory, equal to one pass over the volume up to rounding.

    Each tile is computed with the network's halo around it; only its core is kept. At the borders of the volume the
    network pads by itself, as it would for the whole. Latents are stitched before they are quantized: codes are
    integers and cannot be averaged.

    Args:
        tile_size: core of a tile in voxels; each side a multiple of the network's factor.
        cval: what padding to a multiple of the factor holds; -1 is air on the scale of [-1, 1].
        progress: show a bar over the tiles.
    """

    def __init__(self, tile_size: Sequence[int] = (128, 128, 128), cval: float = -1.0, progress: bool = False) -> None:
        super().__init__()
        self.tile_size, self.cval, self.progress = tuple(tile_size), cval, progress

    def __call__(self, inputs: torch.Tensor, network: VQGAN) -> torch.Tensor:
        """Volumes [B, C, H, W, D] -> what their codes decode to, on the same grid."""
        volume = self.decode(self.encode(inputs, network), network)
        volume = volume[(..., *(slice(s) for s in inputs.shape[2:]))]
        return convert_to_dst_type(volume, inputs, dtype=volume.dtype)[0]

    @torch.no_grad()
    def encode(self, inputs: torch.Tensor, network: VQGAN) -> torch.Tensor:
        """Volumes [B, C, H, W, D] on the network's scale -> codes [B, h, w, d], int64, on the inputs' device.

        Sides that are no multiple of the factor are padded with air at their end first.

        Raises:
            ValueError: if a side of ``tile_size`` is no multiple of the factor, or no finite halo exists.
        """
        factor = network_factor(network)
        core = self._core(factor)
        # a plain tensor: the affine of the voxels would be wrong for latents and codes
        volume = pad_to_multiple(convert_to_tensor(inputs), factor, self.cval)
        grid = [s // f for s, f in zip(volume.shape[2:], factor)]
        latents = volume.new_empty(len(volume), network.embedding_dim, *grid)
        device = next(network.parameters()).device
        for around, inside, target in self._tiles(grid, core, network.halo.encoder):
            voxels = tuple(slice(a.start * f, a.stop * f) for a, f in zip(around, factor))
            tile = network.encode(volume[(..., *voxels)].to(device))
            latents[(..., *target)] = tile[(..., *inside)].to(latents)
        return network.quantizer.quantize(latents.to(device)).to(inputs.device)

    @torch.no_grad()
    def decode(self, codes: torch.Tensor, network: VQGAN) -> torch.Tensor:
        """Codes [B, h, w, d] -> volumes [B, C, H, W, D] on the codes' device.

        Raises:
            ValueError: as for :meth:`encode`.
        """
        factor = network_factor(network)
        core = self._core(factor)
        grid = list(codes.shape[1:])
        parameter = next(network.parameters())
        size = [g * f for g, f in zip(grid, factor)]
        volume = torch.empty(len(codes), network.out_channels, *size, dtype=parameter.dtype, device=codes.device)
        for around, inside, target in self._tiles(grid, core, network.halo.decoder):
            tile = network.decode_samples(codes[(slice(None), *around)].to(parameter.device))
            inner = tuple(slice(i.start * f, i.stop * f) for i, f in zip(inside, factor))
            outer = tuple(slice(t.start * f, t.stop * f) for t, f in zip(target, factor))
            volume[(..., *outer)] = tile[(..., *inner)].to(volume)
        return volume

    def _core(self, factor: Sequence[int]) -> tuple[int, ...]:
        size = self.tile_size
        if len(size) != len(factor) or any(t % f or t < 1 for t, f in zip(size, factor)):
            raise ValueError(f"tile_size {size} must be {len(factor)} multiples of the compression factor {factor}")
        return tuple(t // f for t, f in zip(self.tile_size, factor))

    def _tiles(self, grid: Sequence[int], core: Sequence[int], halo: Sequence[int]) -> Iterator[tuple]:
        """(latents with halo, the core within them, the core within the volume) of every tile, as slices."""
        starts = list(itertools.product(*(range(0, g, c) for g, c in zip(grid, core))))
        bar = progress_bar(len(starts), "tiles", leave=False, show=self.progress)
        for start in starts:
            target = [slice(s, min(s + c, g)) for s, c, g in zip(start, core, grid)]
            around = [slice(max(t.start - h, 0), min(t.stop + h, g)) for t, h, g in zip(target, halo, grid)]
            inside = [slice(t.start - a.start, t.stop - a.start) for t, a in zip(target, around)]
            yield around, inside, target
            bar.update()
        bar.close()
