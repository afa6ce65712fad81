"""What every quantizer returns."""

# B batch, E embedding, h w d latent positions

from __future__ import annotations

from typing import NamedTuple

import torch


class Quantized(NamedTuple):
    """Result of a quantizer."""

    latents: torch.Tensor  # [B, E, h, w, d], the codes' vectors; their gradient passes the rounding
    codes: torch.Tensor  # [B, h, w, d], int64
    loss: torch.Tensor  # scalar commitment loss, unweighted
