"""Write NIfTI-1.1 and NIfTI-2 byte by byte, with any header field as the test wants it."""

from __future__ import annotations

import functools
import gzip
import struct

import nibabel as nib
import numpy as np

from corpus.patient import AFFINE, chest


def nifti(voxels=None, affine=AFFINE, *, version=1, endian="<", sform=1, qform=1, extension=b"", **fields) -> bytes:
    """A NIfTI file; ``fields`` are written over the header that would be right.

    Args:
        voxels: [I, J, K, ...] as stored; the chest by default.
        affine: goes to the sform and the qform, as far as their codes are above 0, and to pixdim.
        version: of the standard, 1 or 2.
        endian: ``<`` or ``>``, of header and voxels.
        sform: code of the sform.
        qform: code of the qform.
        extension: bytes between header and voxels, from :func:`extension`.
        **fields: header fields by their names in the standard.
    """
    voxels = chest() if voxels is None else voxels
    header = np.zeros((), {1: nib.nifti1, 2: nib.nifti2}[version].header_dtype.newbyteorder(endian))
    header["sizeof_hdr"] = header.dtype.itemsize
    header["magic"] = {1: b"n+1", 2: b"n+2"}[version]
    if version == 2:
        header["eol_check"] = (13, 10, 26, 10)
    header["dim"] = dim(*voxels.shape)
    header["datatype"] = nib.nifti1.data_type_codes.code[voxels.dtype.newbyteorder("=")]
    header["bitpix"] = 8 * voxels.dtype.itemsize
    header["vox_offset"] = header.dtype.itemsize + 4 + len(extension)
    header["scl_slope"] = 1
    header["xyzt_units"] = 2 + 8  # mm, s
    _place(header, affine, sform, qform)
    for name, value in fields.items():
        header[name] = value
    extender = b"\1\0\0\0" if extension else bytes(4)
    return header.tobytes() + extender + extension + voxels.astype(voxels.dtype.newbyteorder(endian)).tobytes("F")


def _place(header: np.ndarray, affine: np.ndarray, sform: int, qform: int) -> None:
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    header["pixdim"] = (1, *spacing, 1, 1, 1, 1)
    header["sform_code"], header["qform_code"] = sform, qform
    if sform:
        header["srow_x"], header["srow_y"], header["srow_z"] = affine[:3]
    if qform:
        rotation = affine[:3, :3] / spacing
        qfac = np.sign(np.linalg.det(rotation))
        rotation[:, 2] *= qfac
        header["pixdim"][0] = qfac
        _, header["quatern_b"], header["quatern_c"], header["quatern_d"] = nib.quaternions.mat2quat(rotation)
        header["qoffset_x"], header["qoffset_y"], header["qoffset_z"] = affine[:3, 3]


def dim(*sides: int) -> tuple[int, ...]:
    """The header field of the sides."""
    return (len(sides), *sides, *[1] * (7 - len(sides)))


def pixdim(*sizes: float) -> tuple[float, ...]:
    """The header field of the voxel sizes."""
    return (1, *sizes, *[1] * (7 - len(sizes)))


def extension(content: bytes, code: int = 6) -> bytes:
    """A header extension; code 6 is a comment, 2 DICOM attributes, 4 an XML of AFNI."""
    size = -(-(len(content) + 8) // 16) * 16
    return struct.pack("<2i", size, code) + content.ljust(size - 8, b"\0")


def gz(content: bytes, level: int = 1) -> bytes:
    """One member of gzip with the plain header of ten bytes."""
    return gzip.compress(content, level, mtime=0)


@functools.cache
def whole() -> bytes:
    """A compressed file without a fault."""
    return gz(nifti())
