"""Does what a code file says of its grid agree with itself?"""

# X Y Z voxels towards patient Right, Anterior, Superior; h w d latent positions; I J K voxels of the input file

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Triple = tuple[int, int, int]
TOLERANCE = 0.01  # voxels: affines may have been float32 once


def checked_triple(values: Sequence[int], name: str) -> Triple:
    """Three positive whole numbers; ValueError otherwise."""
    found = np.asarray(values)
    if found.shape != (3,) or (found != np.rint(found)).any() or (found < 1).any():
        raise ValueError(f"{name} must be three positive whole numbers, found {found.tolist()}")
    return tuple(int(value) for value in found)


def checked_affine(values: Any, name: str) -> np.ndarray:
    """[4, 4] float64 that spans a volume; ValueError otherwise."""
    affine = np.array(values, dtype=np.float64, order="C")
    usable = affine.shape == (4, 4) and np.isfinite(affine).all() and (affine[3] == [0, 0, 0, 1]).all()
    if not usable or not np.linalg.det(affine):
        raise ValueError(f"{name} must be [4, 4], finite and invertible, found {affine.tolist()}")
    return affine


def latent_shape(shape: Triple, factor: Triple) -> Triple:
    """Sides [h, w, d] of the latent grid: each axis padded at its end to a multiple of the factor."""
    return tuple(-(-side // f) for side, f in zip(shape, factor))


def check_same_voxels(shape: Triple, affine: np.ndarray, original_shape: Triple, original_affine: np.ndarray) -> None:
    """The two grids must have the same voxels at the same places, in another order of axes at most.

    Raises:
        ValueError: if they do not: the volume could not be written back on the grid of its file.
    """
    to_original = np.linalg.solve(original_affine, affine)
    turn = np.rint(to_original[:3, :3])
    permutation = np.abs(turn)
    found = f"shape {shape} with affine {affine.tolist()} and {original_shape} with {original_affine.tolist()}"
    if (permutation.sum(0) != 1).any() or (permutation.sum(1) != 1).any():
        raise ValueError(f"shape and original_shape must be one grid but for the order of axes, found {found}")
    sides = permutation @ shape
    expected = np.column_stack([turn, np.where(turn.sum(1) < 0, sides - 1, 0)])
    off = np.abs(to_original[:3] - expected) @ [*shape, 1]
    if (sides != original_shape).any() or off.max() > TOLERANCE:
        raise ValueError(f"shape and original_shape must be one grid but for the order of axes, found {found}")
