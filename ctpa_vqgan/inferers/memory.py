"""How much memory tiles and windows take, found without computing them; and the largest ones for a budget."""

# B batch, C channels, H W D voxels, h w d latent positions

from __future__ import annotations

import bisect
import ctypes
import functools
import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.networks.vqgan import LARGEST_TENSOR

Run = Callable[[Callable[[torch.Tensor], torch.Tensor], torch.Tensor], torch.Tensor]
# Above what is counted: gaps that blocks of unlike sizes leave in the allocator's heap (up to 50 % were measured), and
# what it and the libraries keep for themselves (kernels made for each shape, thread pools).
SLACK, RESERVE = 1.6, 48 * 2**20
# Copies of a tile that the steps before and after the network may hold at once: five float32 are enough for
# conversion, scaling, clipping and rounding one after the other.
COPIES = 5
SEARCHED = 32  # latent positions per axis of which the search for the nearest code is counted


class BudgetTooSmall(ValueError):
    """No tile or window of this network fits the memory that it may take."""


def peak_bytes(work: Callable[[torch.Tensor], Any], size: Sequence[int], dtype: torch.dtype, device: Any) -> int:
    """Most bytes that ``work`` holds at once on a tensor of this size, which counts too; weights do not.

    Nothing is computed and nothing allocated: the layers run on tensors that know only their shape. What convolutions
    take besides their result is added from :func:`scratch_bytes`.
    """
    caching = torch.is_autocast_cache_enabled()
    try:
        # or weights without values would stay behind as the cached bf16 copies of real ones
        torch.set_autocast_cache_enabled(False)
        with FakeTensorMode(allow_non_fake_inputs=True), LiveBytes() as live:
            work(torch.zeros(tuple(size), dtype=dtype, device=device))
    finally:
        torch.set_autocast_cache_enabled(caching)
    return live.peak


def first_line(error: BaseException) -> str:
    """What an error says, short enough for a line of log: PyTorch's of memory are long."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def free_host_bytes() -> float:
    """Memory that the system can still give without swapping; infinite where it does not tell (it is no Linux)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return math.inf
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), math.inf)


def release_freed() -> None:
    """Give memory that was freed back to the system, where the C library keeps it (glibc).

    Tiles of several shapes leave gaps in its heap that the next tile does not fit: without this a run held twice the
    memory of its largest tile, and the more shapes the more.
    """
    if trim := _malloc_trim():
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):  # not Linux, or another C library
        return None


def encoding_bytes(network: VQGAN, run: Run, around: Sequence[int], core: Sequence[int]) -> float:
    """Most bytes while a tile of so many latent positions, with halo and without, becomes codes.

    Infinite where a tensor would be larger than convolutions can be trusted with.

    Args:
        network: whose tile it is.
        run: calls a part of the network in the precision that counts.
        around: latent positions with halo.
        core: latent positions without.
    """
    parameter, size = next(network.parameters()), [a * f for a, f in zip(around, network.factor)]
    if network.largest_activation(size) > LARGEST_TENSOR:
        return math.inf
    voxels = (1, network.in_channels, *size)
    encoder = peak_bytes(functools.partial(run, network.encode), voxels, parameter.dtype, parameter.device)
    some = [min(side, SEARCHED) for side in core]  # a step for each chunk of a large core would take minutes
    places = (1, network.embedding_dim, *some)
    search = peak_bytes(functools.partial(run, network.quantizer.quantize), places, torch.float64, parameter.device)
    search *= math.prod(core) / math.prod(some)
    reading = COPIES * math.prod(voxels) * parameter.element_size()
    latents = network.embedding_dim * math.prod(around) * parameter.element_size()
    return max(encoder, latents + search, reading)


def decoding_bytes(network: VQGAN, run: Run, around: Sequence[int], core: Sequence[int]) -> float:
    """:func:`encoding_bytes` for the way back."""
    if network.largest_activation([a * f for a, f in zip(around, network.factor)]) > LARGEST_TENSOR:
        return math.inf
    parameter, block = next(network.parameters()), math.prod(network.factor)
    work = functools.partial(run, network.decode_samples)
    decoder = peak_bytes(work, (1, *around), torch.int64, parameter.device)
    voxel = block * network.out_channels * parameter.element_size()
    return max(decoder, voxel * (math.prod(around) + COPIES * math.prod(core)))


