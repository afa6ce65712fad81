"""Judge each whole volume of an evaluation: both reconstructions, in every respect, and against rivals."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.utils.enums import CommonKeys as Keys

from ctpa_vqgan.evaluation import LabelMaps, Reconstructor, headline, shift_test, version_details
from ctpa_vqgan.handlers.cases import HU, CaseScores
from ctpa_vqgan.handlers.tensorboard import voxels
from ctpa_vqgan.inferers import latent_grid
from ctpa_vqgan.metrics import PatientStructure, volume_difference, volume_fidelity, window_planes
from ctpa_vqgan.progress import progress_bar
from ctpa_vqgan.rivals import can_be_made, compare_with_rivals

LARGEST_BOOK = 2**16  # codes; the counts of larger ones are not kept
FIDELITY = ("psnr", "ssim", "mae_hu", "rmse_hu", "body_psnr", "body_mae_hu", "body_rmse_hu", "nps_ratio")
Planes = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class Extent:
    """How much of an evaluation's long parts is done.

    Attributes:
        compared_cases: so many cases, the first, are set against baseline, interpolation and codecs.
        shift_cases: so many cases go through the shift test.
        codecs: which codecs.
    """

    compared_cases: int = 1
    shift_cases: int = 1
    codecs: Sequence[str] = ("hevc", "jpeg2000")


class CaseJudge(CaseScores):
    """Everything that is known of each case, for the report.

    To the scores of :class:`CaseScores` come, of the reconstruction by windows and of what the codes of the whole
    volume decode to (``decoded_*``; what a generative model will see): errors by region, tissue, display window,
    label and slice, seams, structure; how far the two differ; how often each code occurs; a shift test and rivals for
    the first cases.

    Args:
        reconstructor: of the evaluator's network and inferer.
        labels: label maps of the cases.
        extent: of the long parts.
        progress: show a bar over the rivals.
    """

    def __init__(
        self,
        reconstructor: Reconstructor,
        labels: LabelMaps | None = None,
        extent: Extent | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__(reconstructor.network, reconstructor.hu_window, reconstructor.tiles)
        self.reconstructor = reconstructor
        self.labels, self.extent, self.progress = labels or LabelMaps(None), extent or Extent(), progress

    def attach(self, engine: Engine, name: str, **usage: Any) -> None:
        """Judge what this evaluator makes."""
        super().attach(engine, name, **usage)
        engine.add_event_handler(Events.STARTED, self._look_ahead)

    def _look_ahead(self, engine: Engine) -> None:
        self.labels.check([case["case"] for case in engine.data_loader.dataset.data])

    def lacks(self, row: dict[str, Any]) -> list[str]:
        """Long parts that are wanted of a case and not in its row, and codecs that were not there then."""
        parts = [part for part in ("against", "shift") if part not in row and self.wants(part)]
        skipped = [rival["name"] for rival in row.get("against", ()) if rival.get("skipped")]
        return parts + [name for name in skipped if can_be_made(name)]

    def wants(self, part: str) -> bool:
        """Whether a long part, ``against`` or ``shift``, is to be done for one more case."""
        most = {"against": self.extent.compared_cases, "shift": self.extent.shift_cases}[part]
        return sum(part in row for row in (*self.known.values(), *self.rows)) < most

    @torch.no_grad()
    def row(self, batch: dict[str, Any], output: dict[str, Any]) -> dict[str, Any]:
        """What there is to say of one case, without its time."""
        case, original, image = batch["case"], voxels(batch[HU]), output[Keys.IMAGE]
        spacing_mm = [float(mm) for mm in nib.affines.voxel_sizes(np.asarray(batch[HU].affine))]
        row = {"case": case, "shape": list(original.shape), "spacing_mm": spacing_mm}
        planes = self._planes(original.shape)  # first, as other volumes go through the inferer below
        row["window_planes"] = [list(axis) for axis in planes["reconstruction"]]
        versions = {"reconstruction": voxels(output[Keys.PRED])}
        began = time.perf_counter()
        codes = self.encode(image)
        if codes is not None:
            versions["decoded"] = self.reconstructor.decode(codes, original.shape)
        decoded_seconds = time.perf_counter() - began
        structure = PatientStructure(original, spacing_mm)
        for name, volume in versions.items():
            details = version_details(volume, original, planes[name], structure, self.labels.of(case))
            scores = {**volume_fidelity(volume, original, device=image.device), **headline(details)}
            prefix = "" if name == "reconstruction" else f"{name}_"
            row |= {f"{prefix}{key}": value for key, value in scores.items() if not prefix or key != "clipped_share"}
            row[name] = details
        row |= self.code_scores(codes, original)
        if codes is not None:
            row |= self._between(versions)
            row |= self._code_counts()
            row["decoded_seconds"] = decoded_seconds
        if self.wants("shift"):
            row["shift"] = shift_test(
                self.reconstructor.by_windows,
                original,
                *self.reconstructor.inferer.grid,
                self.network.factor,
                self.reconstructor.reach,
            )
            row["shift_sd_hu"] = row["shift"].get("mean_hu", math.nan)
        if self.wants("against"):
            row["against"] = self._against(row, original, spacing_mm, structure)
        return row

    def _planes(self, size: Sequence[int]) -> dict[str, Planes]:
        """Planes on which windows, and exact tiles, begin or end."""
        padded = [g * f for g, f in zip(latent_grid(size, self.network.factor), self.network.factor)]
        tile = self.tiles.tile_size
        return {
            "reconstruction": window_planes(padded, *(self.reconstructor.inferer.grid)),
            "decoded": window_planes(padded, tile, tile) if tile else ((), (), ()),
        }

    @staticmethod
    def _between(versions: dict[str, torch.Tensor]) -> dict[str, Any]:
        """How far windows are from the whole, of which exact tiles are parts."""
        found = volume_difference(versions["reconstruction"], versions["decoded"])
        tiles = {"max_hu": found.max_hu, "mean_hu": found.mean_hu}
        return {"tile_max_hu": tiles["max_hu"], "tile_mean_hu": tiles["mean_hu"], "tiles": tiles}

    def _code_counts(self) -> dict[str, Any]:
        if self.network.num_embeddings > LARGEST_BOOK:
            return {}
        counts, body_counts = self.counter.counts.tolist()
        return {"codes": {"counts": counts, "body_counts": body_counts}}

    def _against(
        self, row: dict[str, Any], original: torch.Tensor, spacing_mm: list[float], structure: PatientStructure
    ) -> list[dict[str, Any]]:
        model = [
            {
                "name": f"this model, {name}",
                "kind": "model",
                "setting": how,
                "bits_per_voxel": row["bits_per_voxel"],
                "seconds": seconds,
                **{key: row[f"{prefix}{key}"] for key in FIDELITY},
            }
            for name, prefix, how, seconds in (
                ("reconstruction", "", "windows, blended", self.seconds),
                ("decoded", "decoded_", "codes of the whole volume", row.get("decoded_seconds")),
            )
            if f"{prefix}psnr" in row
        ]
        texture = SimpleNamespace(compare=lambda volume: {"noise": structure.texture.compare(volume)})
        with progress_bar(None, "rivals", leave=False, show=self.progress) as bar:

            def announce(what: str) -> None:
                bar.set_postfix_str(what, refresh=False)
                bar.update()

            return compare_with_rivals(
                original,
                spacing_mm,
                self.reconstructor.with_codes,
                model,
                codecs=tuple(self.extent.codecs),
                structure=texture,  # all of the structure would take a minute for the one ratio that is shown
                progress=announce,
            )
