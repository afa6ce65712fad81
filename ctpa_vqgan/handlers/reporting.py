"""Write the report of an evaluation while it runs: pictures with each case, pages at the end."""

from __future__ import annotations

import dataclasses
import itertools
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

from ctpa_vqgan.data import Case
from ctpa_vqgan.evaluation import CaseFiles
from ctpa_vqgan.files import write_whole
from ctpa_vqgan.handlers.cases import HU, CaseWriter
from ctpa_vqgan.handlers.judging import CaseJudge, Extent
from ctpa_vqgan.handlers.tensorboard import voxels
from ctpa_vqgan.metrics import CodeCounter
from ctpa_vqgan.progress import progress_bar, say
from ctpa_vqgan.quality_phantom import measure_phantoms
from ctpa_vqgan.ranks import Shard
from ctpa_vqgan.report import (
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


class ReportWriter(CaseWriter):
    """``report.html``, ``report.md``, tables and pictures of an evaluation; goes on where an earlier one was stopped.

    Shards write into one folder. Whoever ends writes tables and pages of all that is known of the whole list of cases,
    so that those of the last one are complete; the first shard measures the phantoms.

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
        shard: the part of the cases to judge; None for all.

    Raises:
        UserError: if another process works on the same cases in the folder; at the end, if no volume could be read.
        Stopped: at the end, with exit code 3, if some of the shard could not; under torchrun when all ranks are done.
    """

    report = "report.html"

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
        shard: Shard | None = None,
    ) -> None:
        super().__init__(output_dir, scores, files, volumes, shard)
        self.title, self.settings = title, dict(settings or {})
        self.pictured_cases, self.phantoms, self.progress = pictured_cases, phantoms, progress
        self.extents: dict[str, Extent] = {}
        self.bar: tqdm | None = None

    def begin(self, engine: Engine) -> None:
        """Take over what an earlier run found."""
        super().begin(engine)
        label = "cases" if self.shard.count == 1 else f"cases, {self.shard}"
        self.bar = progress_bar(len(self.share), label, show=self.progress)
        self.extents = self._extents()

    def _written(self, case: str) -> list[Path]:
        return [*super()._written(case), *self._pictures(case).values()]

    def _extents(self) -> dict[str, Extent]:
        """How much is done of the long parts for each case of a shard: those of the first cases of the whole list.

        Volumes that were refused before do not count. A process that has all cases counts as it goes.
        """
        if self.shard.count == 1:
            return {}
        extent: Extent = self.scores.extent
        most = max(extent.compared_cases, extent.shift_cases)
        readable = (name for name, case in self.cases.items() if self.files.refusal(case) is None)
        first = list(itertools.islice(readable, most))
        parts = {"compared_cases": extent.compared_cases, "shift_cases": extent.shift_cases}
        return {
            name: dataclasses.replace(
                extent, **{part: len(self.cases) if name in first[:number] else 0 for part, number in parts.items()}
            )
            for name in self.share
        }

    def is_done(self, case: Case) -> bool:
        """Whether nothing that is wanted of a case is missing; asked in the order of the cases, before each is read."""
        self.scores.extent = self.extents.get(case["case"], self.scores.extent)
        done = super().is_done(case)
        if done and case["case"] in self.share:
            self.bar.update()
        return done

    def write_case(self, row: dict[str, Any], batch: dict[str, Any], output: dict[str, Any]) -> None:
        """Volume and pictures of a case."""
        super().write_case(row, batch, output)
        row["measured"] = self._facts()
        self._draw(row, voxels(batch[HU]).numpy(), voxels(output[Keys.PRED]).numpy())
        self.bar.update()

    def _facts(self) -> dict[str, str]:
        """Where and with what a row was made: a report may be put together of several runs."""
        return {key: self.settings[key] for key in ("commit", "hardware", "date") if key in self.settings}

    def _draw(self, row: dict[str, Any], original: np.ndarray, reconstruction: np.ndarray) -> None:
        """Pictures of a case, if it is among the worst; those of a case that is no more go, and those of other runs."""
        worst, name = self._worst(), row["case"]
        for other in {*self.rows} - {*worst} | {name}:
            self._remove_pictures(other)
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

    def _remove_pictures(self, case: str) -> None:
        for path in self._pictures(case).values():
            path.unlink(missing_ok=True)

    def _pictures(self, case: str) -> dict[str, Path]:
        return {kind: self.folder / f"{kind}_{case}.png" for kind in CAPTIONS}

    def end(self) -> None:
        """Close the bar, and let others work in the folder."""
        if self.bar is not None:
            self.bar.close()
        super().end()

    def write_all(self) -> None:
        """Write tables and pages."""
        self.bar.close()
        metrics = self.write_tables()
        # phantoms take minutes: what is known till then is worth a look
        if self.phantoms and self.shard.index == 0 and self._known_phantoms() is None:
            self._measure_phantoms()
            metrics = self.write_tables()
        told = self.told(metrics)
        print(f"{told}\n  look at {self.folder / self.report}" if metrics else told, flush=True)

    def look_at_others(self) -> None:
        """Take over what other shards have found, and remove pictures that are not among the worst of all any more."""
        super().look_at_others()
        if self.shard.count > 1:
            for name in {*self.rows} - {*self._worst()}:
                self._remove_pictures(name)

    def write_known(self) -> dict[str, Any]:
        """Tables, pictures and pages."""
        rows = list(self.rows.values())
        settings = self.settings | self._of_earlier_runs(rows)
        extra: dict[str, Any] = {"refused": self.refused, "settings": settings}
        if self.phantoms and (phantoms := self._known_phantoms()) is not None:
            extra["phantoms"] = phantoms
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

    def _measure_phantoms(self) -> None:
        """Phantoms by both ways, for :meth:`_known_phantoms`."""
        ways = {"reconstruction": self.scores.reconstructor.by_windows}
        if self.scores.reconstructor.has_codes:
            ways["decoded"] = self.scores.reconstructor.by_codes
        found = {}
        for name, way in ways.items():
            with progress_bar(None, f"phantoms, {name}", show=self.progress) as bar:
                found[name] = strict(measure_phantoms(way, progress=bar))
        content = {"made_by": self.files.made_by, "phantoms": found}
        write_whole(self.folder / "phantoms.json", json.dumps(content, allow_nan=False) + "\n")

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
        if missing and self.is_complete():  # another shard may be drawing
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
