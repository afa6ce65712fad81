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

from ctpa_vqgan.data import Case, ReadableCases
from ctpa_vqgan.errors import Stopped, UserError
from ctpa_vqgan.evaluation import CaseFiles
from ctpa_vqgan.files import Claim, in_turn, remove_leftovers, write_whole
from ctpa_vqgan.handlers.cases import HU, CaseWriter
from ctpa_vqgan.handlers.judging import CaseJudge, Extent
from ctpa_vqgan.handlers.tensorboard import voxels
from ctpa_vqgan.metrics import CodeCounter
from ctpa_vqgan.progress import progress_bar, say
from ctpa_vqgan.quality_phantom import measure_phantoms
from ctpa_vqgan.ranks import Shard
from ctpa_vqgan.rendezvous import wait_for_ranks
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
    there, by :class:`~ctpa_vqgan.data.ReadableCases`, which leaves them out, as it does those of other shards.

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
        super().__init__(output_dir, scores, volumes, files, shard)
        self.title, self.settings = title, dict(settings or {})
        self.pictured_cases, self.phantoms, self.progress = pictured_cases, phantoms, progress
        self.share: set[str] = set()  # names of the shard's cases
        self.others: dict[str, dict[str, Any]] = {}  # rows of other shards, as last seen
        self.refused: list[dict[str, str]] = []
        self.extents: dict[str, Extent] = {}
        self.bar: tqdm | None = None
        self.claim: Claim | None = None

    @property
    def rows(self) -> dict[str, dict[str, Any]]:
        """What is known so far, by case and in the order of the data."""
        found = self.others | self.scores.known | {row["case"]: row for row in self.scores.rows}
        return {name: found[name] for name in self.cases if name in found}

    def begin(self, engine: Engine) -> None:
        """Take over what an earlier run found."""
        # first: a folder that cannot be written is told before any work
        self.claim = Claim(self.files.folder, self.shard)
        super().begin(engine)
        self.dataset: ReadableCases = engine.data_loader.dataset
        self.share = set(self.shard.take(list(self.cases)))
        self._remove_leftovers()
        known = {name: self.files.row(self.cases[name]) for name in self.cases if name in self.share}
        self.scores.known = {name: row for name, row in known.items() if row is not None}
        told = "" if self.shard.count == 1 else f"shard {self.shard}: "
        if self.scores.known:
            print(f"{told}{len(self.scores.known)} of {len(self.share)} cases were judged before", flush=True)
        if not self.share:
            print(f"{told}no case is left for it: there are {len(self.cases)}", flush=True)
        label = "cases" if self.shard.count == 1 else f"cases, {self.shard}"
        self.bar = progress_bar(len(self.share), label, show=self.progress)
        self.extents = self._extents()

    def _remove_leftovers(self) -> None:
        if self.shard.count == 1:
            remove_leftovers(self.folder)
        else:
            written = [[self._volume(name), *self._pictures(name).values()] for name in self.share]
            remove_leftovers(self.folder, {path.name for paths in written for path in paths})

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
        name = case["case"]
        if name not in self.share:
            return True
        self.scores.extent = self.extents.get(name, self.scores.extent)
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
        if refused := self.dataset.refused:
            message = f"{len(refused)} of {len(self.share)} volumes were left out, see {self.folder / 'report.html'}"
            say(message, every_rank=True)
        if wait_for_ranks(bool(refused)):
            raise Stopped(REFUSED, message if refused else "another rank left out volumes")

    def _finish(self) -> None:
        self.bar.close()
        for name, error in self.dataset.refused.items():
            self.files.refuse(self.cases[name], error)
        metrics = self._write_pages()
        # phantoms take minutes: what is known till then is worth a look
        if self.phantoms and self.shard.index == 0 and self._known_phantoms() is None:
            self._measure_phantoms()
            metrics = self._write_pages()
        told = f"{len(self.rows) + len(self.refused)} of {len(self.cases)} cases judged; the rest is for other shards"
        told = format_summary(metrics) if self._is_complete() else told
        print(f"{told}\n  look at {self.folder / 'report.html'}" if metrics else told, flush=True)

    def _is_complete(self) -> bool:
        """Whether no case is left to do, for this shard or another."""
        return len(self.rows) + len(self.refused) == len(self.cases)

    def _write_pages(self) -> dict[str, Any] | None:
        """Tables and pages of all that is known of all cases; None as long as that is nothing."""
        with in_turn(self.files.folder, self.shard):
            self._look_at_others()
            if self.rows:
                return self._write_known()
            if self._is_complete():
                raise UserError(self.refused[0]["error"] if self.refused else "there is no case to judge")
            return None

    def _look_at_others(self) -> None:
        """Take over what other shards have found, and remove pictures that are not among the worst of all any more."""
        others = {name: case for name, case in self.cases.items() if name not in self.share}
        rows = {name: self.files.row(case, same_volume=False) for name, case in others.items()}
        self.others = {name: row for name, row in rows.items() if row is not None}
        told = self.dataset.refused | {name: self.files.refusal(case) for name, case in others.items()}
        self.refused = [{"case": name, "error": told[name]} for name in self.cases if told.get(name) is not None]
        if self.shard.count > 1:
            for name in {*self.rows} - {*self._worst()}:
                self._remove_pictures(name)

    def _write_known(self) -> dict[str, Any]:
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
        if missing and self._is_complete():  # another shard may be drawing
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
