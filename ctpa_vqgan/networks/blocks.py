"""The layers of the tokenizer: replicate-padded convolutions, activations, residual blocks and invertible front ends.

Every layer that mixes voxels also tells its geometry: ``input_range(low, high, axis)`` gives the input indices that the
outputs ``low..high`` depend on along one axis. The halo of the network is computed from these answers.
"""

# B batch, C channels, H W D voxels

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

Triple = tuple[int, int, int]


class UnboundedReceptiveField(ValueError):
    """A layer looks at the whole volume, so no finite halo makes a tile equal to the whole."""


def input_range(module: nn.Module, low: int, high: int, axis: int) -> tuple[int, int]:
    """Input indices that outputs ``low..high`` of ``module`` depend on along ``axis`` (0, 1 or 2).

    Sequences are walked from their end; a module without geometry of its own works voxel by voxel.

    Raises:
        UnboundedReceptiveField: if a layer has spatial statistics.
    """
    if isinstance(module, nn.Sequential):
        for child in reversed(module):
            low, high = input_range(child, low, high, axis)
        return low, high
    if isinstance(module, nn.GroupNorm):
        raise UnboundedReceptiveField(
            "GroupNorm takes its statistics over the whole volume; use norm='rms' for exact tiles"
        )
    own = getattr(module, "input_range", None)
    return own(low, high, axis) if own else (low, high)


