"""Label maps that go with the volumes of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from monai.transforms import LoadImage, Orientation

from ctpa_vqgan.data.transforms import without_reader_warnings
from ctpa_vqgan.data.volumes import SUFFIXES, case_name
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.metrics.slabs import slabs
from ctpa_vqgan.progress import say

TOLERANCE_MM = 0.01  # between the corners of a volume and its label map


class Labels(NamedTuple):
    """A label map: int16 [X, Y, Z] on the grid of its volume, and which values make which structure."""

    values: np.ndarray
    names: dict[str, int | Sequence[int]]


class LabelMaps:
    """Find, read and check the label maps of cases.

    As the last transform of a case it reads its label map too, so that one that does not fit is refused with the case.

    Args:
        source: a label map (for an evaluation of one case), or a folder of ``<case>.nii.gz`` and the like; None for
            none.
        names: which value or values make a structure, by its name; by default every value above 0 is one.

    Raises:
        UserError: if there is no such file or folder, or ``names`` are no whole numbers by name.
    """

    def __init__(self, source: str | Path | None, names: Mapping[str, int | Sequence[int]] | None = None) -> None:
        self.source, self.names = None if source is None else Path(source), dict(names or {})
        if self.source is not None and not self.source.exists():
            raise UserError(f"labels: no such file or folder: {source}; give a label map or a folder of <case>.nii.gz")
        for name, values in self.names.items():
            if not all(isinstance(value, int) and value > 0 for value in np.atleast_1d(values).tolist()):
                raise UserError(f"label_names: expected names with whole numbers above 0, found {name}: {values!r}")
        self._last: tuple[str | None, Labels | None] = None, None

    def check(self, cases: Sequence[str]) -> None:
        """Whether label maps and cases go together, before hours of work.

        Raises:
            UserError: if one file is given for several cases, or no file of a folder is a case's.
        """
        if self.source is None:
            return
        if not self.source.is_dir():
            if len(cases) > 1:
                raise UserError(
                    f"labels: {self.source} is one file for {len(cases)} cases; give a folder of <case>.nii.gz, or "
                    "--data with one volume"
                )
            return
        found = [case for case in cases if self.find(case)]
        if cases and not found:
            raise UserError(f"labels: {self.source} holds no map of any case; call one {cases[0]}.nii.gz")
        if len(found) < len(cases):
            say(f"{self.source}: label maps of {len(found)} of {len(cases)} cases")

    def find(self, case: str) -> Path | None:
        """The file of a case; None if it has none."""
        if self.source is None or not self.source.is_dir():
            return self.source
        files = (p for p in self.source.iterdir() if p.name.lower().endswith(SUFFIXES) and case_name(p) == case)
        return next(files, None)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Read the label map of a case that was read, for :meth:`of`; the case itself stays as it is.

        Raises:
            UserError: if it does not fit the volume.
        """
        path, volume = self.find(item["case"]), item["hu"]
        labels = None if path is None else self.read(path, volume.shape[1:], np.asarray(volume.affine))
        self._last = item["case"], labels
        return item

    def of(self, case: str) -> Labels | None:
        """The label map of the case that was read last; None if it has none."""
        return self._last[1] if self._last[0] == case else None

    def read(self, path: Path, shape: Sequence[int], affine: Any) -> Labels:
        """A label map on the grid of its volume.

        Args:
            path: of :meth:`find`.
            shape: of the volume, in RAS.
            affine: of the volume, in RAS.

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
        values = np.empty(tuple(shape), np.int16)
        present: set[int] = set()
        for start, stop in slabs(shape[-1]):
            slab = image.as_tensor()[0, ..., start:stop].numpy()
            values[..., start:stop] = slab.astype(np.int16)
            if not np.array_equal(values[..., start:stop], slab):
                raise UserError(
                    f"{path}: expected whole numbers below 32768, found others; resample it with nearest neighbours"
                )
            present |= set(np.unique(values[..., start:stop]).tolist())
        present = sorted(present - {0})
        names = self.names or {f"label_{value}": value for value in present}
        wanted = {int(v) for values in names.values() for v in np.atleast_1d(values)}
        if not wanted & set(present):
            raise UserError(
                f"{path}: expected labels {sorted(wanted)}, found {present or 'none but 0'}; set label_names"
            )
        return Labels(values, names)


def _corner_distance_mm(one: np.ndarray, other: np.ndarray, shape: Sequence[int]) -> float:
    """How far the corners of two grids of one shape lie apart, at most."""
    corners = np.array([[i, j, k, 1] for i in (0, shape[0] - 1) for j in (0, shape[1] - 1) for k in (0, shape[2] - 1)])
    return float(np.abs(corners @ (one - other).T).max())
