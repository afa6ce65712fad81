"""Try bf16 on this machine before a network depends on it.

Some releases of cuDNN return wrong values for large bf16 3-D convolutions, and say nothing (PyTorch issues 163539 and
87354). The same volume goes through the same network twice, in bf16 as a whole and in float32 by small exact tiles, and
the results are compared. That is the forward pass of the generator: its backward pass and the discriminators are not
tried; a training that goes wrong there shows it in its losses and its validation.
"""

# B batch, C channels, E embedding, H W D voxels, h w d latent positions (H = h * factor)

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F

from ctpa_vqgan import ranks
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.inferers.exact import ExactTileInferer
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.networks.blocks import UnboundedReceptiveField
from ctpa_vqgan.precision import numerics, uses_bf16

# bf16 keeps 8 bits, 2^-9 = 0.2 % of rounding in each operation. Networks of 16 to 128 channels, fresh and trained, gave
# 0.5 to 2.4 % on the whole and up to 3.6 % in the worst block (CPU); zeros or values from elsewhere are of order 100 %.
WHOLE_LIMIT, BLOCK_LIMIT = 0.08, 0.25
BLOCK = 8  # voxels per axis

logger = logging.getLogger(__name__)


class Bf16Errors(NamedTuple):
    """Root-mean-square difference of bf16 and float32, as a share of float32's own root mean square."""

    latents: float
    reconstruction: float
    worst_latents: float  # of the blocks of 8 x 8 x 8 voxels
    worst_reconstruction: float

    @property
    def small(self) -> bool:
        """Whether this is rounding and no fault; NaN is not."""
        whole, worst = (self.latents, self.reconstruction), (self.worst_latents, self.worst_reconstruction)
        return all(error <= WHOLE_LIMIT for error in whole) and all(error <= BLOCK_LIMIT for error in worst)

    def __str__(self) -> str:
        return (
            f"latents {self.latents:.2%} (worst block {self.worst_latents:.2%}), "
            f"reconstruction {self.reconstruction:.2%} (worst block {self.worst_reconstruction:.2%})"
        )


def trusted_precision(
    network: VQGAN, size: Sequence[int], device: torch.device | str, precision: str, batch_size: int = 1
) -> str:
    """The precision to compute in: bf16 only after it passed :func:`check_bf16`; one log line tells.

    Where bf16 is not asked for, or the network is none of ours, nothing is computed.

    Args:
        network: see :func:`check_bf16`.
        size: see :func:`check_bf16`.
        device: where the network is.
        precision: of :data:`~ctpa_vqgan.precision.PRECISIONS` or :data:`~ctpa_vqgan.precision.CODE_PRECISIONS`.
        batch_size: patches or windows per forward pass.

    Returns:
        ``"bf16"`` or ``"float32"`` (``"tf32"`` stays what it is). A failed test, on one of the ranks that train
        together, makes ``"auto"`` float32.

    Raises:
        UserError: ``precision`` is ``"bf16"`` and the test failed.
    """
    if not uses_bf16(device, precision):
        return "float32" if precision == "auto" else precision
    if not isinstance(getattr(network, "module", network), VQGAN):
        logger.info("no bf16 self-test for %s: it has no codes to compare by", type(network).__name__)
        return "bf16"
    errors = check_bf16(network, size, batch_size)
    tested = f"bf16 self-test on {_name(torch.device(device))}, {batch_size} x {tuple(size)} voxels: {errors}"
    if not ranks.anywhere(not errors.small):
        logger.info("%s: ok", tested)
        return "bf16"
    limits = f"allowed are {WHOLE_LIMIT:.0%} and {BLOCK_LIMIT:.0%} in a block"
    if precision == "auto":
        logger.warning("%s: failed, %s; computing in float32 instead (update PyTorch and cuDNN)", tested, limits)
        return "float32"
    raise UserError(f"{tested}: failed, {limits}; set precision to float32, or update PyTorch and cuDNN")


@torch.no_grad()
def check_bf16(network: VQGAN, size: Sequence[int], batch_size: int = 1) -> Bf16Errors:
    """Encode and decode one synthetic patch in bf16 autocast and in float32 without TensorFloat-32, and compare.

    float32 computes by :class:`~ctpa_vqgan.inferers.ExactTileInferer`, which needs no more memory than bf16 for a
    large patch, and no large convolution. A network with GroupNorm has no exact tiles: it computes the whole.

    Both decode the same codes, those of float32: latents near a tie may choose another code, which is no fault. The
    network computes in evaluation mode, without gradients; its modes, buffers, random numbers and all flags are as
    before.

    Args:
        network: with its weights and on its device.
        size: of the patch (H, W, D) in voxels, multiples of the factor; faults depend on it, so the one that counts.
        batch_size: patches at once.

    Returns:
        The errors.
    """
    network = getattr(network, "module", network)
    parameter = next(network.parameters())
    patch = _patch(batch_size, network.in_channels, size).to(parameter)
    block = [max(1, BLOCK // factor) for factor in network.factor]
    with _evaluating(network):
        latents, codes, image = _in_float32(network, patch)
        with numerics("bf16", patch.device.type):
            encoded, worst_encoded = _difference(network.encode(patch), latents, block)
            decoded, worst_decoded = _difference(network.decode_samples(codes), image, (BLOCK,) * 3)
    return Bf16Errors(encoded, decoded, worst_encoded, worst_decoded)


def _in_float32(network: VQGAN, patch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, codes and reconstruction."""
    grid = [side // factor for side, factor in zip(patch.shape[2:], network.factor)]
    latents = patch.new_empty((len(patch), network.embedding_dim, *grid))
    tiles = ExactTileInferer([math.ceil(128 / factor) * factor for factor in network.factor])
    try:
        codes = tiles.encode(patch, network, latents=latents)
        return latents, codes, tiles.decode(codes, network)
    except UnboundedReceptiveField:
        with numerics("float32", patch.device.type):
            latents = network.encode(patch)
            codes = network.quantizer.quantize(latents)
            return latents, codes, network.decode_samples(codes)


@contextmanager
def _evaluating(network: VQGAN) -> Iterator[None]:
    """Evaluation mode; each module gets its own mode back."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _patch(batch_size: int, channels: int, size: Sequence[int]) -> torch.Tensor:
    """[B, C, H, W, D] in [-1, 1], always the same: soft shapes, grain, and air in a corner as in a CT."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(batch_size, channels, *(max(2, side // 16) for side in size), generator=generator) * 3 - 1.5
    patch = F.interpolate(coarse, size=tuple(size), mode="trilinear", align_corners=True)
    patch += 0.05 * torch.randn(patch.shape, generator=generator)
    patch[(..., *(slice(side // 4) for side in size))] = -1.0
    return patch.clamp_(-1, 1)


def _difference(found: torch.Tensor, expected: torch.Tensor, block: Sequence[int]) -> tuple[float, float]:
    """Relative error on the whole and in the worst block of positions, both of ``expected``'s root mean square.

    A block's own values may be near zero: they are no measure.
    """
    squares = (found.float() - expected.float()).square_().mean(1, keepdim=True)
    strength = max(float(expected.float().square().mean()), torch.finfo(torch.float32).tiny)
    block = [min(b, side) for b, side in zip(block, squares.shape[2:])]
    worst = float(F.avg_pool3d(squares, block, ceil_mode=True).max())
    return math.sqrt(float(squares.mean()) / strength), math.sqrt(worst / strength)


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
