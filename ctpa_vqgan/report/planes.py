"""Choose slices of a volume and turn them the way a radiologist looks at them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BODY_HU = -500  # denser than lung
BLOOD_HU = (180, 700)  # with contrast; without, it has about 40
GRID_MM = 2.0  # on which vessels are sought
EVEN_HU = 30  # blood is even, the marrow of bones of the same HU is not
MIN_CORE_MM = 8.0  # radius of even blood: 12 and more in heart, aorta and pulmonary trunk, at most 6 in bones seen

# plane: the axis it is a slice of, the axes that run across and up the picture, the letters at its left and right
PLANES = {"axial": (2, 0, 1, "R", "L"), "coronal": (1, 0, 2, "R", "L"), "sagittal": (0, 1, 2, "A", "P")}


def plane_image(volume: np.ndarray, plane: str, index: int) -> np.ndarray:
    """One slice as a radiologist sees it: patient's right (sagittal: front) on the left, front or head on top.

    Args:
        volume: [X, Y, Z], RAS: indices grow to the patient's right, front and head.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        index: slice along the plane's axis.

    Returns:
        [rows, columns], first row on top.
    """
    where = [slice(None)] * 3
    where[PLANES[plane][0]] = index  # a view: np.take would copy a volume that is not in C order
    return volume[tuple(where)].T[::-1, ::-1]


def cut_around(
    image: np.ndarray,
    plane: str,
    volume_shape: Sequence[int],
    centre: Sequence[int],
    spacing_mm: Sequence[float],
    size_mm: tuple[float, float],
) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """The part of a :func:`plane_image` that lies around a voxel; near a border it is moved inwards.

    Args:
        image: [rows, columns] of :func:`plane_image`.
        plane: ``axial``, ``coronal`` or ``sagittal``.
        volume_shape: [X, Y, Z] of the volume.
        centre: voxel (x, y, z).
        spacing_mm: size of a voxel along X, Y, Z.
        size_mm: how much to show across and up; less where the image is smaller.

    Returns:
        The part, and its left, right, bottom and top in mm from the image's bottom left corner.
    """
    _, across, up, *_ = PLANES[plane]
    parts = []
    for axis, length_mm in zip((up, across), reversed(size_mm)):
        side, mm = volume_shape[axis], spacing_mm[axis]
        length = min(max(round(length_mm / mm), 1), side)
        start = min(max(side - 1 - centre[axis] - length // 2, 0), side - length)  # images are turned, see plane_image
        parts.append((start, start + length, side, mm))
    (top, bottom, rows, row_mm), (left, right, _, column_mm) = parts
    place = (left * column_mm, right * column_mm, (rows - bottom) * row_mm, (rows - top) * row_mm)
    return image[top:bottom, left:right], place


def body_centre(volume: np.ndarray) -> tuple[int, int, int]:
    """Index of the centre of mass of what is denser than lung (-500 HU); the volume's centre if nothing is."""
    steps = [max(1, side // 128) for side in volume.shape]  # a coarse grid is enough, and keeps the mask small
    body = np.asarray(volume[tuple(slice(None, None, step) for step in steps)]) > BODY_HU
    if not body.any():
        return tuple(side // 2 for side in volume.shape)
    return tuple(round(where.mean()) * step for where, step in zip(np.nonzero(body), steps))


def largest_vessel(volume: np.ndarray, spacing_mm: Sequence[float]) -> tuple[int, int, int]:
    """Index of the centre of the widest vessel with contrast: a chamber of the heart, the aorta, the pulmonary trunk.

    It is where a ball of even voxels from 180 to 700 HU is largest, on a grid of about 2 mm. Bones of these HU have
    uneven marrow and thin walls, so no such ball fits in. Without one of 8 mm radius (no contrast, a crop without
    large vessels, voxels too coarse to tell), it is the :func:`body_centre`. The same volume always gives the same
    voxel. Memory: some 60 bytes per voxel of the grid, 0.4 GB for a whole chest.

    Args:
        volume: [X, Y, Z], HU.
        spacing_mm: size of a voxel along X, Y, Z.
    """
    from scipy import ndimage  # takes a moment that importing the report need not wait

    steps = [max(1, round(GRID_MM / mm)) for mm in spacing_mm]
    grid_mm = [step * mm for step, mm in zip(steps, spacing_mm)]
    coarse = np.asarray(volume[tuple(slice(None, None, step) for step in steps)], dtype=np.float32)
    smooth = ndimage.uniform_filter(coarse, [3 if mm < 2 * GRID_MM else 1 for mm in grid_mm])  # less noise
    variance = ndimage.uniform_filter(smooth**2, 3) - ndimage.uniform_filter(smooth, 3) ** 2
    blood = (smooth > BLOOD_HU[0]) & (smooth < BLOOD_HU[1]) & (variance < EVEN_HU**2)
    # what lies beyond the volume is not blood, or a vessel that is cut off would seem as wide as one can be
    radius = ndimage.distance_transform_edt(np.pad(blood, 1), sampling=grid_mm)[1:-1, 1:-1, 1:-1]
    if radius.max() < MIN_CORE_MM:
        return body_centre(volume)
    centre = np.unravel_index(radius.argmax(), radius.shape)
    return tuple(int(index) * step for index, step in zip(centre, steps))
