"""Read NIfTI to the last byte, with every number of its header checked.

nibabel reads exactly the voxels and so never meets a gzip stream's checksum; here the stream is read to its end.
Standard: https://nifti.nimh.nih.gov/nifti-1 and https://nifti.nimh.nih.gov/nifti-2.
"""

from __future__ import annotations

import contextlib
import gzip
import math
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import nibabel as nib
import numpy as np

from ctpa_vqgan.data.checks.geometry import spans_a_volume
from ctpa_vqgan.data.checks.privacy import may_name_patient
from ctpa_vqgan.data.checks.rules import GEOMETRY_TOLERANCE, Finding, refuse
from ctpa_vqgan.data.formats.volume import Volume, to_int16

SUFFIXES = (".nii", ".nii.gz")
CHUNK_BYTES = 2**23
MAX_DEFLATE_RATIO = 1032  # of zlib's format: what claims more cannot be in the file
UNITS_OF_LENGTH = {0: "unknown", 1: "metre", 2: "mm", 3: "micron"}
# by the header's size, its first number: class, magic word and where that is
VERSIONS = {
    348: (nib.Nifti1Header, b"n+1\0", 344),
    540: (nib.Nifti2Header, b"n+2\0\r\n\x1a\n", 4),
}
TEXTS = ("descrip", "aux_file", "intent_name", "db_name")


