"""What the ranks of a training send each other in a step, by formula."""

# B patches of a step over all ranks, N ranks, K codes per book, E embedding

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from torch import nn

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.metrics.codebook import LARGEST_TABLE
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.networks.quantizers import VectorQuantizer

DOUBLE = 8  # bytes; gradients, statistics and terms are summed as float64, counts as int64
NUM_VALUES = 20  # terms of the losses and the like, about


class StepTraffic(NamedTuple):
    """Bytes that are summed over ranks, or gathered from them, in one optimizer step; payloads, not what travels."""

    world_size: int
    gradients: int  # of the network
    discriminator_gradients: int
    codebook: int  # sums and counts of latents by code
    code_counts: int  # for perplexity and usage
    small: int  # values of the losses
    reservoir: int  # gathered: latents drawn for restarts of codes
    book: int = 0  # copied from rank 0: codes and their averages
    code_list: int = 0  # gathered: codes that occurred with their counts, where they are too many for a table; at most

    @property
    def summed(self) -> int:
        """Bytes of all that is all-reduced."""
        return self.gradients + self.discriminator_gradients + self.codebook + self.code_counts + self.small

    @property
    def gathered(self) -> int:
        """Bytes of all that is all-gathered, from all ranks together."""
        return self.reservoir + self.code_list

    @property
    def sent_per_rank(self) -> int:
        """Bytes that each rank sends, and as many that it receives; 0 for one rank alone."""
        return math.ceil((2 * self.summed + self.gathered + self.book) * (self.world_size - 1) / self.world_size)

    def seconds(self, gbit: float) -> float:
        """For a network of so many Gbit/s each way and rank, when nothing is computed meanwhile."""
        return self.sent_per_rank * 8 / (gbit * 1e9)


def step_traffic(
    network: VQGAN,
    discriminator: nn.Module | None,
    patch_size: Sequence[int],
    batch_size: int,
    world_size: int,
) -> StepTraffic:
    """What an optimizer step of ``world_size`` ranks sends, once the codebook is made.

    With N ranks, K codes in a book and E channels of a code, the payloads are

    * gradients of the network, and of the discriminators: 8 bytes a parameter that learns (float64 sums);
    * codebook: K (E + 1) 8 bytes a book (float64), 1 book for ``vq``, 2 for ``residual``, none for ``fsq``;
    * counts of codes: 2 K 8 bytes (int64, all and those in the body), K of all books together; above 2**20 codes at
      most 24 bytes for every latent position of the step instead, gathered;
    * reservoir: ceil(batch_size / N) N patches x latents of a patch x E x 4 bytes a book (float32), where the latents
      of a patch are min(its positions, reservoir_size // patches_in_reservoir);
    * the codebook after its step: K (2 E + 1) 4 bytes a book (float32), copied from rank 0;
    * about 20 values of the losses, 8 bytes each. A few whole numbers besides are not counted.

    An all-reduce of S bytes lets every rank send 2 (N - 1) / N S, an all-gather of A bytes from all ranks together
    (N - 1) / N A (rings, as NCCL and gloo run them), and a copy of A bytes the same on the average; each receives as
    much.

    Args:
        network: with its quantizer.
        discriminator: None while they have not joined.
        patch_size: voxels per axis.
        batch_size: patches per step, over all ranks.
        world_size: number of ranks.

    Raises:
        UserError: if there are more ranks than patches.
    """
    patches = patches_per_rank(batch_size, world_size)
    positions = math.prod(side // factor for side, factor in zip(patch_size, network.factor))
    books = [part for part in network.modules() if isinstance(part, VectorQuantizer)]
    rows = [_rows(book, patches, positions) for book in books]
    in_table = network.num_embeddings <= LARGEST_TABLE
    return StepTraffic(
        world_size=world_size,
        gradients=_num_learnt(network) * DOUBLE,
        discriminator_gradients=_num_learnt(discriminator) * DOUBLE if discriminator is not None else 0,
        codebook=sum(book.num_embeddings * (book.embedding_dim + 1) * DOUBLE for book in books),
        code_counts=2 * network.num_embeddings * DOUBLE if in_table else 0,
        small=NUM_VALUES * DOUBLE,
        book=sum(state.nbytes for book in books for state in (book.embedding, book.ema_count, book.ema_sum)),
        reservoir=world_size * sum(n * book.reservoir[0].nbytes for n, book in zip(rows, books)),
        code_list=0 if in_table else batch_size * positions * 3 * DOUBLE,
    )


def patches_per_rank(batch_size: int, world_size: int) -> int:
    """Patches of a step that the busiest rank has.

    Raises:
        UserError: if a rank would have none.
    """
    if batch_size < world_size:
        raise UserError(
            f"batch_size: expected at least a patch for each of {world_size} ranks (--world-size), found {batch_size}; "
            "raise batch_size, or lower --world-size"
        )
    return math.ceil(batch_size / world_size)


def _rows(book: VectorQuantizer, patches: int, positions: int) -> int:
    """Latents that a rank gives for the reservoir; of very many patches the first would be overwritten at once."""
    per_patch = min(positions, book.latents_per_patch)
    return min(patches, math.ceil(len(book.reservoir) / per_patch)) * per_patch


def _num_learnt(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
