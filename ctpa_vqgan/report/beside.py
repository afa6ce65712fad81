"""Picture several versions of one volume side by side: ``beside.png``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.planes import PLANES, body_centre, plane_image
from ctpa_vqgan.report.sheet import Sheet
from ctpa_vqgan.windows import WINDOWS

ROWS = [(plane, window) for plane in ("axial", "coronal") for window in ("lung", "pe")]

# layout in inches
PANEL, LEFT, GAP, TOP, BOTTOM = 4.0, 0.4, 0.06, 0.85, 0.5


def save_beside(
    path: str | os.PathLike,
    volumes: Mapping[str, np.ndarray],
    spacing_mm: tuple[float, float, float],
    title: str = "",
) -> Path:
    """Draw the same slices of several volumes, one column each, in a lung and an embolism window.

    Choose it over :func:`~ctpa_vqgan.report.save_montage` to compare reconstructions with each other and not with
    their errors. Rows are the axial and the coronal plane through the centre of the first volume's body, each in a
    lung window (W1500 L-600) and an embolism window (W700 L100); radiological display in true proportions.

    Args:
        path: PNG file to write, whole or not at all; its folder is made if need be.
        volumes: [X, Y, Z], HU, RAS, all on one grid, by the heading of their column.
        spacing_mm: size of a voxel along X, Y, Z.
        title: first line of the picture.

    Returns:
        ``path``.

    Raises:
        ValueError: if there is no volume, or they are not [X, Y, Z] of one shape, or a spacing is not positive.
    """
    shapes = [volume.shape for volume in volumes.values()]
    if not shapes or len(shapes[0]) != 3 or len(set(shapes)) > 1:
        raise ValueError(f"need volumes [X, Y, Z] of one shape, got {', '.join(map(str, shapes)) or 'none'}")
    if len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise ValueError(f"spacing_mm must be three positive numbers, got {spacing_mm}")
    extent_mm = [side * mm for side, mm in zip(shapes[0], spacing_mm)]
    centre = body_centre(next(iter(volumes.values())))
    heights = [PANEL * min(extent_mm[PLANES[plane][2]] / extent_mm[PLANES[plane][1]], 1.5) for plane, _ in ROWS]
    sheet = Sheet(LEFT + len(shapes) * (PANEL + GAP), TOP + sum(heights) + len(ROWS) * GAP + BOTTOM)
    sheet.text(LEFT, 0.4, title, fontsize=16)
    for column, (name, volume) in enumerate(volumes.items()):
        left, top = LEFT + column * (PANEL + GAP), TOP
        sheet.text(left + PANEL / 2, TOP - 0.1, name, ha="center", fontsize=14)
        for (plane, window), height in zip(ROWS, heights):
            axis, across, up, *letters = PLANES[plane]
            level, width = WINDOWS[window]
            grey = {"cmap": "gray", "vmin": level - width / 2, "vmax": level + width / 2}
            image = plane_image(volume, plane, centre[axis]).astype(np.float32)
            sheet.panel((left, top, PANEL, height), image, (extent_mm[across], extent_mm[up]), letters, **grey)
            if column == 0:
                sheet.text(LEFT / 2, top + height / 2, f"{plane}, {window}", rotation=90, ha="center", va="center")
            top += height + GAP
    windows = ", ".join(f"{name} W{WINDOWS[name].width} L{WINDOWS[name].level}" for name in ("lung", "pe"))
    sheet.text(LEFT, sheet.height - 0.2, f"Windows in HU: {windows}.", fontsize=12)
    return write_whole(path, sheet.png())
