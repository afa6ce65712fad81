"""Divide the images of one SeriesInstanceUID into series and scouts, by size and orientation."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain

import numpy as np

from ctpa_vqgan.data.checks.rules import refuse
from ctpa_vqgan.data.formats.dicom.facts import ORIENTATION_TOLERANCE, Header, folder_of, num_images

SCOUT_IMAGES = 4  # fewer images than this, of another size or orientation than the series beside them, are scouts
MAX_ORIENTATIONS = 16  # more in one series: radial reformats; also bounds the time to sort them


def split(group: list[Header]) -> tuple[list[list[Header]], list[Header]]:
    """The series of one UID, largest first, and the scouts among them.

    Raises:
        BadVolume: dicom-modality, dicom-damaged, dicom-orientation.
    """
    _check_group(group)
    by_size = defaultdict(list)
    for header in group:
        by_size[header.size].append(header)
    parts, scouts = [], []
    for same_size in by_size.values():
        main, *others = _by_orientation(same_size)
        if any(num_images(other) >= SCOUT_IMAGES for other in others):
            counts = " + ".join(str(num_images(part)) for part in (main, *others))
            raise refuse("dicom-orientation", folder_of(group), f"{1 + len(others)} orientations ({counts} images)")
        parts.append(main)
        scouts += others
    parts.sort(key=num_images, reverse=True)
    kept = max(1, sum(num_images(part) >= SCOUT_IMAGES for part in parts))
    return parts[:kept], list(chain(*scouts, *parts[kept:]))


def _check_group(group: list[Header]) -> None:
    modality = next((header.modality for header in group if header.modality), "")
    damaged = [header for header in group if header.damage]
    if modality != "CT" and (modality or not damaged):
        raise refuse("dicom-modality", folder_of(group), f"{modality or 'no modality'} in {len(group)} files")
    if damaged:
        more = f" (and {len(damaged) - 1} more files of the series)" if damaged[1:] else ""
        raise refuse("dicom-damaged", damaged[0].path, damaged[0].damage + more)


def _by_orientation(headers: list[Header]) -> list[list[Header]]:
    """Images of one orientation together, most first; those without orientation join the most."""
    clusters: list[tuple[np.ndarray, list[Header]]] = []
    unknown = []
    for header in headers:
        orientation = header.slices[0].orientation
        if orientation is None:
            unknown.append(header)
            continue
        near = (members for mean, members in clusters if np.abs(mean - orientation).max() <= ORIENTATION_TOLERANCE)
        if (members := next(near, None)) is not None:
            members.append(header)
        elif len(clusters) < MAX_ORIENTATIONS:
            clusters.append((np.array(orientation), [header]))
        else:
            raise refuse("dicom-orientation", folder_of(headers), f"more than {MAX_ORIENTATIONS} orientations")
    main, *others = sorted((members for _, members in clusters), key=num_images, reverse=True) or [[]]
    return [main + unknown, *others]
