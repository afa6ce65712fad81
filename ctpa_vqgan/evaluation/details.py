"""Everything that is measured of one version of a volume against its original."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ctpa_vqgan.evaluation.labels import Labels
from ctpa_vqgan.metrics import PatientStructure, error_by_slice, seam_index, tissue_fidelity

HU_RANGE = (-1000.0, 1000.0)  # on which fidelity is measured, whatever the network sees
MEASURES = 1  # raise it when a number of a row changes its meaning: rows made before are then made anew


def version_details(
    reconstruction: torch.Tensor,
    original: torch.Tensor,
    planes: Sequence[Sequence[int]],
    structure: PatientStructure,
    labels: Labels | None = None,
) -> dict[str, Any]:
    """Errors by region, tissue, display window and slice, seams, and structure, as plain values.

    Args:
        reconstruction: [X, Y, Z], HU.
        original: [X, Y, Z], HU.
        planes: window planes of each axis; three empty lists where there are no windows.
        structure: of the original.
        labels: a label map.
    """
    found = tissue_fidelity(reconstruction, original)
    details = {name: _plain(summaries) for name, summaries in found._asdict().items()}
    if labels is not None:
        of_labels = tissue_fidelity(reconstruction, original, labels.values, labels.names, windows={})
        details["labels"] = {
            name: summary | _means(reconstruction, original, np.isin(labels.values, labels.names[name]))
            for name, summary in _plain(of_labels.tissues).items()
        }
    seams = seam_index(reconstruction, original, planes)
    details["seams"] = {
        "hu": seams.hu,
        "axis_hu": list(seams.axis_hu),
        "axis_z": list(seams.axis_z),
        "ratio": list(seams.ratio),
        "num_planes": len(seams.planes),
        "found": [{"axis": p.axis, "plane": p.plane, "hu": p.hu, "z": p.z} for p in seams.found],
    }
    details["structure"] = structure.compare(reconstruction)
    details["by_slice"] = error_by_slice(reconstruction, original)
    return details


def headline(details: Mapping[str, Any]) -> dict[str, float]:
    """The few of :func:`version_details` that stand in the table of cases."""
    body, structure, seams = details["regions"]["body"], details["structure"], details["seams"]
    return {
        "body_psnr": body["psnr"],
        "body_mae_hu": body["mae_hu"],
        "body_rmse_hu": body["rmse_hu"],
        "seam_hu": seams["hu"],
        "seams_found": len(seams["found"]) if seams["num_planes"] else math.nan,  # one window meets nothing
        "laa950_shift_pp": structure["laa950"]["shift_pp"],
        "vessel_dice": structure["vessels"]["dice"],
        "vessel_cldice": structure["vessels"]["cldice"],
        "nps_ratio": structure["noise"]["nps_ratio"],
        "residual_anatomy_r": structure["residual"]["anatomy_r"],
    }


def _plain(summaries: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    return {name: summary._asdict() for name, summary in summaries.items()}


def _means(reconstruction: torch.Tensor, original: torch.Tensor, inside: np.ndarray) -> dict[str, float]:
    """Mean HU of a structure before and after, clipped as all fidelity is; NaN where it has no voxels."""
    chosen = torch.from_numpy(inside)
    pairs = (("original_mean_hu", original), ("mean_hu", reconstruction))
    return {name: volume[chosen].double().clamp(*HU_RANGE).mean().item() for name, volume in pairs}
