"""What every quantizer returns, and the precision that all compute in."""

# B batch, E embedding, h w d latent positions

from __future__ import annotations

from typing import NamedTuple

import torch


class Quantized(NamedTuple):
    """Result of a quantizer."""

    latents: torch.Tensor  # [B, E, h, w, d], the codes' vectors; their gradient passes the rounding
    codes: torch.Tensor  # [B, h, w, d], int64
    loss: torch.Tensor  # scalar commitment loss, unweighted


def float32_or_better(encodings: torch.Tensor) -> torch.Tensor:
    """float64 as it is, anything else as float32: what quantizers compute in."""
    return encodings if encodings.dtype == torch.float64 else encodings.float()
