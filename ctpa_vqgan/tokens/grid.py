"""Does what a code file says of its grid agree with itself?"""

# X Y Z voxels towards patient Right, Anterior, Superior; h w d latent positions; I J K voxels of the input file

from __future__ import annotations

import numpy as np

Triple = tuple[int, int, int]
TOLERANCE = 0.01  # voxels: affines may have been float32 once


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
