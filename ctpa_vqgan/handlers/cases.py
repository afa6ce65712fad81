"""Score each whole volume of an evaluator, and write volumes and tables."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.engines import IterationEvents
from monai.utils.enums import CommonKeys as Keys

from ctpa_vqgan import ranks
from ctpa_vqgan.data import AIR_HU, Case, is_prepared, save_like
from ctpa_vqgan.data.prepared import NAMES_NOTICE
from ctpa_vqgan.evaluation.case_files import CaseFiles
from ctpa_vqgan.files import in_turn
from ctpa_vqgan.handlers.tensorboard import voxels
from ctpa_vqgan.inferers import ExactTileInferer
from ctpa_vqgan.inferers.sliding import pad_to_multiple
from ctpa_vqgan.metrics import CodeCounter, bits_per_voxel, body_tokens, compression_ratio, volume_fidelity
from ctpa_vqgan.networks.blocks import UnboundedReceptiveField
from ctpa_vqgan.rendezvous import wait_for_ranks
from ctpa_vqgan.report import format_summary, write_metrics
from ctpa_vqgan.report.results import strict, summarize

HU = "hu"


class CaseScores(Metric):
    """Scores of every volume: fidelity in HU, use of the codebook, rate. As a metric its value is the mean PSNR.

    Expects MONAI's evaluator with decollated output: ``batch["hu"]`` the original [1, X, Y, Z] in HU,
    ``output["pred"]`` the reconstruction in HU, ``output["image"]`` the input of the network. ``rows`` holds one
    dict per case; ``engine.state.metrics`` gets the mean of each score.

    Args:
        network: whose codes are counted.
        hu_window: HU at -1 and 1.
        tiles: how volumes are encoded to codes.
    """

    def __init__(
        self, network: torch.nn.Module, hu_window: Sequence[float], tiles: ExactTileInferer | None = None
    ) -> None:
        self.network, self.hu_window = network, tuple(hu_window)
        self.tiles = tiles or ExactTileInferer()
        self.rows: list[dict[str, Any]] = []
        super().__init__()

    def attach(self, engine: Engine, name: str, **usage: Any) -> None:
        """Score what this evaluator makes, and time it: reading, scoring and writing do not count."""
        super().attach(engine, name, **usage)
        engine.add_event_handler(Events.GET_BATCH_COMPLETED, self._start_clock)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._stop_clock)

    def _start_clock(self, engine: Engine) -> None:
        self._began = time.perf_counter()

    def _stop_clock(self, engine: Engine) -> None:
        wait_for(engine.state.device)
        self.seconds = time.perf_counter() - self._began

    def reset(self) -> None:
        """Forget the cases of the last run."""
        self.rows, self.seconds = [], math.nan

    def iteration_completed(self, engine: Engine) -> None:
        """Score the cases of one iteration."""
        for batch, output in zip(engine.state.batch, engine.state.output):
            self.rows.append(self.row(batch, output) | {"seconds": self.seconds})

    def row(self, batch: dict[str, Any], output: dict[str, Any]) -> dict[str, Any]:
        """What there is to say of one case, without its time."""
        original, image = voxels(batch[HU]), output[Keys.IMAGE]
        fidelity = volume_fidelity(voxels(output[Keys.PRED]), original, device=image.device)
        return {"case": batch["case"], **fidelity, **self.code_scores(self.encode(image), original)}

    def update(self, output: Any) -> None:
        """Not used: a case is scored from batch and output, see :meth:`iteration_completed`."""

    def compute(self) -> float:
        """Mean PSNR in dB over cases where it is finite."""
        return self.means().get("psnr", float("nan"))

    def completed(self, engine: Engine, name: str) -> None:
        """Give the mean of every score, over the cases of all ranks that validate together, to the engine."""
        parts = itertools.zip_longest(*ranks.gather(self.rows))
        # by name: a rank without a case of its own scored one that another has too
        self.rows = list({row["case"]: row for part in parts for row in part if row is not None}.values())
        super().completed(engine, name)
        engine.state.metrics |= self.means()

    def means(self) -> dict[str, float]:
        """Mean of each score over its finite values."""
        means = summarize(strict(self.rows))["mean"]
        return {key: value for key, value in means.items() if value is not None}

    @torch.no_grad()
    def encode(self, image: torch.Tensor) -> torch.Tensor | None:
        """Codes [h, w, d] of a whole volume [1, X, Y, Z]; None where a network has none at bounded memory."""
        image = image.as_tensor() if hasattr(image, "as_tensor") else image
        try:
            return self.tiles.encode(image[None], self.network)[0]
        except UnboundedReceptiveField:
            return None

    def code_scores(self, codes: torch.Tensor | None, original: torch.Tensor) -> dict[str, float]:
        """What the codes of a volume cost, and how many differ.

        Args:
            codes: of :meth:`encode`.
            original: [X, Y, Z], HU.
        """
        body = body_tokens(pad_to_multiple(original[None, None], self.network.factor, AIR_HU), self.network.factor)
        rate = bits_per_voxel(body.numel(), self.network.num_embeddings, original.numel())
        scores = {"bits_per_voxel": rate, "compression_ratio": compression_ratio(rate)}
        if codes is None:
            return scores
        self.counter = CodeCounter(self.network.num_embeddings)
        self.counter.update(codes, body[0])
        return scores | self.counter.summary()


def wait_for(device: torch.device) -> None:
    """Until a CUDA device has done what it was told, or a clock would be too early."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


