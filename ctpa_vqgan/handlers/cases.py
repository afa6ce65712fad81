"""Score each whole volume of an evaluation, and write volumes, tables, report and pictures."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.utils.enums import CommonKeys as Keys

from ctpa_vqgan.data import AIR_HU, is_prepared, save_like, to_hu
from ctpa_vqgan.data.prepared import NAMES_NOTICE
from ctpa_vqgan.handlers.tensorboard import voxels
from ctpa_vqgan.inferers import ExactTileInferer
from ctpa_vqgan.inferers.sliding import pad_to_multiple
from ctpa_vqgan.metrics import CodeCounter, bits_per_voxel, body_tokens, compression_ratio, volume_fidelity
from ctpa_vqgan.networks.blocks import UnboundedReceptiveField
from ctpa_vqgan.report import format_summary, save_montage, write_metrics, write_report

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
        decoded: score the decoded codes too (``decoded_psnr``, ...): what a generative model will see.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        hu_window: Sequence[float],
        tiles: ExactTileInferer | None = None,
        decoded: bool = False,
    ) -> None:
        self.network, self.hu_window, self.decoded = network, tuple(hu_window), decoded
        self.tiles = tiles or ExactTileInferer()
        self.rows: list[dict[str, Any]] = []
        super().__init__()

    def reset(self) -> None:
        """Forget the cases of the last run."""
        self.rows, self._began = [], time.perf_counter()

    def iteration_completed(self, engine: Engine) -> None:
        """Score the cases of one iteration."""
        for batch, output in zip(engine.state.batch, engine.state.output):
            original, reconstruction = voxels(batch[HU]), voxels(output[Keys.PRED])
            fidelity = volume_fidelity(reconstruction, original, device=output[Keys.IMAGE].device)
            row = {"case": batch["case"], **fidelity}
            row |= self._code_scores(output[Keys.IMAGE], original)
            row["seconds"] = time.perf_counter() - self._began
            self._began = time.perf_counter()
            self.rows.append(row)

    def update(self, output: Any) -> None:
        """Not used: a case is scored from batch and output, see :meth:`iteration_completed`."""

    def compute(self) -> float:
        """Mean PSNR in dB over cases where it is finite."""
        return self.means().get("psnr", float("nan"))

    def completed(self, engine: Engine, name: str) -> None:
        """Give the mean of every score to the engine."""
        super().completed(engine, name)
        engine.state.metrics |= self.means()

    def means(self) -> dict[str, float]:
        """Mean of each score over its finite values."""
        columns = {
            key: [row[key] for row in self.rows if np.isfinite(row[key])] for key in self.rows[0] if key != "case"
        }
        return {key: float(np.mean(values)) for key, values in columns.items() if values}

    @torch.no_grad()
    def _code_scores(self, image: torch.Tensor, original: torch.Tensor) -> dict[str, float]:
        """Codes of the whole volume: how many differ, what they cost, and what they decode to."""
        whole = pad_to_multiple(original[None, None], self.network.factor, AIR_HU)
        body = body_tokens(whole, self.network.factor)
        rate = bits_per_voxel(body.numel(), self.network.num_embeddings, original.numel())
        scores = {"bits_per_voxel": rate, "compression_ratio": compression_ratio(rate)}
        image = image.as_tensor() if hasattr(image, "as_tensor") else image
        try:
            codes = self.tiles.encode(image[None], self.network)
        except UnboundedReceptiveField:  # such a network has no codes of the whole volume at bounded memory
            return scores
        counter = CodeCounter(self.network.num_embeddings)
        counter.update(codes, body)
        scores |= counter.summary()
        if self.decoded:
            volume = to_hu(self.tiles.decode(codes, self.network)[0, 0], self.hu_window)
            volume = volume[tuple(slice(s) for s in original.shape)]
            fidelity = volume_fidelity(volume.cpu(), original, device=image.device)
            scores |= {f"decoded_{key}": fidelity[key] for key in ("psnr", "ssim", "mae_hu", "rmse_hu")}
        return scores


class CaseWriter:
    """Write what an evaluation found: volumes, ``metrics.json``, ``per_case.csv`` and, on demand, a report.

    Args:
        output_dir: folder; made if need be.
        scores: of the same evaluator.
        volumes: write ``<case>_reconstruction.nii.gz``, int16 HU on the grid of the input file.
        report: write ``report.md`` and pictures too.
        title: of the report.
        settings: what a reader needs to repeat the numbers.
        max_pictures: cases that are pictured; the first as ``montage.png``.
    """

    def __init__(
        self,
        output_dir: str | Path,
        scores: CaseScores,
        volumes: bool = True,
        report: bool = False,
        title: str = "Reconstruction of whole CT volumes",
        settings: Mapping[str, Any] | None = None,
        max_pictures: int = 8,
    ) -> None:
        self.folder, self.scores = Path(output_dir), scores
        self.volumes, self.report, self.title, self.settings = volumes, report, title, dict(settings or {})
        self.max_pictures = max_pictures
        self.pictures: list[str] = []

    def attach(self, engine: Engine) -> None:
        """Write while this evaluator runs."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._case)
        engine.add_event_handler(Events.COMPLETED, self._finish)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._keep)

    def _begin(self, engine: Engine) -> None:
        cases = getattr(engine.data_loader.dataset, "data", [])
        if not all(is_prepared(case["image"]) for case in cases):
            print(NAMES_NOTICE, flush=True)

    def _case(self, engine: Engine) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for batch, output in zip(engine.state.batch, engine.state.output):
            reconstruction = voxels(output[Keys.PRED]).numpy()
            if self.volumes:
                save_like(reconstruction, batch[HU].meta, self.folder / f"{batch['case']}_reconstruction.nii.gz")
            if self.report and len(self.pictures) < self.max_pictures:
                name = f"montage_{batch['case']}.png" if self.pictures else "montage.png"
                spacing = nib.affines.voxel_sizes(np.asarray(batch[HU].affine))
                original = voxels(batch[HU]).numpy()
                save_montage(self.folder / name, original, reconstruction, tuple(spacing), title=batch["case"])
                self.pictures.append(name)

    def _keep(self, engine: Engine, error: BaseException) -> None:
        """Keep the scores of the cases that were done when one file ends the run."""
        if self.scores.rows:
            write_metrics(self.folder, self.scores.rows)
        raise error

    def _finish(self, engine: Engine) -> None:
        metrics = write_metrics(self.folder, self.scores.rows)
        if self.report:
            write_report(self.folder, metrics, self.title, self.settings, self.pictures)
        print(f"{format_summary(metrics)}\n  written to {self.folder}", flush=True)
