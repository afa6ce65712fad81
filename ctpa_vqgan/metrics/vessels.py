"""Whether the vessels of the lungs are still there and connected: Dice and clDice of two masks made by one rule."""

# X Y Z voxels of the box around the lungs

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage
from skimage.morphology import skeletonize

from ctpa_vqgan.metrics.lungs import Lungs, box_slabs

VESSEL_HU = -400  # half way from lung tissue (-850) to blood without contrast (50), so that a tube keeps its width
SMALLEST_ML = 0.03  # 10 mm of a tube 2 mm wide; less is a speck
ENOUGH_ML = 1.0  # of vessels in the original, to be worth a score; the lungs of an adult hold tens


class Vessels(NamedTuple):
    """Vessels in a box around the lungs.

    Attributes:
        mask: bool [X, Y, Z].
        skeleton: bool [X, Y, Z], its centrelines, one voxel wide.
        ml: volume of ``mask``.
    """

    mask: np.ndarray
    skeleton: np.ndarray
    ml: float


def find_vessels(name: str, volume: Any, lungs: Lungs, spacing_mm: Sequence[float]) -> Vessels:
    """Voxels above -400 HU inside the lungs, in connected pieces of 0.03 ml or more.

    A plain threshold on purpose: no filter that would mend what a reconstruction broke. It lies half way between lung
    and blood without contrast, the full width at half maximum of a vessel; with contrast vessels come out a little
    wide, in both volumes alike. Walls of bronchi, and nodules, are among the vessels. Noise of a CT does not reach the
    threshold from either side.

    The skeleton is that of Lee, Kashyap and Chu, "Building skeleton models via 3-D medial surface/axis thinning
    algorithms", CVGIP 56, 1994.

    Args:
        name: what the volume is, for messages.
        volume: [X, Y, Z], HU.
        lungs: of the original, for both volumes.
        spacing_mm: voxel size along X, Y and Z.
    """
    mask = lungs.inside.copy()
    for start, stop, hu in box_slabs(name, volume, lungs.box):
        mask[:, :, start:stop] &= hu > VESSEL_HU
    voxel_ml = math.prod(spacing_mm) / 1000
    pieces, num = ndimage.label(mask, ndimage.generate_binary_structure(3, 3))
    large = np.bincount(pieces[mask], minlength=num + 1) * voxel_ml >= SMALLEST_ML  # never 0, the rest
    mask = large[pieces]
    # thinning asks for three axes longer than one voxel; a slice is thinned as an image
    flat = mask.squeeze()
    skeleton = skeletonize(flat).reshape(mask.shape) if flat.ndim in (2, 3) else mask
    return Vessels(mask, skeleton, float(mask.sum()) * voxel_ml)


def dice(reconstruction: Vessels, original: Vessels) -> float:
    """Twice the voxels that the masks share over the voxels of both; NaN if the original has less than 1 ml."""
    if original.ml < ENOUGH_ML:
        return math.nan
    both = int(reconstruction.mask.sum()) + int(original.mask.sum())
    return 2 * int((reconstruction.mask & original.mask).sum()) / both


def cldice(reconstruction: Vessels, original: Vessels) -> float:
    """Harmonic mean of the shares of either skeleton that lie in the other mask; NaN where Dice is.

    It counts length, so a thin branch counts as much as a thick one and a gap shows where Dice would not see it.

    Source: Shit et al., "clDice - a novel topology-preserving loss function for tubular structure segmentation",
    CVPR 2021.
    """
    if original.ml < ENOUGH_ML:
        return math.nan
    precision = _share(reconstruction.skeleton, original.mask)
    sensitivity = _share(original.skeleton, reconstruction.mask)
    return 2 * precision * sensitivity / (precision + sensitivity) if precision + sensitivity else 0.0


def _share(skeleton: np.ndarray, mask: np.ndarray) -> float:
    length = int(skeleton.sum())
    return int((skeleton & mask).sum()) / length if length else 0.0
