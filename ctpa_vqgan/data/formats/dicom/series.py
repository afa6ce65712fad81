"""What finding series hands out: the series, and the files that are in none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from ctpa_vqgan.data.formats.dicom.facts import Header


@dataclass(frozen=True)
class Series:
    """The files of one CT series.

    Args:
        files: ordered by position along the normal of the slices; by name where a position is missing.
        folder: the deepest folder that holds them all.
        uid: SeriesInstanceUID; empty where the files have none.
        patient: PatientID; None where the files have none.
    """

    files: tuple[str, ...]
    folder: str
    uid: str
    patient: str | None


class Skipped(NamedTuple):
    """A file that is no part of any series and no fault either."""

    path: str
    why: str


def skip(headers: Iterable[Header], why: str) -> list[Skipped]:
    """Leave files out, all for one reason."""
    return [Skipped(header.path, why) for header in headers]