class Header(NamedTuple):
    """What a NIfTI header says, once it has been checked."""

    shape: tuple[int, int, int]
    dtype: np.dtype
    slope: float
    intercept: float
    affine: np.ndarray
    offset: int
    warnings: list[Finding]

    @property
    def num_bytes(self) -> int:
        """Of the voxels as stored."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_nifti(path: str | os.PathLike) -> Volume:
    """Voxels in HU, from a file that was read to its end.

    Memory: the volume as int16 and a few planes more, whatever type is stored.

    Raises:
        BadVolume: names the rule that the file breaks.
    """
    with _opened(path) as stream, _gzip_errors(path):
        header = _read_header(stream, path)
        _check_file_size(header, path)
        voxels, fractions = _read_voxels(stream, header, path)
        if surplus := len(stream.read(CHUNK_BYTES)):  # at the end of a gzip stream: this read compares the checksum
            raise refuse("payload", path, f"at least {surplus} bytes more than the {header.num_bytes} of the header")
    return Volume(voxels, header.affine, header.warnings, fractions=fractions)


def read_header(path: str | os.PathLike) -> Header:
    """The header alone, checked.

    Raises:
        BadVolume: names the rule that it breaks.
    """
    with _opened(path) as stream, _gzip_errors(path):
        return _read_header(stream, path)


def _opened(path: str | os.PathLike) -> IO[bytes]:
    """The decompressed stream, by what the file is and not by its name."""
    with Path(path).open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        plain = any(int.from_bytes(file.read(4), order) in VERSIONS for order in ("little", "big") if not file.seek(0))
    named = str(path).lower().endswith(".gz")
    if named and not compressed:
        raise refuse("extension" if plain else "gzip", path, "a file that is not gzip")
    if compressed and not named:
        raise refuse("extension", path, "gzip data without .gz")
    return gzip.open(path) if compressed else Path(path).open("rb")


@contextlib.contextmanager
def _gzip_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turn what the decompressor says into a refusal."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise refuse("gzip", path, " ".join(str(error).split())) from error


# -- header ------------------------------------------------------------------------------------------------------------


def _read_header(stream: IO[bytes], path: str | os.PathLike) -> Header:
    fields = _fields(stream, path)
    dtype = _voxel_type(fields, path)
    shape = _shape(fields, path)
    slope, intercept = _scaling(fields, path)
    units = int(fields["xyzt_units"]) & 7
    if units not in (0, 2):
        raise refuse("units", path, UNITS_OF_LENGTH.get(units, f"code {units}"))
    affine = _affine(fields, shape, path)
    offset = _offset(fields, path)
    extension = stream.read(offset - fields.sizeof_hdr)
    return Header(shape, dtype, slope, intercept, affine, offset, _texts(fields, extension))


def _fields(stream: IO[bytes], path: str | os.PathLike) -> nib.Nifti1Header:
    raw = stream.read(4)
    sizes = {int(np.frombuffer(raw, order + "i4")[0]): order for order in "<>"} if len(raw) == 4 else {}
    size = next((size for size in sizes if size in VERSIONS), None)
    if size is None:
        raise refuse("header", path, "a file that does not begin as NIfTI does")
    raw += stream.read(size - 4)
    if len(raw) < size:
        raise refuse("header", path, f"{len(raw)} of {size} bytes")
    kind, magic, place = VERSIONS[size]
    if (found := raw[place : place + len(magic)]) != magic:
        raise refuse("header", path, f"the magic word {found!r} (a single file has {magic!r})")
    fields = kind(raw, endianness=sizes[size], check=False)
    if fields["pixdim"][0] == 0:
        fields["pixdim"][0] = 1  # the standard's default
    return fields


def _voxel_type(fields: nib.Nifti1Header, path: str | os.PathLike) -> np.dtype:
    try:
        dtype = fields.get_data_dtype()
    except (KeyError, nib.spatialimages.HeaderDataError) as error:
        raise refuse("header", path, f"the unknown datatype code {int(fields['datatype'])}") from error
    if not dtype.itemsize:
        raise refuse("header", path, f"the datatype code {int(fields['datatype'])}, which stands for none")
    if dtype.kind not in "iuf":
        raise refuse("voxel-type", path, "complex numbers" if dtype.kind == "c" else "RGB")
    if int(fields["bitpix"]) != dtype.itemsize * 8:
        raise refuse("header", path, f"bitpix {int(fields['bitpix'])} for {dtype}")
    return dtype


def _shape(fields: nib.Nifti1Header, path: str | os.PathLike) -> tuple[int, int, int]:
    number, *sides = (int(d) for d in fields["dim"])
    if not 1 <= number <= 7:
        raise refuse("dimensions", path, f"{number} dimensions")
    sides = sides[:number]
    while len(sides) > 3 and sides[-1] == 1:
        sides.pop()
    if len(sides) != 3 or min(sides) < 1:
        raise refuse("dimensions", path, "x".join(map(str, sides)))
    return tuple(sides)


def _scaling(fields: nib.Nifti1Header, path: str | os.PathLike) -> tuple[float, float]:
    slope, intercept = float(fields["scl_slope"]), float(fields["scl_inter"])
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise refuse("scaling", path, f"slope {slope:g}, intercept {intercept:g}")
    return (slope, intercept) if slope else (1.0, 0.0)  # by the standard a slope of 0 means unscaled


def _offset(fields: nib.Nifti1Header, path: str | os.PathLike) -> int:
    offset = float(fields["vox_offset"])
    if not (math.isfinite(offset) and offset == int(offset) and fields.sizeof_hdr <= offset < 2**31):
        raise refuse("header", path, f"voxels at byte {offset:g}")
    return int(offset)


def _affine(fields: nib.Nifti1Header, shape: tuple[int, ...], path: str | os.PathLike) -> np.ndarray:
    sizes = np.abs(np.asarray(fields["pixdim"][1:4], dtype=float))
    if not (np.isfinite(sizes).all() and (np.asarray(fields["pixdim"][1:4]) > 0).all()):
        raise refuse("affine-pixdim", path, f"voxel sizes {_listed(fields['pixdim'][1:4])} in pixdim")
    sform = fields.get_sform(coded=True)[0]
    qform = _qform(fields, path)
    if sform is None and qform is None:
        raise refuse("affine", path, "neither a sform nor a qform: orientation and position are unknown")
    affine = np.asarray(qform if sform is None else sform, dtype=np.float64)
    if not spans_a_volume(affine):
        return affine  # the common check of geometry refuses it, in the same words for every format
    columns = np.linalg.norm(affine[:3, :3], axis=0)
    if np.abs(columns / sizes - 1).max() > GEOMETRY_TOLERANCE:
        raise refuse("affine-pixdim", path, f"{_listed(sizes)} mm in pixdim, {_listed(columns)} mm in the affine")
    if sform is not None and qform is not None:
        _check_agreement(affine, qform, shape, path)
    return affine


def _qform(fields: nib.Nifti1Header, path: str | os.PathLike) -> np.ndarray | None:
    try:
        return fields.get_qform(coded=True)[0]
    except (ValueError, nib.spatialimages.HeaderDataError) as error:
        rule = "affine-qform" if int(fields["sform_code"]) > 0 else "affine"
        raise refuse(rule, path, f"a quaternion that is no rotation ({error})") from error


def _check_agreement(sform: np.ndarray, qform: np.ndarray, shape: tuple[int, ...], path: str | os.PathLike) -> None:
    """Both must put the corners at the same place, to half a voxel: the qform's rounding turns by 0.0005 at most."""
    corners = np.array(np.meshgrid(*[(0, side - 1) for side in shape])).reshape(3, -1)
    apart = np.linalg.norm((sform - qform)[:3, :3] @ corners + (sform - qform)[:3, 3:], axis=0).max()
    if not apart <= np.linalg.norm(sform[:3, :3], axis=0).min() / 2:
        raise refuse("affine-qform", path, f"corners up to {apart:.3g} mm apart")


