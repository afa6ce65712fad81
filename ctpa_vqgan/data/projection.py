"""Digitally reconstructed radiographs: the X-ray that belongs to a CT, as a condition for generative models.

Beer and Lambert's law along parallel rays of one energy: I = I0 exp(-sum of mu * step). No scatter, no beam hardening,
no magnification; such projections of CT train X-ray -> CT models in Ying et al. 2019 (X2CT-GAN, arXiv 1905.06902). A
real detector image differs in all three, see Unberath et al. 2018 (DeepDRR, arXiv 1803.08606) for the way to go on.
"""

# X Y Z voxels towards patient Right, Anterior, Superior

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ctpa_vqgan.data.formats.volume import AIR_HU

if TYPE_CHECKING:
    import torch

DIRECTIONS = {"ap": 1, "lateral": 0}
"""Name -> axis of the volume along which the rays run."""

# Water at about 63 keV, the effective energy of a CT at 120 kVp: 0.2059 cm2/g at 60 keV and 0.1837 at 80 keV
# (Hubbell and Seltzer, NIST Standard Reference Database 126).
MU_WATER_PER_MM = 0.02
SLICES = 16  # projected at a time: no copy of the volume is made


def project_xray(
    volume: np.ndarray | torch.Tensor,
    spacing_mm: Sequence[float],
    direction: str = "ap",
    intensity: bool = False,
    normalize: bool = False,
    mu_water_per_mm: float = MU_WATER_PER_MM,
) -> np.ndarray:
    """X-ray of a CT by parallel projection, turned as it is read: head up.

    Attenuation follows HU by definition, mu = mu_water * (1 + HU / 1000), and is 0 for air and anything below it
    (scanner padding too). Everything in the volume is in the picture, the table as well.

    Args:
        volume: HU [X, Y, Z] in RAS, of any type and strides, memory-mapped too; read slice by slice.
        spacing_mm: distance between voxels along X, Y, Z.
        direction: ``"ap"``: rays along Y, the patient's right on the image's left, as if facing the viewer;
            ``"lateral"``: rays along X, the patient's front on the image's left.
        intensity: return the share of the rays that arrives, exp(-line integral), instead of the line integral.
        normalize: scale linearly to [0, 1] from the image's smallest to its largest value, as one must do where the
            exposure is unknown; a constant image becomes 0.
        mu_water_per_mm: attenuation of water at the energy of the rays.

    Returns:
        Image [rows, columns] float32: rows from head to feet, ``spacing_mm[2]`` apart; columns ``spacing_mm[0]``
        (ap) or ``spacing_mm[1]`` (lateral) apart. Bone is bright, but for ``intensity``.

    Raises:
        ValueError: for another direction, a volume that is not [X, Y, Z], or a spacing that is not three positive
            numbers.

    Example:
        >>> water = np.zeros((4, 50, 6), dtype=np.int16)  # 100 mm of it along Y
        >>> float(project_xray(water, (1.0, 2.0, 1.0)).max())
        2.0
    """
    if direction not in DIRECTIONS:
        raise ValueError(f"direction must be one of {', '.join(DIRECTIONS)}, found {direction!r}")
    if volume.ndim != 3:
        raise ValueError(f"volume must be [X, Y, Z] in HU, found shape {tuple(volume.shape)}")
    if len(spacing_mm) != 3 or min(spacing_mm) <= 0:
        raise ValueError(f"spacing_mm must be three positive numbers, found {tuple(spacing_mm)}")
    axis = DIRECTIONS[direction]
    thousandths_of_water = _sum_above_air(np.asarray(volume), axis)
    line_integral = thousandths_of_water * (mu_water_per_mm / 1000 * spacing_mm[axis])
    image = np.exp(-line_integral) if intensity else line_integral
    if normalize:
        image = (image - image.min()) / max(np.ptp(image), np.finfo(np.float32).tiny)
    return np.ascontiguousarray(_turn(image), dtype=np.float32)


def xray_along_grid(image: np.ndarray) -> np.ndarray:
    """An image of :func:`project_xray` laid along the axes of its volume: [X, Z] (ap) or [Y, Z] (lateral), a view.

    Pixel [x, z] is then the ray through the voxels [x, :, z]: what a network needs that sees image and volume.
    """
    return _turn(image)


def _turn(image: np.ndarray) -> np.ndarray:
    """From [X or Y, Z] to rows from the head and columns from the right or the front; the way back is the same."""
    return image.T[::-1, ::-1]


def _sum_above_air(volume: np.ndarray, axis: int) -> np.ndarray:
    """Sum of HU + 1000 along an axis, exact for integers; [X or Y, Z] float64."""
    sums = [
        np.maximum(volume[:, :, z : z + SLICES], AIR_HU).sum(axis=axis, dtype=np.float64)
        for z in range(0, volume.shape[2], SLICES)
    ]
    return np.concatenate(sums, axis=1) - AIR_HU * volume.shape[axis]