class CaseWriter:
    """Write what an evaluator found: volumes, ``metrics.json`` and ``per_case.csv``.

    Shards write into one folder: each keeps the rows of its cases, and whoever ends writes the tables of all.

    Args:
        output_dir: folder; made if need be.
        scores: of the same evaluator.
        volumes: write ``<case>_reconstruction.nii.gz``, int16 HU on the grid of the input file.
        files: of the same folder; for shards only.
        shard: the part of the cases that the evaluator goes through; None for all.

    Raises:
        ValueError: if a shard has no ``files``.
    """

    def __init__(
        self,
        output_dir: str | Path,
        scores: CaseScores,
        volumes: bool = True,
        files: CaseFiles | None = None,
        shard: ranks.Shard | None = None,
    ) -> None:
        self.folder, self.scores, self.volumes = Path(output_dir), scores, volumes
        self.files, self.shard = files, shard or ranks.Shard()
        if self.shard.count > 1 and files is None:
            raise ValueError("files: expected CaseFiles, where shards keep their rows for each other; found none")
        self.cases: dict[str, Case] = {}  # all of them, in their order

    def attach(self, engine: Engine) -> None:
        """Write while this evaluator runs."""
        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write_cases)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.keep)

    def run(self, engine: Engine) -> None:
        """Run this evaluator, whose loader gives the cases of the shard; MONAI only warns where there is none."""
        if len(engine.data_loader):
            engine.run()
            return
        print(f"shard {self.shard} has no case: there are {len(engine.data_loader.dataset)}", flush=True)
        wait_for_ranks()

    def begin(self, engine: Engine) -> None:
        """Say that names of files are told."""
        self.cases = {case["case"]: case for case in getattr(engine.data_loader.dataset, "data", [])}
        if ranks.is_main() and not all(is_prepared(case["image"]) for case in self.cases.values()):
            print(NAMES_NOTICE, flush=True)

    def write_cases(self, engine: Engine) -> None:
        """Write what belongs to the cases of one iteration."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for batch, output in zip(engine.state.batch, engine.state.output):
            if self.volumes:
                reconstruction = voxels(output[Keys.PRED]).numpy()
                save_like(reconstruction, batch[HU].meta, self._volume(batch["case"]))

    def _volume(self, case: str) -> Path:
        return self.folder / f"{case}_reconstruction.nii.gz"

    def keep(self, engine: Engine, error: BaseException) -> None:
        """Keep the scores of the cases that were done when something ends the run."""
        if self.scores.rows:
            self._write_tables()
        raise error

    def finish(self, engine: Engine) -> None:
        """Write tables, and tell the means."""
        metrics = self._write_tables()
        found = len(metrics["cases"])
        told = f"{found} of {len(self.cases)} cases are done; the rest is for other shards"
        told = format_summary(metrics) if self.shard.count == 1 or found == len(self.cases) else told
        print(f"{told}\n  written to {self.folder}", flush=True)
        wait_for_ranks()

    def _write_tables(self) -> dict[str, Any]:
        """Of the cases that are done, those of other shards too."""
        rows = self.scores.rows
        if self.shard.count > 1:
            for row in rows:
                self.files.save(self.cases[row["case"]], row)
        with in_turn(self.folder, self.shard):
            if self.shard.count > 1:
                known = (self.files.row(case, same_volume=False) for case in self.cases.values())
                rows = [row for row in known if row is not None]
            return write_metrics(self.folder, rows)
