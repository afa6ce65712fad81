"""The layers of the tokenizer: replicate-padded convolutions, norms, residual blocks and invertible front ends.

Every layer that mixes voxels also tells its geometry: ``input_range(low, high, axis)`` gives the input indices that the
outputs ``low..high`` depend on along one axis. The halo of the network is computed from these answers.
"""

# B batch, C channels, H W D voxels

from __future__ import annotations

import math
from collections.abc import Sequence

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


def _pad_argument(padding: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """The order of ``torch.nn.functional.pad``: last axis first."""
    return tuple(p for pair in reversed(padding) for p in pair)


class ReplicateConv3d(nn.Conv3d):
    """Convolution with replicate padding: [B, C, H, W, D] -> [B, C', H / stride, ...].

    Replicated borders keep air next to air; zeros would mean soft tissue on the scale of -1000..1000 HU.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Triple, stride: Triple = (1, 1, 1)) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride)
        self.borders = _same_padding(kernel_size, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pad and convolve."""
        padding = _pad_argument(self.borders)
        return super().forward(F.pad(x, padding, mode="replicate") if any(padding) else x)

    def input_range(self, low: int, high: int, axis: int) -> tuple[int, int]:
        """See :func:`input_range`."""
        first = low * self.stride[axis] - self.borders[axis][0]
        last = high * self.stride[axis] - self.borders[axis][0] + self.kernel_size[axis] - 1
        return first, last


class ReplicateConvTranspose3d(nn.ConvTranspose3d):
    """Transposed convolution on a replicate-padded input: [B, C, H, W, D] -> [B, C', H * stride, ...]."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Triple, stride: Triple) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, padding=tuple(k - 1 for k in kernel_size))
        self.borders = _same_padding(kernel_size, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pad and convolve."""
        return super().forward(F.pad(x, _pad_argument(self.borders), mode="replicate"))

    def input_range(self, low: int, high: int, axis: int) -> tuple[int, int]:
        """See :func:`input_range`: output o meets padded input i where o = i * stride - padding + tap."""
        kernel, stride, before = self.kernel_size[axis], self.stride[axis], self.borders[axis][0]
        first = math.ceil((low + self.padding[axis] - (kernel - 1)) / stride) - before
        last = (high + self.padding[axis]) // stride - before
        return first, last


class ChannelRMSNorm(nn.Module):
    """Root-mean-square norm over the channels of each voxel, with a learned scale: no spatial statistics.

    A voxel's result depends on that voxel alone, so a tile equals the whole. Zhang and Sennrich 2019, arXiv 1910.07467.
    """

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W, D] -> the same shape; the norm itself is taken in float32 (float64 stays float64)."""
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=dtype)
        scale = math.sqrt(x.shape[1]) / (length + self.eps)
        return x * scale.to(x.dtype) * self.weight.to(x.dtype).view(-1, 1, 1, 1)


def make_norm(kind: str, channels: int, num_groups: int) -> nn.Module:
    """``"rms"`` (per voxel, exact tiles) or ``"group"`` (GroupNorm, as the baseline; tiles differ from the whole)."""
    if kind == "rms":
        return ChannelRMSNorm(channels)
    if kind == "group":
        if channels % num_groups:
            raise ValueError(
                f"norm='group' needs channels that are multiples of num_groups={num_groups}, found {channels}"
            )
        return nn.GroupNorm(num_groups, channels, eps=1e-6)
    raise ValueError(f"norm must be 'rms' or 'group', found {kind!r}")


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3x3 convolution, twice, plus the input; optionally recomputed in the backward pass."""

    def __init__(self, channels: int, norm: str, num_groups: int, checkpointing: bool) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.body = nn.Sequential(
            make_norm(norm, channels, num_groups),
            nn.SiLU(),
            ReplicateConv3d(channels, channels, (3, 3, 3)),
            make_norm(norm, channels, num_groups),
            nn.SiLU(),
            ReplicateConv3d(channels, channels, (3, 3, 3)),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[B, C, H, W, D] -> the same shape."""
        if self.checkpointing and self.training and torch.is_grad_enabled():
            return x + checkpoint(self.body, x, use_reentrant=False)
        return x + self.body(x)

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
