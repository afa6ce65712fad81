"""How much of the codebook is used, in the whole volume and in the body alone, and what the codes cost in bits."""

# B batch, X Y Z voxels, h w d latent positions (X = h * factor)

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ctpa_vqgan import ranks
from ctpa_vqgan.metrics.slabs import SLAB, read_slab
from ctpa_vqgan.metrics.sparse_counts import SparseCounts

LARGEST_TABLE = 2**20  # codes; above, counts would take more than 16 MiB (1 GiB for two books of 8192)
AIR_HU = -1000.0
BODY_HU = -950.0  # air around the patient lies below, lung tissue (about -850 HU) above


@torch.no_grad()
def body_tokens(volume_hu: Any, factor: int | Sequence[int]) -> torch.Tensor:
    """Which tokens show the patient: those whose cell of ``factor`` voxels has a mean above -950 HU.

    About half of a CT is air and needs a handful of codes, so perplexity over all tokens says little about the body.
    Voxels count as at least -1000 HU, so scanner padding (-2048, -3024) is air and cannot outvote tissue in its cell;
    the mask is the same for a raw volume and for the clipped one a network sees. The table is not air and counts as
    body, the lumen of trachea and bullae as air.

    Args:
        volume_hu: [X, Y, Z] or a batch [B, 1, X, Y, Z], array or tensor, HU.
        factor: voxels per token along each axis, one number or three.

    Returns:
        Bool tensor [h, w, d] or [B, h, w, d].

    Raises:
        ValueError: if the volume has another number of axes or a side is not a multiple of the factor.
    """
    shape = tuple(volume_hu.shape)
    if len(shape) != 3 and not (len(shape) == 5 and shape[1] == 1):
        raise ValueError(f"volume_hu must be [X, Y, Z] or [B, 1, X, Y, Z], got shape {shape}")
    factor = (factor,) * 3 if isinstance(factor, int) else tuple(factor)
    if any(side % f for side, f in zip(shape[-3:], factor)):
        raise ValueError(
            f"volume size {shape[-3:]} must be a multiple of the compression factor {factor}; pad with DivisiblePadd"
        )
    lead = shape[:1] if len(shape) == 5 else ()
    step = SLAB * factor[-1]  # in slabs: a float32 copy of 512 x 512 x 604 voxels would be 600 MB
    masks = []
    for start in range(0, shape[-1], step):
        slab = read_slab(volume_hu, start, min(start + step, shape[-1])).clamp(min=AIR_HU)
        cells = [n for side, f in zip(slab.shape[-3:], factor) for n in (side // f, f)]
        masks.append(slab.reshape(*lead, *cells).mean(dim=(-5, -3, -1)) > BODY_HU)
    return torch.cat(masks, dim=-1)


class CodeCounter:
    """Count how often each code occurs, among all tokens and among body tokens.

    Counts add up over updates, so one counter per volume, merged, is one counter per epoch. Up to 2**20 codes they are
    a table; above, as with two books, only codes that occurred
    take memory (24 bytes each).

    Args:
        num_embeddings: size of the codebook.
    """

    def __init__(self, num_embeddings: int) -> None:
        self.num_embeddings = num_embeddings
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._sparse = SparseCounts() if self.num_embeddings > LARGEST_TABLE else None
        self._table = torch.zeros(2, 0 if self._sparse else self.num_embeddings, dtype=torch.int64)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Counts, and the codes that they count where there is no table."""
        known = {} if self._sparse is None else {"codes": self._sparse.codes}
        return {"counts": self.counts, **known}

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor]) -> None:
        """Go on counting from there."""
        self.reset()
        if self._sparse is None:
            self._table.copy_(state_dict["counts"])
        else:
            self._sparse = SparseCounts(state_dict["codes"], state_dict["counts"])

    @property
    def counts(self) -> torch.Tensor:
        """int64 [2, num_embeddings]; row 0 all tokens, row 1 body tokens. Above 2**20 codes [2, M] of ``codes``."""
        return self._table if self._sparse is None else self._sparse.counts

    @property
    def codes(self) -> torch.Tensor:
        """The codes that the columns of ``counts`` count, ascending int64: all, or above 2**20 the M that occurred."""
        return torch.arange(self.num_embeddings) if self._sparse is None else self._sparse.codes

    def update(self, codes: torch.Tensor, body: torch.Tensor | None = None) -> None:
        """Count a batch.

        Args:
            codes: integers of any shape, 0 to ``num_embeddings`` - 1.
            body: bool tensor of the same shape, see ``body_tokens``; without it only row 0 counts.

        Raises:
            ValueError: if a code lies outside the codebook or the two shapes differ.
        """
        if body is not None and body.shape != codes.shape:
            raise ValueError(f"body {tuple(body.shape)} must have the shape of codes {tuple(codes.shape)}")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.num_embeddings:
            raise ValueError(
                f"codes run from {int(codes.min())} to {int(codes.max())}, the codebook from 0 to "
                f"{self.num_embeddings - 1}; do codes and codebook belong together?"
            )
        for row, chosen in enumerate((codes,) if body is None else (codes, codes[body.to(codes.device)])):
            if self._sparse is None:
                self._table[row] += torch.bincount(chosen.detach().flatten(), minlength=self.num_embeddings).cpu()
            else:
                self._sparse.add(row, chosen)

    def merge(self, other: CodeCounter) -> CodeCounter:
        """Add the counts of another counter of the same codebook; returns this one.

        Raises:
            ValueError: if the codebooks differ in size.
        """
        if other.num_embeddings != self.num_embeddings:
            raise ValueError(f"cannot merge counts of {other.num_embeddings} codes into {self.num_embeddings}")
        if self._sparse is None:
            self._table += other._table
        else:
            self._sparse.merge(other._sparse)
        return self

    def add_over_ranks(self) -> CodeCounter:
        """Add the counts of all ranks that train together, each of which has to call it; returns this one."""
        if self._sparse is None:
            ranks.add(self._table)
        elif ranks.are_many():
            known = ranks.gather(self.state_dict())
            self.reset()
            for state in known:
                self._sparse.merge(SparseCounts(state["codes"], state["counts"]))
        return self

    def usage(self, body: bool = False) -> float:
        """Share of the codes that occurred at least once; NaN if no token was counted."""
        counts = self.counts[int(body)]
        return int((counts > 0).sum()) / self.num_embeddings if counts.any() else math.nan

    def perplexity(self, body: bool = False) -> float:
        """exp of the entropy: how many codes, equally often used, would be as varied; NaN if no token was counted."""
        counts = self.counts[int(body)]
        if not counts.any():
            return math.nan
        p = counts[counts > 0].double() / counts.sum()
        return math.exp(-(p * p.log()).sum().item())

    def summary(self) -> dict[str, float]:
        """``usage``, ``perplexity``, ``body_usage``, ``body_perplexity`` and ``num_tokens``."""
        return {
            "usage": self.usage(),
            "perplexity": self.perplexity(),
            "body_usage": self.usage(body=True),
            "body_perplexity": self.perplexity(body=True),
            "num_tokens": int(self.counts[0].sum()),
        }


def bits_per_voxel(num_tokens: int, num_embeddings: int, num_voxels: int) -> float:
    """Fixed-length rate: every token costs log2 of the codebook's size (13 bits for 8192), spread over the voxels.

    The logarithm is not rounded up, and no entropy coder is assumed. Take the voxels of the volume as it came, before
    padding; the tokens of the padding are paid for.

    >>> bits_per_voxel(num_tokens=1, num_embeddings=8192, num_voxels=4**3)
    0.203125
    """
    return num_tokens * math.log2(num_embeddings) / num_voxels


def compression_ratio(bits_per_voxel: float, stored_bits: int = 16) -> float:
    """How many times smaller than the stored scan (16 bits a voxel); ``inf`` at a rate of 0."""
    return stored_bits / bits_per_voxel if bits_per_voxel else math.inf
