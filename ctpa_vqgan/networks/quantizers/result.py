"""What every quantizer returns, and how latents are laid out to be searched."""

# B batch, E embedding, h w d latent positions, N = B h w d positions

from __future__ import annotations

from typing import NamedTuple

import torch


class Quantized(NamedTuple):
    """Result of a quantizer."""

    latents: torch.Tensor  # [B, E, h, w, d], the codes' vectors; gradients pass them to the input
    codes: torch.Tensor  # [B, h, w, d], int64
    loss: torch.Tensor  # scalar commitment loss, unweighted


def full_precision(encodings: torch.Tensor) -> torch.Tensor:
    """float64 as it is, anything else as float32: what quantizers compute in."""
    return encodings if encodings.dtype == torch.float64 else encodings.float()
