"""Noise of a patient before and after: the same even squares of soft tissue and blood, measured in both volumes."""

# X Y Z voxels, u v cells of about 5 mm in a slice, N squares

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view

from ctpa_vqgan.metrics.cells import HU_RANGE
from ctpa_vqgan.metrics.noise_power import NoisePower, noise_power, radial_noise_power
from ctpa_vqgan.metrics.slabs import finite_slab, slabs

SQUARE_CELLS = 4  # cells a side
CELL_MM = 5.0  # so that a square of 20 mm fits into aorta, heart, liver and muscle
MIN_CELL = 2  # voxels, so that a square holds a spectrum (8 x 8)
SLICE_MM = 2.5  # thin slices tell little that their neighbours do not
EVEN_HU = (-30, 700)  # from soft tissue up to contrast-filled blood, as in ``TISSUES_HU``; bone is never even
SOFT_HU = (-30, 150)
MIN_SQUARES = 16  # a spectrum of fewer is noise itself

# By how much noise alone lets cells of one square differ (a cell holds few independent grains of CT noise)
MAX_MEAN_SD = 0.5  # of the cells' means about a plane, in standard deviations of the noise
MAX_CELL_SD = 1.75  # largest standard deviation within a cell, over the square's median
MAX_NOISE = 2.0  # a square's noise over that of the patient


class Squares(NamedTuple):
    """Where homogeneous squares lie.

    Attributes:
        corners: [N, 3], int64: first voxel along X and Y, and the slice.
        side: voxels along X and Y.
    """

    corners: np.ndarray
    side: tuple[int, int]


def even_squares(original: Any, spacing_mm: Sequence[float]) -> Squares:
    """Find squares of about 20 mm that hold nothing but noise, half overlapping, in a slice every 2.5 mm.

    A slice is cut into cells of 5 mm. A square of 4 x 4 cells is even if all their means are those of soft tissue or
    blood and lie on a plane as closely as noise lets them, no cell holds an edge (a standard deviation above its
    neighbours'), and the square's noise is at most twice the patient's: the lower quartile over all cells of soft
    tissue, as most hold an edge.

    The places are found in the original alone and serve both volumes, or squares that a reconstruction spoilt would
    drop out.

    Source: Christianson et al., "Automated technique to measure noise in clinical CT examinations", AJR 205, 2015
    (noise of a patient from soft tissue between edges); Dolly et al., JACMP 17, 2016 (size and number of regions).

    Args:
        original: [X, Y, Z], HU.
        spacing_mm: voxel size along X, Y and Z.

    Raises:
        ValueError: if the original holds NaN or infinity.
    """
    cell = tuple(max(MIN_CELL, round(CELL_MM / mm)) for mm in spacing_mm[:2])
    side = (SQUARE_CELLS * cell[0], SQUARE_CELLS * cell[1])
    if any(length > given for length, given in zip(side, original.shape)):
        return Squares(np.empty((0, 3), np.int64), side)
    step = max(1, round(SLICE_MM / spacing_mm[2]))
    parts = []
    for start, stop in slabs(original.shape[2]):
        slab = finite_slab("original", original, start, stop, "cpu")[:, :, -start % step :: step]
        slab = slab.clamp(*HU_RANGE).movedim(2, 0)[:, None]  # slices as a batch, which may be empty
        mean, square = F.avg_pool2d(slab, cell), F.avg_pool2d(slab.square(), cell)
        parts.append(torch.cat([mean, (square - mean.square()).clamp_(min=0).sqrt_()], dim=1))
    mean, sd = torch.cat(parts).movedim(1, 0).numpy()  # [Z, u, v] each
    soft = sd[(mean > SOFT_HU[0]) & (mean < SOFT_HU[1])]
    noise = float(np.percentile(soft, 25)) if soft.size else 0.0

    mean, sd = (_squares(values) for values in (mean, sd))
    own = np.median(sd, axis=-1)
    even = (
        (mean.min(-1) > EVEN_HU[0])
        & (mean.max(-1) < EVEN_HU[1])
        & (own <= MAX_NOISE * noise)
        & (sd.max(-1) <= MAX_CELL_SD * own)
        & (_off_plane(mean) <= MAX_MEAN_SD * own)
    )
    slices, u, v = np.nonzero(even)
    half = SQUARE_CELLS // 2
    return Squares(np.stack([u * half * cell[0], v * half * cell[1], slices * step], axis=1), side)


