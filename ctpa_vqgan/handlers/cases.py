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

from ctpa_vqgan import ranks, refusals
from ctpa_vqgan.data import AIR_HU, Case, ReadableCases, is_prepared, save_like
from ctpa_vqgan.data.prepared import NAMES_NOTICE
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.evaluation.case_files import CaseFiles
from ctpa_vqgan.files import Claim, in_turn, remove_leftovers
from ctpa_vqgan.handlers.tensorboard import voxels
from ctpa_vqgan.inferers import ExactTileInferer
from ctpa_vqgan.inferers.sliding import pad_to_multiple
from ctpa_vqgan.metrics import CodeCounter, bits_per_voxel, body_tokens, compression_ratio, volume_fidelity
from ctpa_vqgan.networks.blocks import UnboundedReceptiveField
from ctpa_vqgan.progress import say
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
        self.known: dict[str, dict[str, Any]] = {}  # rows of an earlier run, by case
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

    def lacks(self, row: dict[str, Any]) -> list[str]:
        """What is wanted of a case and not in its row of an earlier run."""
        return []

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

    Every case is kept in ``cases/<case>.json`` as soon as it is done. Cases that were done before come back from there,
    by :class:`~ctpa_vqgan.data.ReadableCases`, which leaves them out, as it does those of other shards and volumes that
    must be refused. Shards write into one folder, and whoever ends writes the tables of all that is known.

    Args:
        output_dir: folder; made if need be.
        scores: of the same evaluator.
        files: of the same folder.
        volumes: write ``<case>_reconstruction.nii.gz``, int16 HU on the grid of the input file.
        shard: the part of the cases to do; None for all.

    Raises:
        UserError: if another process works on the same cases in the folder; at the end, if no volume could be read.
        Stopped: at the end, with exit code 3, if some of the shard could not; under torchrun when all ranks are done.
    """

    report = "metrics.json"  # tells what was left out

    def __init__(
        self,
        output_dir: str | Path,
        scores: CaseScores,
        files: CaseFiles,
        volumes: bool = True,
        shard: ranks.Shard | None = None,
    ) -> None:
        self.folder, self.scores, self.files, self.volumes = Path(output_dir), scores, files, volumes
        self.shard = shard or ranks.Shard()
        self.cases: dict[str, Case] = {}  # all of them, in their order
        self.share: set[str] = set()  # names of the shard's cases
        self.others: dict[str, dict[str, Any]] = {}  # rows of other shards, as last seen
        self.refused: list[dict[str, str]] = []
        self.claim: Claim | None = None

    def attach(self, engine: Engine) -> None:
        """Write while this evaluator runs."""
        engine.add_event_handler(Events.STARTED, self.begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write_cases)
        engine.add_event_handler(Events.COMPLETED, self.finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self.keep)

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """What is known so far, by case and in the order of the data."""
        found = self.others | self.scores.known | {row["case"]: row for row in self.scores.rows}
        return {name: found[name] for name in self.cases if name in found}

    def begin(self, engine: Engine) -> None:
        """Take over what an earlier run found."""
        # first: a folder that cannot be written is told before any work
        self.claim = Claim(self.files.folder, self.shard)
        self.dataset: ReadableCases = engine.data_loader.dataset
        self.cases = {case["case"]: case for case in self.dataset.data}
        if ranks.is_main() and not all(is_prepared(case["image"]) for case in self.cases.values()):
            print(NAMES_NOTICE, flush=True)
        self.share = set(self.shard.take(list(self.cases)))
        self._remove_leftovers()
        known = {name: self.files.row(self.cases[name]) for name in self.cases if name in self.share}
        self.scores.known = {name: row for name, row in known.items() if row is not None}
        told = "" if self.shard.count == 1 else f"shard {self.shard}: "
        if self.scores.known:
            print(f"{told}{len(self.scores.known)} of {len(self.share)} cases were judged before", flush=True)
        if not self.share:
            print(f"{told}no case is left for it: there are {len(self.cases)}", flush=True)

    def _remove_leftovers(self) -> None:
        if self.shard.count == 1:
            remove_leftovers(self.folder)
        else:
            remove_leftovers(self.folder, {path.name for name in self.share for path in self._written(name)})

    def _written(self, case: str) -> list[Path]:
        """Files that only the process writes that has this case."""
        return [self._volume(case)]

    def is_done(self, case: Case) -> bool:
        """Whether nothing that is wanted of a case is missing; asked in the order of the cases, before each is read."""
        name = case["case"]
        if name not in self.share:
            return True
        row = self.scores.known.pop(name, None)  # does not count while it is asked what is missing
        if row is None:
            return False
        lacks = self.scores.lacks(row)
        if self.volumes and not self._volume(name).is_file():
            lacks.append("its reconstruction as NIfTI")
        if lacks:
            say(f"{name}: judged anew, as what an earlier run found lacks {', '.join(lacks)}", every_rank=True)
            return False
        self.scores.known[name] = row
        return True

    def write_cases(self, engine: Engine) -> None:
        """Write what belongs to the cases of one iteration; a row last, as it tells that the case is done."""
        batches, outputs = engine.state.batch, engine.state.output
        for row, batch, output in zip(self.scores.rows[-len(batches) :], batches, outputs):
            self.write_case(row, batch, output)
            self.files.save(self.cases[row["case"]], row)

    def write_case(self, row: dict[str, Any], batch: dict[str, Any], output: dict[str, Any]) -> None:
        """Write all of a case but its row."""
        if self.volumes:
            save_like(voxels(output[Keys.PRED]).numpy(), batch[HU].meta, self._volume(row["case"]))

    def _volume(self, case: str) -> Path:
        return self.folder / f"{case}_reconstruction.nii.gz"

    def keep(self, engine: Engine, error: BaseException) -> None:
        """Every case that is done is in its own file; nothing else is left to do when something ends the run."""
        self.end()
        raise error

    def finish(self, engine: Engine) -> None:
        """Write tables, and tell the means and what was left out."""
        try:
            self.write_all()
        finally:
            self.end()
        refusals.end(len(self.dataset.refused), len(self.share), self.folder / self.report)

    def end(self) -> None:
        """Let others work in the folder."""
        if self.claim is not None:
            self.claim.release()

    def write_all(self) -> None:
        """Write what belongs to all cases together."""
        metrics = self.write_tables()
        print(f"{self.told(metrics)}\n  written to {self.folder}" if metrics else self.told(metrics), flush=True)

    def told(self, metrics: dict[str, Any] | None) -> str:
        """The means, or how much is done while there is something left for other shards."""
        if self.is_complete():
            return format_summary(metrics)
        done = len(self.rows) + len(self.refused)
        return f"{done} of {len(self.cases)} cases are done; the rest is for other shards"

    def is_complete(self) -> bool:
        """Whether no case is left to do, for this shard or another."""
        return len(self.rows) + len(self.refused) == len(self.cases)

    def write_tables(self) -> dict[str, Any] | None:
        """Write down all that is known of all cases, by any shard; None as long as that is nothing."""
        for name, error in self.dataset.refused.items():
            self.files.refuse(self.cases[name], error)
        with in_turn(self.files.folder, self.shard):
            self.look_at_others()
            if self.rows:
                return self.write_known()
            if self.is_complete():
                raise UserError(self.refused[0]["error"] if self.refused else "there is no case to judge")
            return None

    def look_at_others(self) -> None:
        """Take over what other shards have found."""
        others = {name: case for name, case in self.cases.items() if name not in self.share}
        rows = {name: self.files.row(case, by_bytes=False) for name, case in others.items()}
        self.others = {name: row for name, row in rows.items() if row is not None}
        told = self.dataset.refused | {name: self.files.refusal(case) for name, case in others.items()}
        self.refused = [{"case": name, "error": told[name]} for name in self.cases if told.get(name) is not None]

    def write_known(self) -> dict[str, Any]:
        """The tables."""
        return write_metrics(self.folder, list(self.rows.values()), {"refused": self.refused})
