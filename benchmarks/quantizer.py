"""Vector quantizers side by side: ours, MONAI's, and the usual one by a one-hot matrix. Time, memory, same results.

    python benchmarks/quantizer.py [--device cuda] [--positions 131072] [--codes 8192 16384] [--json FILE]

``train`` is a forward pass, a backward pass to the latents and the update of the codebook; ``eval`` a forward pass
without gradients. All start from the same codebook and get the same latents. Ours also keeps its reservoir of latents
and restarts dead codes meanwhile, which the others do not have.

The goals: a tenth of each rival's memory, twice its speed. What is missed is printed as missed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from monai.networks.layers.vector_quantizer import EMAQuantizer
from monai.networks.layers.vector_quantizer import VectorQuantizer as MonaiVectorQuantizer
from side_by_side import (
    Row,
    Work,
    argument_parser,
    by_name,
    compare,
    mib,
    number,
    paired,
    parsed,
    provenance,
    report,
    status_or,
    table,
)
from torch import nn

from ctpa_vqgan.networks import VectorQuantizer

SIZES = {
    "smoke": {"positions": 512, "codes": [64], "repeats": 1},
    "cpu": {"positions": 16384, "codes": [2048, 4096], "repeats": 5},
    "cuda": {"positions": 131072, "codes": [8192, 16384], "repeats": 10},
}
MEMORY_GOAL, SPEED_GOAL = 10.0, 2.0
DECAY = 0.99
OURS, MONAI, ONE_HOT = "ours", "MONAI VectorQuantizer(EMAQuantizer)", "one-hot matrices"


# -- the contenders ----------------------------------------------------------------------------------------------------


class OneHotQuantizer(nn.Module):
    """The textbook way, as most 3-D VQ-GANs have it: all distances, a one-hot matrix, and matrix products with it.

    EMA codebook of van den Oord et al. 2017 (arXiv 1711.00937) with Laplace-smoothed counts.
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, decay: float = DECAY, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.decay, self.epsilon = decay, epsilon
        self.register_buffer("embedding", torch.randn(num_embeddings, embedding_dim))
        self.register_buffer("count", torch.ones(num_embeddings))
        self.register_buffer("total", self.embedding.clone())

    def distances(self, flat: torch.Tensor) -> torch.Tensor:
        """[N, E] -> squared distances to all codes [N, K]."""
        squares = flat.square().sum(1, keepdim=True)
        return squares - 2 * flat @ self.embedding.T + self.embedding.square().sum(1)

    def quantize(self, latents: torch.Tensor) -> torch.Tensor:
        """[B, E, h, w, d] -> codes [B, h, w, d]."""
        flat = latents.movedim(1, -1).flatten(0, -2)
        return self.distances(flat).argmin(1).view(len(latents), *latents.shape[2:])

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, E, h, w, d] -> (vectors of the codes with a straight-through gradient, commitment loss)."""
        places = latents.movedim(1, -1)
        flat = places.flatten(0, -2)
        codes = self.distances(flat.detach()).argmin(1)
        one_hot = F.one_hot(codes, len(self.embedding)).to(flat.dtype)
        vectors = (one_hot @ self.embedding).view(places.shape).movedim(-1, 1)
        if self.training:
            self.follow(one_hot, flat.detach())
        return latents + (vectors - latents).detach(), F.mse_loss(latents, vectors)

    @torch.no_grad()
    def follow(self, one_hot: torch.Tensor, flat: torch.Tensor) -> None:
        """Move the codebook."""
        self.count.lerp_(one_hot.sum(0), 1 - self.decay)
        self.total.lerp_(one_hot.T @ flat, 1 - self.decay)
        n = self.count.sum()
        smoothed = (self.count + self.epsilon) / (n + len(self.count) * self.epsilon) * n
        self.embedding.copy_(self.total / smoothed[:, None])


class Contenders(NamedTuple):
    """One of each, with the same codebook and the same averages behind it."""

    ours: VectorQuantizer
    monai: MonaiVectorQuantizer
    one_hot: OneHotQuantizer


def contenders(book: torch.Tensor, per_code: float, epsilon: float = 1e-5, restart_interval: int = 1) -> Contenders:
    """Quantizers in the middle of a training: every code has had ``per_code`` latents per step.

    MONAI's starts with counts of 0, which throws unused codes far away in the first step; its buffers are set to the
    counts of the others here.
    """
    ours = VectorQuantizer(*book.shape, decay=DECAY, init="random", restart_interval=restart_interval)
    monai = EMAQuantizer(3, *book.shape, decay=DECAY, epsilon=epsilon)
    one_hot = OneHotQuantizer(*book.shape, epsilon=epsilon)
    ours.num_steps.fill_(10**6)  # past the short memory of the first steps
    for codes, count, total in (
        (ours.embedding, ours.ema_count, ours.ema_sum),
        (monai.embedding.weight.data, monai.ema_cluster_size, monai.ema_w),
        (one_hot.embedding, one_hot.count, one_hot.total),
    ):
        codes.copy_(book)
        count.fill_(per_code)
        total.copy_(book * per_code)
    return Contenders(*(module.to(book.device) for module in (ours, MonaiVectorQuantizer(monai), one_hot)))


def works(quantizers: Contenders, latents: torch.Tensor, training: bool) -> dict[str, Work]:
    """What each contender does, by name."""
    x = latents.clone().requires_grad_(training)

    def ours() -> None:
        finish(*quantizers.ours(x)[::2])
        if training:
            quantizers.ours.step()

    def monai() -> None:
        finish(*quantizers.monai(x)[::-1])

    def one_hot() -> None:
        finish(*quantizers.one_hot(x))

    def finish(vectors: torch.Tensor, loss: torch.Tensor) -> None:
        if training:
            (vectors.square().mean() + loss).backward()
            x.grad = None

    for module in quantizers:
        module.train(training)
    graded = torch.enable_grad() if training else torch.no_grad()
    return {name: graded(work) for name, work in ((OURS, ours), (MONAI, monai), (ONE_HOT, one_hot))}


def sample(positions: int, codes: int, dim: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal latents [1, E, N, 1, 1] and a normal codebook [K, E], the same on every device."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, dim, positions, 1, 1, generator=generator)
    return latents.to(device), torch.randn(codes, dim, generator=generator).to(device)


# -- the same results --------------------------------------------------------------------------------------------------


def agreement(positions: int, codes: int, dim: int, device: str) -> dict[str, dict[str, float]]:
    """How far the rivals' codes and updated codebooks are from ours.

    The update formulas are the same where MONAI's ``epsilon`` (Laplace smoothing of the counts) is 0, counts and sums
    start equal, the step is a late one (ours has a short memory at first) and nothing is restarted; so it is set up
    here. A code without hits stays in place with ours, and is its own sum divided by its own count with the others.

    Returns:
        By rival: ``same_codes``, a share; ``gap``, by how much a differing code is farther off than the nearest one, as
        a share of the squared distance, in float64, at worst; ``codebook``, the largest difference of an updated code.
    """
    latents, book = sample(positions, codes, dim, device)
    quantizers = contenders(book, positions / codes, epsilon=0.0, restart_interval=0)
    found = {
        OURS: quantizers.ours.quantize(latents),
        MONAI: quantizers.monai.quantizer.quantize(latents)[2],
        ONE_HOT: quantizers.one_hot.quantize(latents),
    }
    flat = latents.movedim(1, -1).flatten(0, -2).double()
    for work in works(quantizers, latents, training=True).values():
        work()
    books = {MONAI: quantizers.monai.quantizer.embedding.weight, ONE_HOT: quantizers.one_hot.embedding}
    result = {}
    for name, updated in books.items():
        differ = (found[name] != found[OURS]).flatten()
        ways = [
            (flat[differ] - book.double()[found[which].flatten()[differ]]).square().sum(1) for which in (OURS, name)
        ]
        gap = (ways[1] - ways[0]).abs() / torch.minimum(*ways)
        result[name] = {
            "same_codes": 1 - float(differ.double().mean()),
            "gap": float(gap.max()) if len(gap) else 0.0,
            "codebook": float((updated - quantizers.ours.embedding).abs().max()),
        }
    return result


# -- the run -----------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> tuple[list[Row], dict[str, dict]]:
    """All rows, and the agreement by number of codes."""
    rows, agreements = [], {}
    for codes in options.codes:
        agreements[str(codes)] = agreement(options.positions, codes, options.dim, options.device)
        for mode in ("train", "eval"):
            latents, book = sample(options.positions, codes, options.dim, options.device)
            quantizers = contenders(book, options.positions / codes)
            results = compare(works(quantizers, latents, mode == "train"), options.device, options.repeats)
            ours = by_name(results)[OURS]
            rows += [
                {
                    "codes": codes,
                    "mode": mode,
                    **row,
                    "times_seconds": paired(row, ours),
                    "times_bytes": paired(row, ours, "peak_bytes"),
                }
                for row in results
            ]
    return rows, agreements


def markdown(content: dict) -> str:
    """Tables for the screen and for docs/performance.md."""
    lines = []
    for row in content["rows"]:
        times, memory = row["times_seconds"], row["times_bytes"]
        goals = "" if row["name"] == OURS else f"{met(memory, MEMORY_GOAL)}, {met(times, SPEED_GOAL)}"
        ms = number(row["seconds"] * 1e3) if "seconds" in row else row["status"]
        lines.append(
            [
                row["name"],
                f"{row['codes']}, {row['mode']}",
                ms,
                number(times),
                status_or(row, mib(row)),
                number(memory),
                goals,
            ]
        )
    head = ["quantizer", "codes", "ms", "ms, times ours", "peak memory [MiB]", "MiB, times ours"]
    head.append(f"goals: memory {MEMORY_GOAL:g}, speed {SPEED_GOAL:g} times ours")
    same = [
        [name, codes, f"{values['same_codes']:.6%}", f"{values['gap']:.1e}", f"{values['codebook']:.1e}"]
        for codes, rivals in content["agreement"].items()
        for name, values in rivals.items()
    ]
    same_head = ["against ours", "codes", "same codes", "largest gap", "codebook after a step, largest difference"]
    size = f"{content['positions']} positions of dimension {content['dim']}, rounds: {content['repeats']}. "
    return "\n\n".join([table(head, lines), table(same_head, same), size + provenance(content)])


def met(value: float | None, goal: float) -> str:
    """The verdict."""
    return "-" if value is None else "met" if value >= goal else "not met"


def main(argv: Sequence[str] | None = None) -> dict:
    """Read the arguments, measure, print and write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--positions", type=int, help="latent vectors; 131072 are a patch of 256x256x128 at factor 4")
    parser.add_argument("--codes", type=int, nargs="+", help="sizes of the codebook")
    parser.add_argument("--dim", type=int, default=8, help="length of a code")
    options = parsed(parser, argv, SIZES)
    rows, agreements = run(options)
    sizes = {"positions": options.positions, "dim": options.dim, "repeats": options.repeats}
    return report(options, markdown, **sizes, rows=rows, agreement=agreements)


if __name__ == "__main__":
    main()
