"""Put the slices of a series on one straight grid: order, step and affine, once none is doubled, missing or tilted."""

from __future__ import annotations

import math

import numpy as np

from ctpa_vqgan.data.checks.rules import MAX_SHEAR, POSITION_TOLERANCE, refuse
from ctpa_vqgan.data.formats.dicom.facts import Slice, listed

UNIT_TOLERANCE = 1e-3  # direction cosines are often written with four decimals
SIDEWAYS_PIXELS = 0.5  # how far a slice may lie beside the straight line through the first and the last one


def grid(slices: list[Slice], folder: str, thickness: float | None) -> tuple[np.ndarray, np.ndarray]:
    """The affine in RAS+ mm and the order of the slices along the normal.

    Args:
        slices: alike but for their position.
        folder: what messages call the series.
        thickness: mm, stands for the step of a single slice.

    Raises:
        BadVolume: dicom-position, affine-shear, slice-axis, dicom-duplicate, dicom-gap.
    """
    row, column, normal = _directions(slices[0].orientation, folder)
    points = np.array([one.position for one in slices])
    order = np.argsort(points @ normal, kind="stable")
    between_rows, between_columns = slices[0].spacing
    axes = np.stack([row * between_columns, column * between_rows], axis=1)
    step = normal * (thickness or 1.0)
    if len(slices) > 1:
        step = _step(points[order], normal, axes, [slices[index].name for index in order], folder)
    lps = np.eye(4)
    lps[:3] = np.column_stack([axes, step, points[order[0]]])
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, order


def _directions(orientation: tuple[float, ...], folder: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unit vectors along a row, along a column and through the slices, which must be axial."""
    row, column = np.reshape(orientation, (2, 3))
    if np.abs(np.linalg.norm([row, column], axis=1) - 1).max() > UNIT_TOLERANCE:
        raise refuse("dicom-position", folder, f"an orientation of {listed(orientation)}, not of unit length")
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    if abs(row @ column) > MAX_SHEAR:
        found = f"rows and columns that are not at right angles (cosine {row @ column:.4f})"
        raise refuse("affine-shear", folder, found)
    normal = np.cross(row, column)
    if np.abs(normal).argmax() != 2:
        plane = ("sagittal", "coronal")[np.abs(normal).argmax()]
        raise refuse("slice-axis", folder, f"{plane} slices")
    return row, column, normal


def _step(points: np.ndarray, normal: np.ndarray, axes: np.ndarray, names: list[str], folder: str) -> np.ndarray:
    """The vector from slice to slice, once no slice is doubled, missing or beside the line. ``points`` are in order."""
    along = points @ normal
    median = _check_duplicates(along, names, folder)
    step = (points[-1] - points[0]) / (len(points) - 1)
    cosines = axes.T @ step / np.linalg.norm(axes, axis=0) / np.linalg.norm(step)
    if np.abs(cosines).max() > MAX_SHEAR:
        tilt = math.degrees(math.asin(min(1.0, np.linalg.norm(cosines))))
        raise refuse("affine-shear", folder, f"slices that shift sideways as of a gantry tilt of {tilt:.1f} degrees")
    # measured from each slice's place, not from its neighbour: positions rounded to 0.1 mm pass, drift does not
    off = points - points[0] - np.arange(len(points))[:, None] * step
    if np.abs(off @ normal).max() > POSITION_TOLERANCE * median:
        raise refuse("dicom-gap", folder, _gaps(along, median))
    sideways = np.abs(off @ axes) / (axes**2).sum(axis=0)
    if sideways.max() > SIDEWAYS_PIXELS:
        worst = sideways.max(axis=1).argmax()
        raise refuse("affine-shear", folder, f"{names[worst]} shifted sideways by {sideways.max():.1f} pixels")
    return step


def _check_duplicates(along: np.ndarray, names: list[str], folder: str) -> float:
    """The median distance of neighbours in mm; refuses slices at one position."""
    steps = np.diff(along)
    apart = steps[steps > 1e-3]
    median = float(np.median(apart)) if len(apart) else math.inf
    same = np.flatnonzero(steps < POSITION_TOLERANCE * median)
    if len(same):
        first = same[0]
        found = f"two slices at {along[first]:.2f} mm ({names[first]} and {names[first + 1]})"
        more = f", and {len(same) - 1} more such pairs" if len(same) > 1 else ""
        raise refuse("dicom-duplicate", folder, found + more)
    return median


def _gaps(along: np.ndarray, median: float) -> str:
    steps = np.diff(along)
    wide = np.flatnonzero(steps > 1.5 * median)
    if len(wide) == 0 or len(wide) > len(steps) // 4:
        return f"steps from {steps.min():.2f} to {steps.max():.2f} mm"
    missing = int(np.rint(steps[wide] / median - 1).sum())
    where = f"{steps[wide[0]]:.2f} mm between {along[wide[0]]:.2f} and {along[wide[0] + 1]:.2f} mm"
    gaps = where if len(wide) == 1 else f"{len(wide)} gaps, the first of {where}"
    return f"{gaps} where {median:.2f} is the rule: about {missing} slice{'s'[: missing > 1]} missing"
