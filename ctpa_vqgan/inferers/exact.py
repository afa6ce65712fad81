"""Encode and decode whole volumes by tiles whose halo makes them equal the whole."""

# B batch, C channels, E embedding, H W D voxels, h w d latent positions (H = h * factor, rounded up)

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from monai.inferers import Inferer
from monai.utils import convert_to_dst_type

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.inferers.memory import (
    decoding_bytes,
    encoding_bytes,
    first_line,
    free_host_bytes,
    largest_core,
    release_freed,
)
from ctpa_vqgan.inferers.streams import (
    PerTile,
    codes_target,
    crop,
    read_codes,
    read_tile,
    source,
    target,
    volume_target,
)
from ctpa_vqgan.inferers.tiles import Tile, grid_tiles, in_voxels, latent_grid, length
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.networks.blocks import UnboundedReceptiveField
from ctpa_vqgan.networks.vqgan import LARGEST_TENSOR
from ctpa_vqgan.out_of_memory import is_out_of_memory, release_memory
from ctpa_vqgan.precision import CODE_PRECISIONS, numerics
from ctpa_vqgan.progress import progress_bar

Volume = TypeVar("Volume", torch.Tensor, np.ndarray)
DEFAULT_TILE = (128, 128, 128)
INSTEAD_OF_WHOLE = "reconstruct them by windows (inference), make codes of smaller volumes, or train with norm='rms'"
VOXELS_PER_RELEASE = 2**19  # after every large tile, but not after every tiny one: it costs milliseconds

logger = logging.getLogger(__name__)


class TooLargeForOneTile(UserError):
    """A volume that can be worked on only as a whole, and is too large for that."""


