"""The voxels of every series and the place where they must come out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SIDE_I, SIDE_J, SLICES = 40, 36, 12
SPACING = (0.75, 0.5, 1.25)  # mm from column to column, row to row, slice to slice
ORIGIN = (-100.25, -90.5, -300.0)  # LPS mm, centre of the first voxel
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


class Expected(NamedTuple):
    """A volume that must come out."""

    hu: np.ndarray
    affine: np.ndarray


def truth(slices: int = SLICES, seed: int = 3, shape: tuple[int, int] = (SIDE_I, SIDE_J)) -> np.ndarray:
    """[I, J, K] int16 HU; no two slices alike."""
    return np.random.default_rng(seed).integers(-1000, 1500, (*shape, slices)).astype(np.int16)


def affine_of(spacing=SPACING, origin=ORIGIN, orientation=AXIAL) -> np.ndarray:
    """The affine in RAS+ mm of a series of this geometry, written out from the standard (PS3.3 C.7.6.2.1.1)."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = row * spacing[0], column * spacing[1]
    lps[:3, 2], lps[:3, 3] = np.cross(row, column) * spacing[2], origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def ds(value: float) -> str:
    """A decimal string of at most 16 characters, as the standard asks."""
    return f"{value:.10g}"[:16]


def seed_hu(seed: int) -> np.ndarray:
    """Other voxels than those of the good series."""
    return truth(seed=seed)


GOOD = Expected(truth(), affine_of())
