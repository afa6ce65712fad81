"""Read one series: check its files, place its slices, fill in their HU."""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from ctpa_vqgan.data.checks.rules import Finding
from ctpa_vqgan.data.formats.dicom.agree import check_alike, check_file
from ctpa_vqgan.data.formats.dicom.facts import Header, folder_of, num_images
from ctpa_vqgan.data.formats.dicom.geometry import grid
from ctpa_vqgan.data.formats.dicom.headers import read_header
from ctpa_vqgan.data.formats.dicom.pixels import planes
from ctpa_vqgan.data.formats.volume import Volume


def read_series(files: Sequence[str | os.PathLike]) -> Volume:
    """Check a series and read its HU.

    Slices are ordered by their position along the normal, never by their number; the third voxel axis runs from slice
    to slice, the first from column to column. Memory peaks at the volume and a few slices (a multi-frame file is
    decoded whole, at 4 bytes a voxel).

    Args:
        files: the files of one series, in any order.

    Returns:
        The volume, with the scanner's padding as it is; a warning if slices were compressed with loss (dicom-lossy).

    Raises:
        BadVolume: for a file (dicom-damaged, voxel-type, dicom-rescale, scaling) or for the folder of the series
            (dicom-position, dicom-orientation, dicom-size, dicom-spacing, slice-axis, dicom-duplicate, dicom-gap,
            affine-shear).
    """
    headers = [read_header(os.fspath(path)) for path in files]
    for header in headers:
        check_file(header)
    folder = folder_of(headers)
    check_alike(headers, folder)
    slices = [one for header in headers for one in header.slices]
    affine, order = grid(slices, folder, headers[0].thickness)
    voxels = np.empty((*headers[0].size, len(slices)), np.int16, order="F")
    images = (plane for header in headers for plane in planes(header))
    for place, plane in zip(np.argsort(order), images, strict=True):
        voxels[:, :, place] = plane.T
    fractions = any(not (one.slope.is_integer() and one.intercept.is_integer()) for one in slices)
    return Volume(voxels, affine, _loss(headers), patient=headers[0].patient, fractions=fractions)


def _loss(headers: list[Header]) -> list[Finding]:
    if not (lossy := [header for header in headers if header.lossy]):
        return []
    ratio = max(header.lossy_ratio for header in lossy)
    stated = f", by a ratio of up to {ratio:g}" if ratio else ""
    return [Finding("dicom-lossy", f"loss in {num_images(lossy)} of {num_images(headers)} slices{stated}")]
