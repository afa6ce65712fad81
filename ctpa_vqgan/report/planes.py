"""Choose slices of a volume and turn them the way a radiologist looks at them."""

from __future__ import annotations

import numpy as np

BODY_HU = -500  # denser than lung

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


def body_centre(volume: np.ndarray) -> tuple[int, int, int]:
    """Index of the centre of mass of what is denser than lung (-500 HU); the volume's centre if nothing is."""
    steps = [max(1, side // 128) for side in volume.shape]  # a coarse grid is enough, and keeps the mask small
    body = np.asarray(volume[tuple(slice(None, None, step) for step in steps)]) > BODY_HU
    if not body.any():
        return tuple(side // 2 for side in volume.shape)
    return tuple(round(where.mean()) * step for where, step in zip(np.nonzero(body), steps))
