"""Whether the residual, reconstruction - original, shows the patient: what is lost then is structure, not noise."""

# X Y Z voxels, x y z cells

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from ctpa_vqgan.metrics.cells import HU_RANGE, Cells, cell_slabs, pooled
from ctpa_vqgan.metrics.codebook import BODY_HU
from ctpa_vqgan.metrics.slabs import finite_slab

WIDE_MM = 8.0  # standard deviation of the smooth that anatomy stands out from


class ResidualStructure(NamedTuple):
    """Correlations over the body; NaN where the two volumes agree or the original shows nothing.

    Attributes:
        anatomy_r: of the residual with the original's anatomy, -1 to 1. Negative: detail came out too weak (blur);
            positive: too strong. The field's goal is at most 0.05 either way. A perfect denoiser is at about -0.02 for
            grainy noise of 20 HU and -0.05 for 40, as the original's anatomy holds a little of its noise.
        gradient_r: of the residual's size with the original's slope: 0 where errors are as large in even tissue as at
            edges, towards 1 where they sit on the edges.
    """

    anatomy_r: float
    gradient_r: float


class Residual:
    """Anatomy of an original, to look for in residuals.

    Anatomy is the cells' means of 2 mm (the smoothed original) less their Gaussian smooth of 8 mm: detail from about
    4 to 40 mm. Slopes are those of the cells too, or the noise of the original would count as its structure. Every
    voxel of the residual then counts with its cell's anatomy and slope. The body is the cells above -950 HU. Both
    volumes are clipped to -1000..1000 HU.

    Args:
        original: [X, Y, Z], HU.
        cells: of the same volume.
    """

    def __init__(self, original: Any, cells: Cells) -> None:
        self.original, self.cells = original, cells
        sigma = [WIDE_MM / mm for mm in cells.spacing_mm]
        self.anatomy = cells.means - ndimage.gaussian_filter(cells.means, sigma, mode="nearest", truncate=3)
        slopes = [
            np.gradient(cells.means, mm, axis=axis)
            for axis, mm in enumerate(cells.spacing_mm)
            if cells.means.shape[axis] > 1
        ]
        self.slope = np.sqrt(sum(slope**2 for slope in slopes)) if slopes else np.zeros_like(cells.means)
        self.body = cells.means > BODY_HU

    def compare(self, reconstruction: Any) -> ResidualStructure:
        """Correlate the residual with the anatomy, slab by slab.

        Args:
            reconstruction: [X, Y, Z], HU.

        Raises:
            ValueError: if it holds NaN or infinity.
        """
        cell = self.cells.cell
        parts = []
        for start, stop in cell_slabs(self.cells.shape[2], cell[2]):
            error = finite_slab("reconstruction", reconstruction, start, stop, "cpu").clamp(*HU_RANGE)
            error -= finite_slab("original", self.original, start, stop, "cpu").clamp(*HU_RANGE)
            parts.append([pooled(error, cell), pooled(error.abs(), cell), pooled(error.square(), cell)])
        mean, size, square = (np.concatenate(slabs, axis=2)[self.body].astype(np.float64) for slabs in zip(*parts))
        weight = self.cells.num_voxels[self.body]
        return ResidualStructure(
            _correlation(mean, square, self.anatomy[self.body], weight),
            _correlation(size, square, self.slope[self.body], weight),
        )


def _correlation(mean: np.ndarray, square: np.ndarray, known: np.ndarray, weight: np.ndarray) -> float:
    """Pearson's r over voxels, from the cells' mean and mean square of one side; the other is even within a cell."""
    if not weight.size:
        return math.nan
    known = known.astype(np.float64)
    known -= np.average(known, weights=weight)
    spread = np.average(square, weights=weight) - np.average(mean, weights=weight) ** 2
    scale = math.sqrt(max(spread, 0) * np.average(known**2, weights=weight))
    return float(np.average(mean * known, weights=weight)) / scale if scale else math.nan
