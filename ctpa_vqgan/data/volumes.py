"""Read a CT volume of any format, checked."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np

from ctpa_vqgan.data.checks.geometry import check_geometry
from ctpa_vqgan.data.checks.rules import refuse
from ctpa_vqgan.data.checks.voxels import check_voxels
from ctpa_vqgan.data.formats import itk_files, nifti
from ctpa_vqgan.data.formats.volume import Volume
from ctpa_vqgan.errors import BadVolume

SUFFIXES = (*nifti.SUFFIXES, *itk_files.SUFFIXES)
Source = str | os.PathLike | Sequence[str | os.PathLike]


def is_volume_file(path: str | os.PathLike) -> bool:
    """Whether the name ends like a volume: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.mha`` or ``.mhd``."""
    return str(path).lower().endswith(SUFFIXES)


def is_nifti(path: str | os.PathLike) -> bool:
    """Whether the name ends like NIfTI."""
    return str(path).lower().endswith(nifti.SUFFIXES)


def case_name(path: str | os.PathLike) -> str:
    """File name without folder and without ``.nii.gz`` or another volume suffix."""
    name = Path(path).name
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


def read_volume(source: Source) -> Volume:
    """A volume in HU that meets every rule of :mod:`ctpa_vqgan.data.checks`.

    Args:
        source: a NIfTI, NRRD or MetaImage file, or the files of one DICOM series.

    Returns:
        Voxels in the order of the file, affine, and warnings.

    Raises:
        BadVolume: names the file and the rule that it breaks.
    """
    name = source_name(source)
    volume = _read(source)
    volume.warnings += check_geometry(volume.affine, volume.voxels.shape, name)
    volume.warnings += check_voxels(to_ras(volume.voxels, volume.affine)[0], name, volume.fractions)
    return volume


def source_name(source: Source) -> str:
    """How messages call a source: the file, or the folder of a DICOM series."""
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    return str(Path(os.path.commonpath([Path(file).parent for file in source])))


def to_ras(voxels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn to the closest RAS orientation, by strides.

    Args:
        voxels: [I, J, K].
        affine: [4, 4] of ``voxels``.

    Returns:
        A view [X, Y, Z] with indices that grow to the patient's right, front and head; and its affine.
    """
    orientation = nib.io_orientation(affine)
    turned = nib.apply_orientation(voxels, orientation)
    return turned, affine @ nib.orientations.inv_ornt_aff(orientation, voxels.shape)


def _read(source: Source) -> Volume:
    if not isinstance(source, (str, os.PathLike)):
        from ctpa_vqgan.data.formats.dicom import read_series  # brings ITK, which NIfTI does without

        return read_series(source)
    if not Path(source).is_file():
        raise refuse("unreadable", source, "no such file")
    try:
        return nifti.read_nifti(source) if is_nifti(source) else itk_files.read_itk(source)
    except BadVolume:
        raise
    except ValueError as error:  # a field that is no number, and the like
        raise refuse("header", source, f"a field that cannot be read ({' '.join(str(error).split())})") from error
    except OSError as error:
        raise refuse("unreadable", source, f"an error of disk or network ({error.strerror or error})") from error
