"""The 3-D VQ-GAN generator: encode a CT to a grid of codes, and decode the codes to a CT.

The network has a finite receptive field (no spatial statistics, no global attention), so that a tile with a halo gives
the codes of the whole volume. It offers the interface of MONAI's ``VQVAE``.
"""

# B batch, C channels, E embedding, H W D voxels, h w d latent positions (H = h * factor)

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from ctpa_vqgan.networks.blocks import (
    ReplicateConv3d,
    ReplicateConvTranspose3d,
    ResidualBlock,
    SpaceToDepth,
    Triple,
    input_range,
    make_activation,
)
from ctpa_vqgan.networks.quantizers import VectorQuantizer
from ctpa_vqgan.precision import float32_or_better

FRONT_ENDS = ("none", "space_to_depth", "haar")
UPSAMPLINGS = ("mirrored", "eager")
DECODER_ACTIVATIONS = ("last", "first")
USUAL_SHAPE = {
    "decoder_kernel": 3,
    "decoder_activation": "last",
    "unstrided_kernel": 3,
    "upsampling": "mirrored",
}
LARGEST_TENSOR = 2**31 - 1  # elements that 32-bit kernels can count


class Autoencoded(NamedTuple):
    """What a training step needs of one forward pass."""

    reconstruction: torch.Tensor  # [B, C, H, W, D], float32
    latents: torch.Tensor  # [B, E, h, w, d], before quantization
    codes: torch.Tensor  # [B, h, w, d], int64
    commitment: torch.Tensor  # scalar, unweighted


class Halo(NamedTuple):
    """Context that a tile needs on each side to equal the whole volume, in latent positions per axis."""

    encoder: Triple
    decoder: Triple


