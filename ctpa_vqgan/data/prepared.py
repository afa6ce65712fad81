"""Prepared volumes: checked once, then uncompressed NIfTI that is mapped into memory instead of being loaded."""

# X Y Z voxels towards patient Right, Anterior, Superior; x is fastest in the file

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np

from ctpa_vqgan.data.checks.rules import refuse
from ctpa_vqgan.files import whole

NAMES_NOTICE = "names of files that are not prepared appear in logs and results, where they may identify patients"
MARK = b"ctpa_vqgan: checked CT in HU"
VOXEL = np.dtype("<i2")
HEADER = nib.nifti1.header_dtype.newbyteorder("<")
HEADER_BYTES = 352  # NIfTI's 348, and 4 that say that no extension follows
SCANNER = 1  # NIfTI's code for coordinates of the scanner
TO_FILE_ORDER = [2, 1, 0, 3]  # columns of an affine for Z Y X instead of X Y Z


def write_prepared(path: str | os.PathLike, voxels: np.ndarray, affine: np.ndarray) -> Path:
    """Write a checked volume so that :func:`map_prepared` can open it in no time.

    Nothing of the source's header goes in, so no name of a patient does.

    Args:
        path: target, ends in ``.nii``; whole or absent.
        voxels: [X, Y, Z] int16 HU in RAS order, any strides; copied one plane at a time.
        affine: [4, 4], orthogonal, from voxel indices to mm in RAS+ world coordinates.

    Returns:
        The path.

    Raises:
        ValueError: for another suffix, voxel type or number of axes.
        UserError: if the disk does not take it.
    """
    path = Path(path)
    if path.suffix != ".nii":
        raise ValueError(f"{path}: expected a name that ends in .nii: a compressed file cannot be mapped")
    if voxels.ndim != 3 or voxels.dtype != np.int16:
        raise ValueError(f"{path}: expected [X, Y, Z] int16, found {voxels.dtype} of shape {voxels.shape}")
    with whole(path) as temporary, temporary.open("wb") as file:
        file.write(_new_header(voxels.shape, affine))
        for z in range(voxels.shape[2]):
            file.write(np.ascontiguousarray(voxels[:, :, z].T, dtype=VOXEL))
    return path


def is_prepared(path: str | os.PathLike) -> bool:
    """Whether this is a file of :func:`write_prepared`; from its first bytes alone, and without raising."""
    return _read_header(path) is not None


def shape_if_prepared(path: str | os.PathLike) -> tuple[int, int, int] | None:
    """Size [X, Y, Z] of a prepared volume; None for anything else. Opens the file once, and raises nothing."""
    header = _read_header(path)
    return None if header is None else _shape(header)


def prepared_shape(path: str | os.PathLike) -> tuple[int, int, int]:
    """Size [X, Y, Z] of a prepared volume, from its header.

    Raises:
        BadVolume: if it is none.
    """
    return _shape(_checked_header(path))


def map_prepared(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """Open a prepared volume without reading its voxels.

    Returns:
        Voxels [Z, Y, X] int16, C-contiguous: pages of the file, fetched when touched; writing to them changes a
        private copy. And the affine [4, 4] of that axis order.

    Raises:
        BadVolume: if it is no prepared volume, or its size is not what the header says.
    """
    header = _checked_header(path)
    shape = tuple(int(side) for side in header["dim"][3:0:-1])
    expected, found = HEADER_BYTES + VOXEL.itemsize * int(np.prod(shape)), os.path.getsize(path)
    if found != expected:
        raise refuse("payload", path, f"{found} bytes in the file instead of {expected}")
    # "c": torch warns of memory that cannot be written, though nobody writes here
    voxels = np.memmap(path, dtype=VOXEL, mode="c", offset=HEADER_BYTES, shape=shape)
    affine = np.eye(4)
    affine[:3] = [header["srow_x"], header["srow_y"], header["srow_z"]]
    return np.asarray(voxels), affine[:, TO_FILE_ORDER]


def _new_header(shape: tuple[int, ...], affine: np.ndarray) -> bytes:
    header = nib.Nifti1Header(endianness="<")
    header.set_data_dtype(VOXEL)
    header.set_data_shape(shape)
    header.set_sform(affine, code=SCANNER)
    header.set_qform(affine, code=SCANNER)
    header.set_xyzt_units("mm")
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["vox_offset"], header["magic"], header["descrip"] = HEADER_BYTES, b"n+1", MARK
    return header.binaryblock + bytes(HEADER_BYTES - len(header.binaryblock))


def _read_header(path: str | os.PathLike) -> np.void | None:
    """The header of a prepared volume; None for anything else."""
    try:
        if not str(path).endswith(".nii"):
            return None
        with open(path, "rb") as file:
            header = np.frombuffer(file.read(HEADER_BYTES), HEADER, count=1)[0]
    except (OSError, ValueError, TypeError):
        return None
    told = {key: header[key] for key in ("sizeof_hdr", "magic", "datatype", "scl_slope", "scl_inter", "vox_offset")}
    ours = {"sizeof_hdr": 348, "magic": b"n+1", "datatype": 4, "scl_slope": 1, "scl_inter": 0, "vox_offset": 352}
    volume = header["dim"][0] == 3 and (header["dim"][1:4] > 0).all()
    return header if header["descrip"] == MARK and told == ours and volume else None


def _shape(header: np.void) -> tuple[int, int, int]:
    return tuple(int(side) for side in header["dim"][1:4])


def _checked_header(path: str | os.PathLike) -> np.void:
    if (header := _read_header(path)) is None:
        raise refuse("unreadable", path, "no volume that `python -m ctpa_vqgan prepare` wrote")
    return header
