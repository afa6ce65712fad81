"""Balls and rods as a scanner of known blur shows them, at any place between the voxels."""

# X Y Z voxels; positions in mm from the centre of a volume's first voxel

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import chndtr

from ctpa_vqgan.metrics.surfaces import Cylinder, Sphere

KERNEL_MM = 0.6  # standard deviation of a soft reconstruction kernel
FINEST_KERNEL = 0.55  # of a voxel in the plane: coarse grids are blurred before they are sampled
SIDE, SHORT = 110, 55  # least extent of a phantom in the plane, and along z of a short one, in units of the blur

Spacing = tuple[float, float, float]


def blur_mm(spacing_mm: Sequence[float]) -> float:
    """Standard deviation of the phantoms' own gaussian blur; MTF50 = 0.187 / blur, 0.31 per mm for a 0.6 mm kernel."""
    return max(KERNEL_MM, FINEST_KERNEL * max(spacing_mm[:2]))


def phantom_shape(spacing_mm: Sequence[float], height: float = SHORT) -> tuple[int, int, int]:
    """Voxels of a phantom: in the plane multiples of 48 (for 2, 3 or 4 slots, and 16), along z of 16.

    >>> phantom_shape((0.7, 0.7, 0.7)), phantom_shape((0.7, 0.7, 2.5))
    ((96, 96, 48), (96, 96, 16))
    """
    blur = blur_mm(spacing_mm)
    x, y = (48 * math.ceil(SIDE * blur / (48 * mm)) for mm in spacing_mm[:2])
    return x, y, 16 * math.ceil(height * blur / (16 * spacing_mm[2]))


def slots(volume: np.ndarray, num_across: int) -> Iterator[np.ndarray]:
    """Views of ``num_across`` x ``num_across`` columns of a volume [X, Y, Z], each a small volume of its own."""
    x, y = (side // num_across for side in volume.shape[:2])
    for i in range(num_across):
        for j in range(num_across):
            yield volume[i * x : (i + 1) * x, j * y : (j + 1) * y]


def middle(shape: Sequence[int], spacing_mm: Sequence[float], rng: np.random.Generator, jitter: float) -> np.ndarray:
    """Centre of a box in mm, moved by up to ``jitter`` voxels along each axis: anywhere on the network's grid."""
    return ((np.asarray(shape) - 1) / 2 + rng.uniform(-jitter, jitter, 3)) * np.asarray(spacing_mm)


def render(shape: Sequence[int], surface: Sphere | Cylinder, spacing_mm: Sequence[float]) -> np.ndarray:
    """Share of a ball or rod in each voxel, after the blur: 1 deep inside, 0 far away.

    Exact up to a table of 4001 radii: under an isotropic gaussian the answer at distance r from the centre is the
    probability that a normal deviate in three (ball) or two (rod) dimensions about r falls within the radius, a
    non-central chi-square distribution. Slices thicker than the blur are the mean of thinner ones.

    Args:
        shape: X, Y, Z.
        surface: ball or rod, in mm from the centre of the first voxel.
        spacing_mm: voxel size along X, Y and Z.

    Returns:
        [X, Y, Z], float64.
    """
    sigma = blur_mm(spacing_mm)
    dimensions = 3 if isinstance(surface, Sphere) else 2
    radii = np.linspace(0, surface.radius_mm + 8 * sigma, 4001)
    table = chndtr((surface.radius_mm / sigma) ** 2, dimensions, (radii / sigma) ** 2)
    num_parts = math.ceil(spacing_mm[2] / (1.2 * sigma))
    parts = (np.arange(num_parts) + 0.5) / num_parts - 0.5
    x, y, z = (np.arange(n) * mm for n, mm in zip(shape, spacing_mm))
    fine_z = (z[:, None] + parts * spacing_mm[2]).ravel()
    distance = surface.distance_mm(x[:, None, None], y[None, :, None], fine_z[None, None, :])
    share = np.interp(distance + surface.radius_mm, radii, table, right=0.0)
    return share.reshape(*shape, num_parts).mean(-1)