def window_bytes(network: VQGAN, batch: torch.Size, dtype: torch.dtype, device: Any) -> float:
    """:func:`encoding_bytes` for a batch [B, C, H, W, D] of windows there and back, with the weights that blend them.

    The precision and gradient mode that are on now count.
    """
    if batch[0] * network.largest_activation(batch[2:]) > LARGEST_TENSOR:
        return math.inf

    grid = [side // factor for side, factor in zip(batch[2:], network.factor)]
    places = (batch[0], network.embedding_dim, *grid)
    encoder = peak_bytes(network.encode, batch, dtype, device)
    decoder = peak_bytes(network.decode, places, dtype, device)
    # beyond some thousands of latents the search takes no more but its results: a step for each chunk would take long
    some = (1, network.embedding_dim, *(min(side, SEARCHED) for side in grid))
    search = peak_bytes(network.quantizer.quantize, some, dtype, device) + 4 * math.prod(places) * dtype.itemsize
    weights, learns = math.prod(batch[2:]) * dtype.itemsize, any(p.requires_grad for p in network.parameters())
    if torch.is_grad_enabled() and learns:  # what the backward pass would need of one is kept beside the others
        return encoder + search + decoder + weights
    return max(encoder, search, decoder) + weights


class LiveBytes(TorchDispatchMode):
    """Follow the storages that operations make until they are freed.

    Args:
        kernels: type of the device whose convolutions count; by default that of the tensors.
    """

    def __init__(self, kernels: str | None = None) -> None:
        super().__init__()
        self.kernels = kernels
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        for tensor in tensors:
            self._follow(tensor.untyped_storage())
        self.peak = max(self.peak, self.now + scratch_bytes(func, args, tensors, self.kernels))
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.now += size
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def scratch_bytes(func: Any, args: Sequence, results: Sequence[torch.Tensor], device_type: str | None = None) -> int:
    """What a convolution takes for itself while it runs, on this type of device or on that of its input."""
    if func not in (torch.ops.aten.convolution.default, torch.ops.aten._convolution.default):
        return 0
    (x, weight), (y,), transposed = args[:2], results, args[6]
    if (device_type or x.device.type) != "cpu" or (x.dtype == torch.float32 and torch.backends.mkldnn.is_available()):
        # both in another layout: blocks of channels, or channels last
        return _bytes(x) + _bytes(y)
    # oneDNN does not take it: one column per position with all the voxels that its kernel covers
    positions = x[0, 0].numel() if transposed else y[0, 0].numel()
    columns = positions * weight[0].numel() * x.element_size()
    return columns if x.dtype == torch.float64 else 3 * columns


def _bytes(tensor: torch.Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def largest_core(
    memory_bytes: int,
    grid: Sequence[int],
    factor: Sequence[int],
    halo: Sequence[int],
    bytes_of: Callable[[tuple[int, ...], tuple[int, ...]], float],
) -> tuple[int, ...]:
    """The largest core, in latent positions, whose tile fits; a cube as far as the volume is thick enough for one.

    A cube has the least halo for its volume. Cores are made equal in the end, so that no thin remainder is left.

    Args:
        memory_bytes: the budget.
        grid: latent positions of the volume.
        factor: voxels per latent position.
        halo: latent positions around a core.
        bytes_of: most bytes for (latent positions with halo, those of the core).

    Raises:
        BudgetTooSmall: if the smallest core does not fit; names the budget that it needs.
    """

    def core(side: int) -> tuple[int, ...]:
        return tuple(min(max(side * min(factor) // f, 1), g) for f, g in zip(factor, grid))

    @functools.cache
    def needed(side: int) -> int:
        around = tuple(min(c + 2 * h, g) for c, h, g in zip(core(side), halo, grid))
        return _with_slack(bytes_of(around, core(side)))

    sides = range(1, max(g * f for g, f in zip(grid, factor)) // min(factor) + 1)
    place = bisect.bisect_right(sides, memory_bytes, key=needed)
    if place == 0:
        raise BudgetTooSmall(
            f"memory_bytes={memory_bytes} is too little for a tile of this network: the smallest one, a single code "
            f"with its halo, needs {needed(sides[0])} ({_in_gb(needed(sides[0]))})"
        )
    return tuple(math.ceil(g / math.ceil(g / c)) for g, c in zip(grid, core(sides[place - 1])))


def largest_window(
    memory_bytes: int,
    least: Sequence[int],
    overlap: Sequence[int],
    size: Sequence[int],
    factor: Sequence[int],
    bytes_of: Callable[[tuple[int, ...]], float],
) -> tuple[int, ...]:
    """The largest window of a volume that fits: ``least`` or more, and a cube beyond that, as cubes overlap least.

    In the end windows are made equal: as small as their number allows.

    Args:
        memory_bytes: the budget.
        least: window to begin with, in voxels, not beyond the volume.
        overlap: voxels that neighbours share.
        size: of the volume, multiples of the factor.
        factor: multiple that sides have.
        bytes_of: most bytes for a window.

    Raises:
        BudgetTooSmall: if ``least`` does not fit; names the budget that it needs.
    """

    def window(side: int) -> tuple[int, ...]:
        return tuple(min(max(side * min(factor) // f * f, w), s) for f, w, s in zip(factor, least, size))

    @functools.cache
    def needed(window: tuple[int, ...]) -> float:
        return _with_slack(bytes_of(window))

    lowest = needed(tuple(least))
    if memory_bytes < lowest < math.inf:  # what is infinite, the network refuses with a reason
        raise BudgetTooSmall(
            f"memory_bytes={memory_bytes} is too little for windows of {tuple(least)} voxels: they need {lowest} "
            f"({_in_gb(lowest)}); lower roi_size (patch_size) or sw_batch_size"
        )
    sides = range(1, max(size) // min(factor) + 1)
    largest = window(bisect.bisect_right(sides, memory_bytes, key=lambda side: needed(window(side))))
    equal = []
    for w, low, shared, s, f in zip(largest, least, overlap, size, factor):
        if w < s:
            steps = -(-(s - shared) // (w - shared))
            even = shared - (-(s - shared) // steps)
            w = max(low, -(-even // f) * f)
        equal.append(w)
    return tuple(equal)


def _in_gb(number: float) -> str:
    """As the knob ``memory_gb`` takes it, rounded up."""
    return f"memory_gb={math.ceil(number / 1e6) / 1e3:g}"


def _with_slack(counted: float) -> float:
    return math.ceil(SLACK * counted + RESERVE) if math.isfinite(counted) else counted
