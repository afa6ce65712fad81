"""Picture an original beside its reconstruction: ``montage.png``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.planes import PLANES, body_centre, plane_image
from ctpa_vqgan.report.sheet import ON_IMAGE, Sheet
from ctpa_vqgan.windows import WINDOWS

SHOWN = {name: WINDOWS[name] for name in ("lung", "mediastinum")}
ERROR_MAX_HU = 200  # fixed, so that two montages can be compared
HU_RANGE = (-1000, 1000)  # the error is that of the clipped volumes, as in the metrics

# layout in inches; the error is drawn once, beside both windows, at twice their size
WIDTH, LEFT, GAP, BLOCK_GAP, TOP, BOTTOM, BAR = 18.0, 0.4, 0.06, 0.2, 0.85, 0.5, 0.95
PANEL = (WIDTH - LEFT - 3 * GAP - BAR) / 4
MIN_ROW, MAX_ROW = 1.75, 1.6 * PANEL  # labels of a thin slab do not collide, a long scan fits a screen
COLUMNS = (LEFT, LEFT + PANEL + GAP, LEFT + 2 * (PANEL + GAP))


def _row_height(extent_mm: tuple[float, ...], plane: str) -> float:
    _, _, up, _, _ = PLANES[plane]
    return min(max(PANEL * extent_mm[up] / max(extent_mm[:2]), MIN_ROW), MAX_ROW)


def save_montage(
    path: str | os.PathLike,
    original: np.ndarray,
    reconstruction: np.ndarray,
    spacing_mm: tuple[float, float, float],
    title: str = "",
) -> Path:
    """Draw original, reconstruction and absolute error through the centre of the body, in three planes.

    Rows are the axial, coronal and sagittal plane, each in a lung window (W1500 L-600) and a mediastinal window
    (W400 L40); the error has the fixed scale 0 to 200 HU and is shown once a plane, at twice the size. Radiological
    display (patient's right on the left, front and head up) in true proportions. 1800 pixels wide.

    Args:
        path: PNG file to write, whole or not at all; its folder is made if need be.
        original: [X, Y, Z], HU, RAS; any size.
        reconstruction: [X, Y, Z], HU, on the same grid.
        spacing_mm: size of a voxel along X, Y, Z.
        title: first line of the picture, for example the case.

    Returns:
        ``path``.

    Raises:
        ValueError: if the volumes are not [X, Y, Z] of one shape or a spacing is not positive.
    """
    if original.ndim != 3 or original.shape != reconstruction.shape:
        raise ValueError(f"need two volumes [X, Y, Z] of one shape, got {original.shape} and {reconstruction.shape}")
    if len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise ValueError(f"spacing_mm must be three positive numbers, got {spacing_mm}")
    extent_mm = tuple(float(side * mm) for side, mm in zip(original.shape, spacing_mm))
    rows = {plane: _row_height(extent_mm, plane) for plane in PLANES}
    sheet = Sheet(WIDTH, TOP + BOTTOM + sum(2 * row + GAP + BLOCK_GAP for row in rows.values()))
    sheet.text(LEFT, 0.4, title, fontsize=18)
    for left, width, name in zip(COLUMNS, (1, 1, 2), ("original", "reconstruction", "absolute error")):
        sheet.text(left + width * PANEL / 2, TOP - 0.1, name, ha="center", fontsize=15)
    top, centre = TOP, body_centre(original)
    for plane, row in rows.items():
        index = centre[PLANES[plane][0]]
        before, after = (plane_image(v, plane, index).astype(np.float32) for v in (original, reconstruction))
        note = f"{plane} slice {index + 1} of {original.shape[PLANES[plane][0]]}"
        _draw_plane(sheet, plane, before, after, extent_mm, top, row, note)
        top += 2 * row + GAP + BLOCK_GAP
    sheet.text(LEFT, sheet.height - 0.2, _caption(original.shape, spacing_mm), fontsize=12)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, sheet.png())
    return path


def _draw_plane(
    sheet: Sheet,
    plane: str,
    before: np.ndarray,
    after: np.ndarray,
    extent_mm: tuple[float, ...],
    top: float,
    row: float,
    note: str,
) -> None:
    _, across, up, *letters = PLANES[plane]
    size_mm = (extent_mm[across], extent_mm[up])
    for i, (window, (level, width)) in enumerate(SHOWN.items()):
        grey = {"cmap": "gray", "vmin": level - width / 2, "vmax": level + width / 2}
        row_top = top + i * (row + GAP)
        sheet.text(LEFT / 2, row_top + row / 2, f"{plane}, {window}", rotation=90, ha="center", va="center")
        for left, image in zip(COLUMNS, (before, after)):
            sheet.panel((left, row_top, PANEL, row), image, size_mm, letters, **grey)
    error = np.abs(after.clip(*HU_RANGE) - before.clip(*HU_RANGE))
    left, height = COLUMNS[2], 2 * row + GAP
    shown = sheet.panel(
        (left, top, 2 * PANEL, height), error, size_mm, letters, cmap="inferno", vmin=0, vmax=ERROR_MAX_HU
    )
    sheet.text(left + 0.08, top + 0.08, f"{note}, mean error {error.mean():.1f} HU", va="top", **ON_IMAGE)
    sheet.scale((left + 2 * PANEL + GAP, top, 0.15, height), shown, ticks=range(0, ERROR_MAX_HU + 1, 50))


def _caption(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> str:
    windows = ", ".join(f"{name} W{width} L{level}" for name, (level, width) in SHOWN.items())
    low, high = HU_RANGE
    return (
        f"{' x '.join(map(str, shape))} voxels of {' x '.join(f'{mm:.2f}' for mm in spacing_mm)} mm.  "
        f"Windows in HU: {windows}.  Error: |reconstruction - original|, both clipped to {low}..{high} HU."
    )
