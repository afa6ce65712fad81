"""The patient of every file: a small thorax in HU, and the grids that it is stored on."""

from __future__ import annotations

import functools

import numpy as np

SHAPE = (64, 64, 40)
SPACING = (0.8, 0.8, 1.25)
ORIGIN = (-31.5, 12.25, -340.5)
AFFINE = np.array([[0.8, 0, 0, -31.5], [0, 0.8, 0, 12.25], [0, 0, 1.25, -340.5], [0, 0, 0, 1]])
AIR = -1000


TO_LPS = np.diag([-1.0, -1, 1, 1])


@functools.cache
def chest(shape: tuple = SHAPE, noise: float = 20.0, window: tuple = ((-1, 1), (-1, 1), (0, 1)), seed: int = 0):
    """A thorax [X, Y, Z] int16 in HU, from the diaphragm (Z = 0) to the apex of the lungs; read-only.

    The body narrows and the lungs shrink steadily upwards, so that slices left out of the middle leave a step.

    Args:
        shape: voxels.
        noise: standard deviation in HU, in air too.
        window: the part of the patient that the grid covers, as ranges of x, y in [-1, 1] and z in [0, 1].
        seed: of the noise.
    """
    x, y, z = np.meshgrid(*(np.linspace(*w, n) for w, n in zip(window, shape)), indexing="ij")
    width, lung = 0.9 - 0.3 * z, 0.85 - 0.6 * z
    hu = np.full(shape, float(AIR))
    hu[(np.abs(x) < 0.8) & (y > -0.95) & (y < -0.87)] = 150  # table
    hu[_ellipse(x, y + 0.05, width, 0.75 * width)] = 45
    for side in (-1, 1):
        hu[_ellipse(x - side * 0.42 * width, y + 0.03, 0.42 * lung, 0.62 * lung)] = -850
    hu[_ellipse(x, y + 0.42 * width, 0.14, 0.12)] = 500  # spine
    hu[(x + 0.1) ** 2 + (y - 0.12) ** 2 + (0.9 * (z - 0.3)) ** 2 < 0.07] = 350  # heart, with contrast
    hu[_ellipse(x + 0.12, y + 0.2, 0.07, 0.07)] = 300  # aorta
    hu += noise * np.random.default_rng(seed).standard_normal(shape)
    voxels = np.rint(hu).astype(np.int16)
    voxels.flags.writeable = False
    return voxels


def _ellipse(x, y, a, b):
    return (x / a) ** 2 + (y / b) ** 2 < 1


def turned(voxels: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """The same patient, stored with its voxel axes towards ``axes`` (from RAS)."""
    order = [next(i for i, pair in enumerate(("LR", "PA", "IS")) if letter in pair) for letter in axes]
    voxels, affine = voxels.transpose(order), affine[:, [*order, 3]]
    for axis, letter in enumerate(axes):
        if letter in "LPI":
            voxels = np.flip(voxels, axis)
            affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
            affine[:3, axis] *= -1
    return voxels, affine


def geometry(spacing=SPACING, degrees: float = 0, shear: float = 0, origin=ORIGIN) -> np.ndarray:
    """An affine towards RAS, turned about X and Z, its third axis leaning by ``shear`` degrees as a gantry does."""
    t, lean = np.radians([degrees, shear])
    about_x = np.array([[1, 0, 0], [0, np.cos(t), -np.sin(t)], [0, np.sin(t), np.cos(t)]])
    about_z = np.array([[np.cos(t), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1]])
    axes = about_x @ about_z
    axes[:, 2] = np.cos(lean) * axes[:, 2] + np.sin(lean) * axes[:, 1]
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = origin
    return affine


def affine_with(row: int, column: int, value: float) -> np.ndarray:
    """The affine of the chest with one entry changed."""
    affine = AFFINE.copy()
    affine[row, column] = value
    return affine
