"""Leave out the few images with a UID of their own that are no series but lie beside one: scouts, screenshots."""

from __future__ import annotations

from collections import defaultdict

from ctpa_vqgan.data.formats.dicom.facts import Header, num_images
from ctpa_vqgan.data.formats.dicom.series import Skipped, skip
from ctpa_vqgan.data.formats.dicom.split import SCOUT_IMAGES

SCOUT = "scout: another size or orientation"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def without_strays(parts: list[list[Header]]) -> tuple[list[list[Header]], list[Skipped]]:
    """The real ones of some series, and the files of the others."""
    shapes: dict[str, set] = defaultdict(set)  # of the real series in a folder
    for part in parts:
        if num_images(part) >= SCOUT_IMAGES:
            for header in part:
                shapes[header.folder].add(_shape(header))
    kept, skipped = [], []
    for part in parts:
        if why := _stray(part, shapes):
            skipped += skip(part, why)
        else:
            kept.append(part)
    return kept, skipped


def _stray(part: list[Header], shapes: dict[str, set]) -> str:
    """Why images are no series; empty if they are one."""
    if num_images(part) >= SCOUT_IMAGES:
        return ""
    if part[0].sop_class.startswith(SECONDARY_CAPTURE):
        return "secondary capture: a screenshot or a report"
    beside = set().union(*(shapes[header.folder] for header in part))
    return SCOUT if beside and beside.isdisjoint(map(_shape, part)) else ""


def _shape(header: Header) -> tuple:
    orientation = header.slices[0].orientation
    # adding 0 turns -0 into 0
    return header.size, orientation and tuple(round(value, 2) + 0 for value in orientation)
