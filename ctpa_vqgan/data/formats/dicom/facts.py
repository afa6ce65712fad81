"""What is known of one file, and of each image in it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from typing import NamedTuple

POSITION, ORIENTATION, PIXEL_SPACING = "0020|0032", "0020|0037", "0028|0030"
SLOPE, INTERCEPT = "0028|1053", "0028|1052"
SLICE_TAGS = (POSITION, ORIENTATION, PIXEL_SPACING, SLOPE, INTERCEPT)
ORIENTATION_TOLERANCE = 1e-4  # between direction cosines: 0.05 mm at the edge of a 500 mm field of view


class Slice(NamedTuple):
    """Where one image lies and how its numbers become HU; None for what the file does not say."""

    name: str
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None  # mm from row to row, from column to column
    slope: float | None
    intercept: float | None

    @classmethod
    def of(cls, name: str, texts: Iterable[str]) -> Slice:
        """From the texts of ``SLICE_TAGS``."""
        position, orientation, spacing, slope, intercept = texts
        places = _exactly(position, 3), _exactly(orientation, 6), _exactly(spacing, 2)
        return cls(name, *places, number(slope), number(intercept))


class Header(NamedTuple):
    """What is needed of one file, readable or not; empty for what it does not say."""

    path: str
    uid: str = ""
    instance: str = ""
    study: str = ""
    patient: str | None = None
    modality: str = ""
    sop_class: str = ""
    image_type: str = ""
    slices: tuple[Slice, ...] = ()
    size: tuple[int, int] = (0, 0)  # columns, rows
    num_bytes: int = 0  # of all pixels when they are not compressed
    colour: str = ""  # why a pixel is not one number of usual meaning
    thickness: float | None = None
    lossy: bool = False
    lossy_ratio: float = 0.0  # of the strongest compression with loss; 0 if none is stated
    damage: str = ""

    @property
    def folder(self) -> str:
        """The folder that the file lies in."""
        return os.path.dirname(self.path)


def num_images(headers: Iterable[Header]) -> int:
    """Images in some files, the frames of a multi-frame file counted."""
    return sum(len(header.slices) for header in headers)


def folder_of(headers: Iterable[Header]) -> str:
    """The deepest folder that holds some files."""
    folders = {header.folder for header in headers}
    return folders.pop() if len(folders) == 1 else os.path.commonpath(folders)


def number(text: str) -> float | None:
    """The number that a text states, finite or not."""
    try:
        return float(text)
    except ValueError:
        return None


def finite_numbers(text: str) -> list[float]:
    """The finite numbers of a multi-valued element."""
    return [value for part in text.split("\\") if (value := number(part)) is not None and math.isfinite(value)]


def listed(values: Iterable[float]) -> str:
    """Numbers as DICOM writes them."""
    return "\\".join(f"{value:.6g}" for value in values)


def _exactly(text: str, count: int) -> tuple[float, ...] | None:
    """All values of an element, if they are so many finite numbers."""
    values = finite_numbers(text)
    return tuple(values) if len(values) == text.count("\\") + 1 == count else None
