"""Check that every file of a series can be used, and that all agree on size, pixel spacing and orientation."""

from __future__ import annotations

import math

import numpy as np

from ctpa_vqgan.data.checks.rules import GEOMETRY_TOLERANCE, refuse
from ctpa_vqgan.data.formats.dicom.facts import ORIENTATION_TOLERANCE, Header, Slice, listed


def check_file(header: Header) -> None:
    """Refuse a file that is damaged, in colour, or without a rescale to HU."""
    if header.damage:
        raise refuse("dicom-damaged", header.path, header.damage)
    if header.colour:
        raise refuse("voxel-type", header.path, header.colour)
    for one in header.slices:
        if one.slope is None or one.intercept is None:
            raise refuse("dicom-rescale", header.path, f"none in {one.name}")
        if not (math.isfinite(one.slope) and math.isfinite(one.intercept)) or one.slope == 0:
            raise refuse("scaling", header.path, f"slope {one.slope:g}, intercept {one.intercept:g} in {one.name}")


def check_alike(headers: list[Header], folder: str) -> None:
    """Refuse a series with a slice that does not say where it is, or that differs from the first."""
    first, slices = headers[0].slices[0], [one for header in headers for one in header.slices]
    for what in ("position", "orientation"):
        if without := [one.name for one in slices if getattr(one, what) is None]:
            found = f"no {what} in {len(without)} of {len(slices)} slices (first: {without[0]})"
            raise refuse("dicom-position", folder, found)
    for header in headers:
        if header.size != headers[0].size:
            (a, b), (c, d) = headers[0].size, header.size
            found = f"{a} x {b} pixels in {first.name} and {c} x {d} in {header.slices[0].name}"
            raise refuse("dicom-size", folder, found)
    for one in slices:
        _check_slice(one, first, folder)


def _check_slice(one: Slice, first: Slice, folder: str) -> None:
    if one.spacing is None or min(one.spacing) <= 0:
        found = "none" if one.spacing is None else f"{listed(one.spacing)} mm"
        raise refuse("dicom-spacing", folder, f"{found} in {one.name}")
    if np.abs(np.divide(one.spacing, first.spacing) - 1).max() > GEOMETRY_TOLERANCE:
        found = f"{listed(first.spacing)} mm in {first.name} and {listed(one.spacing)} mm in {one.name}"
        raise refuse("dicom-spacing", folder, found)
    if np.abs(np.subtract(one.orientation, first.orientation)).max() > ORIENTATION_TOLERANCE:
        found = f"{listed(first.orientation)} in {first.name} and {listed(one.orientation)} in {one.name}"
        raise refuse("dicom-orientation", folder, found)