def _level_strides(factor: Sequence[int], front_end: str) -> tuple[Triple, list[Triple]]:
    """Split ``factor`` into the block of the front end and one stride per level."""
    left = list(factor)
    block = (1, 1, 1)
    if front_end != "none":
        block = tuple(min(f, 2) for f in left)
        left = [f // b for f, b in zip(left, block)]
    strides = []
    while max(left) > 1:
        strides.append(tuple(min(f, 2) for f in left))
        left = [f // s for f, s in zip(left, strides[-1])]
    return block, strides


class _Step(NamedTuple):
    """One change of the grid, between two levels."""

    kernel: Triple
    stride: Triple


def _steps(strides: Sequence[Triple], unstrided_kernel: int) -> list[_Step]:
    """4 taps where the grid changes: each coarse voxel sees every fine one evenly."""
    return [_Step(tuple(4 if s == 2 else unstrided_kernel for s in stride), stride) for stride in strides]


class VQGAN(nn.Module):
    """3-D vector-quantized autoencoder for CT patches and volumes, a MONAI ``VQVAE`` by interface.

    van den Oord et al. 2017 (arXiv 1711.00937) for the quantized bottleneck, Esser et al. 2021 (arXiv 2012.09841) for
    the adversarial training that :class:`ctpa_vqgan.trainer.VQGANTrainer` adds.

    Args:
        spatial_dims: 3; named so that MONAI's tools find it.
        in_channels: channels of the volume; 1 for CT.
        out_channels: channels of the reconstruction; ``in_channels`` by default.
        channels: width of each level, from the first (behind the front end) to the latent grid.
        num_res_blocks: residual blocks per level, one number or (encoder, decoder); either may be a list with one
            number for each level, as ``channels`` has them.
        factor: voxels per latent position and axis; each 1, 2, 4, 8, ... and not all 1.
        front_end: ``"none"``, ``"space_to_depth"`` or ``"haar"``: an invertible 2x2x2 rearrangement that is part of
            the factor and takes the convolutions at full resolution, the dearest ones, away.
        norm: ``"rms"`` (per voxel; exact tiles), ``"group"`` (GroupNorm; tiles differ from the whole) or
            ``"fixed_batch"`` (statistics stay as they are; exact tiles) for imported networks.
        num_groups: groups of ``norm="group"``.
        num_embeddings: size of the codebook.
        embedding_dim: length of a code.
        quantizer: one of :mod:`ctpa_vqgan.networks.quantizers`, or your own with the same interface; replaces the
            default :class:`~ctpa_vqgan.networks.quantizers.VectorQuantizer`.
        checkpointing: recompute residual blocks in the backward pass to save memory: all of them, or those of each
            level by its own entry, the finest level first (it takes the most memory).
        decoder_channels: widths of the decoder where they differ from ``channels``, in the same order.
        decoder_kernel: taps of the decoder's first convolution, 3 or 1.
        decoder_activation: where the decoder has the norm and activation that belong to no residual block: before its
            ``"last"`` convolution, or behind its ``"first"`` one.
        unstrided_kernel: taps of a resampling convolution along an axis whose grid it leaves as it is, 3 or 4.
        upsampling: what the decoder does first where axes have unequal factors: ``"mirrored"`` undoes the encoder's
            steps from the last to the first; ``"eager"`` takes every axis finer from the start, as far as it goes.

    Together the last five and ``num_res_blocks`` by level express the networks that
    :mod:`ctpa_vqgan.networks.baseline` imports.

    Raises:
        ValueError: if ``factor``, ``channels``, ``front_end``, ``norm``, ``checkpointing`` or the shape of the decoder
            do not fit; the message says what would.

    Example:
        >>> net = VQGAN(channels=(8, 16), num_embeddings=64, embedding_dim=4).eval()
        >>> net.index_quantize(torch.zeros(1, 1, 32, 32, 16)).shape
        torch.Size([1, 8, 8, 4])
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int | None = None,
        channels: Sequence[int] = (64, 128),
        num_res_blocks: int | Sequence[int] = 1,
        factor: Sequence[int] = (4, 4, 4),
        front_end: str = "space_to_depth",
        norm: str = "rms",
        num_groups: int = 8,
        num_embeddings: int = 8192,
        embedding_dim: int = 8,
        quantizer: nn.Module | None = None,
        checkpointing: bool | Sequence[bool] = False,
        decoder_channels: Sequence[int] | None = None,
        decoder_kernel: int = 3,
        decoder_activation: str = "last",
        unstrided_kernel: int = 3,
        upsampling: str = "mirrored",
    ) -> None:
        super().__init__()
        if spatial_dims != 3:
            raise ValueError(f"spatial_dims must be 3, found {spatial_dims}")
        if front_end not in FRONT_ENDS:
            raise ValueError(f"front_end must be one of {', '.join(FRONT_ENDS)}, found {front_end!r}")
        if upsampling not in UPSAMPLINGS:
            raise ValueError(f"upsampling must be one of {', '.join(UPSAMPLINGS)}, found {upsampling!r}")
        if decoder_activation not in DECODER_ACTIVATIONS:
            raise ValueError(
                f"decoder_activation must be one of {', '.join(DECODER_ACTIVATIONS)}, found {decoder_activation!r}"
            )
        if decoder_kernel not in (1, 3) or unstrided_kernel not in (3, 4):
            raise ValueError(
                f"decoder_kernel must be 1 or 3 and unstrided_kernel 3 or 4, found {decoder_kernel} and "
                f"{unstrided_kernel}"
            )
        self.factor = checked_factor(factor)
        if quantizer is not None:
            num_embeddings, embedding_dim = quantizer.num_embeddings, quantizer.embedding_dim
        block, strides = _level_strides(self.factor, front_end)
        if len(channels) != len(strides) + 1:
            raise ValueError(
                f"channels must have {len(strides) + 1} entries for factor {self.factor} and front_end={front_end!r} "
                f"(one per level), found {tuple(channels)}"
            )
        widths = tuple(channels if decoder_channels is None else decoder_channels)
        if len(widths) != len(channels):
            raise ValueError(f"decoder_channels must have {len(channels)} entries as channels has, found {widths}")
        self.spatial_dims, self.in_channels = spatial_dims, in_channels
        self._strides = [block, *strides]
        self.out_channels = out_channels or in_channels
        blocks = num_res_blocks if isinstance(num_res_blocks, Sequence) else (num_res_blocks, num_res_blocks)
        if len(blocks) != 2:
            raise ValueError(
                f"num_res_blocks must be one number or two parts (encoder, decoder), found {num_res_blocks}"
            )
        recompute = tuple(checkpointing) if isinstance(checkpointing, Sequence) else (checkpointing,) * len(channels)
        if len(recompute) != len(channels) or not all(isinstance(level, bool) for level in recompute):
            raise ValueError(f"checkpointing must be true, false or {len(channels)} of them, found {checkpointing!r}")
        down, up = (
            [_Level(width, norm, num_groups, *own) for width, *own in zip(sides, recompute, _by_level(part, sides))]
            for sides, part in zip((channels, widths), blocks)
        )
        steps = _steps(strides, unstrided_kernel)
        self.encoder = _encoder(in_channels, down, steps, block, front_end, embedding_dim)
        steps = steps if upsampling == "eager" else steps[::-1]
        ends = (decoder_kernel, decoder_activation)
        self.decoder = _decoder(self.out_channels, up, steps, block, front_end, embedding_dim, *ends)
        self.quantizer = quantizer or VectorQuantizer(num_embeddings, embedding_dim)
        #: how to build this network again: a MONAI bundle's ``network_def``
        self.config = {
            "_target_": "ctpa_vqgan.networks.VQGAN",
            "in_channels": in_channels,
            "out_channels": self.out_channels,
            "channels": list(channels),
            "num_res_blocks": [part if isinstance(part, int) else list(part) for part in blocks],
            "factor": list(self.factor),
            "front_end": front_end,
            "norm": norm,
            "num_groups": num_groups,
            "quantizer": self.quantizer.config,
        }
        shape = {
            "decoder_channels": list(widths),
            "decoder_kernel": decoder_kernel,
            "decoder_activation": decoder_activation,
            "unstrided_kernel": unstrided_kernel,
            "upsampling": upsampling,
        }
        usual = {**USUAL_SHAPE, "decoder_channels": list(channels)}
        # named only where unusual: the config is part of the fingerprint that code files carry
        self.config |= {name: value for name, value in shape.items() if value != usual[name]}
        # Channels last makes 3-D convolutions on a CPU about twice as fast; values do not change.
        self.to(memory_format=torch.channels_last_3d)

    @property
    def num_embeddings(self) -> int:
        """Size of the codebook."""
        return self.quantizer.num_embeddings

    @property
    def embedding_dim(self) -> int:
        """Length of a code."""
        return self.quantizer.embedding_dim

    @property
    def halo(self) -> Halo:
        """Context that a tile needs per side, in latent positions, computed from the layers.

        Raises:
            UnboundedReceptiveField: for ``norm="group"``: no halo suffices.
        """
        encoder, decoder = [], []
        for axis, factor in enumerate(self.factor):
            low, high = input_range(self.encoder, 0, 0, axis)
            encoder.append(math.ceil(max(-low, high - (factor - 1)) / factor))
            low, high = input_range(self.decoder, 0, factor - 1, axis)
            decoder.append(max(-low, high))
        return Halo(tuple(encoder), tuple(decoder))

    def largest_activation(self, size: Sequence[int]) -> int:
        """Elements of the largest tensor inside the network for one volume of ``size`` voxels (H, W, D)."""
        block, ends = self._strides[0], max(self.in_channels, self.out_channels)
        upward = self._strides[:0:-1] if self.config.get("upsampling") == "eager" else self._strides[1:]
        # the borders that convolutions pad; a kernel of 4 pads 3 where its stride is 1
        wide = self.config.get("unstrided_kernel", 3) - 1
        borders = [wide if any(step[axis] == 1 for step in self._strides[1:]) else 2 for axis in range(3)]
        channels, elements = self.config["channels"], [math.prod(size) * ends]
        for widths, strides in (channels, self._strides[1:]), (self.config.get("decoder_channels", channels), upward):
            sides = list(size)
            for width, stride in zip([max(widths[0], ends * math.prod(block)), *widths[1:]], [block, *strides]):
                sides = [math.ceil(side / step) for side, step in zip(sides, stride)]
                elements.append(width * math.prod(side + border for side, border in zip(sides, borders)))
        return max(elements)

    def _refuse_too_large(self, batch: int, size: Sequence[int]) -> None:
        """Convolutions with larger tensors fail in silence on some devices (PyTorch issues 84488, 87354)."""
        if (elements := batch * self.largest_activation(size)) > LARGEST_TENSOR:
            raise ValueError(
                f"{batch} x {tuple(size)} voxels need a tensor of {elements} elements, and beyond {LARGEST_TENSOR} "
                "convolutions are not reliable; use ExactTileInferer or VQGANInferer, or smaller patches"
            )

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Volumes [B, C, H, W, D] in [-1, 1] -> continuous latents [B, E, h, w, d].

        Raises:
            ValueError: if a side is not a multiple of the factor, or an activation would have 2^31 elements or more.
        """
        size = tuple(images.shape[2:])
        if any(s % f for s, f in zip(size, self.factor)):
            raise ValueError(
                f"volume size {size} must be a multiple of the compression factor {self.factor}; "
                f"pad with DivisiblePadd(k={self.factor}) or use VQGANInferer, which pads and crops back"
            )
        self._refuse_too_large(len(images), size)
        # plain layout: MONAI's diffusion inferers call view() on latents
        return self.encoder(images).contiguous()

    def quantize(self, encodings: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Latents [B, E, h, w, d] -> (nearest codes' vectors [B, E, h, w, d], commitment loss)."""
        quantized = self.quantizer(encodings)
        return quantized.latents, quantized.loss

    def decode(self, quantizations: torch.Tensor) -> torch.Tensor:
        """Quantized latents [B, E, h, w, d] -> volumes [B, C, H, W, D], float32 also under autocast.

        Raises:
            ValueError: if an activation would have 2^31 elements or more.
        """
        size = [side * factor for side, factor in zip(quantizations.shape[2:], self.factor)]
        self._refuse_too_large(len(quantizations), size)
        volume = self.decoder(quantizations)
        return float32_or_better(volume)

    def index_quantize(self, images: torch.Tensor) -> torch.Tensor:
        """Volumes [B, C, H, W, D] -> codes [B, h, w, d], int64."""
        return self.quantizer.quantize(self.encode(images))

    def decode_samples(self, embedding_indices: torch.Tensor) -> torch.Tensor:
        """Codes [B, h, w, d] -> volumes [B, C, H, W, D]."""
        return self.decode(self.quantizer.embed(embedding_indices))

    def encode_stage_2_inputs(self, x: torch.Tensor) -> torch.Tensor:
        """Volumes -> quantized latents [B, E, h, w, d], the input of a latent diffusion model."""
        return self.quantizer.embed(self.index_quantize(x))

    def decode_stage_2_outputs(self, z: torch.Tensor) -> torch.Tensor:
        """Latents of a generative model [B, E, h, w, d] -> volumes; they are quantized first."""
        return self.decode_samples(self.quantizer.quantize(z))

    def autoencode(self, images: torch.Tensor) -> Autoencoded:
        """One pass with everything that training looks at; in training mode it feeds the codebook's statistics."""
        latents = self.encode(images)
        quantized = self.quantizer(latents)
        return Autoencoded(self.decode(quantized.latents), latents, quantized.codes, quantized.loss)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Volumes [B, C, H, W, D] -> reconstruction, one tensor, as inferers, evaluators and exporters expect."""
        return self.autoencode(x).reconstruction


def checked_factor(factor: Sequence[int]) -> Triple:
    """The factor as a tuple of three; ValueError if it is not three powers of two, one of them above 1."""
    factor = tuple(int(f) for f in factor)
    if len(factor) != 3 or any(f < 1 or f & (f - 1) for f in factor) or max(factor) == 1:
        raise ValueError(f"factor must be three powers of two, at least one above 1, found {factor}")
    return factor


def _by_level(blocks: int | Sequence[int], levels: Sequence) -> Sequence[int]:
    """Residual blocks of each level; ValueError if there are more or fewer numbers than levels, or one is negative."""
    numbers = [blocks] * len(levels) if isinstance(blocks, int) else list(blocks)
    if len(numbers) != len(levels):
        raise ValueError(f"num_res_blocks must have one number or {len(levels)} for a part, found {numbers}")
    if any(number < 0 for number in numbers):
        raise ValueError(f"num_res_blocks must not be negative, found {blocks}")
    return numbers


class _Level(NamedTuple):
    """How wide a level is, and how its layers are made."""

    width: int
    norm: str
    num_groups: int
    checkpointing: bool
    num_blocks: int

    def residuals(self) -> list[nn.Module]:
        layers = (self.width, self.norm, self.num_groups, self.checkpointing)
        return [ResidualBlock(*layers) for _ in range(self.num_blocks)]

    def activation(self) -> nn.Module:
        return make_activation(self.norm, self.width, self.num_groups)


def _encoder(in_channels, levels, steps, block, front_end, embedding_dim) -> nn.Sequential:
    layers: list[nn.Module] = []
    if front_end != "none":
        layers.append(SpaceToDepth(block, haar=front_end == "haar"))
    layers.append(ReplicateConv3d(in_channels * math.prod(block), levels[0].width, (3, 3, 3)))
    for level, coarser, step in zip(levels, levels[1:], steps):
        layers += level.residuals()
        layers.append(ReplicateConv3d(level.width, coarser.width, *step))
    last = levels[-1]
    layers += last.residuals()
    layers.append(ReplicateConv3d(last.width, embedding_dim, (1, 1, 1), activation=last.activation()))
    return nn.Sequential(*layers)


def _decoder(out_channels, levels, steps, block, front_end, embedding_dim, kernel, activation) -> nn.Sequential:
    layers: list[nn.Module] = [ReplicateConv3d(embedding_dim, levels[-1].width, (kernel,) * 3)]
    if activation == "first":
        layers.append(levels[-1].activation())
    layers += levels[-1].residuals()
    for level, finer, step in zip(levels[::-1], levels[-2::-1], steps):
        layers.append(ReplicateConvTranspose3d(level.width, finer.width, *step))
        layers += finer.residuals()
    first, channels = levels[0], out_channels * math.prod(block)
    before = first.activation() if activation == "last" else None
    layers.append(ReplicateConv3d(first.width, channels, (3, 3, 3), activation=before))
    if front_end != "none":
        layers.append(SpaceToDepth(block, haar=front_end == "haar", inverse=True))
    return nn.Sequential(*layers)
