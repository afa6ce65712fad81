"""Write the report of an evaluation while it runs: pictures with each case, pages at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine
from monai.utils.enums import CommonKeys as Keys

from ctpa_vqgan.data import ReadableCases
from ctpa_vqgan.errors import Stopped, UserError
from ctpa_vqgan.evaluation import CaseFiles
from ctpa_vqgan.files import write_whole
from ctpa_vqgan.handlers.cases import HU, CaseWriter
from ctpa_vqgan.handlers.judging import CaseJudge
from ctpa_vqgan.handlers.tensorboard import voxels
from ctpa_vqgan.metrics import CodeCounter
from ctpa_vqgan.progress import progress_bar, say
from ctpa_vqgan.quality_phantom import measure_phantoms
from ctpa_vqgan.report import (
    format_summary,
    save_codes_figure,
    save_montage,
    save_phantom_figure,
    save_rate_figure,
    save_slices_figure,
    save_tissue_figure,
    write_html_report,
    write_metrics,
    write_report,
)
from ctpa_vqgan.report.results import strict

REFUSED = 3  # exit code: done, but for volumes that were refused


class ReportWriter(CaseWriter):
    """``report.html``, ``report.md``, tables and pictures of an evaluation; goes on where an earlier one was stopped.

    Every case is kept in ``cases/<case>.json`` as soon as it is judged. Cases that were done before come back from
    there, by :class:`~ctpa_vqgan.data.ReadableCases`, which leaves them out.

    Args:
        output_dir: folder; made if need be.
        scores: of the same evaluator.
        files: of the same folder.
        volumes: write ``<case>_reconstruction.nii.gz``, int16 HU on the grid of the input file.
        title: of the report.
        settings: what a reader needs to repeat the numbers.
        pictured_cases: so many cases, the worst, are pictured; the worst as ``montage.png`` too.
        phantoms: measure phantoms of known truth too.
        progress: show a bar over the cases.

    Raises:
        UserError: at the end, if no volume could be read.
        Stopped: at the end, with exit code 3, if some could not.
    """

    def __init__(
        self,
        output_dir: str | Path,
        scores: CaseJudge,
        files: CaseFiles,
        volumes: bool = True,
        title: str = "Reconstruction of whole CT volumes",
        settings: Mapping[str, Any] | None = None,
        pictured_cases: int = 8,
        phantoms: bool = True,
        progress: bool = True,
    ) -> None:
        super().__init__(output_dir, scores, volumes)
        self.files, self.title, self.settings = files, title, dict(settings or {})
        self.pictured_cases, self.phantoms, self.progress = pictured_cases, phantoms, progress

    def begin(self, engine: Engine) -> None:
        """Take over what an earlier run found."""
        super().begin(engine)
        self.dataset: ReadableCases = engine.data_loader.dataset
        self.cases = {case["case"]: case for case in self.dataset.data}
        known = {name: self.files.row(case) for name, case in self.cases.items()}
        self.rows = {name: row for name, row in known.items() if row is not None}
        if self.rows:
            print(f"{len(self.rows)} of {len(self.cases)} cases were judged before", flush=True)
        self.bar = progress_bar(len(self.cases), "cases", initial=len(self.rows), show=self.progress)

    def write_cases(self, engine: Engine) -> None:
        """Volumes, pictures and row of the cases of one iteration."""
        super().write_cases(engine)
        done = self.scores.rows[-len(engine.state.batch) :]
        for row, batch, output in zip(done, engine.state.batch, engine.state.output):
            name = row["case"]
            self.rows[name] = row
            self._draw(row, voxels(batch[HU]).numpy(), voxels(output[Keys.PRED]).numpy())
            self.files.save(self.cases[name], row)
            self.bar.update()

    def _draw(self, row: dict[str, Any], original: np.ndarray, reconstruction: np.ndarray) -> None:
        """Pictures of a case, if it is among the worst; those of a case that is no more go."""
        worst, name = self._worst_first()[: self.pictured_cases], row["case"]
        for other in set(self.rows) - set(worst):
            for path in self._pictures(other).values():
                path.unlink(missing_ok=True)
        if name not in worst:
            return
        paths, spacing_mm = self._pictures(name), tuple(row["spacing_mm"])
        save_montage(paths["montage"], original, reconstruction, spacing_mm, title=name)
        versions = {version: row[version]["by_slice"] for version in ("reconstruction", "decoded") if version in row}
        save_slices_figure(paths["slices"], versions, spacing_mm[2], row["window_planes"][2], title=name)
        if "codes" in row:
            save_codes_figure(paths["codes"], row["codes"]["counts"], row["codes"]["body_counts"], title=name)
        if "against" in row:
            save_rate_figure(paths["rates"], row["against"], title=name)

    def _worst_first(self) -> list[str]:
        """Names of the cases known so far, by their PSNR; infinite ones last."""
        return sorted(self.rows, key=lambda name: float(self.rows[name]["psnr"]))

    def _pictures(self, case: str) -> dict[str, Path]:
        return {kind: self.folder / f"{kind}_{case}.png" for kind in CAPTIONS}

    def keep(self, engine: Engine, error: BaseException) -> None:
        """Every case that was judged is in its own file; nothing else is left to do when something ends the run."""
        self.bar.close()
        raise error

    def finish(self, engine: Engine) -> None:
        """Write tables and pages."""
        self.bar.close()
        refused = [{"case": case, "error": error} for case, error in self.dataset.refused.items()]
        if not self.rows:
            raise UserError(refused[0]["error"] if refused else "there is no case to judge")
        rows = [self.rows[name] for name in self.cases if name in self.rows]
        extra: dict[str, Any] = {"refused": refused, "settings": self.settings}
        if all("codes" in row for row in rows):
            extra["codebook"] = self._codebook(rows)
        if self.phantoms:
            extra["phantoms"] = self._measured_phantoms()
            save_phantom_figure(self.folder / "phantoms.png", extra["phantoms"])
        save_tissue_figure(self.folder / "tissues.png", strict(rows))
        metrics = write_metrics(self.folder, rows, extra)
        pictures = self._pictured()
        write_report(self.folder, metrics, self.title, self.settings, pictures)
        page = write_html_report(self.folder, metrics, self.title, self.settings, pictures)
        print(f"{format_summary(metrics)}\n  look at {page}", flush=True)
        if refused:
            message = f"{len(refused)} of {len(self.cases)} volumes were left out, see {page}"
            say(message)
            raise Stopped(REFUSED, message)

    def _codebook(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Use of the codebook over all cases together."""
        total = CodeCounter(self.scores.network.num_embeddings)
        for row in rows:
            total.counts[0] += torch.tensor(row["codes"]["counts"])
            total.counts[1] += torch.tensor(row["codes"]["body_counts"])
        return total.summary()

    def _measured_phantoms(self) -> dict[str, Any]:
        """Phantoms by both ways; from the file of an earlier run if it was made by the same network and settings."""
        path, made_by = self.folder / "phantoms.json", self.files.made_by
        try:
            known = json.loads(path.read_text())
            if known["made_by"] == made_by:
                return known["phantoms"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        ways = {"reconstruction": self.scores.reconstructor.by_windows}
        if self.scores.reconstructor.has_codes:
            ways["decoded"] = self.scores.reconstructor.by_codes
        found = {}
        for name, way in ways.items():
            with progress_bar(None, f"phantoms, {name}", show=self.progress) as bar:
                found[name] = strict(measure_phantoms(way, progress=bar))
        write_whole(path, json.dumps({"made_by": made_by, "phantoms": found}, allow_nan=False) + "\n")
        return found

    def _pictured(self) -> list[dict[str, Any]]:
        """Pictures that are there, those of all cases first, then the worst cases."""
        whole = [("tissues.png", TISSUES), *([("phantoms.png", PHANTOMS)] if self.phantoms else [])]
        pictures = [{"path": path, "case": None, "caption": caption} for path, caption in whole]
        worst = self._worst_first()[: self.pictured_cases]
        for case in worst:
            pictures += [
                {"path": path.name, "case": case, "caption": CAPTIONS[kind]}
                for kind, path in self._pictures(case).items()
                if path.is_file()
            ]
        montage = self._pictures(worst[0])["montage"] if worst else None
        if montage and montage.is_file():
            shutil.copyfile(montage, self.folder / "montage.png")
        return pictures


CAPTIONS = {
    "montage": "Original, reconstruction and signed error (reconstruction - original) on three planes through the "
    "largest vessel, in lung, mediastinal and embolism windows.",
    "slices": "Mean absolute error and bias of each axial slice; planes on which windows begin or end are marked.",
    "codes": "How often each code of the codebook occurs, among all tokens and among those of the body.",
    "rates": "Rate and distortion: this model beside the guide's baseline, interpolation and codecs.",
}
TISSUES = "Bias and the limits that hold 95 % of the voxels, by tissue."
PHANTOMS = "Sharpness by contrast, noise texture, HU scale, low-contrast disks and emboli, on phantoms of known truth."