class ExactTileInferer(Inferer):
    """Whole-volume codes and decoding at bounded memory, equal to one pass over the volume up to rounding.

    Each tile is computed with the network's halo around it, and only its core is kept. At the borders of the volume the
    network pads by itself, as it would for the whole. So the grid of tiles changes nothing: in float64 codes are
    identical, in float32 they are but for ties within rounding. Choose it to make codes, and to decode them;
    :class:`~ctpa_vqgan.inferers.VQGANInferer` blends windows that disagree.

    Volumes stream: tensors and arrays, memory-mapped ones too and of any strides, are read and written one tile at a
    time, and only tiles go to the network's device. Sides that are no multiple of the network's factor are padded with
    air at their end, within the tiles that touch it.

    Where memory runs out, the longest side of the core halves and the volume begins again, with the same result; the
    log says so, and later volumes keep the smaller core.

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
        allow_whole: take the whole volume for one tile where a network has no finite halo (``norm="group"``), which
            needs the memory for it; without this such a network is refused.

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
        allow_whole: bool = False,
    ) -> None:
        super().__init__()
        if tile_size is not None and memory_bytes is not None:
            raise ValueError(f"give tile_size or memory_bytes, not both; found {tuple(tile_size)} and {memory_bytes}")
        if precision not in CODE_PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(CODE_PRECISIONS)}, found {precision!r}")
        self.tile_size = None if memory_bytes is not None else tuple(tile_size or DEFAULT_TILE)
        self.memory_bytes, self.offset, self.precision = memory_bytes, tuple(offset), precision
        self.cval, self.progress, self.allow_whole = cval, progress, allow_whole
        # by task, the largest core in latent positions since memory ran out
        self._largest: dict[str, tuple[int, ...]] = {}

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

        The nearest code is searched in float64: codes lie much closer to each other than to zero, and what float32
        rounds off in the distances is more than tiles and volume differ by.

        Args:
            inputs: [B, C, H, W, D], a tensor or array; never copied as a whole.
            network: with a ``factor`` and a ``halo``, finite unless ``allow_whole``.
            out: [B, h, w, d] of integers that hold a code, where codes go (a memory map, for example).
            before: takes a tile [1, C, ...] of ``inputs`` on the network's device to the network's scale.
            latents: [B, E, h, w, d] of floating point, where the continuous latents go if they are wanted too.

        Returns:
            ``out``, or a tensor [B, h, w, d], int64, on the device of ``inputs``.

        Raises:
            ValueError: if tile size, offset, ``out`` or ``latents`` do not fit, if integers come without ``before``, or
                if no finite halo exists.
            BudgetTooSmall: if no tile fits ``memory_bytes``.
            UserError: if memory runs out for the smallest sensible tile.
            TooLargeForOneTile: with ``allow_whole``, if a whole volume is too large for that.
        """
        network, volume = _checked(network), source(inputs)
        if volume.ndim != 5 or 0 in volume.shape:
            raise ValueError(f"inputs must be volumes [B, C, H, W, D], found shape {tuple(volume.shape)}")
        if before is None and not volume.is_floating_point():
            raise ValueError(f"inputs are {volume.dtype}; give before=, which takes a tile to the network's scale")
        grid = latent_grid(volume.shape[2:], network.factor)
        shape = (len(volume), *grid)
        codes = codes_target(_new(shape, volume) if out is None else out, shape, network.num_embeddings)
        if latents is not None:
            latents = target("latents", latents, (len(volume), network.embedding_dim, *grid))

        def encode_one(number: int, tile: Tile) -> None:
            core = self._encode_tile(volume[number], tile, network, before)
            if latents is not None:
                latents[(number, slice(None), *tile.core)] = core[0].to(latents)
            codes[(number, *tile.core)] = self._run(network.quantizer.quantize, core.double())[0].to(codes)

        self._each_tile("encode", network, len(volume), grid, encode_one)
        return codes if out is None else out

    @torch.no_grad()
    def decode(self, codes: Volume, network: VQGAN, out: Volume | None = None, after: PerTile | None = None) -> Volume:
        """Codes -> volumes.

        Args:
            codes: [B, h, w, d] of integers, a tensor or array.
            network: that of the codes.
            out: [B, C, H, W, D], where voxels go; it may end short of h * factor, w * factor, d * factor, as the volume
                did before it was padded.
            after: takes the core of a tile [1, C, ...] on the network's scale and device to what ``out`` holds, for
                example to int16 HU by :func:`ctpa_vqgan.data.to_hu`.

        Returns:
            ``out``, or a tensor [B, C, H, W, D] on the device of ``codes``, of the type that ``after`` gives (without
            it, of the network's).

        Raises:
            ValueError: if tile size, offset or ``out`` do not fit, if ``out`` holds integers and there is no ``after``,
                if a code is none of the network's, or if no finite halo exists.
            BudgetTooSmall: if no tile fits ``memory_bytes``.
            UserError: if memory runs out for the smallest sensible tile.
            TooLargeForOneTile: with ``allow_whole``, if a whole volume is too large for that.
        """
        network, codes = _checked(network), source(codes)
        if codes.ndim != 4 or 0 in codes.shape or codes.is_floating_point():
            raise ValueError(f"codes must be integers [B, h, w, d], found {codes.dtype} of shape {tuple(codes.shape)}")
        shape, factor = (len(codes), network.out_channels, *codes.shape[1:]), network.factor
        volume = None if out is None else volume_target(out, shape, factor, after)
        size = tuple(g * f for g, f in zip(shape[2:], factor)) if out is None else tuple(out.shape[2:])

        def decode_one(number: int, tile: Tile) -> None:
            nonlocal volume
            place = in_voxels(tile.core, factor, size)
            core = self._decode_tile(codes[number], tile, length(place), network, after)
            if volume is None:
                volume = torch.empty(*shape[:2], *size, dtype=core.dtype, device=codes.device)
            volume[(number, slice(None), *place)] = core[0].to(volume)

        self._each_tile("decode", network, len(codes), shape[2:], decode_one)
        return volume if out is None else out

    def _encode_tile(self, volume: torch.Tensor, tile: Tile, network: VQGAN, before: PerTile | None) -> torch.Tensor:
        """Latents [1, E, ...] of a tile's core, float32 or better."""
        parameter = next(network.parameters())
        voxels = read_tile(volume, tile.around, network.factor, parameter, before, self.cval)
        latents = self._run(network.encode, voxels)[(..., *tile.inside)]
        return latents if latents.dtype == torch.float64 else latents.float()

    def _decode_tile(
        self, codes: torch.Tensor, tile: Tile, size: Sequence[int], network: VQGAN, after: PerTile | None
    ) -> torch.Tensor:
        """Voxels [1, C, *size] of a tile's core."""
        device = next(network.parameters()).device
        decoded = self._run(network.decode_samples, read_codes(codes, tile.around, network.num_embeddings, device))
        decoded = crop(decoded, in_voxels(tile.inside, network.factor), size)
        return source(after(decoded)) if after else decoded

    def _run(self, work: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
        with numerics(self.precision, tensor.device.type):
            return work(tensor)

    def _each_tile(
        self, task: str, network: VQGAN, batch: int, grid: Sequence[int], work: Callable[[int, Tile], None]
    ) -> None:
        """``work`` on (number of the volume, tile) one after the other, each volume by itself; behind a bar.

        A volume for which memory runs out begins again with smaller tiles: each writes its own core, and nothing else.
        """
        done = 0
        while done < batch:
            core, halo, offset = self._core(task, network, grid)
            tiles = grid_tiles(grid, core, halo, offset)
            label, computed = f"{task}, {self.precision}", 0
            with progress_bar((batch - done) * len(tiles), label, leave=False, show=self.progress) as bar:
                try:
                    for number in range(done, batch):
                        for tile in tiles:
                            work(number, tile)
                            computed += math.prod(length(in_voxels(tile.around, network.factor)))
                            if computed >= VOXELS_PER_RELEASE:
                                release_freed()
                                computed = 0
                            bar.update()
                        done += 1
                    return
                except (RuntimeError, MemoryError) as error:
                    if not is_out_of_memory(error):
                        raise
                    reason = first_line(error)
            # outside of the except block, or the traceback would hold on to the tile
            release_memory()
            self._largest[task] = _halved(core, grid, halo, network.factor, reason)

    def _limited(self, task: str, core: Sequence[int]) -> tuple[int, ...]:
        return tuple(map(min, core, self._largest.get(task, core)))

    def _core(self, task: str, network: VQGAN, grid: Sequence[int]) -> tuple[tuple[int, ...], ...]:
        """Core, halo and offset of the tiles in latent positions; the core is as set, or as large as the budget allows.

        Raises:
            ValueError: if tile size or offset do not fit the factor.
        """
        factor, set_sizes = network.factor, {"tile_size": self.tile_size, "offset": self.offset}
        for name, size in set_sizes.items():
            least = 1 if name == "tile_size" else 0
            if size and (len(size) != len(factor) or any(s % f or s < least for s, f in zip(size, factor))):
                raise ValueError(f"{name} {size} must be {len(factor)} multiples of the compression factor {factor}")
        offset = tuple(o // f for o, f in zip(self.offset, factor))
        core = [t // f for t, f in zip(self.tile_size or (), factor)]
        try:
            halo = network.halo.encoder if task == "encode" else network.halo.decoder
        except UnboundedReceptiveField:
            if not self.allow_whole:
                raise
            self._refuse_too_large(task, network, grid)
            # a halo as wide as the volume; with several cores it would be computed several times
            halo, core, offset = tuple(grid), core and list(grid), (0,) * len(grid)
        if core:
            return self._limited(task, core), halo, offset
        needed = functools.partial(self._bytes, task, network)
        return self._limited(task, largest_core(self.memory_bytes, grid, factor, halo, needed)), halo, offset

    def _bytes(self, task: str, network: VQGAN, around: Sequence[int], core: Sequence[int]) -> float:
        return (encoding_bytes if task == "encode" else decoding_bytes)(network, self._run, around, core)

    def _refuse_too_large(self, task: str, network: VQGAN, grid: Sequence[int]) -> None:
        """Say what there is instead of a whole volume that convolutions cannot count, or that memory has no room for.

        A GPU tells by itself when its memory runs out; the system would end the process without a word.
        """
        size, parameter = tuple(g * f for g, f in zip(grid, network.factor)), next(network.parameters())
        found, largest = f"norm='group' looks at the whole volume, and {size} voxels", network.largest_activation(size)
        if largest > LARGEST_TENSOR:
            raise TooLargeForOneTile(f"{found} are too many for one tile; {INSTEAD_OF_WHOLE}")
        free = free_host_bytes() if parameter.device.type == "cpu" else math.inf
        # a pass holds about six tensors of the largest size at once; to count them exactly takes seconds
        if 8 * largest * parameter.element_size() < free:
            return
        if (needed := self._bytes(task, network, grid, grid)) > free:
            have = f"need {needed / 2**30:.1f} GiB to {task} as one tile, of which {free / 2**30:.1f} are free"
            raise TooLargeForOneTile(f"{found} {have}; {INSTEAD_OF_WHOLE}")


def _halved(
    core: Sequence[int], grid: Sequence[int], halo: Sequence[int], factor: Sequence[int], reason: str
) -> tuple[int, ...]:
    """The core, of which memory ran out, with its longest side halved; in latent positions.

    Raises:
        UserError: if that leaves less core than halo, where smaller tiles hardly take less memory.
    """
    core = list(map(min, core, grid))
    voxels = [c * f if c > max(1, h) else 0 for c, h, f in zip(core, halo, factor)]
    size = tuple(c * f for c, f in zip(core, factor))
    if not any(voxels):
        raise UserError(
            f"memory ran out for a tile of {size} voxels with its halo ({reason}), and smaller ones would hardly take "
            "less; lower memory_gb or tile_size if they are set, or compute on a device with more memory (device)"
        )
    longest = voxels.index(max(voxels))
    core[longest] = -(-core[longest] // 2)
    smaller = tuple(c * f for c, f in zip(core, factor))
    logger.warning(
        "memory ran out (%s); tiles are now %s voxels, not %s; this volume begins again", reason, smaller, size
    )
    return tuple(core)


def _checked(network: Any) -> VQGAN:
    """The network itself, also from behind DistributedDataParallel.

    Raises:
        ValueError: if it does not tell its factor and halo.
    """
    network = getattr(network, "module", network)
    if getattr(network, "factor", None) is None:
        raise ValueError(
            f"exact tiles need a network that tells its factor and its halo, found {type(network).__name__}; "
            "VQGANInferer blends windows of any network"
        )
    return network


def _new(shape: Sequence[int], like: torch.Tensor) -> torch.Tensor:
    return torch.empty(shape, dtype=torch.int64, device=like.device)