def _same_padding(kernel: Triple, stride: Triple) -> list[tuple[int, int]]:
    """(before, after) per axis so that the output has size / stride positions; the odd voxel goes before."""
    total = [k - s for k, s in zip(kernel, stride)]
    return [(t - t // 2, t // 2) for t in total]


def replicate_pad(x: torch.Tensor, borders: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Repeat the outermost voxels of [B, C, H, W, D] ``borders`` (before, after) times per axis.

    The backward pass adds slices: it needs no copy of ``x``, and gives the same sums every time, which PyTorch's own on
    CUDA does not.
    """
    if not any(map(any, borders)):
        return x
    return _ReplicatePad.apply(x, tuple(borders)) if torch.is_grad_enabled() else _padded(x, borders)


def _padded(x: torch.Tensor, borders: Sequence[tuple[int, int]]) -> torch.Tensor:
    last_axis_first = [side for pair in reversed(borders) for side in pair]
    return F.pad(x, last_axis_first, mode="replicate")


class _ReplicatePad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, borders):
        ctx.borders = borders
        return _padded(x, borders)

    @staticmethod
    def backward(ctx, grad):
        grad = grad.clone()
        for axis, (before, after) in enumerate(ctx.borders, start=2):
            core = grad.narrow(axis, before, grad.shape[axis] - before - after)
            if before:
                core.narrow(axis, 0, 1).add_(grad.narrow(axis, 0, before).sum(axis, keepdim=True))
            if after:
                end = core.shape[axis]
                core.narrow(axis, end - 1, 1).add_(grad.narrow(axis, before + end, after).sum(axis, keepdim=True))
            grad = core
        return grad, None


def _applied(
    convolve: Callable[[torch.Tensor], torch.Tensor],
    prepare: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    remake: bool = True,
) -> torch.Tensor:
    """``convolve(prepare(x))``, of which the backward pass keeps ``x`` and prepares it again, to the same bits."""
    ready = prepare(x)
    # a compiled graph decides by itself what to keep
    if not (remake and torch.is_grad_enabled()) or ready is x or torch.compiler.is_compiling():
        return convolve(ready)
    storage = ready.untyped_storage()._cdata

    def keep(tensor: torch.Tensor) -> torch.Tensor | None:
        return None if tensor.untyped_storage()._cdata == storage else tensor

    def bring(kept: torch.Tensor | None) -> torch.Tensor:
        if kept is not None:
            return kept
        with torch.no_grad():
            return prepare(x)

    with torch.autograd.graph.saved_tensors_hooks(keep, bring):
        return convolve(ready)


class ReplicateConv3d(nn.Conv3d):
    """Convolution with replicate padding: [B, C, H, W, D] -> [B, C', H / stride, ...].

    Replicated borders keep air next to air; zeros would mean soft tissue on the scale of -1000..1000 HU.

    For the backward pass only the input is kept; what activation and padding make of it is made again there, which
    costs little beside a convolution and saves a copy of every activation.

    Args:
        in_channels: C.
        out_channels: C'.
        kernel_size: taps per axis.
        stride: per axis.
        activation: works on the input first, voxel by voxel or with spatial statistics; none by default.
        remake: False keeps the padded activation instead, for blocks that are recomputed as a whole.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Triple,
        stride: Triple = (1, 1, 1),
        activation: nn.Module | None = None,
        remake: bool = True,
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)
        self.borders, self.remake = _same_padding(kernel_size, stride), remake
        self.activation = activation

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Activate, pad and convolve."""
        return _applied(super().forward, self._prepared, x, self.remake)

    def _prepared(self, x: torch.Tensor) -> torch.Tensor:
        return replicate_pad(x if self.activation is None else self.activation(x), self.borders)

    def input_range(self, low: int, high: int, axis: int) -> tuple[int, int]:
        """See :func:`input_range`."""
        if self.activation is not None:
            input_range(self.activation, low, high, axis)  # one with spatial statistics says so
        first = low * self.stride[axis] - self.borders[axis][0]
        last = high * self.stride[axis] - self.borders[axis][0] + self.kernel_size[axis] - 1
        return first, last


class ReplicateConvTranspose3d(nn.ConvTranspose3d):
    """Transposed convolution on a replicate-padded input: [B, C, H, W, D] -> [B, C', H * stride, ...]."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Triple, stride: Triple) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=tuple(k - 1 for k in kernel_size))
        self.borders = _same_padding(kernel_size, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pad and convolve; only ``x`` is kept for the backward pass."""
        return _applied(super().forward, self._prepared, x)

    def _prepared(self, x: torch.Tensor) -> torch.Tensor:
        return replicate_pad(x, self.borders)

    def input_range(self, low: int, high: int, axis: int) -> tuple[int, int]:
        """See :func:`input_range`: output o meets padded input i where o = i * stride - padding + tap."""
        kernel, stride, before = self.kernel_size[axis], self.stride[axis], self.borders[axis][0]
        first = math.ceil((low + self.padding[axis] - (kernel - 1)) / stride) - before
        last = (high + self.padding[axis]) // stride - before
        return first, last


class RMSNormSiLU(nn.Module):
    """Root-mean-square norm over the channels of each voxel with a learned scale, then SiLU; no spatial statistics.

    A voxel's result depends on that voxel alone, so a tile equals the whole. Norm: Zhang and Sennrich 2019, arXiv
    1910.07467; SiLU: Hendrycks and Gimpel 2016, arXiv 1606.08415. The backward pass keeps nothing but the input, where
    separate layers would keep it three times.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W, D] -> the same shape; lengths are taken in float32 (float64 stays float64)."""
        if torch.is_grad_enabled():
            return _RMSNormSiLU.apply(x, self.weight, self.eps)
        scaled, weight, _ = _rms_normed(x, self.weight, self.eps)
        return F.silu(scaled.mul_(weight), inplace=True)


def _rms_normed(
    x: torch.Tensor, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """x * scale, the weights to multiply it with, and (scale, length) per voxel in float32 or better."""
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=dtype)
    scale = math.sqrt(x.shape[1]) / (length + eps)
    return x * scale.to(x.dtype), weight.to(x.dtype).view(-1, 1, 1, 1), (scale, length)


class _RMSNormSiLU(torch.autograd.Function):
    """silu(w * x * s) with s = sqrt(C) / (|x| + eps)."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        scaled, factors, _ = _rms_normed(x, weight, eps)
        return F.silu(scaled.mul_(factors), inplace=True)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved_tensors
        scaled, factors, (scale, length) = _rms_normed(x, weight, ctx.eps)
        # in place as far as it goes: this is where training needs the most memory
        grad = torch.ops.aten.silu_backward(grad.to(x.dtype), scaled * factors)
        along = scaled.mul_(grad)
        grad_weight = along.sum(dim=(0, 2, 3, 4), dtype=scale.dtype).to(weight.dtype)
        # ds/dx = -s x / (|x| (|x| + eps)); a voxel of zeros has no direction to lose
        pull = along.mul_(factors).sum(dim=1, keepdim=True, dtype=scale.dtype)
        pull = pull / (length * (length + ctx.eps)).clamp(min=torch.finfo(scale.dtype).tiny)
        return grad.mul_(factors).mul_(scale.to(x.dtype)).addcmul_(x, pull.to(x.dtype), value=-1), grad_weight, None


class FixedBatchNorm(nn.BatchNorm3d):
    """Batch norm by the statistics that it was given, in training too: a scale and a shift for each channel."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W, D] -> the same shape."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


def make_activation(kind: str, channels: int, num_groups: int) -> nn.Module:
    """Norm and SiLU.

    Args:
        kind: ``"rms"`` (per voxel, exact tiles), ``"group"`` (as the baseline; tiles differ from the whole), or
            ``"fixed_batch"`` (exact tiles) for imported networks that were trained with batch norm.
        channels: C.
        num_groups: of ``"group"``.

    Raises:
        ValueError: if ``kind`` is unknown or the groups do not divide the channels.
    """
    if kind == "rms":
        return RMSNormSiLU(channels)
    if kind == "group":
        if channels % num_groups:
            raise ValueError(
                f"norm='group' needs channels that are multiples of num_groups={num_groups}, found {channels}"
            )
        return nn.Sequential(nn.GroupNorm(num_groups, channels, eps=1e-6), nn.SiLU(inplace=True))
    if kind == "fixed_batch":
        return nn.Sequential(FixedBatchNorm(channels), nn.SiLU(inplace=True))
    raise ValueError(f"norm must be 'rms', 'group' or 'fixed_batch', found {kind!r}")


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3x3 convolution, twice, plus the input; optionally recomputed in the backward pass."""

    def __init__(self, channels: int, norm: str, num_groups: int, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.body = nn.Sequential(
            *(
                ReplicateConv3d(
                    channels,
                    channels,
                    (3, 3, 3),
                    activation=make_activation(norm, channels, num_groups),
                    remake=not checkpointing,
                )
                for _ in range(2)
            )
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W, D] -> the same shape."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return checkpoint(self.body, x, use_reentrant=False).add_(x)
        return self.body(x).add_(x)

    def input_range(self, low: int, high: int, axis: int) -> tuple[int, int]:
        """See :func:`input_range`."""
        return input_range(self.body, low, high, axis)


class SpaceToDepth(nn.Module):
    """Move each ``block`` of voxels into channels, or back with ``inverse=True``; optionally in the Haar basis.

    Lossless and free of overlap: a 2x2x2 block of one channel becomes one position with eight channels, so that the
    convolutions behind it work on an eighth of the voxels. The orthonormal Haar basis (Haar 1910) sorts the block into
    one mean and seven details.
    """

    def __init__(self, block: Triple, haar: bool = False, inverse: bool = False) -> None:
        super().__init__()
        self.block, self.inverse = block, inverse
        basis = torch.ones(1, 1)
        for size in block:
            step = torch.tensor([[1.0, 1.0], [1.0, -1.0]]) / math.sqrt(2) if haar and size == 2 else torch.eye(size)
            basis = torch.kron(basis, step)
        # The basis is symmetric and orthonormal: it is its own inverse.
        self.register_buffer("basis", basis if haar else None, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W, D] -> [B, C * prod(block), H / block, ...], or the way back."""
        return self._unfold(x) if self.inverse else self._fold(x)

    def _fold(self, x: torch.Tensor) -> torch.Tensor:
        (batch, channels, *size), (a, b, c) = x.shape, self.block
        h, w, d = (s // f for s, f in zip(size, self.block))
        x = x.reshape(batch, channels, h, a, w, b, d, c).permute(0, 1, 3, 5, 7, 2, 4, 6)
        return self._change_basis(x.reshape(batch, channels, a * b * c, h, w, d)).flatten(1, 2)

    def _unfold(self, x: torch.Tensor) -> torch.Tensor:
        (batch, channels, h, w, d), (a, b, c) = x.shape, self.block
        x = self._change_basis(x.reshape(batch, channels // (a * b * c), a * b * c, h, w, d))
        x = x.reshape(batch, -1, a, b, c, h, w, d).permute(0, 1, 5, 2, 6, 3, 7, 4)
        return x.reshape(batch, -1, h * a, w * b, d * c)

    def _change_basis(self, x: torch.Tensor) -> torch.Tensor:
        if self.basis is None:
            return x
        return torch.einsum("ij,bcjhwd->bcihwd", self.basis.to(x.dtype), x)

    def input_range(self, low: int, high: int, axis: int) -> tuple[int, int]:
        """See :func:`input_range`."""
        size = self.block[axis]
        return (low // size, high // size) if self.inverse else (low * size, high * size + size - 1)
