"""Read CT volumes in HU, turned to RAS, and write results back on the grid of the file they came from."""

# X Y Z voxels towards patient Right, Anterior, Superior

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.data.image_reader import ImageReader

from ctpa_vqgan.data.checks.geometry import check_geometry
from ctpa_vqgan.data.formats.nifti import read_header
from ctpa_vqgan.data.formats.volume import AIR_HU, to_int16
from ctpa_vqgan.data.volumes import SUFFIXES, Source, case_name, is_nifti, read_volume, to_ras
from ctpa_vqgan.files import whole

__all__ = ["AIR_HU", "CTReader", "case_name", "one_or_many", "save_like", "volume_shape"]


class CTReader(ImageReader):
    """Reader for :class:`monai.transforms.LoadImaged` that gives int16 HU in RAS orientation, checked.

    Takes NIfTI, NRRD and MetaImage files, and a DICOM series as the list of its files. Values outside int16 are
    clipped, fractions rounded; ``-2048`` and other scanner padding is left as it is (the HU window turns it into air).

    The array is a tensor with x fastest in memory, as in the file: MONAI makes a numpy array C-contiguous, which would
    transpose the whole volume.

    Metadata: ``affine`` [4, 4] of the RAS array, and what :func:`save_like` needs to go back.

    Raises:
        BadVolume: if the file breaks a rule of :mod:`ctpa_vqgan.data.checks`; names both.
    """

    def verify_suffix(self, filename: Sequence[str | os.PathLike] | str | os.PathLike) -> bool:
        """Any name will do: DICOM has none of its own."""
        return True

    def read(self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs) -> Source:
        """The file, or the files of one DICOM series: opened by ``get_data``.

        Nothing is read here, because MONAI takes an error in this place for a format that another reader may know,
        and would let one that checks nothing read the file.
        """
        return one_or_many(data)

    def get_data(self, img: Source) -> tuple[torch.Tensor, dict]:
        """Voxels [X, Y, Z] int16 in RAS, and metadata."""
        volume = read_volume(img)
        turned, affine = to_ras(volume.voxels, volume.affine)
        meta = {
            "affine": affine,
            "original_affine": np.array(volume.affine, dtype=np.float64),
            "original_shape": np.array(volume.voxels.shape),
            "spatial_shape": np.array(turned.shape),
        }
        return torch.from_numpy(np.asfortranarray(turned)), meta


def one_or_many(data: Source) -> Source:
    """The path itself where MONAI wraps a single one into a sequence."""
    if isinstance(data, (str, os.PathLike)):
        return data
    files = list(data)
    return files[0] if len(files) == 1 and str(files[0]).lower().endswith(SUFFIXES) else files


def volume_shape(source: Source) -> tuple[int, int, int]:
    """Size in RAS order; from the header alone for NIfTI.

    Raises:
        BadVolume: if the file breaks a rule.
    """
    if isinstance(source, (str, os.PathLike)) and is_nifti(source) and Path(source).is_file():
        header = read_header(source)
        check_geometry(header.affine, header.shape, source)
        order = np.argsort(nib.io_orientation(header.affine)[:, 0])
        return tuple(int(header.shape[axis]) for axis in order)
    volume = read_volume(source)
    return to_ras(volume.voxels, volume.affine)[0].shape


def save_like(array: np.ndarray, meta: Mapping[str, Any], path: str | os.PathLike) -> Path:
    """Write an RAS volume in HU as int16 NIfTI on the grid of the file it was read from.

    Args:
        array: [X, Y, Z] in HU, RAS; rounded and clipped to int16.
        meta: metadata of :class:`CTReader`, with ``original_affine`` and ``original_shape``.
        path: target; written under a temporary name first, so that it is whole or absent.

    Returns:
        The path.
    """
    affine = np.asarray(meta["original_affine"], dtype=np.float64)
    back = nib.orientations.ornt_transform(nib.io_orientation(np.asarray(meta["affine"])), nib.io_orientation(affine))
    voxels = nib.apply_orientation(to_int16(np.asarray(array)), back)
    expected = tuple(int(s) for s in meta["original_shape"])
    assert voxels.shape == expected, f"{voxels.shape} does not fit the grid {expected} of the input"
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    with whole(path) as temporary:
        nib.save(image, temporary)
    return Path(path)
