"""Read NRRD and MetaImage by ITK, after checking that the file holds every voxel that its header states.

ITK fills what is missing and does not compare a gzip stream's checksum to the end, so both are checked here.
Standards: https://teem.sourceforge.net/nrrd/format.html and https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import bz2
import gzip
import math
import os
import re
import zlib
from pathlib import Path

import numpy as np

from ctpa_vqgan.data.checks.privacy import may_name_patient
from ctpa_vqgan.data.checks.rules import Finding, refuse
from ctpa_vqgan.data.formats.volume import Volume, to_int16

SUFFIXES = (".nrrd", ".mha", ".mhd")
RAS_FROM_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
MAX_HEADER = 2**16
MET_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4}
MET_BYTES |= {"LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
NRRD_BYTES = {
    1: ["signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"],
    2: ["short", "short int", "signed short", "signed short int", "int16", "int16_t"],
    4: ["int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t", "float"],
    8: ["longlong", "long long", "int64", "int64_t", "ulonglong", "unsigned long long", "uint64", "uint64_t", "double"],
}
NRRD_BYTES[2] += ["ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"]


def read_itk(path: str | os.PathLike) -> Volume:
    """Voxels in HU of a NRRD or MetaImage file.

    Raises:
        BadVolume: names the rule that the file breaks.
    """
    with Path(path).open("rb") as file:
        head = file.read(MAX_HEADER)
    nrrd = str(path).lower().endswith(".nrrd")
    warnings = _check_nrrd(head, path) if nrrd else _check_meta(head, path)
    image = _read(path)
    import itk

    array = itk.array_view_from_image(image)  # [k, j, i], components last
    if image.GetNumberOfComponentsPerPixel() != 1:
        raise refuse("voxel-type", path, f"{image.GetNumberOfComponentsPerPixel()} numbers a voxel")
    array, affine = _one_phase(array, _affine(image), path)
    if array.dtype.kind not in "iuf":
        raise refuse("voxel-type", path, str(array.dtype))
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise refuse("finite", path, f"{int((~np.isfinite(array)).sum())} voxels that are NaN or infinite")
    fractions = array.dtype.kind == "f" and bool((np.rint(array) != array).any())
    # a copy: the view would not keep the image alive
    return Volume(np.array(to_int16(array)).T, affine, warnings, fractions=fractions)


def _read(path: str | os.PathLike):
    import itk

    itk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        return itk.imread(os.fspath(path))
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()
        raise refuse("unreadable", path, f"an error of ITK ({reason})") from error


def _affine(image) -> np.ndarray:
    import itk

    number = image.GetImageDimension()
    direction = itk.array_from_matrix(image.GetDirection())
    affine = np.eye(4)
    sides = min(number, 3)
    affine[:sides, :sides] = (direction * np.asarray(image.GetSpacing()))[:sides, :sides]
    affine[:sides, 3] = np.asarray(image.GetOrigin())[:sides]
    return RAS_FROM_LPS @ affine


def _one_phase(array: np.ndarray, affine: np.ndarray, path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3:
        raise refuse("dimensions", path, "x".join(map(str, array.shape[::-1])))
    return array, affine


# -- does the file hold what its header states? ------------------------------------------------------------------------


def _check_nrrd(head: bytes, path: str | os.PathLike) -> list[Finding]:
    end = re.search(rb"\r?\n\r?\n", head)
    if not head.startswith(b"NRRD"):
        raise refuse("header", path, "a file that does not begin as NRRD does")
    if end is None:
        raise refuse("header", path, "a NRRD header without an end")
    lines = head[: end.start()].decode("latin-1").splitlines()
    fields = {k.strip().lower(): v.strip() for k, v in (line.split(": ", 1) for line in lines if ": " in line)}
    sides = [int(side) for side in fields.get("sizes", "").split() if side.isdigit()]
    kinds = fields.get("kinds", "").lower().split()
    if any(re.search("color|vector|complex", kind) for kind in kinds):
        raise refuse("voxel-type", path, f"kinds {' '.join(kinds)}")
    _check_dimensions(sides, path)
    if "nan" in fields.get("space directions", "").lower() or "inf" in fields.get("space directions", "").lower():
        raise refuse("affine", path, f"space directions {fields['space directions']}")  # ITK would make up numbers
    if "data file" not in fields and "datafile" not in fields and "byte skip" not in fields:
        size = next((n for n, names in NRRD_BYTES.items() if fields.get("type", "").lower() in names), None)
        if size and sides:
            _check_payload(path, end.end(), math.prod(sides) * size, fields.get("encoding", "raw").lower())
    texts = [line.split(":=", 1)[1] for line in lines if ":=" in line]
    return _named([*texts, fields.get("content", "")])


def _check_meta(head: bytes, path: str | os.PathLike) -> list[Finding]:
    end = re.search(rb"ElementDataFile\s*=\s*([^\r\n]*)\r?\n?", head)
    if end is None:
        raise refuse("header", path, "a MetaImage header without ElementDataFile")
    lines = head[: end.start()].decode("latin-1").splitlines()
    fields = {k.strip(): v.strip() for k, v in (line.split("=", 1) for line in lines if "=" in line)}
    name = end[1].decode("latin-1").strip()
    size = MET_BYTES.get(fields.get("ElementType", "").removeprefix("MET_").removesuffix("_ARRAY"))
    sides = [int(side) for side in fields.get("DimSize", "").split() if side.isdigit()]
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    if channels != 1:
        raise refuse("voxel-type", path, f"{channels} numbers a voxel")
    _check_dimensions(sides, path)
    local = name.upper() == "LOCAL"
    holder = Path(path) if local else Path(path).parent / name
    if not local and not holder.is_file() and not re.search(r"LIST|%", name):
        raise refuse("unreadable", path, f"no {name} beside it")
    if size and sides and holder.is_file():
        encoding = "zlib" if fields.get("CompressedData", "False").lower() == "true" else "raw"
        _check_payload(holder, end.end() if local else 0, math.prod(sides) * size, encoding, path)
    return _named([fields.get(key, "") for key in ("Comment", "Name", "PatientName", "PatientID")])


def _check_dimensions(sides: list[int], path: str | os.PathLike) -> None:
    """Before ITK, which looks a long time for a four-dimensional image that it does not have."""
    if sum(side != 1 for side in sides) > 3:
        raise refuse("dimensions", path, "x".join(map(str, sides)))


def _check_payload(
    holder: str | os.PathLike, offset: int, expected: int, encoding: str, path: str | os.PathLike | None = None
) -> None:
    path = path or holder
    with Path(holder).open("rb") as file:
        file.seek(offset)
        try:
            found = _decoded_size(file, encoding, expected)
        except (EOFError, OSError, zlib.error) as error:
            raise refuse("gzip", path, " ".join(str(error).split())) from error
    if found is not None and found != expected:
        raise refuse("payload", path, f"{found} bytes where the header asks for {expected}")


def _decoded_size(file, encoding: str, expected: int) -> int | None:
    """Bytes that the rest of a file decodes to, read to the end; None for an encoding that ITK checks itself."""
    if encoding == "raw":
        return os.fstat(file.fileno()).st_size - file.tell()
    if encoding in ("gz", "gzip"):
        return _count(gzip.GzipFile(fileobj=file))
    if encoding in ("bz2", "bzip2"):
        return _count(bz2.BZ2File(file))
    if encoding == "zlib":
        decoder, size = zlib.decompressobj(), 0
        while block := file.read(2**20):
            size += len(decoder.decompress(block))
            if decoder.unused_data:
                raise zlib.error("bytes after the end of the compressed data")
        if not decoder.eof:
            raise EOFError(f"compressed data ended after {size} bytes")
        return size
    return None


def _count(stream) -> int:
    size = 0
    while block := stream.read(2**20):
        size += len(block)
    return size


def _named(texts: list[str]) -> list[Finding]:
    return (
        [Finding("patient-name", "a text like a name, a date or a number")] if any(map(may_name_patient, texts)) else []
    )
