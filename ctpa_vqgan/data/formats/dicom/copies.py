"""Take an image once that was met twice, as in an export copied into two folders."""

from __future__ import annotations

from pathlib import Path

from ctpa_vqgan.data.formats.dicom.facts import Header
from ctpa_vqgan.data.formats.dicom.raw import digest_of_pixels
from ctpa_vqgan.data.formats.dicom.series import Skipped, skip


def without_copies(headers: list[Header]) -> tuple[list[Header], list[Skipped]]:
    """The files of one series without those that repeat one of another folder.

    A slice that is twice in one folder stays, to be refused: nobody copies single slices on purpose. A SOPInstanceUID
    alone proves nothing, as some anonymisers give one to all slices: place and pixels must be equal too.
    """
    known: dict[tuple, Header] = {}
    kept, copies = [], []
    for header in headers:
        first = known.setdefault(_place(header), header) if header.instance else header
        is_copy = Path(first.path).parent != Path(header.path).parent and _same_pixels(first, header)
        (copies if is_copy else kept).append(header)
    # no path in the reason, so that a report can count the copies together
    return kept, skip(copies, "copy of another file of the series")


def _place(header: Header) -> tuple:
    places = tuple((one.position, one.orientation, one.spacing, one.slope, one.intercept) for one in header.slices)
    return header.instance, header.size, header.colour, places


def _same_pixels(one: Header, other: Header) -> bool:
    return digest_of_pixels(one.path, one.num_bytes) == digest_of_pixels(other.path, other.num_bytes)
