"""Where the lungs are, and how much of them is as light as emphysema."""

# X Y Z voxels of the box around the lungs, x y z cells

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from ctpa_vqgan.metrics.cells import Cells, spread
from ctpa_vqgan.metrics.slabs import finite_slab, slabs

LUNG_HU = -500  # below: aerated lung (Gattinoni et al., AJRCCM 2001), the threshold of most lung segmentations
TISSUE_HU = -300  # a cell above is mostly tissue, no pillow, no foam of the table
TABLE_MM = 3.0  # what is not thicker than twice this is shell of the table or clothing, not the wall of the body
GAS_HU = -960  # a cavity whose median is below holds gas (stomach, gut, a trachea that stands alone), not lung
SMALLEST_ML = 30.0  # of a lung, or what of it the field of view shows
CLOSING_MM = 6.0  # vessels up to twice as wide count as inside the lungs: lobar arteries and smaller
WALL_MM = 3.0
LAA_HU = -950
PERCENTILE = 15


class Lungs(NamedTuple):
    """The lungs of a volume, both of them, in a box around them.

    Attributes:
        box: slices of X, Y, Z that cut the box out of the volume.
        air: bool [X, Y, Z], aerated lung: inside and below -500 HU.
        inside: bool [X, Y, Z], lungs with the vessels in them, but for 3 mm at the wall: what is bright there is wall.
        ml: volume of ``air``.
    """

    box: tuple[slice, slice, slice]
    air: np.ndarray
    inside: np.ndarray
    ml: float


class LungDensity(NamedTuple):
    """Density of the lungs; NaN where there are none.

    Attributes:
        laa950_percent: voxels below -950 HU, the extent of emphysema: Gevenois et al., AJRCCM 154, 1996.
        perc15_hu: 15th percentile: Parr et al., "Validation of computed tomographic lung densitometry for monitoring
            emphysema in alpha1-antitrypsin deficiency", Thorax 61, 2006.
    """

    laa950_percent: float
    perc15_hu: float


def find_lungs(volume: Any, cells: Cells) -> Lungs | None:
    """Find aerated lungs: cavities of air inside the body.

    The body is the largest piece of tissue, filled slice by slice, so air that reaches the border of the slices is
    outside, and a lung that the field of view cuts is not found. Cavities that touch are one: trachea and main bronchi
    hang on the lungs and are left in (about 1 % of the volume, the same voxels in original and reconstruction).
    Tissue between parts of lung up to 12 mm apart, the vessels, is then closed into them, within the body.

    Found in cells of 2 mm, where noise is averaged out; ``air`` is then cut out at full resolution.

    Source: Hu, Hoffman and Reinhardt, "Automatic lung segmentation for accurate quantitation of volumetric X-ray CT
    images", IEEE TMI 20, 2001 (threshold, components, closing).

    Args:
        volume: [X, Y, Z], HU, the original.
        cells: of the same volume.

    Returns:
        The lungs, or None where there are none.
    """
    body = _filled(_largest(_opened(cells.means > TISSUE_HU, cells.spacing_mm)))
    found = _cavities(body & (cells.means < LUNG_HU), cells)
    if not found.any():
        return None
    margin = [math.ceil(2 * CLOSING_MM / mm) for mm in cells.spacing_mm]
    box = tuple(
        slice(max(span.start - more, 0), span.stop + more)
        for span, more in zip(ndimage.find_objects(found.astype(np.int8))[0], margin)
    )
    closed = _closed(found[box], cells.spacing_mm) & body[box]
    voxels = tuple(
        slice(span.start * num, min(span.stop * num, side)) for span, num, side in zip(box, cells.cell, cells.shape)
    )
    shape = [span.stop - span.start for span in voxels]
    air = spread(closed, cells.cell, shape)
    for start, stop, hu in box_slabs("original", volume, voxels):
        air[:, :, start:stop] &= hu < LUNG_HU
    inside = spread(_deeper(closed, cells.spacing_mm, WALL_MM), cells.cell, shape)
    voxel_ml = math.prod(cells.spacing_mm) / math.prod(cells.cell) / 1000
    return Lungs(voxels, air, inside, float(air.sum()) * voxel_ml)


def lung_density(name: str, volume: Any, lungs: Lungs | None) -> LungDensity:
    """%LAA-950 and perc15 over the aerated voxels of the lungs that were found in the original.

    The mask is the original's for a reconstruction too: its own would hide what it changed at the mask's border. Noise
    widens the histogram, so whatever removes noise lowers %LAA-950: the shift tells texture as well as bias.

    Args:
        name: what the volume is, for messages.
        volume: [X, Y, Z], HU.
        lungs: of the original; None gives NaN.
    """
    if lungs is None:
        return LungDensity(math.nan, math.nan)
    hu = np.concatenate([part[lungs.air[:, :, start:stop]] for start, stop, part in box_slabs(name, volume, lungs.box)])
    return LungDensity(100 * float((hu < LAA_HU).mean()), float(np.percentile(hu, PERCENTILE)))


def box_slabs(name: str, volume: Any, box: tuple[slice, ...]) -> Iterator[tuple[int, int, np.ndarray]]:
    """A box of a volume slab by slab: first and last slice within the box, and [X, Y, n] float32 HU.

    Raises:
        ValueError: if a voxel of these slices is NaN or infinite.
    """
    x, y, z = box
    for start, stop in slabs(z.stop - z.start):
        yield start, stop, finite_slab(name, volume, z.start + start, z.start + stop, "cpu")[x, y].numpy()


def _cavities(air: np.ndarray, cells: Cells) -> np.ndarray:
    """Connected pieces of air that are large and no gas."""
    pieces, num = ndimage.label(air)
    smallest = SMALLEST_ML * 1000 / math.prod(cells.spacing_mm)
    sizes = np.bincount(pieces.ravel(), minlength=num + 1)
    lung = [k for k in range(1, num + 1) if sizes[k] >= smallest and np.median(cells.means[pieces == k]) >= GAS_HU]
    return np.isin(pieces, lung)


def _largest(mask: np.ndarray) -> np.ndarray:
    pieces, num = ndimage.label(mask)
    return pieces == 1 + np.bincount(pieces.ravel(), minlength=num + 1)[1:].argmax() if num else mask


def _filled(mask: np.ndarray) -> np.ndarray:
    return np.stack([ndimage.binary_fill_holes(mask[:, :, k]) for k in range(mask.shape[2])], axis=2)


def _opened(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    return _within(_deeper(mask, spacing_mm, TABLE_MM), spacing_mm, TABLE_MM)


def _closed(mask: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    # what reaches an end of the volume goes on beyond it, what does not ends
    margin = [math.ceil(CLOSING_MM / mm) for mm in spacing_mm]
    padded = np.pad(mask, [(more, more) for more in margin], mode="edge")
    padded = ndimage.binary_fill_holes(_deeper(_within(padded, spacing_mm, CLOSING_MM), spacing_mm, CLOSING_MM))
    return padded[tuple(slice(more, -more) for more in margin)]


def _within(mask: np.ndarray, spacing_mm: tuple[float, ...], mm: float) -> np.ndarray:
    """Dilate by a ball in mm."""
    return ndimage.distance_transform_edt(~mask, spacing_mm) <= mm if mask.any() else mask


def _deeper(mask: np.ndarray, spacing_mm: tuple[float, ...], mm: float) -> np.ndarray:
    """Erode by a ball in mm; what lies beyond the volume does not count."""
    return mask & (ndimage.distance_transform_edt(mask, spacing_mm) > mm) if not mask.all() else mask