def _texts(fields: nib.Nifti1Header, extension: bytes) -> list[Finding]:
    texts = {name: bytes(fields[name]).split(b"\0")[0] for name in TEXTS if name in fields.keys()}  # noqa: SIM118
    texts["an extension"] = extension
    named = [name for name, text in texts.items() if may_name_patient(text.decode("latin-1"))]
    return [Finding("patient-name", f"a text like a name, a date or a number in {', '.join(named)}")] if named else []


def _listed(numbers: np.ndarray) -> str:
    return " x ".join(f"{float(n):.4g}" for n in numbers)


# -- voxels ------------------------------------------------------------------------------------------------------------


def _check_file_size(header: Header, path: str | os.PathLike) -> None:
    """Before any memory is taken for what a header claims."""
    stored, expected = Path(path).stat().st_size, header.offset + header.num_bytes
    if not str(path).lower().endswith(".gz"):
        if stored != expected:
            raise refuse("payload", path, f"{stored} bytes where the header asks for {expected}")
    elif expected > (stored + 1) * MAX_DEFLATE_RATIO:
        raise refuse("payload", path, f"{stored} compressed bytes, which cannot hold the {expected} of the header")


def _read_voxels(stream: IO[bytes], header: Header, path: str | os.PathLike) -> tuple[np.ndarray, bool]:
    """[I, J, K] int16, the first axis fastest as in the file; and whether any value had a fraction."""
    i, j, k = header.shape
    voxels, fractions = np.empty((k, j, i), dtype=np.int16), False
    as_stored = header.dtype.newbyteorder("=") == np.int16 and header.slope == 1 and header.intercept == 0
    step = max(1, CHUNK_BYTES // (i * j * header.dtype.itemsize))
    buffer = None if as_stored else np.empty((step, j, i), dtype=header.dtype)
    for first in range(0, k, step):
        target = voxels[first : first + step]
        stored = target if buffer is None else buffer[: len(target)]
        if (count := _fill(stream, stored)) < stored.nbytes:
            found = first * i * j * header.dtype.itemsize + count
            raise refuse("payload", path, f"{found} bytes of voxels where the header asks for {header.num_bytes}")
        if buffer is not None:
            values, whole = _scaled(stored, header, path)
            target[...] = values
            fractions |= not whole
        elif not header.dtype.isnative:
            target.byteswap(inplace=True)
    return voxels.T, fractions


def _fill(stream: IO[bytes], array: np.ndarray) -> int:
    view, done = memoryview(array).cast("B"), 0
    while done < len(view) and (count := stream.readinto(view[done:])):
        done += count
    return done


def _scaled(stored: np.ndarray, header: Header, path: str | os.PathLike) -> tuple[np.ndarray, bool]:
    unscaled = header.slope == 1 and header.intercept == 0
    # float64, because that of float32 has 24 bits and a stored int32 may need more
    values = stored if unscaled else stored * np.float64(header.slope) + np.float64(header.intercept)
    if values.dtype.kind != "f":
        return to_int16(values), True
    if not np.isfinite(values).all():
        raise refuse("finite", path, f"{int((~np.isfinite(values)).sum())} voxels that are NaN or infinite in one part")
    rounded = np.rint(values)
    return to_int16(rounded), bool((rounded == values).all())
