"""Picture an original, its reconstruction and the signed error between them: ``montage.png``."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.planes import PLANES, cut_around, largest_vessel, plane_image
from ctpa_vqgan.report.sheet import ON_IMAGE, PAPER, Sheet
from ctpa_vqgan.report.values import HU_RANGE
from ctpa_vqgan.windows import WINDOWS

SHOWN = {"lung": "lung", "mediastinum": "mediastinum", "pe": "PE"}  # windows and what they are called
CLOSE_UP_WINDOW, CLOSE_UP_MM = "pe", 100.0
ERROR_MAX_HU = 200  # fixed, so that two montages can be compared
ERROR_COLOURS = ("#a9d0ff", "#2d6be0", PAPER, "#dc3a2c", "#ffc9a3")  # blue: too dark, red: too bright, zero is paper
FRAME = "#e8c547"

# layout in inches: columns are the windows, a close-up and the error; two rows a plane
WIDTH, LEFT, GAP, BLOCK_GAP, TOP, BOTTOM, BAR = 18.0, 0.55, 0.06, 0.2, 0.85, 0.75, 0.95
PANEL = (WIDTH - LEFT - 5 * GAP - BAR) / 5
CLOSE_UP, ERROR = len(SHOWN), len(SHOWN) + 1
MIN_ROW, MAX_ROW = 1.5, 1.6 * PANEL  # labels of a thin slab do not collide, a long scan fits a screen


def save_montage(
    path: str | os.PathLike,
    original: np.ndarray,
    reconstruction: np.ndarray,
    spacing_mm: tuple[float, float, float],
    title: str = "",
    name: str = "reconstruction",
) -> Path:
    """Write the page of :func:`draw_montage` as a PNG file, 1800 pixels wide.

    Args:
        path: PNG file to write, whole or not at all; its folder is made if need be.
        original: as for :func:`draw_montage`, like all that follow.
        reconstruction: on the same grid.
        spacing_mm: size of a voxel along X, Y, Z.
        title: first line of the picture.
        name: what the reconstruction is called.

    Returns:
        ``path``.

    Raises:
        ValueError: if the volumes are not [X, Y, Z] of one shape or a spacing is not positive.
    """
    return write_whole(path, draw_montage(original, reconstruction, spacing_mm, title, name).png())


def draw_montage(
    original: np.ndarray,
    reconstruction: np.ndarray,
    spacing_mm: tuple[float, float, float],
    title: str = "",
    name: str = "reconstruction",
) -> Sheet:
    """Draw original, reconstruction and signed error in three planes through the largest vessel.

    Each plane has the original above the reconstruction in a lung, a mediastinal and an embolism window
    (:data:`~ctpa_vqgan.windows.WINDOWS`), a close-up of the vessel in the embolism window, and the error of plane and
    close-up: reconstruction minus original, blue where too dark, red where too bright, the colour of the page where
    there is none. Its scale is fixed, -200 to 200 HU. Radiological display (patient's right on the left, front and head
    up) in true proportions. The planes depend on the original alone, so pictures of two reconstructions compare.

    Args:
        original: [X, Y, Z], HU, RAS; any size.
        reconstruction: [X, Y, Z], HU, on the same grid.
        spacing_mm: size of a voxel along X, Y, Z.
        title: first line of the picture, for example the case.
        name: what the reconstruction is called, for example ``decoded``.

    Returns:
        The page, as a PNG file's content (``.png()``) or as pixels (``.pixels(width)``).

    Raises:
        ValueError: if the volumes are not [X, Y, Z] of one shape or a spacing is not positive.
    """
    if original.ndim != 3 or original.shape != reconstruction.shape:
        raise ValueError(f"need two volumes [X, Y, Z] of one shape, got {original.shape} and {reconstruction.shape}")
    if len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise ValueError(f"spacing_mm must be three positive numbers, got {spacing_mm}")
    spacing_mm = tuple(map(float, spacing_mm))
    extent_mm = tuple(side * mm for side, mm in zip(original.shape, spacing_mm))
    rows = {plane: _row_height(extent_mm, plane) for plane in PLANES}
    sheet = Sheet(WIDTH, TOP + BOTTOM + sum(2 * row + GAP + BLOCK_GAP for row in rows.values()))
    sheet.text(LEFT, 0.4, title, fontsize=18)
    windows = [f"{label}  W{WINDOWS[key].width:g} L{WINDOWS[key].level:g}" for key, label in SHOWN.items()]
    for column, heading in enumerate((*windows, f"close-up, {SHOWN[CLOSE_UP_WINDOW]}", "signed error")):
        sheet.text(_left(column) + PANEL / 2, TOP - 0.1, heading, ha="center", fontsize=14)
    top, centre = TOP, largest_vessel(original, spacing_mm)
    for plane, row in rows.items():
        index = centre[PLANES[plane][0]]
        images = [plane_image(volume, plane, index).astype(np.float32) for volume in (original, reconstruction)]
        _Block(sheet, plane, original.shape, spacing_mm, centre, top, row).draw(("original", name), images)
        top += 2 * row + GAP + BLOCK_GAP
    for line, text in enumerate(_caption(original.shape, spacing_mm, name)):
        sheet.text(LEFT, sheet.height - 0.45 + 0.27 * line, text, fontsize=12)
    return sheet


def _left(column: int) -> float:
    return LEFT + column * (PANEL + GAP)


def _row_height(extent_mm: tuple[float, ...], plane: str) -> float:
    _, _, up, _, _ = PLANES[plane]
    return min(max(PANEL * extent_mm[up] / max(extent_mm[:2]), MIN_ROW), MAX_ROW)


class _Block:
    """The two rows of one plane."""

    def __init__(self, sheet: Sheet, plane: str, shape, spacing_mm, centre, top: float, row: float) -> None:
        _, across, up, *self.letters = PLANES[plane]
        self.sheet, self.plane, self.shape, self.spacing_mm, self.centre = sheet, plane, shape, spacing_mm, centre
        self.size_mm = (shape[across] * spacing_mm[across], shape[up] * spacing_mm[up])
        self.top, self.row = top, row

    def draw(self, labels: tuple[str, str], images: list[np.ndarray]) -> None:
        """Original and reconstruction, what they are called, and the error between them."""
        for i, (label, image) in enumerate(zip(labels, images)):
            middle = self._row_top(i) + self.row / 2
            place = {"rotation": 90, "ha": "center", "va": "center", "fontsize": 12}
            self.sheet.text(LEFT / 2, middle, f"{self.plane}\n{label}", **place)
            for column, window in enumerate(SHOWN):
                shown = self._panel(column, i, image, **_grey(window))
                if window == CLOSE_UP_WINDOW:
                    self._frame(shown, image)
            self._close_up(CLOSE_UP, i, image, **_grey(CLOSE_UP_WINDOW))
        axis = PLANES[self.plane][0]
        self._note(0, f"slice {self.centre[axis] + 1} of {self.shape[axis]}")
        before, after = (image.clip(*HU_RANGE) for image in images)
        self._error(after - before)

    def _error(self, error: np.ndarray) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        colours = LinearSegmentedColormap.from_list("signed error", ERROR_COLOURS)
        style = {"cmap": colours, "vmin": -ERROR_MAX_HU, "vmax": ERROR_MAX_HU}
        shown = self._panel(ERROR, 0, error, **style)
        self._close_up(ERROR, 1, error, **style)
        self._note(ERROR, f"MAE {np.abs(error).mean():.1f} HU, bias {error.mean():+.1f} HU")
        self._note(ERROR, "close-up", row=1)
        box = (_left(ERROR) + PANEL + GAP, self.top, 0.15, 2 * self.row + GAP)
        self.sheet.scale(box, shown, ticks=range(-ERROR_MAX_HU, ERROR_MAX_HU + 1, 100))

    def _row_top(self, i: int) -> float:
        return self.top + i * (self.row + GAP)

    def _panel(self, column: int, i: int, image: np.ndarray, **style):
        box = (_left(column), self._row_top(i), PANEL, self.row)
        return self.sheet.panel(box, image, self.size_mm, self.letters, **style)

    def _cut(self, image: np.ndarray) -> tuple[np.ndarray, tuple[float, ...]]:
        size_mm = (CLOSE_UP_MM, CLOSE_UP_MM * self.row / PANEL)  # as high as its panel
        return cut_around(image, self.plane, self.shape, self.centre, self.spacing_mm, size_mm)

    def _close_up(self, column: int, i: int, image: np.ndarray, **style) -> None:
        part, (left, right, bottom, top) = self._cut(image)
        box = (_left(column), self._row_top(i), PANEL, self.row)
        self.sheet.panel(box, part, (right - left, top - bottom), ("", ""), **style)

    def _frame(self, shown, image: np.ndarray) -> None:
        """Mark in a panel where its close-up lies."""
        left, right, bottom, top = self._cut(image)[1]
        corners = [left, right, right, left, left], [bottom, bottom, top, top, bottom]
        shown.axes.plot(*corners, color=FRAME, linewidth=0.8, scalex=False, scaley=False)

    def _note(self, column: int, text: str, row: int = 0) -> None:
        self.sheet.text(_left(column) + 0.08, self._row_top(row) + 0.08, text, va="top", **ON_IMAGE)


def _grey(window: str) -> dict:
    level, width = WINDOWS[window]
    return {"cmap": "gray", "vmin": level - width / 2, "vmax": level + width / 2}


def _caption(shape: tuple[int, ...], spacing_mm: tuple[float, ...], name: str) -> tuple[str, str]:
    low, high = HU_RANGE
    size, spacing = " x ".join(map(str, shape)), " x ".join(f"{mm:.2f}" for mm in spacing_mm)
    return (
        f"{size} voxels of {spacing} mm.  Planes through the largest vessel with contrast, without one through the "
        f"body's centre; close-ups {CLOSE_UP_MM:g} mm wide.",
        f"Error: {name} - original, both clipped to {low}..{high} HU; red is too bright, blue too dark. MAE and bias "
        "are those of the plane shown.",
    )