class Texture:
    """Noise of an original, to compare reconstructions with.

    Args:
        original: [X, Y, Z], HU.
        spacing_mm: voxel size along X, Y and Z.
    """

    def __init__(self, original: Any, spacing_mm: Sequence[float]) -> None:
        self.spacing_mm = spacing_mm
        self.squares = even_squares(original, spacing_mm)
        self._original = self._measure("original", original)

    def compare(self, reconstruction: Any) -> dict[str, Any]:
        """How much noise is left, and how fine it is.

        Args:
            reconstruction: [X, Y, Z], HU.

        Returns:
            ``num_regions``; ``nps_ratio``, total noise power over the original's, 1 keeps the texture, less is
            smoothed away; ``sd_ratio``, its root; ``mean_frequency_ratio``, below 1 where the grain became coarser;
            ``frequency_per_mm`` with the radial spectra ``original`` and ``reconstruction`` in HU^2 mm^2. With
            fewer than 16 squares, or no noise to compare, NaN and empty lists.

        Raises:
            ValueError: if a square of the reconstruction holds NaN or infinity.
        """
        after = self._measure("reconstruction", reconstruction)
        ratio = mean_frequency_ratio = math.nan
        frequency, before_nps, after_nps = [], [], []
        if self._original is not None and self._original.variance_hu2 > 0:
            before = radial_noise_power(self._original)
            frequency, before_nps = before.frequency_per_mm.tolist(), before.nps.tolist()
            ratio, after_nps = after.variance_hu2 / self._original.variance_hu2, [0.0] * len(frequency)
            if after.variance_hu2 > 0:
                radial = radial_noise_power(after)
                after_nps = radial.nps.tolist()
                mean_frequency_ratio = radial.mean_frequency_per_mm / before.mean_frequency_per_mm
        return {
            "num_regions": len(self.squares.corners),
            "sd_ratio": math.sqrt(ratio),
            "nps_ratio": ratio,
            "mean_frequency_ratio": mean_frequency_ratio,
            "frequency_per_mm": frequency,
            "original": before_nps,
            "reconstruction": after_nps,
        }

    def _measure(self, name: str, volume: Any) -> NoisePower | None:
        corners, (width, height) = self.squares
        if len(corners) < MIN_SQUARES:
            return None
        squares = [
            finite_slab(name, volume[x : x + width, y : y + height], z, z + 1, "cpu") for x, y, z in corners.tolist()
        ]
        return noise_power(torch.cat(squares, dim=2).clamp(*HU_RANGE), self.spacing_mm)


def _squares(values: np.ndarray) -> np.ndarray:
    """Every square of cells, half overlapping: [Z, u, v] to [Z, u', v', cells of a square]."""
    half = SQUARE_CELLS // 2
    windows = sliding_window_view(values, (SQUARE_CELLS, SQUARE_CELLS), axis=(1, 2))[:, ::half, ::half]
    return windows.reshape(*windows.shape[:3], -1)


def _off_plane(means: np.ndarray) -> np.ndarray:
    """Root mean square distance of the cells [..., cells of a square] from the plane through them."""
    u, v = np.meshgrid(*2 * [np.arange(SQUARE_CELLS) - (SQUARE_CELLS - 1) / 2], indexing="ij")
    basis = np.linalg.qr(np.stack([np.ones_like(u), u, v], axis=-1).reshape(-1, 3))[0]
    off = means - (means @ basis) @ basis.T
    return np.sqrt((off**2).sum(-1) / (off.shape[-1] - 3))
