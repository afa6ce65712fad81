"""A CT volume as every format gives it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ctpa_vqgan.data.checks.rules import Finding

AIR_HU = -1000
INT16 = np.iinfo(np.int16)


@dataclass
class Volume:
    """Voxels in HU with their place in space.

    Args:
        voxels: [I, J, K] int16 HU in the order of the file, any strides.
        affine: [4, 4], from voxel indices to mm in RAS+ world coordinates.
        warnings: findings that do not refuse the volume.
        patient: DICOM PatientID; None where the format has none.
        fractions: whether values had fractions before they were rounded to int16.
    """

    voxels: np.ndarray
    affine: np.ndarray
    warnings: list[Finding] = field(default_factory=list)
    patient: str | None = None
    fractions: bool = False


def to_int16(array: np.ndarray) -> np.ndarray:
    """HU as int16: fractions rounded, values outside int16 clipped."""
    if array.dtype == np.int16 and array.dtype.isnative:
        return array
    if array.dtype.kind == "f":
        array = np.rint(array)
    return np.clip(array, INT16.min, INT16.max).astype(np.int16)
