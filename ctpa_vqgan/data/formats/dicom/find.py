"""Sort files into CT series, refusals and files left out."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable

import numpy as np

from ctpa_vqgan.data.checks.rules import refuse
from ctpa_vqgan.data.formats.dicom.copies import without_copies
from ctpa_vqgan.data.formats.dicom.facts import Header, folder_of
from ctpa_vqgan.data.formats.dicom.look import look
from ctpa_vqgan.data.formats.dicom.series import Series, Skipped, skip
from ctpa_vqgan.data.formats.dicom.split import split
from ctpa_vqgan.data.formats.dicom.strays import SCOUT, without_strays
from ctpa_vqgan.errors import BadVolume


def find_series(
    files: Iterable[str | os.PathLike], progress: Callable[[int], object] | None = None
) -> tuple[list[Series], list[BadVolume], list[Skipped]]:
    """Sort files into CT series.

    Images belong together by SeriesInstanceUID wherever they lie; where it is empty, by study and folder. An image
    that was copied is taken once. Images of one UID that differ in size make a series each; fewer than
    ``SCOUT_IMAGES`` of another size or orientation are scouts. Geometry within a series is the matter of
    :func:`read_series`.

    Args:
        files: any files; give the ones that only their name calls DICOM too, so that a slice that was lost is noticed.
        progress: called with 1 after each file, like the ``update`` of a progress bar.

    Returns:
        The series; the refusals (rules dicom-damaged, dicom-modality, dicom-orientation); the files left out and why.
    """
    headers, skipped = [], []
    for path in sorted(os.fspath(path) for path in files):
        seen = look(path)
        (skipped if isinstance(seen, Skipped) else headers).append(seen)
        if progress:
            progress(1)
    groups, refused = _group(headers)
    parts = []
    for group in groups:
        images, copies = without_copies(group)
        skipped += copies
        try:
            found, scouts = split(images)
        except BadVolume as error:
            refused.append(error)
        else:
            parts += found
            skipped += skip(scouts, SCOUT)
    parts, strays = without_strays(parts)
    return sorted(map(_as_series, parts), key=lambda one: (one.folder, one.files)), refused, skipped + strays


def _group(headers: list[Header]) -> tuple[list[list[Header]], list[BadVolume]]:
    """Files by series. A damaged one of unknown series counts to every series of its folder, or is refused alone."""
    groups: dict[tuple, list[Header]] = defaultdict(list)
    by_folder: dict[str, set[tuple]] = defaultdict(set)
    lost = [header for header in headers if header.damage and not header.uid]
    for header in headers:
        if not (header.damage and not header.uid):
            key = (header.uid,) if header.uid else ("", header.study, header.folder)
            groups[key].append(header)
            by_folder[header.folder].add(key)
    for header in lost:
        for key in by_folder[header.folder]:
            groups[key].append(header)
    alone = [header for header in lost if not by_folder[header.folder]]
    return list(groups.values()), [refuse("dicom-damaged", header.path, header.damage) for header in alone]


def _as_series(part: list[Header]) -> Series:
    first = [header.slices[0] for header in part]
    if all(one.position and one.orientation for one in first):
        normal = np.cross(first[0].orientation[:3], first[0].orientation[3:])
        along = np.array([one.position for one in first]) @ normal
        part = [part[index] for index in np.argsort(along, kind="stable")]
    return Series(tuple(header.path for header in part), folder_of(part), part[0].uid, part[0].patient)
