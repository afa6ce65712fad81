"""A look at every case of a data set: small pictures, and contact sheets of them."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.planes import PLANES, body_centre, plane_image
from ctpa_vqgan.report.sheet import INK, PAPER
from ctpa_vqgan.windows import WINDOWS

SHOWN = {"axial": "mediastinum", "coronal": "lung"}  # plane: the window that it is shown in
SIDE = 128  # pixels of a picture's longer side
CASES_PER_SHEET = 120
WARNED = "#f2a03d"

# layout in pixels
GAP, FRAME, LINE, MARGIN, HEAD, COLUMNS = 4, 3, 16, 14, 46, 6
PAIR = (2 * SIDE + GAP, SIDE)
CELL = (PAIR[0] + 2 * (FRAME + 3), PAIR[1] + 2 * (FRAME + 3) + 2 * LINE + 6)


def thumbnail(voxels: np.ndarray, spacing_mm: Sequence[float]) -> bytes:
    """Draw an axial and a coronal slice through the centre of the body, as a PNG of about 20 kB.

    Left the axial slice in the mediastinal window (W400 L40), right the coronal one in the lung window (W1500 L-600);
    true proportions, radiological display (patient's right on the left, front and head up).

    Args:
        voxels: [X, Y, Z], HU, RAS; any strides, a memory map will do: two slices and a coarse grid are read.
        spacing_mm: size of a voxel along X, Y, Z.

    Returns:
        PNG of 260 x 128 grey pixels, to keep with the case and to hand to :func:`save_thumbnails`.
    """
    centre = body_centre(voxels)
    pair = Image.new("L", PAIR)
    for place, (plane, window) in enumerate(SHOWN.items()):
        axis, across, up, *_ = PLANES[plane]
        # one slice is handed on: np.take would first copy a volume that is not in C order whole
        slab = voxels[tuple(slice(i, i + 1) if k == axis else slice(None) for k, i in enumerate(centre))]
        picture = _grey(plane_image(slab, plane, 0), window)
        extent_mm = [voxels.shape[axis] * spacing_mm[axis] for axis in (across, up)]
        size = [max(1, round(SIDE * mm / max(extent_mm))) for mm in extent_mm]
        picture = picture.resize(size, Image.Resampling.BICUBIC)  # averages where it shrinks
        pair.paste(picture, (place * (SIDE + GAP) + (SIDE - size[0]) // 2, (SIDE - size[1]) // 2))
    buffer = io.BytesIO()
    pair.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _grey(image: np.ndarray, window: str) -> Image.Image:
    level, width = WINDOWS[window]
    grey = (image.astype(np.float32) - (level - width / 2)) * (255 / width)
    return Image.fromarray(np.ascontiguousarray(grey.clip(0, 255).round().astype(np.uint8)))


def sheet_names(path: str | os.PathLike, num_cases: int) -> list[Path]:
    """Names of the sheets for so many cases: ``thumbnails.png``, ``thumbnails_2.png``, ..., at most 120 cases each."""
    path = Path(path)
    num_sheets = max(1, -(-num_cases // CASES_PER_SHEET))
    return [path, *(path.with_stem(f"{path.stem}_{number}") for number in range(2, num_sheets + 1))]


def save_thumbnails(path: str | os.PathLike, cases: Sequence[tuple[dict[str, Any], bytes]]) -> list[Path]:
    """Draw the contact sheets of a data set; case id, shape and spacing stand beneath each pair of pictures.

    Cases with warnings have a coloured frame. Sheets of an earlier run that are no longer needed are removed.

    Args:
        path: PNG file of the first sheet; see :func:`sheet_names`. Each is written whole or not at all.
        cases: record (``case``, ``shape``, ``spacing_mm``, ``warnings``) and :func:`thumbnail` of each case.

    Returns:
        The sheets written.
    """
    path = Path(path)
    sheets = sheet_names(path, len(cases))
    for number, sheet in enumerate(sheets):
        shown = cases[number * CASES_PER_SHEET : (number + 1) * CASES_PER_SHEET]
        title = f"{len(cases)} case{'s' * (len(cases) != 1)}"
        if len(sheets) > 1:
            title += f", sheet {number + 1} of {len(sheets)}"
        write_whole(sheet, _draw_sheet(shown, title))
    _remove_others(path, sheets)
    return sheets


def _remove_others(path: Path, sheets: Sequence[Path]) -> None:
    numbered = re.compile(re.escape(path.stem) + r"_\d+" + re.escape(path.suffix))
    for file in path.parent.iterdir():
        if numbered.fullmatch(file.name) and file not in sheets:
            file.unlink()


def _draw_sheet(cases: Sequence[tuple[dict[str, Any], bytes]], title: str) -> bytes:
    columns = min(COLUMNS, max(2, len(cases)))  # two: the head needs the room
    rows = -(-len(cases) // columns)
    width = 2 * MARGIN + columns * CELL[0] + (columns - 1) * MARGIN
    sheet = Image.new("RGB", (width, HEAD + rows * (CELL[1] + MARGIN)), PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((MARGIN, 6), title, fill=INK, font=_font(15))
    note = ", ".join(
        f"{plane} {window} (W{WINDOWS[window].width:g} L{WINDOWS[window].level:g})" for plane, window in SHOWN.items()
    )
    draw.text((MARGIN, 26), f"{note}; patient's right on the left", fill=INK, font=_font(11))
    _legend(draw, width)
    for number, (record, picture) in enumerate(cases):
        row, column = divmod(number, columns)
        _draw_case(sheet, (MARGIN + column * (CELL[0] + MARGIN), HEAD + row * (CELL[1] + MARGIN)), record, picture)
    buffer = io.BytesIO()
    sheet.save(buffer, format="png")
    return buffer.getvalue()


def _legend(draw: ImageDraw.ImageDraw, width: int) -> None:
    text = "with warnings, see report.md"
    left = width - MARGIN - round(_font(11).getlength(text))
    draw.rectangle((left - 20, 10, left - 8, 20), outline=WARNED, width=FRAME)
    draw.text((left, 8), text, fill=INK, font=_font(11))


def _draw_case(sheet: Image.Image, place: tuple[int, int], record: dict[str, Any], picture: bytes) -> None:
    draw, (left, top) = ImageDraw.Draw(sheet), place
    if record["warnings"]:
        draw.rectangle((left, top, left + CELL[0] - 1, top + CELL[1] - 1), outline=WARNED, width=FRAME)
    left, top = left + FRAME + 3, top + FRAME + 3
    with Image.open(io.BytesIO(picture)) as pair:
        sheet.paste(pair, (left, top))
    lines = (
        (record["case"], 13),
        (
            f"{' x '.join(map(str, record['shape']))}, {' x '.join(f'{mm:.2f}' for mm in record['spacing_mm'])} mm",
            12,
        ),
    )
    for number, (text, size) in enumerate(lines):
        place = (left, top + SIDE + 3 + number * LINE)
        draw.text(place, _fit(text, size), fill=INK, font=_font(size))


def _fit(text: str, size: int) -> str:
    """The text as far as it fits beneath the pictures."""
    if _font(size).getlength(text) <= PAIR[0]:
        return text
    while text and _font(size).getlength(text + "...") > PAIR[0]:
        text = text[:-1]
    return text + "..."


def _font(size: int) -> ImageFont.ImageFont:
    return ImageFont.load_default(size)
