"""Label maps that go with the volumes of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.transforms import LoadImage, Orientation

from ctpa_vqgan.data.transforms import without_reader_warnings
from ctpa_vqgan.data.volumes import SUFFIXES, case_name
from ctpa_vqgan.errors import UserError

TOLERANCE_MM = 0.01  # between the corners of a volume and its label map


class LabelMaps:
    """Find, read and check the label map of a case.

    Args:
        source: a label map (for an evaluation of one case), or a folder of ``<case>.nii.gz`` and the like; None for
            none.
        names: which value or values make a structure, by its name; by default every value above 0 is one.

    Raises:
        UserError: if there is no such file or folder.
    """

    def __init__(self, source: str | Path | None, names: Mapping[str, int | Sequence[int]] | None = None) -> None:
        self.source, self.names = None if source is None else Path(source), dict(names or {})
        if self.source is not None and not self.source.exists():
            raise UserError(f"labels: no such file or folder: {source}; give a label map or a folder of <case>.nii.gz")

    def find(self, case: str, num_cases: int) -> Path | None:
        """The file of a case; None if it has none.

        Raises:
            UserError: if one file is given for several cases.
        """
        if self.source is None:
            return None
        if self.source.is_dir():
            files = (p for p in self.source.iterdir() if p.name.lower().endswith(SUFFIXES) and case_name(p) == case)
            return next(files, None)
        if num_cases > 1:
            raise UserError(
                f"labels: {self.source} is one file for {num_cases} cases; give a folder of <case>.nii.gz, or --data "
                "with one volume"
            )
        return self.source

    def read(self, path: Path, shape: Sequence[int], affine: Any) -> tuple[np.ndarray, dict[str, int | Sequence[int]]]:
        """A label map on the grid of its volume.

        Args:
            path: of :meth:`find`.
            shape: of the volume, in RAS.
            affine: of the volume, in RAS.

        Returns:
            Whole numbers [X, Y, Z], and which of them make which structure.

        Raises:
            UserError: if the file cannot be read, lies on another grid, holds fractions, or lacks a structure.
        """
        try:
            with without_reader_warnings():
                image = LoadImage(image_only=True, ensure_channel_first=True)(path)
            image = Orientation(axcodes="RAS", labels=None)(image)
        except Exception as error:
            raise UserError(f"{path}: expected a label map, found a file that cannot be read ({error})") from error
        if tuple(image.shape[1:]) != tuple(shape):
            raise UserError(
                f"{path}: expected the volume's grid of {tuple(shape)} voxels, found {tuple(image.shape[1:])}; "
                "resample it with nearest neighbours"
            )
        away = _corner_distance_mm(np.asarray(image.affine), np.asarray(affine), shape)
        if away > TOLERANCE_MM:
            raise UserError(
                f"{path}: expected the volume's grid, found one that lies {away:.2f} mm beside it; resample it with "
                "nearest neighbours, or check that both are of one scan"
            )
        values = image.as_tensor()[0]
        if not torch.equal(values, values.round()):
            raise UserError(f"{path}: expected whole numbers, found fractions; resample it with nearest neighbours")
        present = sorted(set(values.unique().int().tolist()) - {0})
        names = self.names or {f"label_{value}": value for value in present}
        wanted = {int(v) for values in names.values() for v in np.atleast_1d(values)}
        if not wanted & set(present):
            raise UserError(
                f"{path}: expected labels {sorted(wanted)}, found {present or 'none but 0'}; set label_names"
            )
        return values.numpy().astype(np.int32), names


def _corner_distance_mm(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """How far the corners of two grids of one shape lie apart, at most."""
    corners = np.array([[i, j, k, 1] for i in (0, shape[0] - 1) for j in (0, shape[1] - 1) for k in (0, shape[2] - 1)])
    return float(np.abs(corners @ (one - other).T).max())
