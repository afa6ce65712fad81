"""Vector quantization with a codebook that follows the latents by exponential moving averages.

The search for the nearest code and the statistics run in chunks: memory does not grow with positions x codes. In
training the forward pass only collects statistics; :meth:`VectorQuantizer.step` applies them, once per optimizer step,
so that the codebook stands still while gradients accumulate.
"""

# B batch, E embedding, h w d latent positions, K codes, N = B h w d positions, R reservoir

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ctpa_vqgan import ranks
from ctpa_vqgan.networks.quantizers.result import Quantized
from ctpa_vqgan.precision import float32_or_better

CODES_AT_A_TIME = 512  # of the book, by the search of an exported graph
INITIALIZATIONS = ("kmeans", "data", "random")
# What only training needs: left out of inference weights, and set to a fresh start where a state_dict has none of it.
# The number of steps stays with the codes: without it, fine-tuning would take them for new and forget them at once.
TRAINING_STATE = (
    "ema_count",
    "ema_sum",
    "ema_pending_count",
    "ema_pending_sum",
    "num_patches",
    "reservoir",
    "num_in_reservoir",
)


class VectorQuantizer(nn.Module):
    """Nearest-code quantizer with an EMA codebook, data-driven start and restart of dead codes.

    EMA codebook: van den Oord et al. 2017, arXiv 1711.00937, appendix A.1. l2-normalised codes of low dimension:
    Yu et al. 2022, arXiv 2110.04627. Restart of dead codes: Dhariwal et al. 2020, arXiv 2005.00341.

    All state lies in buffers, so a state_dict restores a run completely. Ranks that train together add up what they saw
    at each :meth:`step`, and have rank 0's codebook after it; it is that of one rank with all the patches, to rounding.

    Arithmetic is float32 (or float64 for float64
    latents) also inside autocast.

    Args:
        num_embeddings: number of codes K.
        embedding_dim: length of a code E.
        decay: of the moving averages, per optimizer step.
        normalize: put latents and codes on the unit sphere (cosine codes).
        init: ``"kmeans"`` or ``"data"`` (codes drawn from latents), made from the reservoir after ``init_steps``
            optimizer steps during which latents pass unquantized; ``"random"`` starts from a normal distribution.
        init_steps: see ``init``.
        restart_threshold: a code is dead when its average count falls below this share of an equal share.
        restart_interval: optimizer steps between restarts; 0 switches them off.
        reservoir_size: latents kept from recent patches; 8 per code by default.
        patches_in_reservoir: how many patches share the reservoir.
        chunk_elements: largest size of a block of the distance matrix; by default 2**21 on a CPU (fits its cache) and
            2**26 (256 MiB) elsewhere.
        seed: of the draws from latents and reservoir.

    Raises:
        ValueError: if ``init`` is unknown or a size is not positive.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        decay: float = 0.99,
        normalize: bool = False,
        init: str = "kmeans",
        init_steps: int = 1,
        restart_threshold: float = 0.2,
        restart_interval: int = 1,
        reservoir_size: int | None = None,
        patches_in_reservoir: int = 32,
        chunk_elements: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if init not in INITIALIZATIONS:
            raise ValueError(f"init must be one of {', '.join(INITIALIZATIONS)}, found {init!r}")
        if min(num_embeddings, embedding_dim, patches_in_reservoir) < 1:
            raise ValueError(
                "num_embeddings, embedding_dim and patches_in_reservoir must be positive, found "
                f"{num_embeddings}, {embedding_dim}, {patches_in_reservoir}"
            )
        self.num_embeddings, self.embedding_dim, self.decay = num_embeddings, embedding_dim, decay
        self.normalize, self.init, self.init_steps = normalize, init, init_steps
        self.restart_threshold, self.restart_interval = restart_threshold, restart_interval
        self.chunk_elements, self.seed = chunk_elements, seed
        size = reservoir_size or 8 * num_embeddings
        #: how to build this quantizer again, as part of a MONAI bundle's ``network_def``
        self.config = {
            "_target_": "ctpa_vqgan.networks.VectorQuantizer",
            "num_embeddings": num_embeddings,
            "embedding_dim": embedding_dim,
            "decay": decay,
            "normalize": normalize,
            "init": init,
            "init_steps": init_steps,
            "restart_threshold": restart_threshold,
            "restart_interval": restart_interval,
            "reservoir_size": size,
            "patches_in_reservoir": patches_in_reservoir,
            "seed": seed,
        }
        self.latents_per_patch = max(1, size // patches_in_reservoir)

        generator = torch.Generator().manual_seed(seed)
        embedding = torch.randn(num_embeddings, embedding_dim, generator=generator)
        if normalize:
            embedding = F.normalize(embedding, dim=1)
        self.register_buffer("embedding", embedding)
        # all zero until the first step on initialised codes, see _start_averages
        self.register_buffer("ema_count", torch.zeros(num_embeddings))
        self.register_buffer("ema_sum", torch.zeros(num_embeddings, embedding_dim))
        self.register_buffer("initialized", torch.tensor(init == "random"))
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("num_patches", torch.zeros((), dtype=torch.int64))
        self.register_buffer("reservoir", torch.zeros(size, embedding_dim))
        self.register_buffer("num_in_reservoir", torch.zeros((), dtype=torch.int64))
        # float64, so that the order in which micro-batches arrive is lost in rounding
        self.register_buffer("ema_pending_count", torch.zeros(num_embeddings, dtype=torch.float64))
        self.register_buffer("ema_pending_sum", torch.zeros(num_embeddings, embedding_dim, dtype=torch.float64))
        self._patches_before: int = 0  # see begin_step
        self._at_begin: tuple[int, int] | None = None

    def forward(self, encodings: torch.Tensor) -> Quantized:
        """Latents [B, E, h, w, d] -> :class:`Quantized`; collects statistics in training mode with gradients on."""
        with torch.autocast(encodings.device.type, enabled=False):
            latents = self.scaled(encodings)
            codes = self._search(_flat(latents.detach()))
            vectors = self._vectors(codes, latents)
            codes = codes.view(len(latents), *latents.shape[2:])
            learning = self.training and torch.is_grad_enabled()
            if learning:
                self._observe(latents.detach(), codes)
                if not self.initialized:
                    return Quantized(latents, codes, latents.new_zeros(()))
            loss = F.mse_loss(latents, vectors)
            if latents.requires_grad:
                vectors = latents + (vectors - latents).detach()
            return Quantized(vectors, codes, loss)

    def quantize(self, encodings: torch.Tensor) -> torch.Tensor:
        """Latents [B, E, h, w, d] -> nearest codes [B, h, w, d], int64; changes nothing."""
        with torch.no_grad(), torch.autocast(encodings.device.type, enabled=False):
            latents = self.scaled(encodings)
            return self._search(_flat(latents)).view(len(latents), *latents.shape[2:])

    def embed(self, embedding_indices: torch.Tensor) -> torch.Tensor:
        """Codes [B, h, w, d] -> their vectors [B, E, h, w, d]."""
        return self.embedding[embedding_indices].movedim(-1, 1).contiguous()

    def scaled(self, encodings: torch.Tensor) -> torch.Tensor:
        """Latents [B, E, h, w, d] as they are compared with codes: float32 or better, on the sphere if codes are."""
        latents = float32_or_better(encodings)
        return F.normalize(latents, dim=1) if self.normalize else latents

    @torch.no_grad()
    def start_behind(self, first: VectorQuantizer) -> None:
        """Make this codebook from what another one, just made, leaves of the latents in its reservoir.

        Args:
            first: with a reservoir of the same size, on the same device.
        """
        recent = first._recent_latents()
        left = recent - first.embedding[first._search(recent)]
        # a latent that became a code leaves exactly nothing, which says nothing of those to come
        telling = left[left.any(dim=1)] if left.any() else left
        self.reservoir[: len(telling)] = telling
        self.num_in_reservoir.fill_(len(telling))
        self.num_patches.copy_(first.num_patches)
        self.num_steps.copy_(first.num_steps)
        self._initialize()

    def begin_step(self, patches_before: int = 0) -> None:
        """Tell a rank of several which patches of a step it has; needed before the step's first forward pass.

        Args:
            patches_before: patches of this step that lower ranks have; all are of one size.
        """
        self._patches_before = patches_before
        self._at_begin = int(self.num_patches), int(self.num_in_reservoir)

    @torch.no_grad()
    def step(self) -> None:
        """Apply what was collected since the last call, by all ranks: initialisation, moving averages, restarts.

        Call it once per optimizer step. Does nothing if no training forward happened since.
        """
        if ranks.are_many():
            self._share()
        if not self.ema_pending_count.any():
            return
        self.num_steps += 1
        if self.initialized:
            self._follow()
            if self.restart_interval and self.num_steps % self.restart_interval == 0:
                self._restart_dead_codes()
        elif self.num_steps >= self.init_steps:
            self._initialize()
        self.ema_pending_count.zero_()
        self.ema_pending_sum.zero_()
        for state in (self.embedding, self.ema_count, self.ema_sum):
            ranks.copy_of_main(state)  # equal already, where the ranks' hardware is

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Accept inference weights, which carry no :data:`TRAINING_STATE`: averages then start at the codes."""
        for name in (*TRAINING_STATE, "num_steps"):
            state_dict.setdefault(prefix + name, torch.zeros_like(getattr(self, name)))
        super()._load_from_state_dict(state_dict, prefix, *args)

    # -- search --------------------------------------------------------------------------------------------------

    def _vectors(self, codes: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return self.embed(codes.view(len(like), *like.shape[2:])).to(like.dtype)

    @torch.no_grad()
    def _search(self, flat: torch.Tensor) -> torch.Tensor:
        """Nearest codes of [N, E]; ||z||^2 is the same for all codes and left out."""
        book = self.embedding.to(flat.dtype)
        half_squares = book.square().sum(1) / 2
        if torch.compiler.is_exporting():
            return _nearest_of_any_number(flat, book, half_squares)
        limit = self.chunk_elements or (2**21 if flat.device.type == "cpu" else 2**26)
        rows = max(1, min(limit // self.num_embeddings, len(flat)))
        # one block for all chunks: fresh ones leave gaps in the C library's heap, 2 GiB for 32 768 latents in float64
        block = torch.empty((rows, self.num_embeddings), dtype=flat.dtype, device=flat.device)
        codes = torch.empty(len(flat), dtype=torch.int64, device=flat.device)
        for part, found in zip(flat.split(rows), codes.split(rows)):
            distances = torch.addmm(half_squares, part, book.T, alpha=-1, out=block[: len(part)])
            torch.argmin(distances, 1, out=found)
        return codes

    # -- statistics ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _observe(self, latents: torch.Tensor, codes: torch.Tensor) -> None:
        """Count codes, sum their latents, and put a sample of every patch into the reservoir."""
        flat = _flat(latents)
        self.ema_pending_count += torch.bincount(codes.flatten(), minlength=self.num_embeddings)
        self.ema_pending_sum.index_add_(0, codes.flatten(), flat.double())
        for patch in latents:
            rows = patch.flatten(1).T
            generator = self._generator(self.num_patches + self._patches_before)
            draw = torch.randperm(len(rows), generator=generator)[: self.latents_per_patch]
            start = self.num_in_reservoir + self._patches_before * len(draw)
            self._write(rows[draw.to(rows.device)].to(self.reservoir.dtype), start)
            self.num_in_reservoir += len(draw)
            self.num_patches += 1

    def _write(self, rows: torch.Tensor, start: int | torch.Tensor) -> None:
        """Put rows [N, E] into the reservoir, of which ``start`` are older."""
        self.reservoir[(start + torch.arange(len(rows), device=rows.device)) % len(self.reservoir)] = rows

    def _share(self) -> None:
        """Bring together what the ranks collected: sums, and the samples of their patches in the patches' order."""
        if self._at_begin is None:
            raise RuntimeError("begin_step was not called, so the patches of the ranks have no order")
        ranks.add(self.ema_pending_count)
        ranks.add(self.ema_pending_sum)
        patches_at_begin, start = self._at_begin
        patches, rows = int(self.num_patches) - patches_at_begin, int(self.num_in_reservoir) - start
        patches, rows, before = ranks.gather_numbers(patches, rows, self._patches_before)
        per_patch = max(rows) // max(1, max(patches))
        size, mine = len(self.reservoir), rows[ranks.Shard.of_group().index]
        last = start + self._patches_before * per_patch + torch.arange(mine, device=self.reservoir.device)[-size:]
        samples = ranks.gather_rows(self.reservoir[last % size], [min(size, number) for number in rows])
        for sample, number, patches_before in zip(samples, rows, before):
            self._write(sample, start + patches_before * per_patch + number - len(sample))
        self.num_patches.fill_(patches_at_begin + sum(patches))
        self.num_in_reservoir.fill_(start + sum(rows))

    def _generator(self, number: torch.Tensor) -> torch.Generator:
        """A generator on the CPU (the same draws on every device) that depends on the seed and a counter alone."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + int(number)) % 2**63)

    def _recent_latents(self) -> torch.Tensor:
        return self.reservoir[: int(self.num_in_reservoir.clamp(max=len(self.reservoir)))]

    def _initialize(self) -> None:
        """Draw codes from the reservoir; with ``init="kmeans"`` refine them by ten rounds of Lloyd's algorithm."""
        latents = self._recent_latents()
        self.embedding.copy_(self._on_sphere(self._draw(latents, None, self.num_embeddings)))
        for _ in range(10 if self.init == "kmeans" else 0):
            codes = self._search(latents)
            count = torch.bincount(codes, minlength=self.num_embeddings)
            # float64: a GPU adds in any order
            total = torch.zeros_like(self.embedding, dtype=torch.float64).index_add_(0, codes, latents.double())
            used = count > 0
            self.embedding[used] = self._on_sphere((total[used] / count[used, None]).to(latents.dtype))
        self._start_averages()
        self.initialized.fill_(True)

    def _start_averages(self) -> None:
        """Give every code an equal share of this step's latents, so that none is dead before it had its chance."""
        self.ema_count.fill_(float(self.ema_pending_count.sum()) / self.num_embeddings)
        self.ema_sum.copy_(self.embedding * self.ema_count[:, None])

    def _follow(self) -> None:
        """Move counts and sums towards this step's; a code without hits keeps its place."""
        if not self.ema_count.any():
            self._start_averages()
        # short memory at first: early latents move fast, and the starting counts are a guess
        steps = int(self.num_steps)
        weight = 1 - min(self.decay, (1 + steps) / (10 + steps))
        self.ema_count.lerp_(self.ema_pending_count.to(self.ema_count.dtype), weight)
        self.ema_sum.lerp_(self.ema_pending_sum.to(self.ema_sum.dtype), weight)
        hit = self.ema_pending_count > 0
        self.embedding[hit] = self._on_sphere(self.ema_sum[hit] / self.ema_count[hit, None])

    def _restart_dead_codes(self) -> None:
        """Place dead codes on latents of the reservoir, the more likely the worse the living codes serve them."""
        equal_share = float(self.ema_count.sum()) / self.num_embeddings
        dead = torch.nonzero(self.ema_count < self.restart_threshold * equal_share).flatten()
        if not len(dead):
            return
        # a few candidates per dead code are enough, and keep the search small
        recent = self._recent_latents()
        candidates = self._draw(recent, None, min(len(recent), max(1024, 4 * len(dead))))
        distance = (candidates - self.embedding[self._search(candidates)]).norm(dim=1)
        self.embedding[dead] = self._on_sphere(self._draw(candidates, distance, len(dead)))
        # a little above the threshold: a new code that nobody uses is soon replaced again
        self.ema_count[dead] = 2 * self.restart_threshold * equal_share
        self.ema_sum[dead] = self.embedding[dead] * self.ema_count[dead, None]

    def _draw(self, rows: torch.Tensor, weights: torch.Tensor | None, number: int) -> torch.Tensor:
        """``number`` of the rows, drawn by weight; with repetition only where there are too few."""
        weights = torch.ones(len(rows)) if weights is None else weights.double().cpu() + 1e-12
        drawn = torch.multinomial(weights, number, number > len(rows), generator=self._generator(self.num_steps))
        return rows[drawn.to(rows.device)]

    def _on_sphere(self, vectors: torch.Tensor) -> torch.Tensor:
        return F.normalize(vectors, dim=1) if self.normalize else vectors


def _flat(latents: torch.Tensor) -> torch.Tensor:
    """[B, E, h, w, d] -> [N, E]."""
    return latents.movedim(1, -1).flatten(0, -2)


def _nearest_of_any_number(flat: torch.Tensor, book: torch.Tensor, half_squares: torch.Tensor) -> torch.Tensor:
    """Nearest codes of [N, E] in a graph that holds for every N: in chunks of the book instead of the latents.

    ``len()`` would fix N in an exported graph, ``shape`` does not.
    """
    nearest = torch.full((flat.shape[0],), torch.inf, dtype=flat.dtype, device=flat.device)
    codes = torch.zeros((flat.shape[0],), dtype=torch.int64, device=flat.device)
    for start in range(0, len(book), CODES_AT_A_TIME):
        part = slice(start, start + CODES_AT_A_TIME)
        distance, found = torch.addmm(half_squares[part], flat, book[part].T, alpha=-1).min(1)
        codes = torch.where(distance < nearest, found + start, codes)
        nearest = torch.minimum(distance, nearest)
    return codes
