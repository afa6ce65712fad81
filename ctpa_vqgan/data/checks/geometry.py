"""Where a volume lies in space: the checks that every format shares."""

from __future__ import annotations

import os
from collections.abc import Sequence

import nibabel as nib
import numpy as np

from ctpa_vqgan.data.checks.rules import (
    GEOMETRY_TOLERANCE,
    MAX_SHEAR,
    MAX_SPACING_MM,
    MAX_THICKNESS_MM,
    MIN_SIDE,
    MIN_SLICES,
    MIN_SPACING_MM,
    MIN_THICKNESS_MM,
    Finding,
    refuse,
)

UNKNOWN = (np.eye(4), np.diag([-1.0, -1.0, 1.0, 1.0]))  # identity in RAS, and in LPS as ITK writes it
COARSE = 1.5  # times the other two: slices, not a crop's rounding


def spans_a_volume(affine: np.ndarray) -> bool:
    """Whether an affine [4, 4] is finite and takes a voxel to something with a volume."""
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        return False
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    return bool(sizes.min() > 0 and abs(np.linalg.det(affine[:3, :3] / sizes)) > 1e-3)


def check_geometry(affine: np.ndarray, shape: Sequence[int], path: str | os.PathLike) -> list[Finding]:
    """Check affine, size and slice axis.

    Args:
        affine: [4, 4], voxel indices to mm in RAS+ world coordinates.
        shape: voxels per axis, in the affine's order.
        path: for messages.

    Returns:
        Warnings.

    Raises:
        BadVolume: a rule of geometry is broken.
    """
    if not spans_a_volume(affine):
        raise refuse("affine", path, f"{np.array2string(affine[:3], precision=3, separator=' ')}".replace("\n", ""))
    if any(np.array_equal(affine, unknown) for unknown in UNKNOWN):
        raise refuse("affine-identity", path, "an affine of exactly identity")
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    shear = np.abs(axes.T @ axes - np.eye(3)).max()
    if shear > MAX_SHEAR:
        raise refuse("affine-shear", path, f"{shear:.3g} ({np.degrees(np.arcsin(min(shear, 1))):.1f} degrees)")
    order = np.argsort(nib.io_orientation(affine)[:, 0])
    size = [int(shape[axis]) for axis in order]
    spacing = np.linalg.norm(affine[:3, :3], axis=0)[order]
    if not (spacing.min() >= MIN_SPACING_MM and spacing.max() <= MAX_SPACING_MM):
        raise refuse("spacing", path, " x ".join(f"{s:.4g}" for s in spacing) + " mm")
    _check_slice_axis(size, spacing, path)
    if min(size[:2]) < MIN_SIDE or size[2] < MIN_SLICES:
        raise refuse("size", path, f"{size[0]}x{size[1]} voxels in plane and {size[2]} slices")
    if not MIN_THICKNESS_MM <= spacing[2] <= MAX_THICKNESS_MM:
        return [Finding("thickness", f"{spacing[2]:.3g} mm between slices")]
    return []


def _check_slice_axis(size: Sequence[int], spacing: np.ndarray, path: str | os.PathLike) -> None:
    """A scan has square slices as a rule: where two of three agree, the third must be that of the slices."""
    found = f"{'x'.join(map(str, size))} voxels of {' x '.join(f'{s:.3g}' for s in spacing)} mm (right, front, head)"
    for axis, name in ((0, "right"), (1, "front")):
        others = [other for other in range(3) if other != axis]
        if size[others[0]] == size[others[1]] != size[axis]:
            raise refuse("slice-axis", path, f"{found}: slices seem to follow the {name} axis")
        a, b = spacing[others]
        if abs(a / b - 1) <= GEOMETRY_TOLERANCE and spacing[axis] > COARSE * a:
            raise refuse("slice-axis", path, f"{found}: sliced along the {name} axis")
