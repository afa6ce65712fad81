"""What differs between two patients, drawn from one seed."""

from typing import NamedTuple

import numpy as np

TEXTURE_MM = 1.4  # edge of a voxel of the texture block


class Patient(NamedTuple):
    """The numbers that make one chest unlike another. The mean patient has a chest of about 320 x 240 mm.

    Attributes:
        scale: size relative to the mean patient along x, y, z.
        fat_mm: thickness of the fat under the skin.
        roundness: 2 for an elliptic rib cage, more for one with flatter sides.
        dome_mm: height of the right and the left dome of the diaphragm.
        heart_scale: size of the heart.
        scoliosis_mm: sideways sway of the spine.
        rib_phase_mm: height of the ribs and vertebrae.
        rib_slope: how steeply a rib falls from back to front.
        texture: repeating block of correlated noise of unit variance, float32, shape [96, 96, 96].
    """

    scale: tuple[float, float, float]
    fat_mm: float
    roundness: float
    dome_mm: tuple[float, float]
    heart_scale: float
    scoliosis_mm: float
    rib_phase_mm: float
    rib_slope: float
    texture: np.ndarray

    def texture_slice(self, x: np.ndarray, y: np.ndarray, z: float, coarseness: float = 1.0) -> np.ndarray:
        """Sample the texture on an axial slice; it belongs to the patient and not to the grid.

        Args:
            x: millimetres, shape [1, W].
            y: millimetres, shape [H, 1].
            z: millimetres.
            coarseness: how much to magnify the texture.

        Returns:
            Values around 0 with unit variance, shape [H, W].
        """
        n = len(self.texture)
        i, j, k = (np.floor(np.ravel(c) / (TEXTURE_MM * coarseness)).astype(int) % n for c in (z, y, x))
        return self.texture[i[0]][j][:, k]


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient within the spread of adults who still fit a 360 mm field of view."""
    return Patient(
        scale=(rng.uniform(0.92, 1.06), rng.uniform(0.91, 1.08), rng.uniform(0.94, 1.03)),
        fat_mm=rng.uniform(6, 20),
        roundness=rng.uniform(2.2, 2.8),
        dome_mm=(rng.uniform(-76, -60), rng.uniform(-90, -74)),
        heart_scale=rng.uniform(0.9, 1.1),
        scoliosis_mm=rng.uniform(-4, 4),
        rib_phase_mm=rng.uniform(-13, 13),
        rib_slope=rng.uniform(0.5, 0.62),
        texture=_correlated_block(rng, 96),
    )


def _correlated_block(rng: np.random.Generator, side: int) -> np.ndarray:
    """Low-passed noise that wraps around, so that it tiles space without a seam."""
    block = rng.standard_normal((side, side, side))
    for axis in range(3):
        block = np.roll(block, 1, axis) + 2 * block + np.roll(block, -1, axis)
    return (block / block.std()).astype(np.float32)
