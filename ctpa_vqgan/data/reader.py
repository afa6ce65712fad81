"""Read CT volumes in HU, turned to RAS by strides, and write results back on the grid of the file they came from."""

# X Y Z voxels towards patient Right, Anterior, Superior

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from monai.data import ITKReader
from monai.data.image_reader import ImageReader

from ctpa_vqgan.errors import BadVolume

AIR_HU = -1000
NIFTI_SUFFIXES = (".nii", ".nii.gz")
SUFFIXES = (*NIFTI_SUFFIXES, ".nrrd", ".mha", ".mhd")
INT16 = np.iinfo(np.int16)


def is_volume_file(path: str | os.PathLike) -> bool:
    """Whether the name ends like a volume: ``.nii``, ``.nii.gz``, ``.nrrd``, ``.mha`` or ``.mhd``."""
    return str(path).lower().endswith(SUFFIXES)


def case_name(path: str | os.PathLike) -> str:
    """File name without folder and without ``.nii.gz`` or another volume suffix."""
    name = Path(path).name
    suffix = next((s for s in sorted(SUFFIXES, key=len, reverse=True) if name.lower().endswith(s)), "")
    return name[: len(name) - len(suffix)]


class CTReader(ImageReader):
    """Reader for :class:`monai.transforms.LoadImaged` that gives int16 HU in RAS orientation.

    Axes are flipped and permuted as numpy views, so turning costs nothing. Values outside int16 are clipped, fractions
    rounded; ``-2048`` and other scanner padding is left as it is (the HU window turns it into air).

    Metadata: ``affine`` [4, 4] of the RAS array, and what :func:`save_like` needs to go back.

    Raises:
        BadVolume: if the file is not a readable 3-D CT volume in HU; the message names the file and the way out.
    """

    def verify_suffix(self, filename: Sequence[str | os.PathLike] | str | os.PathLike) -> bool:
        """All names end like volumes."""
        names = filename if isinstance(filename, (list, tuple)) else [filename]
        return all(is_volume_file(name) for name in names)

    def read(self, data: Sequence[str | os.PathLike] | str | os.PathLike, **kwargs) -> tuple[str, Any]:
        """Open one file, without its voxels where the format allows."""
        path = str(data[0] if isinstance(data, (list, tuple)) else data)
        if not Path(path).is_file():
            raise BadVolume(f"{path}: no such file; expected a CT volume ({', '.join(SUFFIXES)})")
        try:
            return path, nib.load(path) if path.lower().endswith(NIFTI_SUFFIXES) else ITKReader().read(path)
        except Exception as error:
            raise _unreadable(path, error) from error

    def get_data(self, img: tuple[str, Any]) -> tuple[np.ndarray, dict]:
        """Voxels [X, Y, Z] int16 in RAS, and metadata."""
        path, handle = img
        try:
            if isinstance(handle, nib.Nifti1Image):  # not MONAI's reader, which repairs headers: the affine stays
                array, affine = np.asanyarray(handle.dataobj), handle.affine
            else:
                array, meta = ITKReader().get_data(handle)
                affine = np.asarray(meta["affine"])
        except Exception as error:
            raise _unreadable(path, error) from error
        if array.ndim == 4 and array.shape[3] == 1:  # one phase, as many exports have it
            array = array[..., 0]
        check_ct(array, path)
        orientation = nib.io_orientation(affine)
        turned = nib.apply_orientation(array, orientation)
        ras_affine = affine @ nib.orientations.inv_ornt_aff(orientation, array.shape)
        meta = {
            "affine": ras_affine,
            "original_affine": np.array(affine, dtype=np.float64),
            "original_shape": np.array(array.shape),
            "spatial_shape": np.array(turned.shape),
        }
        return _to_int16(turned), meta


def check_ct(array: np.ndarray, path: str) -> None:
    """Refuse what cannot be a CT in HU.

    A chest CT holds air (lungs, at least around -800 HU) and tissue denser than water; a mask, an 8-bit picture or a
    normalised volume lacks one of them.

    Raises:
        BadVolume: not 3-D, complex or RGB, not finite, or not in HU.
    """
    if array.ndim != 3:
        raise BadVolume(
            f"{path}: expected a 3-D volume, found shape {array.shape}; split phases or channels into files"
        )
    if array.dtype.kind not in "iuf":
        raise BadVolume(f"{path}: expected integers or floats, found {array.dtype}; export the CT in HU")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite([low, high]).all():
        raise BadVolume(f"{path}: holds NaN or infinite voxels; export the CT again")
    if low > -500 or high < 100:
        raise BadVolume(
            f"{path}: does not look like CT in HU: expected air below -500 and tissue above 100, "
            f"found {low:g} to {high:g}; export Hounsfield units (rescale slope and intercept applied)"
        )


def volume_shape(path: str | os.PathLike) -> tuple[int, int, int]:
    """Size in RAS order; from the header alone for NIfTI."""
    path, handle = CTReader().read(path)
    if not isinstance(handle, nib.Nifti1Image):
        return CTReader().get_data((path, handle))[0].shape
    order = np.argsort(nib.io_orientation(handle.affine)[:, 0])
    return tuple(int(handle.shape[axis]) for axis in order)


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
    voxels = nib.apply_orientation(_to_int16(np.asarray(array)), back)
    expected = tuple(int(s) for s in meta["original_shape"])
    assert voxels.shape == expected, f"{voxels.shape} does not fit the grid {expected} of the input"
    image = nib.Nifti1Image(voxels, affine)
    image.header.set_xyzt_units("mm")
    path = Path(path)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        nib.save(image, temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _unreadable(path: str, error: Exception) -> BadVolume:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return BadVolume(
        f"{path}: cannot be read as a CT volume ({type(error).__name__}: {reason}); export or copy it again"
    )


def _to_int16(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.int16:
        return array
    whole = np.empty_like(array, dtype=np.int16)
    for plane, rounded in zip(array, whole):  # plane by plane: a scaled file comes as float64, four times the size
        rounded[...] = np.clip(np.rint(plane), INT16.min, INT16.max)
    return whole
