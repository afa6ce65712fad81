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
from tqdm import tqdm

from ctpa_vqgan.data import Case, ReadableCases
from ctpa_vqgan.errors import Stopped, UserError
from ctpa_vqgan.evaluation import CaseFiles
from ctpa_vqgan.files import Claim, remove_leftovers, write_whole
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
        self.cases: dict[str, Case] = {}
        self.bar: tqdm | None = None
        self.claim: Claim | None = None

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """What is known so far, by case and in the order of the data."""
        found = self.scores.known | {row["case"]: row for row in self.scores.rows}
        return {name: found[name] for name in self.cases if name in found}

    def begin(self, engine: Engine) -> None:
        """Take over what an earlier run found."""
        self.claim = Claim(self.files.folder)  # first: a folder that cannot be written is told before any work
        remove_leftovers(self.folder)
        super().begin(engine)
        self.dataset: ReadableCases = engine.data_loader.dataset
        self.cases = {case["case"]: case for case in self.dataset.data}
        known = {name: self.files.row(case) for name, case in self.cases.items()}
        self.scores.known = {name: row for name, row in known.items() if row is not None}
        if self.scores.known:
            print(f"{len(self.scores.known)} of {len(self.cases)} cases were judged before", flush=True)
        self.bar = progress_bar(len(self.cases), "cases", show=self.progress)

    def is_done(self, case: Case) -> bool:
        """Whether nothing that is wanted of a case is missing; asked in the order of the cases, before each is read."""
        name = case["case"]
        row = self.scores.known.pop(name, None)  # does not count while it is asked what is missing
        if row is None:
            return False
        lacks = self.scores.lacks(row)
        if self.volumes and not self._volume(name).is_file():
            lacks.append("its reconstruction as NIfTI")
        if lacks:
            say(f"{name}: judged anew, as what an earlier run found lacks {', '.join(lacks)}")
            return False
        self.scores.known[name] = row
        self.bar.update()
        return True

    def write_cases(self, engine: Engine) -> None:
        """Volumes, pictures and row of the cases of one iteration."""
        super().write_cases(engine)
        for row, batch, output in zip(
            self.scores.rows[-len(engine.state.batch) :], engine.state.batch, engine.state.output
        ):
            row["measured"] = self._facts()
            self._draw(row, voxels(batch[HU]).numpy(), voxels(output[Keys.PRED]).numpy())
            self.files.save(self.cases[row["case"]], row)
            self.bar.update()

    def _facts(self) -> dict[str, str]:
        """Where and with what a row was made: a report may be put together of several runs."""
        return {key: self.settings[key] for key in ("commit", "hardware", "date") if key in self.settings}

    def _draw(self, row: dict[str, Any], original: np.ndarray, reconstruction: np.ndarray) -> None:
        """Pictures of a case, if it is among the worst; those of a case that is no more go, and those of other runs."""
        worst, name = self._worst(), row["case"]
        for other in {*self.rows} - {*worst} | {name}:
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

    def _worst(self) -> list[str]:
        """Names of the cases that are pictured, lowest PSNR first, infinite ones last."""
        rows = self.rows
        return sorted(rows, key=lambda name: float(rows[name]["psnr"]))[: self.pictured_cases]

    def _pictures(self, case: str) -> dict[str, Path]:
        return {kind: self.folder / f"{kind}_{case}.png" for kind in CAPTIONS}

    def keep(self, engine: Engine, error: BaseException) -> None:
        """Every case that was judged is in its own file; nothing else is left to do when something ends the run."""
        self._end()
        raise error

    def _end(self) -> None:
        if self.bar is not None:
            self.bar.close()
        if self.claim is not None:
            self.claim.release()

    def finish(self, engine: Engine) -> None:
        """Write tables and pages."""
        try:
            self._finish()
        finally:
            self._end()

    def _finish(self) -> None:
        self.bar.close()
        refused = [{"case": case, "error": error} for case, error in self.dataset.refused.items()]
        if not self.rows:
            raise UserError(refused[0]["error"] if refused else "there is no case to judge")
        extra: dict[str, Any] = {"refused": refused}
        if self.phantoms:
            known = self._known_phantoms()
            if known is None:
                self._write_pages(extra)  # phantoms take minutes: what is known till then is worth a look
                known = self._measure_phantoms()
            extra["phantoms"] = known
        metrics = self._write_pages(extra)
        print(f"{format_summary(metrics)}\n  look at {self.folder / 'report.html'}", flush=True)
        if refused:
            message = f"{len(refused)} of {len(self.cases)} volumes were left out, see {self.folder / 'report.html'}"
            say(message)
            raise Stopped(REFUSED, message)

    def _write_pages(self, extra: dict[str, Any]) -> dict[str, Any]:
        rows = list(self.rows.values())
        settings = self.settings | self._of_earlier_runs(rows)
        extra = extra | {"settings": settings}
        if all("codes" in row for row in rows):
            extra["codebook"] = self._codebook(rows)
        save_tissue_figure(self.folder / "tissues.png", strict(rows))
        if "phantoms" in extra:
            save_phantom_figure(self.folder / "phantoms.png", extra["phantoms"])
        metrics, pictures = write_metrics(self.folder, rows, extra), self._pictured("phantoms" in extra)
        write_report(self.folder, metrics, self.title, settings, pictures)
        write_html_report(self.folder, metrics, self.title, settings, pictures)
        return metrics

    def _of_earlier_runs(self, rows: list[dict[str, Any]]) -> dict[str, str]:
        """Facts of the rows that another commit, machine or day made."""
        told = {}
        for row in rows:
            facts = row.get("measured") or {}
            if any(facts.get(key) != self.settings.get(key) for key in ("commit", "hardware")):
                told[f"{row['case']} was judged"] = ", ".join(facts.values())
        return told

    def _codebook(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Use of the codebook over all cases together."""
        total = CodeCounter(self.scores.network.num_embeddings)
        for row in rows:
            total.counts[0] += torch.tensor(row["codes"]["counts"])
            total.counts[1] += torch.tensor(row["codes"]["body_counts"])
        return total.summary()

    def _known_phantoms(self) -> dict[str, Any] | None:
        """What an earlier run by the same network and settings found of the phantoms."""
        try:
            known = json.loads((self.folder / "phantoms.json").read_text())
            return known["phantoms"] if known["made_by"] == self.files.made_by else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _measure_phantoms(self) -> dict[str, Any]:
        """Phantoms by both ways."""
        ways = {"reconstruction": self.scores.reconstructor.by_windows}
        if self.scores.reconstructor.has_codes:
            ways["decoded"] = self.scores.reconstructor.by_codes
        found = {}
        for name, way in ways.items():
            with progress_bar(None, f"phantoms, {name}", show=self.progress) as bar:
                found[name] = strict(measure_phantoms(way, progress=bar))
        content = {"made_by": self.files.made_by, "phantoms": found}
        write_whole(self.folder / "phantoms.json", json.dumps(content, allow_nan=False) + "\n")
        return found

    def _pictured(self, phantoms: bool) -> list[dict[str, Any]]:
        """Pictures that are there, those of all cases first, then the worst cases."""
        whole = [("tissues.png", TISSUES), *([("phantoms.png", PHANTOMS)] if phantoms else [])]
        pictures = [{"path": path, "case": None, "caption": caption} for path, caption in whole]
        missing = []
        for case in self._worst():
            row, paths = self.rows[case], self._pictures(case)
            wanted = [kind for kind in CAPTIONS if NEEDS.get(kind, "case") in row]
            missing += [case] if any(not paths[kind].is_file() for kind in wanted) else []
            pictures += [
                {"path": paths[kind].name, "case": case, "caption": CAPTIONS[kind]}
                for kind in wanted
                if paths[kind].is_file()
            ]
        if missing:
            say(
                f"no pictures of {', '.join(missing)}: the run that judged them drew none; remove their files from "
                f"{self.files.folder} to have them drawn"
            )
        self._copy_worst_montage()
        return pictures

    def _copy_worst_montage(self) -> None:
        target = self.folder / "montage.png"
        target.unlink(missing_ok=True)
        for case in self._worst()[:1]:
            montage = self._pictures(case)["montage"]
            if montage.is_file():
                shutil.copyfile(montage, target)


CAPTIONS = {
    "montage": "Original, reconstruction and signed error (reconstruction - original) on three planes through the "
    "largest vessel, in lung, mediastinal and embolism windows.",
    "slices": "Mean absolute error and bias of each axial slice; planes on which windows begin or end are marked.",
    "codes": "How often each code of the codebook occurs, among all tokens and among those of the body.",
    "rates": "Rate and distortion: this model beside the guide's baseline, interpolation and codecs.",
}
NEEDS = {"codes": "codes", "rates": "against"}  # what a row must hold for a picture
TISSUES = "Bias and the limits that hold 95 % of the voxels, by tissue."
PHANTOMS = "Sharpness by contrast, noise texture, HU scale, low-contrast disks and emboli, on phantoms of known truth."
