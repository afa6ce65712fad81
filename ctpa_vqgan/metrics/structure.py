"""What a reconstruction keeps of a patient's structure: lungs and their density, vessels, noise texture, anatomy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ctpa_vqgan.metrics.cells import in_cells
from ctpa_vqgan.metrics.lengths import positive_lengths
from ctpa_vqgan.metrics.lungs import find_lungs, lung_density
from ctpa_vqgan.metrics.residual import Residual
from ctpa_vqgan.metrics.slabs import check_volumes
from ctpa_vqgan.metrics.texture import Texture
from ctpa_vqgan.metrics.vessels import cldice, dice, find_vessels


class PatientStructure:
    """All that depends on the original, found once, to compare any number of its reconstructions with.

    No segmentation network and no weights: thresholds and morphology, the same for both volumes. Read slab by slab:
    512 x 512 x 604 voxels take about 2 GB beside the two volumes, most of it the labels and the skeleton of the
    vessels. What cannot be measured, as in a volume without lungs, is NaN.

    >>> import numpy as np
    >>> scan = np.zeros((32, 32, 16), np.int16)
    >>> PatientStructure(scan, (1.0, 1.0, 2.0)).compare(scan)["lung_ml"]
    nan

    Args:
        original: [X, Y, Z] array, tensor or memory map of any real type, HU; kept, not copied.
        spacing_mm: voxel size along X, Y and Z.

    Raises:
        ValueError: if ``original`` is no volume or holds NaN or infinity, or a spacing is not positive.
    """

    def __init__(self, original: Any, spacing_mm: Sequence[float]) -> None:
        check_volumes(original, original)
        self.original, self.spacing_mm = original, tuple(positive_lengths("spacing_mm", spacing_mm, 3))
        cells = in_cells(original, self.spacing_mm, "original")
        self.residual = Residual(original, cells)
        self.texture = Texture(original, self.spacing_mm)
        self.lungs = find_lungs(original, cells)
        self.density = lung_density("original", original, self.lungs)
        self.vessels = self.lungs and find_vessels("original", original, self.lungs, self.spacing_mm)

    def compare(self, reconstruction: Any) -> dict[str, Any]:
        """Structure of a reconstruction beside that of the original.

        Args:
            reconstruction: [X, Y, Z], HU, on the original's grid.

        Returns:
            ``lung_ml`` (of the original), ``laa950``, ``perc15`` (see :func:`lung_density`), ``vessels`` (see
            :func:`find_vessels`), ``noise`` (see :class:`Texture`) and ``residual`` (see :class:`Residual`): nested
            dicts of numbers and lists, for JSON.

        Raises:
            ValueError: if the shapes differ or ``reconstruction`` holds NaN or infinity.
        """
        check_volumes(reconstruction, self.original)
        residual = self.residual.compare(reconstruction)
        before, after = self.density, lung_density("reconstruction", reconstruction, self.lungs)
        return {
            "lung_ml": self.lungs.ml if self.lungs else math.nan,
            "laa950": {
                "original_percent": before.laa950_percent,
                "percent": after.laa950_percent,
                "shift_pp": after.laa950_percent - before.laa950_percent,
            },
            "perc15": {
                "original_hu": before.perc15_hu,
                "hu": after.perc15_hu,
                "shift_hu": after.perc15_hu - before.perc15_hu,
            },
            "vessels": self._compare_vessels(reconstruction),
            "noise": self.texture.compare(reconstruction),
            "residual": residual._asdict(),
        }

    def _compare_vessels(self, reconstruction: Any) -> dict[str, float]:
        if self.lungs is None:
            return dict.fromkeys(("dice", "cldice", "original_ml", "ml"), math.nan)
        found = find_vessels("reconstruction", reconstruction, self.lungs, self.spacing_mm)
        return {
            "dice": dice(found, self.vessels),
            "cldice": cldice(found, self.vessels),
            "original_ml": self.vessels.ml,
            "ml": found.ml,
        }
