"""Finite scalar quantization: each channel is rounded to a few levels, and the codebook is their product.

Nothing is learned and nothing can collapse: the codebook is there from the first step, and has no state.
"""

# B batch, E embedding (one channel per scalar), L levels of a channel, h w d latent positions

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ctpa_vqgan.networks.quantizers.result import Quantized
from ctpa_vqgan.precision import float32_or_better


class FiniteScalarQuantizer(nn.Module):
    """FSQ, Mentzer et al. 2023, arXiv 2309.15505: bound each channel by tanh, round it, name the product by one code.

    A channel of L levels is bounded to tanh(z) in (-1, 1), which L cells of equal width share, and takes the number of
    its cell; for an even L a cell ends at 0, for an odd one 0 is a cell's middle (the paper's half-step offset). The
    vector that the decoder sees is atanh of the cell's middle. That differs from the paper in three ways, all so that
    vectors live where latents do:

    * The paper's vectors lie in [-1, 1], and its latents anywhere. A diffusion model's latents are quantized before
      they are decoded (``decode_stage_2_outputs``), and a second tanh would move a vector to another level. Through
      atanh, the inverse of the bound, ``quantize(embed(codes)) == codes`` for every code.
    * The paper bounds to the outermost levels themselves: their cells are half as wide, and their atanh is infinite.
      Equal cells all have a finite middle.
    * The paper shifts z so that 0 lies on a level for an even L too. A convolution's bias does the same.

    The gradient goes straight through the rounding, and through the bound as it is: d vector / d z is
    (1 - tanh(z)**2) / (1 - middle**2), about 1 inside, and it fades for latents far out. Were it 1 everywhere, latents
    would drift outwards without end, because no loss holds them.

    Args:
        levels: levels per channel; their number is ``embedding_dim``, their product ``num_embeddings``. The paper
            advises 5 or more each; (8, 8, 8, 4, 4) are 8192 codes.

    Raises:
        ValueError: if there are no levels, one is below 2, or the product is above 2**32.

    Example:
        >>> quantizer = FiniteScalarQuantizer(levels=(3, 2))
        >>> z = torch.tensor([0.0, 5.0]).view(1, 2, 1, 1, 1)  # the middle of three levels, the upper one of two
        >>> quantizer.quantize(z).item()  # 1 + 1 * 3
        4
    """

    def __init__(self, levels: Sequence[int] = (8, 8, 8, 4, 4)) -> None:
        super().__init__()
        levels, given = [int(number) for number in levels], list(levels)
        if not levels or levels != given or min(levels) < 2 or math.prod(levels) > 2**32:
            raise ValueError(f"levels must be whole numbers from 2 with a product of at most 2**32, found {given}")
        self.num_embeddings, self.embedding_dim = math.prod(levels), len(levels)
        #: how to build this quantizer again, as part of a MONAI bundle's ``network_def``
        self.config = {"_target_": "ctpa_vqgan.networks.FiniteScalarQuantizer", "levels": levels}
        # saved with the weights: weights for other levels must not load in silence
        self.register_buffer("levels", torch.tensor(levels))
        # a row per channel, as long as the longest: [E, max L]; it follows the network's type
        table = torch.zeros(len(levels), max(levels), dtype=torch.float64)
        for row, number in zip(table, levels):
            row[:number] = torch.atanh((2 * torch.arange(number, dtype=torch.float64) + 1 - number) / number)
        self.register_buffer("table", table.to(torch.get_default_dtype()), persistent=False)

    def forward(self, encodings: torch.Tensor) -> Quantized:
        """Latents [B, E, h, w, d] -> :class:`Quantized`; the loss is 0: there is nothing to commit to."""
        with torch.autocast(encodings.device.type, enabled=False):
            latents = float32_or_better(encodings)
            codes = self.quantize(latents)
            vectors = self.embed(codes).to(latents.dtype)
            if latents.requires_grad:
                bounded = torch.tanh(latents)
                vectors = vectors + (bounded - bounded.detach()) / (1 - torch.tanh(vectors).square())
            return Quantized(vectors, codes, latents.new_zeros(()))

    @torch.no_grad()
    def quantize(self, encodings: torch.Tensor) -> torch.Tensor:
        """Latents [B, E, h, w, d] -> codes [B, h, w, d], int64; changes nothing."""
        with torch.autocast(encodings.device.type, enabled=False):
            latents = float32_or_better(encodings)
            codes = torch.zeros((len(latents), *latents.shape[2:]), dtype=torch.int64, device=latents.device)
            # channel by channel: one int64 grid at a time
            for channel, (number, step) in zip(latents.unbind(1), self._digits()):
                cell = ((torch.tanh(channel) + 1) * (number / 2)).floor().clamp(0, number - 1)
                codes += cell.to(torch.int64) * step
            return codes

    def embed(self, embedding_indices: torch.Tensor) -> torch.Tensor:
        """Codes [B, h, w, d] -> their vectors [B, E, h, w, d]."""
        digits = [embedding_indices // step % number for number, step in self._digits()]
        return torch.stack([row[digit] for row, digit in zip(self.table, digits)], dim=1)

    def begin_step(self, patches_before: int = 0) -> None:
        """Nothing to prepare."""

    def step(self) -> None:
        """Nothing to do after an optimizer step: there is no codebook to move."""

    def _digits(self) -> list[tuple[int, int]]:
        """(levels, step) of each channel: a code is the sum of cell * step, the first channel's cells counting by 1."""
        levels = self.config["levels"]
        return [(number, math.prod(levels[:channel])) for channel, number in enumerate(levels)]

    def _load_from_state_dict(self, state_dict, prefix, metadata, strict, missing, unexpected, errors) -> None:
        """Refuse weights for other levels, also where as many channels make the shapes agree."""
        found = state_dict.get(prefix + "levels")
        if found is not None and found.tolist() != self.config["levels"]:
            errors.append(f"{prefix}levels: expected {self.config['levels']}, found {found.tolist()}")
            return
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
