"""Residual vector quantization with two books: the second one quantizes what the first left over.

Two books of 8192 codes name 2**26 vectors with the memory and the search of 16 384.
"""

# B batch, E embedding, h w d latent positions, K codes per book

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ctpa_vqgan.networks.quantizers.result import Quantized
from ctpa_vqgan.networks.quantizers.vector import VectorQuantizer


class ResidualQuantizer(nn.Module):
    """Two :class:`VectorQuantizer` one behind the other; the code is c1 * K + c2 and its vector e1[c1] + e2[c2].

    Zeghidour et al. 2021, arXiv 2107.03312 (residual vector quantization, there with more books). Twice the bits of one
    book, for when 8192 codes are too coarse; the coarse half ``codes // K`` is a code grid by itself.

    The second book is made at the same optimizer step as the first, from what the new first book leaves of the latents
    in its reservoir; it never sees residuals of a book that does not exist. From then on both follow by moving
    averages.

    The search is greedy: first the nearest code of the first book, then that of the second. So a vector's own code need
    not be the one found again: where another first code lies nearer to e1[c1] + e2[c2], ``quantize(embed(codes))``
    differs from ``codes``, and its vector is near rather than equal. Whoever has codes should decode them
    (``decode_samples``) and not quantize their vectors again.

    Args:
        num_embeddings: codes per book K; the quantizer's own ``num_embeddings`` is K * K.
        embedding_dim: length of a code E.
        normalize: put latents and the codes of the first book on the unit sphere; the second corrects them off it.
        seed: of the draws; the second book takes the next one.
        **arguments: the others of :class:`VectorQuantizer`, the same for both books.

    Raises:
        ValueError: if K is above 65536 (code files hold 32 bits), or as :class:`VectorQuantizer`.

    Example:
        >>> quantizer = ResidualQuantizer(num_embeddings=16, embedding_dim=4, init="random").eval()
        >>> codes = quantizer.quantize(torch.randn(1, 4, 2, 2, 2))
        >>> coarse, fine = codes // 16, codes % 16
        >>> torch.equal(quantizer.embed(codes), quantizer.first.embed(coarse) + quantizer.second.embed(fine))
        True
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, normalize: bool = False, seed: int = 0, **arguments: Any
    ) -> None:
        super().__init__()
        if num_embeddings > 2**16:
            raise ValueError(f"num_embeddings (per book) must be at most {2**16}, found {num_embeddings}")
        self.first = VectorQuantizer(num_embeddings, embedding_dim, normalize=normalize, seed=seed, **arguments)
        self.second = VectorQuantizer(num_embeddings, embedding_dim, seed=seed + 1, **arguments)
        self.num_embeddings, self.embedding_dim = num_embeddings**2, embedding_dim
        #: how to build this quantizer again, as part of a MONAI bundle's ``network_def``
        self.config = {**self.first.config, "_target_": "ctpa_vqgan.networks.ResidualQuantizer"}

    @property
    def initialized(self) -> torch.Tensor:
        """Whether both books are made (they are made together)."""
        return self.second.initialized

    def forward(self, encodings: torch.Tensor) -> Quantized:
        """Latents [B, E, h, w, d] -> :class:`Quantized`; collects statistics in training mode with gradients on.

        The loss is the sum of both books' commitments, each a mean over positions and channels: of (z - e1)**2, and of
        (z - e1 - e2)**2.
        """
        with torch.autocast(encodings.device.type, enabled=False):
            latents = self.first.scaled(encodings)
            coarse = self.first(encodings)
            left = latents - self.first.embed(coarse.codes).to(latents.dtype)
            if self.training and torch.is_grad_enabled() and not self.initialized:
                codes = self._joined(coarse.codes, self.second.quantize(left))
                return Quantized(latents, codes, coarse.loss)
            fine = self.second(left)
            codes = self._joined(coarse.codes, fine.codes)
            vectors = self.embed(codes).to(latents.dtype)
            if latents.requires_grad:
                vectors = latents + (vectors - latents).detach()
            return Quantized(vectors, codes, coarse.loss + fine.loss)

    @torch.no_grad()
    def quantize(self, encodings: torch.Tensor) -> torch.Tensor:
        """Latents [B, E, h, w, d] -> codes [B, h, w, d], int64; changes nothing."""
        with torch.autocast(encodings.device.type, enabled=False):
            latents = self.first.scaled(encodings)
            coarse = self.first.quantize(encodings)
            return self._joined(coarse, self.second.quantize(latents - self.first.embed(coarse).to(latents.dtype)))

    def embed(self, embedding_indices: torch.Tensor) -> torch.Tensor:
        """Codes [B, h, w, d] -> their vectors [B, E, h, w, d]."""
        size = self.first.num_embeddings
        return self.first.embed(embedding_indices // size) + self.second.embed(embedding_indices % size)

    def begin_step(self, patches_before: int = 0) -> None:
        """See :meth:`VectorQuantizer.begin_step`."""
        self.first.begin_step(patches_before)
        self.second.begin_step(patches_before)

    @torch.no_grad()
    def step(self) -> None:
        """Apply what both books collected since the last call; the second book is made when the first is.

        Call it once per optimizer step. Does nothing if no training forward happened since.
        """
        self.first.step()
        if self.second.initialized:
            self.second.step()
        elif self.first.initialized:
            self.second.start_behind(self.first)

    def _joined(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        return coarse * self.first.num_embeddings + fine
