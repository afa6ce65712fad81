"""Small CT files, right and wrong, written byte by byte: what a reader of volumes must refuse, warn about, or accept.

The headers are filled from the standards (NIfTI-1.1, NIfTI-2, NRRD 4, MetaImage) without any image writer, which would
repair what is meant to be broken. ``BAD``, ``WARNED`` and ``LEGAL`` are the tables; each entry makes its file anew.
"""

# I J K voxels in the order of the file; X Y Z voxels towards patient Right, Anterior, Superior

from __future__ import annotations

import functools
import gzip
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

SHAPE = (64, 64, 40)
SPACING = (0.8, 0.8, 1.25)
ORIGIN = (-31.5, 12.25, -340.5)
AFFINE = np.array([[0.8, 0, 0, -31.5], [0, 0.8, 0, 12.25], [0, 0, 1.25, -340.5], [0, 0, 0, 1]])
AIR = -1000
RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
RGBA = np.dtype([*RGB.descr, ("A", "u1")])


# -- the patient -------------------------------------------------------------------------------------------------------


@functools.cache
def chest(shape: tuple = SHAPE, noise: float = 20.0, window: tuple = ((-1, 1), (-1, 1), (0, 1)), seed: int = 0):
    """A thorax [X, Y, Z] int16 in HU, from the diaphragm (Z = 0) to the apex of the lungs; read-only.

    The body narrows and the lungs shrink steadily upwards, so that slices left out of the middle leave a step.

    Args:
        shape: voxels.
        noise: standard deviation in HU, in air too.
        window: the part of the patient that the grid covers, as ranges of x, y in [-1, 1] and z in [0, 1].
        seed: of the noise.
    """
    x, y, z = np.meshgrid(*(np.linspace(*w, n) for w, n in zip(window, shape)), indexing="ij")
    width, lung = 0.9 - 0.3 * z, 0.85 - 0.6 * z
    hu = np.full(shape, float(AIR))
    hu[(np.abs(x) < 0.8) & (y > -0.95) & (y < -0.87)] = 150  # table
    hu[_ellipse(x, y + 0.05, width, 0.75 * width)] = 45
    for side in (-1, 1):
        hu[_ellipse(x - side * 0.42 * width, y + 0.03, 0.42 * lung, 0.62 * lung)] = -850
    hu[_ellipse(x, y + 0.42 * width, 0.14, 0.12)] = 500  # spine
    hu[(x + 0.1) ** 2 + (y - 0.12) ** 2 + (0.9 * (z - 0.3)) ** 2 < 0.07] = 350  # heart, with contrast
    hu[_ellipse(x + 0.12, y + 0.2, 0.07, 0.07)] = 300  # aorta
    hu += noise * np.random.default_rng(seed).standard_normal(shape)
    voxels = np.rint(hu).astype(np.int16)
    voxels.flags.writeable = False
    return voxels


def _ellipse(x, y, a, b):
    return (x / a) ** 2 + (y / b) ** 2 < 1


def turned(voxels: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """The same patient, stored with its voxel axes towards ``axes`` (from RAS)."""
    order = [next(i for i, pair in enumerate(("LR", "PA", "IS")) if letter in pair) for letter in axes]
    voxels, affine = voxels.transpose(order), affine[:, [*order, 3]]
    for axis, letter in enumerate(axes):
        if letter in "LPI":
            voxels = np.flip(voxels, axis)
            affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
            affine[:3, axis] *= -1
    return voxels, affine


def geometry(spacing=SPACING, degrees: float = 0, shear: float = 0, origin=ORIGIN) -> np.ndarray:
    """An affine towards RAS, turned about X and Z, its third axis leaning by ``shear`` degrees as a gantry does."""
    t, lean = np.radians([degrees, shear])
    about_x = np.array([[1, 0, 0], [0, np.cos(t), -np.sin(t)], [0, np.sin(t), np.cos(t)]])
    about_z = np.array([[np.cos(t), -np.sin(t), 0], [np.sin(t), np.cos(t), 0], [0, 0, 1]])
    axes = about_x @ about_z
    axes[:, 2] = np.cos(lean) * axes[:, 2] + np.sin(lean) * axes[:, 1]
    affine = np.eye(4)
    affine[:3, :3] = axes * spacing
    affine[:3, 3] = origin
    return affine


# -- NIfTI -------------------------------------------------------------------------------------------------------------


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


# -- NRRD and MetaImage ------------------------------------------------------------------------------------------------

NRRD_TYPES = {"i2": "short", "u2": "unsigned short", "u1": "unsigned char", "i4": "int", "f4": "float", "f8": "double"}
MET_TYPES = {"i2": "MET_SHORT", "u2": "MET_USHORT", "u1": "MET_UCHAR", "i4": "MET_INT", "f4": "MET_FLOAT"}
TO_LPS = np.diag([-1.0, -1, 1, 1])


def nrrd(
    voxels=None, affine=AFFINE, *, encoding="raw", endian="<", space="left-posterior-superior", data=None, **lines
):
    """An NRRD file; ``lines`` replace those of the header by name (``_`` for a space), or leave them out if None.

    Args:
        voxels: [I, J, K] as stored; the chest by default.
        affine: towards RAS.
        encoding: ``raw`` or ``gzip``.
        endian: ``<`` or ``>``.
        space: world coordinates in which the header states the affine.
        data: changes the encoded voxels.
        **lines: of the header; ``keys`` are key/value pairs.
    """
    voxels = chest() if voxels is None else voxels
    world = TO_LPS @ affine if space == "left-posterior-superior" else affine
    vectors = [f"({','.join(repr(float(n)) for n in vector)})" for vector in world[:3].T]
    header = {
        "type": NRRD_TYPES[voxels.dtype.str[1:]],
        "dimension": voxels.ndim,
        "space": space,
        "space dimension": None,  # instead of a space; the vectors must come after it
        "sizes": " ".join(map(str, voxels.shape)),
        "space directions": " ".join(["none"] * (voxels.ndim - 3) + vectors[:3]),
        "kinds": " ".join(["list"] * (voxels.ndim - 3) + ["domain"] * 3),
        "endian": {"<": "little", ">": "big"}[endian],
        "encoding": encoding,
        "space origin": vectors[3],
    }
    keys = lines.pop("keys", {})
    header |= {name.replace("_", " "): value for name, value in lines.items()}
    text = ["NRRD0004", *(f"{name}: {value}" for name, value in header.items() if value is not None)]
    text += [f"{name}:={value}" for name, value in keys.items()]
    content = voxels.astype(voxels.dtype.newbyteorder(endian)).tobytes("F")
    content = gz(content) if encoding == "gzip" else content
    return "\n".join([*text, "", ""]).encode() + (data(content) if data else content)


def metaimage(voxels=None, affine=AFFINE, *, compressed=False, endian="<", data=None, file="LOCAL", **lines) -> bytes:
    """A MetaImage; ``lines`` replace those of the header by name, or leave them out if None.

    Args:
        voxels: [I, J, K] as stored; the chest by default.
        affine: towards RAS.
        compressed: by zlib, as MetaImage does.
        endian: ``<`` or ``>``.
        data: changes the encoded voxels.
        file: the name of the file with the voxels; LOCAL puts them behind the header.
        **lines: of the header.
    """
    voxels = chest() if voxels is None else voxels
    world = TO_LPS @ affine
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    content = metaimage_data(voxels, compressed, endian)
    content = data(content) if data else content
    header = (
        {
            "ObjectType": "Image",
            "NDims": voxels.ndim,
            "BinaryData": True,
            "BinaryDataByteOrderMSB": endian == ">",
            "CompressedData": compressed,
            "CompressedDataSize": len(content) if compressed else None,
            "TransformMatrix": _numbers((world[:3, :3] / spacing).T),  # an axis at a time
            "Offset": _numbers(world[:3, 3]),
            "CenterOfRotation": "0 0 0",
            "ElementSpacing": _numbers(spacing),
            "DimSize": _numbers(voxels.shape),
            "ElementType": MET_TYPES[voxels.dtype.str[1:]],
        }
        | lines
    )
    text = [f"{name} = {value}\n" for name, value in header.items() if value is not None]
    return "".join([*text, f"ElementDataFile = {file}\n"]).encode() + (content if file == "LOCAL" else b"")


def metaimage_data(voxels: np.ndarray, compressed: bool = False, endian: str = "<") -> bytes:
    """The voxels as MetaImage stores them."""
    content = voxels.astype(voxels.dtype.newbyteorder(endian)).tobytes("F")
    return zlib.compress(content, 1) if compressed else content


def _numbers(values) -> str:
    return " ".join(repr(n.item()) for n in np.ravel(values))


# -- damage to bytes ---------------------------------------------------------------------------------------------------


def flip(content: bytes, place: float, bit: int = 3) -> bytes:
    """One bit turned over, at a byte or a share of the length."""
    at = int(place * len(content)) if isinstance(place, float) else place
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    return bytes(changed)


def zero(content: bytes, start: int, size: int = 4096) -> bytes:
    """A block of zeros, as a lost cluster of a disk leaves it."""
    return content[:start] + bytes(len(content[start : start + size])) + content[start + size :]


def swap(content: bytes, size: int = 4096) -> bytes:
    """Two blocks in the middle in each other's place."""
    at = len(content) // 2
    return content[:at] + content[at + size : at + 2 * size] + content[at : at + size] + content[at + 2 * size :]


# -- damage to voxels --------------------------------------------------------------------------------------------------


def changed(value, *where, dtype=None, base=None) -> np.ndarray:
    """The chest with one value at an index, or at several."""
    voxels = np.array(chest() if base is None else base, dtype=dtype)
    for index in where:
        voxels[index] = value
    return voxels


def corners() -> np.ndarray:
    """Where no ray of the scanner goes: outside the circle of every slice."""
    x, y = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE[:2]), indexing="ij")
    return x**2 + y**2 > 1


def padded(value: int) -> np.ndarray:
    """The chest with a scanner's padding around the circle."""
    return changed(value, corners())


def windowed(low: float, high: float, top: float) -> np.ndarray:
    """A display window as numbers from 0 to ``top``, of a scan whose noise fills all the greys between."""
    return np.clip((chest(noise=60.0) - low) / (high - low), 0, 1) * top


def labels(count: int) -> np.ndarray:
    """A segmentation of ``count`` organs, and 0 around them."""
    x, y, z = np.indices(SHAPE)
    return np.where(chest() > -300, 1 + (x // 4 + 17 * (y // 8) + 31 * (z // 5)) % count, 0)


def copied(source: int, target: int) -> np.ndarray:
    """The chest with one slice overwritten by another."""
    return changed(chest()[..., source], (..., target))


def repeated(index: int) -> np.ndarray:
    """The chest with one slice twice."""
    return np.insert(chest(), index, chest()[..., index], axis=2)


# -- the tables --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """A kind of file and what must be said about it.

    Args:
        suffix: of the file's name.
        make: the content; several files by name, the first of which is read; None for no file.
        rules: ids, any of which is a right verdict.
    """

    suffix: str
    make: Callable[[], bytes | dict[str, bytes] | None]
    rules: frozenset[str] = frozenset()

    def write(self, folder: Path, name: str) -> Path:
        """Write the file, and return the path to read."""
        content = self.make()
        files = content if isinstance(content, dict) else {name + self.suffix: content}
        for file, data in files.items():
            if data is not None:
                (folder / file).write_bytes(data)
        return folder / next(iter(files))


@dataclass(frozen=True)
class Legal(Kind):
    """A kind of file that must be read as it is.

    Args:
        truth: HU [X, Y, Z] and affine towards RAS.
    """

    truth: Callable[[], tuple[np.ndarray, np.ndarray]] = lambda: (chest(), AFFINE)


def _nii(rules: str, make: Callable) -> Kind:
    return Kind(".nii", make, frozenset(rules.split()))


def _gz(rules: str, make: Callable) -> Kind:
    """The NIfTI file compressed, after any damage."""
    return Kind(".nii.gz", lambda: gz(make()), frozenset(rules.split()))


def _raw_gz(rules: str, make: Callable) -> Kind:
    """Compressed by ``make`` itself, before the damage."""
    return Kind(".nii.gz", make, frozenset(rules.split()))


def _nrrd(rules: str, make: Callable) -> Kind:
    return Kind(".nrrd", make, frozenset(rules.split()))


def _mha(rules: str, make: Callable) -> Kind:
    return Kind(".mha", make, frozenset(rules.split()))


@functools.cache
def whole() -> bytes:
    """A compressed file without a fault."""
    return gz(nifti())


def members(*changes: Callable) -> bytes:
    """A file of two gzip members, each changed in turn."""
    content = nifti()
    halves = content[: len(content) // 2], content[len(content) // 2 :]
    return b"".join(change(gz(half)) for change, half in zip(changes, halves))


def same(content: bytes) -> bytes:
    """No damage."""
    return content


def garbage(dtype: str) -> np.ndarray:
    """Voxels of random bits."""
    size = int(np.prod(SHAPE)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(7).bytes(size), dtype).reshape(SHAPE)


UNREADABLE = "unreadable header"
TEXT = b"These are not the voxels you are looking for.\n" * 40

COMPRESSION = {
    "bit-flip-early": _raw_gz("gzip", lambda: flip(whole(), 600)),
    "bit-flip-in-the-middle": _raw_gz("gzip", lambda: flip(whole(), 0.5)),
    "bit-flip-late": _raw_gz("gzip", lambda: flip(whole(), -30)),
    "bit-flip-in-the-gzip-magic": _raw_gz("gzip extension unreadable", lambda: flip(whole(), 0)),
    "bit-flip-in-the-gzip-method": _raw_gz("gzip unreadable", lambda: flip(whole(), 2)),
    "truncated-in-the-gzip-header": _raw_gz("gzip unreadable header", lambda: whole()[:6]),
    "truncated-in-the-nifti-header": _raw_gz("gzip", lambda: whole()[:90]),
    "truncated-early": _raw_gz("gzip", lambda: whole()[:3000]),
    "truncated-half": _raw_gz("gzip", lambda: whole()[: len(whole()) // 2]),
    "truncated-late": _raw_gz("gzip", lambda: whole()[:-60]),
    "gzip-trailer-cut": _raw_gz("gzip", lambda: whole()[:-8]),
    "gzip-trailer-half-cut": _raw_gz("gzip", lambda: whole()[:-3]),
    "gzip-checksum-only": _raw_gz("gzip", lambda: flip(whole(), -6)),
    "gzip-length-only": _raw_gz("gzip", lambda: flip(whole(), -2)),
    "zeroed-block": _raw_gz("gzip", lambda: zero(whole(), 20 * 4096)),
    "zeroed-first-block": _raw_gz("gzip extension unreadable", lambda: zero(whole(), 0)),
    "zeroed-last-block": _raw_gz("gzip", lambda: zero(whole(), len(whole()) // 4096 * 4096)),
    "swapped-blocks": _raw_gz("gzip", lambda: swap(whole())),
    "inserted-bytes": _raw_gz("gzip", lambda: whole()[:70000] + bytes(4) + whole()[70000:]),
    "text-after-the-gzip-stream": _raw_gz("gzip", lambda: whole() + TEXT),
    "bytes-after-the-gzip-stream": _raw_gz("gzip", lambda: whole() + garbage("u1").tobytes()[:5000]),
    "second-member-damaged": _raw_gz("gzip", lambda: members(same, lambda data: flip(data, 0.5))),
    "second-member-truncated": _raw_gz("gzip", lambda: members(same, lambda data: data[:-500])),
    "first-member-checksum": _raw_gz("gzip", lambda: members(lambda data: flip(data, -6), same)),
    "second-member-missing": _raw_gz("payload", lambda: members(same)),
    "whole-file-twice": _raw_gz("payload", lambda: whole() + whole()),
    "gzip-named-nii": _nii("extension", whole),
    "nii-named-gzip": _raw_gz("extension", nifti),
    "gzip-in-gzip": _gz(UNREADABLE + " extension", whole),
    "gzip-of-nothing": _gz(UNREADABLE + " payload", bytes),
}

HEADER = {
    "missing-file": Kind(".nii.gz", lambda: None, frozenset({"unreadable"})),
    "empty-nii-gz": _raw_gz(UNREADABLE + " gzip extension", bytes),
    "empty-nii": _nii(UNREADABLE, bytes),
    "text-named-nii-gz": _raw_gz("extension gzip unreadable", lambda: TEXT),
    "text-in-nii-gz": _gz(UNREADABLE, lambda: TEXT),
    "text-named-nii": _nii(UNREADABLE, lambda: TEXT),
    "random-bytes": _nii(UNREADABLE, lambda: garbage("u1").tobytes()),
    "half-a-header": _gz(UNREADABLE, lambda: nifti()[:200]),
    "header-only": _gz("payload", lambda: nifti()[:352]),
    "header-only-nii": _nii("payload", lambda: nifti()[:352]),
    "sizeof-hdr": _gz(UNREADABLE, lambda: nifti(sizeof_hdr=999)),
    "sizeof-hdr-of-zero": _nii(UNREADABLE, lambda: nifti(sizeof_hdr=0)),
    "sizeof-hdr-nifti2": _gz(UNREADABLE, lambda: nifti(version=2, sizeof_hdr=999)),
    "magic": _gz(UNREADABLE, lambda: nifti(magic=b"abc")),
    "magic-blank": _gz(UNREADABLE, lambda: nifti(magic=b"")),
    "magic-nifti2": _gz(UNREADABLE, lambda: nifti(version=2, magic=b"n+3")),
    "magic-of-a-pair": _gz(UNREADABLE, lambda: nifti(magic=b"ni1", vox_offset=0)),
    "datatype-unknown": _gz("header voxel-type", lambda: nifti(datatype=333)),
    "datatype-zero": _gz("header voxel-type", lambda: nifti(datatype=0)),
    "vox-offset-nan": _gz("header", lambda: nifti(vox_offset=np.nan)),
    "vox-offset-negative": _gz("header", lambda: nifti(vox_offset=-352)),
    "vox-offset-inside-the-header": _gz("header payload", lambda: nifti(vox_offset=160)),
    "vox-offset-beyond-the-file": _nii("header payload", lambda: nifti(vox_offset=1e9)),
    "vox-offset-infinite": _nii("header", lambda: nifti(vox_offset=np.inf)),
    "dim0-of-zero": _gz("header dimensions", lambda: nifti(dim=(0, *dim(*SHAPE)[1:]))),
    "dim0-of-nine": _gz("header dimensions", lambda: nifti(dim=(9, *dim(*SHAPE)[1:]))),
    "dim0-negative": _gz("header dimensions", lambda: nifti(dim=(-3, *dim(*SHAPE)[1:]))),
    "dim-negative": _gz("header dimensions", lambda: nifti(dim=dim(64, 64, -40))),
    "dim-negative-in-plane": _nii("header dimensions", lambda: nifti(dim=dim(-64, 64, 40))),
    "dim-zero": _gz("header dimensions", lambda: nifti(dim=dim(64, 0, 40))),
    "dim-zero-slices": _nii("header dimensions", lambda: nifti(dim=dim(64, 64, 0))),
    "dim-bomb": _gz("payload", lambda: nifti(dim=dim(32767, 32767, 32767))),
    "dim-bomb-nii": _nii("payload", lambda: nifti(dim=dim(32767, 32767, 32767))),
    "dim-bomb-nifti2": _gz("payload header", lambda: nifti(version=2, dim=dim(2**40, 2**40, 2**40))),
    "header-says-fewer-slices": _gz("payload", lambda: nifti(dim=dim(64, 64, 20))),
    "header-says-fewer-slices-nii": _nii("payload", lambda: nifti(dim=dim(64, 64, 20))),
    "header-says-more-slices": _gz("payload", lambda: nifti(dim=dim(64, 64, 60))),
    "header-says-more-slices-nii": _nii("payload", lambda: nifti(dim=dim(64, 64, 60))),
    "header-says-wider-voxels": _gz("payload", lambda: nifti(datatype=16, bitpix=32)),
    "one-voxel-short": _gz("payload", lambda: nifti()[:-2]),
    "one-byte-short-nii": _nii("payload", lambda: nifti()[:-1]),
    "one-byte-too-many": _gz("payload", lambda: nifti() + b"\0"),
    "one-byte-too-many-nii": _nii("payload", lambda: nifti() + b"\0"),
    "2-d": _gz("dimensions", lambda: nifti(chest()[..., 20])),
    "4-d-two-phases": _gz("dimensions", lambda: nifti(np.stack([chest(), chest(seed=1)], axis=-1))),
    "5-d-vectors": _gz("dimensions", lambda: nifti(np.stack([chest()] * 3, axis=-1)[:, :, :, None], intent_code=1007)),
    "rgb": _gz("voxel-type", lambda: nifti(windowed(-1000, 500, 255).astype("u1").repeat(3).view(RGB).reshape(SHAPE))),
    "rgba": _nii(
        "voxel-type", lambda: nifti(windowed(-1000, 500, 255).astype("u1").repeat(4).view(RGBA).reshape(SHAPE))
    ),
    "complex": _gz("voxel-type", lambda: nifti(chest().astype("c8"))),
    "complex-double": _gz("voxel-type", lambda: nifti(chest().astype("c16"))),
    "slope-nan": _gz("scaling", lambda: nifti(scl_slope=np.nan)),
    "slope-nan-nifti2": _gz("scaling", lambda: nifti(version=2, scl_slope=np.nan)),
    "slope-infinite": _gz("scaling", lambda: nifti(scl_slope=np.inf)),
    "intercept-infinite": _gz("scaling", lambda: nifti(scl_inter=-np.inf)),
    "intercept-nan": _nii("scaling", lambda: nifti(scl_inter=np.nan)),
}


def _affine(rules: str, affine, **fields) -> Kind:
    """The chest with another sform."""
    return _gz(
        rules, lambda: nifti(affine=np.array(affine, float), **{"qform": 0, "pixdim": pixdim(*SPACING)} | fields)
    )


def _with(row: int, column: int, value: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[row, column] = value
    return affine


GEOMETRY = {
    "identity": _affine("affine-identity", np.eye(4), pixdim=pixdim(1, 1, 1)),
    "identity-qform-only": _gz("affine-identity", lambda: nifti(affine=np.eye(4), sform=0)),
    "identity-of-itk": _gz("affine-identity", lambda: nifti(affine=TO_LPS)),  # what it writes for unknown geometry
    "srow-zero": _affine("affine", np.zeros((4, 4))),
    "srow-zero-beside-a-qform": _gz(
        "affine affine-qform", lambda: nifti(srow_x=(0,) * 4, srow_y=(0,) * 4, srow_z=(0,) * 4)
    ),
    "srow-nan": _affine("affine", np.full((4, 4), np.nan)),
    "one-nan-in-the-affine": _affine("affine", _with(1, 1, np.nan)),
    "origin-nan": _affine("affine", _with(2, 3, np.nan)),
    "origin-infinite": _affine("affine", _with(0, 3, np.inf)),
    "affine-singular": _affine("affine", [[0.8, 0.8, 0, 0], [0, 0, 0, 0], [0, 0, 1.25, 0], [0, 0, 0, 1]]),
    "affine-without-a-third-axis": _affine("affine", _with(2, 2, 0)),
    "quaternion-nan": _gz("affine affine-qform", lambda: nifti(sform=0, quatern_b=np.nan)),
    "quaternion-too-long": _gz("affine affine-qform", lambda: nifti(sform=0, quatern_b=0.9, quatern_c=0.9)),
    "quaternion-nan-beside-a-sform": _gz("affine affine-qform", lambda: nifti(quatern_d=np.nan)),
    "pixdim-zero-without-codes": _gz("affine-pixdim affine", lambda: nifti(sform=0, qform=0, pixdim=pixdim(0, 0, 0))),
    "pixdim-zero-with-a-qform": _gz("affine-pixdim affine", lambda: nifti(sform=0, pixdim=pixdim(0.8, 0.8, 0))),
    "pixdim-zero-beside-a-sform": _affine("affine-pixdim", AFFINE, pixdim=pixdim(0, 0, 0)),
    "pixels-of-metres": _gz("spacing", lambda: nifti(affine=geometry((800, 800, 1250)))),
    "pixels-of-nothing": _gz("spacing", lambda: nifti(affine=geometry((0.0008, 0.0008, 0.00125)))),
    "pixdim-nan": _affine("affine-pixdim", AFFINE, pixdim=pixdim(0.8, 0.8, np.nan)),
    "pixdim-negative": _affine("affine-pixdim", AFFINE, pixdim=pixdim(0.8, -0.8, 1.25)),
    "pixdim-of-other-slices": _affine("affine-pixdim", AFFINE, pixdim=pixdim(0.8, 0.8, 2.5)),
    "pixdim-of-another-grid": _affine("affine-pixdim", AFFINE, pixdim=pixdim(0.75, 0.75, 1.25)),
    "pixdim-permuted": _affine("affine-pixdim", AFFINE, pixdim=pixdim(1.25, 0.8, 0.8)),
    "qform-turned": _gz("affine-qform", lambda: nifti(quatern_d=np.sin(np.radians(5)))),
    "qform-of-other-spacing": _gz("affine-qform affine-pixdim", lambda: nifti(pixdim=pixdim(1, 1, 1.25))),
    "qform-elsewhere": _gz("affine-qform", lambda: nifti(qoffset_x=ORIGIN[0] + 10)),
    "qform-mirrored": _gz("affine-qform", lambda: nifti(quatern_c=1, pixdim=(-1, *pixdim(*SPACING)[1:]))),
    "qfac-wrong": _gz("affine-qform", lambda: nifti(pixdim=(-1, *pixdim(*SPACING)[1:]))),
    "gantry-tilt": _affine("affine-shear", geometry(shear=15)),
    "gantry-tilt-of-one-degree": _affine("affine-shear", geometry(shear=1)),
    "gantry-tilt-nii": _nii("affine-shear", lambda: nifti(affine=geometry(shear=-20), qform=0)),
    "units-metre": _gz("units", lambda: nifti(xyzt_units=1)),
    "units-metre-scaled": _gz("units", lambda: nifti(affine=np.diag([1e-3] * 3 + [1]) @ AFFINE, xyzt_units=1)),
    "units-micron": _gz("units", lambda: nifti(xyzt_units=3)),
    "units-micron-scaled": _gz("units", lambda: nifti(affine=np.diag([1e3] * 3 + [1]) @ AFFINE, xyzt_units=3)),
    "units-unheard-of": _gz("units header", lambda: nifti(xyzt_units=5)),
    "axes-permuted": _gz("slice-axis", lambda: nifti(chest().transpose(2, 0, 1))),
    "axes-permuted-with-spacing": _gz(
        "slice-axis", lambda: nifti(chest().transpose(2, 0, 1), geometry((1.25, 0.8, 0.8)))
    ),
    "sagittal": _gz("slice-axis", lambda: nifti(chest((36, 64, 50)), geometry((3, 0.8, 0.8)))),
    "sagittal-slice-by-slice": _gz(
        "slice-axis", lambda: nifti(*turned(chest((36, 64, 50)), geometry((3, 0.8, 0.8)), "PSR"))
    ),
    "coronal": _gz("slice-axis", lambda: nifti(chest((64, 36, 50)), geometry((0.8, 3, 0.8)))),
    "small-in-plane": _gz("size", lambda: nifti(chest((20, 20, 40)))),
    "narrow": _gz("size", lambda: nifti(chest()[20:44])),
    "few-slices": _gz("size", lambda: nifti(chest()[..., 10:17])),
    "one-slice": _gz("size dimensions", lambda: nifti(chest()[..., 10:11])),
    "few-slices-permuted": _gz("size", lambda: nifti(*turned(chest()[..., 10:17], AFFINE, "SPL"))),
}

VALUES = {
    "nan-block": _gz("finite", lambda: nifti(changed(np.nan, np.s_[20:24, 20:24, 9:12], dtype="f4"))),
    "nan-voxel": _nii("finite", lambda: nifti(changed(np.nan, (63, 63, 39), dtype="f4"))),
    "infinite-voxel": _gz("finite", lambda: nifti(changed(np.inf, (30, 30, 20), dtype="f4"))),
    "negative-infinite-voxel": _gz("finite", lambda: nifti(changed(-np.inf, (0, 0, 0), dtype="f8"))),
    "nan-around": _gz("finite", lambda: nifti(changed(np.nan, chest() < -900, dtype="f4"))),
    "all-nan": _gz("finite", lambda: nifti(np.full(SHAPE, np.nan, "f4"))),
    "constant-zero": _gz("hu-constant", lambda: nifti(np.zeros(SHAPE, "i2"))),
    "constant-air": _nii("hu-constant", lambda: nifti(np.full(SHAPE, -1024, "i2"))),
    "all-air": _gz("hu-range", lambda: nifti(np.clip(chest(), -1100, -900))),
    "mask-binary": _gz("hu-mask", lambda: nifti((chest() > 200).astype("u1"))),
    "mask-binary-float": _gz("hu-mask", lambda: nifti((chest() > 200).astype("f4"))),
    "mask-binary-nii": _nii("hu-mask", lambda: nifti((chest() > 200).astype("i2"))),
    "mask-of-0-and-255": _gz("hu-mask hu-8bit", lambda: nifti(np.where(chest() > 200, 255, 0).astype("u1"))),
    "labels-few": _gz("hu-mask", lambda: nifti(labels(4).astype("u1"))),
    "labels-of-117-organs": _gz("hu-mask", lambda: nifti(labels(117).astype("i2"))),
    "probabilities": _gz("hu-normalised hu-mask", lambda: nifti((1 / (1 + np.exp(-chest() / 99.0))).astype("f4"))),
    "normalised-0-1": _gz("hu-normalised", lambda: nifti(windowed(-1000, 1000, 1).astype("f4"))),
    "normalised-minus-1-1": _gz("hu-normalised", lambda: nifti((windowed(-1000, 1000, 2) - 1).astype("f4"))),
    "normalised-by-slope": _gz(
        "hu-normalised", lambda: nifti(windowed(-1000, 1000, 65535).astype("u2"), scl_slope=1 / 65535)
    ),
    "z-scored": _gz("hu-normalised", lambda: nifti(((chest() - chest().mean()) / chest().std()).astype("f4"))),
    "attenuation-against-water": _gz("hu-normalised", lambda: nifti((1 + chest() / 1000).astype("f4"))),
    "windowed-8bit": _gz("hu-8bit", lambda: nifti(windowed(-1000, 500, 255).astype("u1"))),
    "windowed-8bit-as-int16": _gz("hu-8bit", lambda: nifti(windowed(-160, 240, 255).astype("i2"))),
    "windowed-8bit-as-float": _gz("hu-8bit hu-normalised", lambda: nifti(windowed(-1000, 500, 255).astype("f4"))),
    "windowed-8bit-with-gaps": _gz("hu-8bit hu-mask", lambda: nifti((chest() // 6 + 167).clip(0, 255).astype("u1"))),
    "normalised-to-percent": _gz(
        "hu-normalised hu-8bit hu-range", lambda: nifti(windowed(-1000, 1000, 100).astype("f4"))
    ),
    "windowed-16bit": _gz("hu-range", lambda: nifti(windowed(-1000, 1000, 65535).astype("u2"))),
    "window-of-soft-tissue": _gz("hu-range", lambda: nifti(np.clip(chest(), -160, 240))),
    "mri": _gz("hu-range hu-offset", lambda: nifti((np.abs(chest() + 1000) * 0.7).astype("i2"))),
    "offset": _gz("hu-offset", lambda: nifti(chest() + 1024)),
    "offset-unsigned": _nii("hu-offset", lambda: nifti(np.maximum(chest() + 1024, 0).astype("u2"))),
    "offset-of-1000": _gz("hu-offset", lambda: nifti(chest() + 1000)),
    "offset-beside-padding": _gz("hu-offset", lambda: nifti(changed(-2000, corners(), base=chest() + 1024))),
    "intercept-twice": _gz("hu-double-intercept", lambda: nifti(scl_inter=-1024)),
    "intercept-twice-stored": _gz("hu-double-intercept", lambda: nifti(chest() - 1024)),
    "intercept-twice-beside-padding": _gz("hu-double-intercept", lambda: nifti(padded(-3024), scl_inter=-1024)),
    "slope-absurd": _gz("hu-range", lambda: nifti(scl_slope=1e30)),
    "garbage-int16": _gz("hu-range", lambda: nifti(garbage("i2"))),
    "garbage-int8": _gz("hu-range hu-8bit", lambda: nifti(garbage("i1"))),
    "garbage-uint64": _gz("hu-range", lambda: nifti(garbage("u8"))),
    "garbage-int64": _nii("hu-range", lambda: nifti(garbage("i8"))),
    "garbage-float32": _gz("finite", lambda: nifti(garbage("f4"))),
    "garbage-large-float": _gz("hu-range", lambda: nifti(chest() * 1e300)),
    "wrong-endian": _gz("hu-range", lambda: nifti(chest().byteswap())),
    "blank-slice": _gz("slices-blank", lambda: nifti(changed(-1024, np.s_[..., 20]))),
    "blank-slice-of-water": _nii("slices-blank", lambda: nifti(changed(0, np.s_[..., 20]))),
    "blank-slices": _gz("slices-blank", lambda: nifti(changed(0, np.s_[..., 18:22]))),
    "blank-slice-near-the-end": _gz("slices-blank", lambda: nifti(changed(0, np.s_[..., 38]))),
    "blank-slice-permuted": _gz("slices-blank", lambda: nifti(*turned(changed(0, np.s_[..., 20]), AFFINE, "SPL"))),
    "duplicate-slice": _gz("slices-duplicate", lambda: nifti(copied(20, 21))),
    "duplicate-slice-added": _gz("slices-duplicate", lambda: nifti(repeated(11))),
    "duplicate-first-slice": _nii("slices-duplicate", lambda: nifti(copied(1, 0))),
    "duplicate-slice-permuted": _gz("slices-duplicate", lambda: nifti(*turned(copied(20, 21), AFFINE, "ASR"))),
    "blank-and-duplicate-slices": _gz(
        "slices-blank slices-duplicate", lambda: nifti(changed(-1024, np.s_[..., 30], base=copied(10, 11)))
    ),
}


def with_box(voxels):
    """Lungs as crude phantoms have them, in all slices from one to another."""
    voxels = voxels.copy()
    voxels[16:28, 20:44, 10:30] = voxels[36:48, 20:44, 10:30] = -850
    return voxels


MISSING_SLICES = {
    "missing-slices": _gz("slices-missing", lambda: nifti(np.delete(chest(), np.s_[12:28], axis=2))),
    "missing-slices-flipped": _gz(
        "slices-missing", lambda: nifti(*turned(np.delete(chest(), np.s_[14:26], axis=2), AFFINE, "LPI"))
    ),
    "missing-slices-of-little-noise": _gz(
        "slices-missing", lambda: nifti(np.delete(chest(noise=3.0), np.s_[17:22], axis=2))
    ),
}

OTHER_FORMATS = {
    "nrrd-gzip-bit-flip": _nrrd("gzip unreadable", lambda: nrrd(encoding="gzip", data=lambda d: flip(d, 0.5))),
    "nrrd-gzip-checksum": _nrrd("gzip", lambda: nrrd(encoding="gzip", data=lambda d: flip(d, -6))),
    "nrrd-gzip-truncated": _nrrd("gzip payload unreadable", lambda: nrrd(encoding="gzip", data=lambda d: d[:90000])),
    "nrrd-bytes-after-the-gzip-stream": _nrrd("gzip payload", lambda: nrrd(encoding="gzip", data=lambda d: d + TEXT)),
    "nrrd-raw-truncated": _nrrd("payload unreadable", lambda: nrrd(data=lambda d: d[:90000])),
    "nrrd-raw-too-long": _nrrd("payload", lambda: nrrd(data=lambda d: d + bytes(5000))),
    "nrrd-says-more-slices": _nrrd("payload unreadable", lambda: nrrd(encoding="gzip", sizes="64 64 60")),
    "nrrd-says-fewer-slices": _nrrd("payload", lambda: nrrd(encoding="gzip", sizes="64 64 20")),
    "nrrd-dim-bomb": _nrrd("payload unreadable header", lambda: nrrd(encoding="gzip", sizes="60000 60000 60000")),
    "nrrd-text": _nrrd(UNREADABLE, lambda: TEXT),
    "nrrd-empty": _nrrd(UNREADABLE, bytes),
    "nrrd-without-geometry": _nrrd(
        "affine affine-identity", lambda: nrrd(space=None, space_directions=None, space_origin=None)
    ),
    "nrrd-tilted": _nrrd("affine-shear", lambda: nrrd(affine=geometry(shear=15))),
    "nrrd-phases": _nrrd("dimensions", lambda: nrrd(np.stack([chest(), chest(seed=1)]))),
    "nrrd-phases-last": _nrrd(
        "dimensions",
        lambda: nrrd(
            np.stack([chest(), chest(seed=1)], axis=-1),
            space=None,
            space_dimension=4,
            space_directions="(0.8,0,0,0) (0,0.8,0,0) (0,0,1.25,0) (0,0,0,1)",
            space_origin="(0,0,0,0)",
            kinds="domain domain domain domain",
        ),
    ),
    "nrrd-directions-nan": _nrrd("affine unreadable header", lambda: nrrd(affine=_with(1, 1, np.nan))),
    "nrrd-rgb": _nrrd(
        "voxel-type dimensions",
        lambda: nrrd(np.stack([windowed(-1000, 500, 255).astype("u1")] * 3), kinds="RGB-color domain domain domain"),
    ),
    "nrrd-nan": _nrrd("finite", lambda: nrrd(changed(np.nan, (30, 30, 20), dtype="f4"))),
    "nrrd-offset": _nrrd("hu-offset", lambda: nrrd(chest() + 1024, encoding="gzip")),
    "nrrd-normalised": _nrrd("hu-normalised", lambda: nrrd(windowed(-1000, 1000, 1).astype("f4"))),
    "nrrd-duplicate-slice": _nrrd("slices-duplicate", lambda: nrrd(copied(20, 21))),
    "mha-zlib-bit-flip": _mha(
        "gzip unreadable payload", lambda: metaimage(compressed=True, data=lambda d: flip(d, 0.5))
    ),
    "mha-zlib-checksum": _mha("gzip unreadable", lambda: metaimage(compressed=True, data=lambda d: flip(d, -2))),
    "mha-zlib-truncated": _mha("gzip unreadable payload", lambda: metaimage(compressed=True)[:-5000]),
    "mha-bytes-after-the-zlib-stream": _mha(
        "gzip payload", lambda: metaimage(compressed=True) + garbage("u1").tobytes()[:5000]
    ),
    "mha-dim-bomb": _mha("payload unreadable header", lambda: metaimage(compressed=True, DimSize="60000 60000 60000")),
    "mha-tilted": _mha("affine-shear", lambda: metaimage(affine=geometry(shear=15))),
    "mha-spacing-of-zero": _mha(
        "affine affine-pixdim header unreadable", lambda: metaimage(ElementSpacing="0.8 0.8 0")
    ),
    "mha-raw-truncated": _mha("payload unreadable", lambda: metaimage()[:-5000]),
    "mha-raw-too-long": _mha("payload", lambda: metaimage() + bytes(5000)),
    "mha-says-fewer-slices": _mha("payload", lambda: metaimage(compressed=True, DimSize="64 64 20")),
    "mha-text": _mha(UNREADABLE, lambda: TEXT),
    "mha-2-d": _mha(
        "dimensions",
        lambda: metaimage(
            chest()[..., 20],
            NDims=2,
            TransformMatrix="1 0 0 1",
            Offset="0 0",
            CenterOfRotation="0 0",
            ElementSpacing="0.8 0.8",
        ),
    ),
    "mha-rgb": _mha(
        "voxel-type",
        lambda: metaimage(
            np.stack([windowed(-1000, 500, 255).astype("u1")] * 3),
            NDims=3,
            DimSize="64 64 40",
            ElementNumberOfChannels=3,
        ),
    ),
    "mha-without-geometry": _mha(
        "affine affine-identity", lambda: metaimage(TransformMatrix=None, Offset=None, ElementSpacing=None)
    ),
    "mha-8bit": _mha("hu-8bit", lambda: metaimage(windowed(-1000, 500, 255).astype("u1"), compressed=True)),
    "mha-mask": _mha("hu-mask", lambda: metaimage(labels(20).astype("u1"), compressed=True)),
    "mha-intercept-twice": _mha("hu-double-intercept", lambda: metaimage(chest() - 1024)),
    "mhd-without-its-raw": Kind(
        ".mhd", lambda: {"alone.mhd": metaimage(file="alone.raw")}, frozenset({"unreadable", "payload"})
    ),
    "mhd-with-half-its-raw": Kind(
        ".mhd",
        lambda: {"half.mhd": metaimage(file="half.raw"), "half.raw": metaimage_data(chest())[:90000]},
        frozenset({"payload", "unreadable"}),
    ),
}

BAD = COMPRESSION | HEADER | GEOMETRY | VALUES | OTHER_FORMATS

WARNED = MISSING_SLICES | {
    "slices-of-10-mm": _gz("thickness", lambda: nifti(affine=geometry((0.8, 0.8, 10)))),
    "slices-of-10-mm-permuted": _gz("thickness", lambda: nifti(*turned(chest(), geometry((0.8, 0.8, 10)), "SPL"))),
    "lungs-that-begin-at-once": _gz("slices-missing", lambda: nifti(with_box(chest()))),
    "slices-of-0.2-mm": _gz("thickness", lambda: nifti(affine=geometry((0.8, 0.8, 0.2)))),
    "mha-slices-of-10-mm": _mha("thickness", lambda: metaimage(affine=geometry((0.8, 0.8, 10)))),
    "name-in-descrip": _gz("patient-name", lambda: nifti(descrip=b"DOE^JOHN")),
    "name-in-descrip-with-more": _gz("patient-name", lambda: nifti(descrip=b"Chest CT of Doe^John^A, 1.25 mm")),
    "name-in-descrip-latin1": _nii("patient-name", lambda: nifti(descrip="MÜLLER^JÜRGEN".encode("latin-1"))),
    "name-in-aux-file": _gz("patient-name", lambda: nifti(aux_file=b"DOE^JOHN")),
    "name-in-db-name": _gz("patient-name", lambda: nifti(db_name=b"DOE^JOHN")),
    "name-in-intent-name": _gz("patient-name", lambda: nifti(intent_name=b"DOE^JOHN")),
    "name-in-intent-name-nifti2": _gz("patient-name", lambda: nifti(version=2, intent_name=b"DOE^JOHN")),
    "name-in-an-extension": _gz("patient-name", lambda: nifti(extension=extension(b"PatientName: DOE^JOHN"))),
    "name-in-a-second-extension": _nii(
        "patient-name", lambda: nifti(extension=extension(b"resampled") + extension(b"DOE^JOHN", code=0))
    ),
    "name-in-dicom-attributes": _gz(
        "patient-name", lambda: nifti(extension=extension(b"\x10\0\x10\0PN\x08\0DOE^JOHN", code=2))
    ),
    "name-in-nrrd-content": _nrrd("patient-name", lambda: nrrd(content="DOE^JOHN")),
    "name-in-mha-comment": _mha("patient-name", lambda: metaimage(Comment="DOE^JOHN")),
    "name-in-nrrd-keys": _nrrd("patient-name", lambda: nrrd(keys={"PatientName": "DOE^JOHN"})),
}


def _legal(voxels=None, affine=AFFINE, truth=None, suffix=".nii.gz", axes="RAS", **fields) -> Legal:
    """A NIfTI file from voxels made when needed, and what is to come out of it.

    Args:
        voxels: makes the stored voxels, in RAS; the chest by default.
        affine: of ``voxels``.
        truth: makes the HU that are to come out; as stored by default.
        suffix: of the file's name; decides about compression.
        axes: order of the axes in the file.
        **fields: for :func:`nifti`.
    """
    voxels = voxels or chest

    def make() -> bytes:
        content = nifti(*turned(voxels(), affine, axes), **fields)
        return gz(content) if suffix.endswith(".gz") else content

    return Legal(suffix, make, truth=lambda: ((truth or voxels)(), affine))


def _of(make: Callable, suffix: str, affine=AFFINE) -> Legal:
    return Legal(suffix, make, truth=lambda: (chest(), affine))


def metal(top: int, dtype: str = "i2") -> np.ndarray:
    """The chest with a clip of up to ``top`` HU in the heart."""
    return changed(np.linspace(3071, top, 4), np.s_[30:34, 30:34, 10:14], dtype=dtype)


def mediastinum() -> np.ndarray:
    """A crop within the chest: heart, aorta, and a rim of lung."""
    return chest(window=((-0.2, 0.12), (0.0, 0.4), (0.3, 0.6)))


def bright(voxels: np.ndarray) -> np.ndarray:
    """Contrast near 1000 HU, as at 80 kV, at 40 keV of a dual-energy scan, or before the bolus mixes."""
    return np.where((voxels > 230) & (voxels < 440), voxels + 650, voxels)


LEGAL = {
    "ras": _legal(),
    "ras-nii": _legal(suffix=".nii"),
    "lps": _legal(axes="LPS"),
    "las": _legal(axes="LAS"),
    "rpi": _legal(axes="RPI"),
    "rai": _legal(axes="RAI"),
    "lpi-nii": _legal(axes="LPI", suffix=".nii"),
    "spl": _legal(axes="SPL"),
    "asr": _legal(axes="ASR"),
    "ilp-qform-only": _legal(axes="ILP", sform=0),
    "oblique": _legal(affine=geometry(degrees=10)),
    "oblique-lps": _legal(axes="LPS", affine=geometry(degrees=10)),
    "oblique-permuted": _legal(axes="SAL", affine=geometry(degrees=-10)),
    "oblique-qform-only": _legal(affine=geometry(degrees=10), sform=0),
    "sform-only": _legal(qform=0),
    "qform-only": _legal(sform=0),
    "qfac-of-zero": _legal(sform=0, pixdim=(0, *pixdim(*SPACING)[1:])),  # the standard reads it as 1
    "qfac-of-zero-beside-a-sform": _legal(pixdim=(0, *pixdim(*SPACING)[1:])),
    "sform-in-aligned-space": _legal(sform=2, qform=1),
    "sform-rounded": _legal(pixdim=pixdim(0.80002, 0.80002, 1.25002)),
    "big-endian": _legal(endian=">"),
    "big-endian-nii": _legal(axes="LPS", endian=">", suffix=".nii"),
    "nifti2": _legal(version=2),
    "nifti2-big-endian": _legal(axes="LAS", version=2, endian=">"),
    "float32": _legal(lambda: chest() + np.float32(0.25), truth=chest),
    "float64": _legal(lambda: chest() - 0.375, truth=chest, suffix=".nii"),
    "int32": _legal(lambda: chest().astype("i4")),
    "int64-big-endian": _legal(lambda: chest().astype("i8"), endian=">"),
    "uint16-with-intercept": _legal(
        lambda: np.maximum(chest() + 1024, 0).astype("u2"), truth=lambda: np.maximum(chest(), -1024), scl_inter=-1024
    ),
    "int16-with-intercept-nii": _legal(lambda: chest() + 1024, truth=chest, scl_inter=-1024, suffix=".nii"),
    "slope-of-2": _legal(lambda: (chest() + 1024) // 2, truth=lambda: chest() // 2 * 2, scl_slope=2, scl_inter=-1024),
    "slope-of-1/16": _legal(lambda: chest() * 16, truth=chest, scl_slope=1 / 16),
    "slope-of-0": _legal(scl_slope=0),  # no scaling, says the standard
    "padding-2048": _legal(lambda: padded(-2048)),
    "padding-3024": _legal(lambda: padded(-3024)),
    "padding-2000-by-intercept": _legal(lambda: padded(-976) + 1024, truth=lambda: padded(-976), scl_inter=-1024),
    "padding-of-two-values": _legal(lambda: changed(-2000, np.s_[:8], np.s_[-8:], base=padded(-2048))),
    "metal-at-3071": _legal(lambda: np.minimum(metal(12000), 3071)),
    "metal-to-12000": _legal(lambda: metal(12000)),
    "metal-beyond-int16": _legal(
        lambda: metal(60000, "f4"), truth=lambda: np.minimum(np.rint(metal(60000, "f4")), 32767)
    ),
    "clipped-to-12-bit": _legal(lambda: np.clip(metal(9000), -1024, 3071)),
    "slices-of-0.6-mm": _legal(affine=geometry((0.8, 0.8, 0.6))),
    "slices-of-5-mm": _legal(affine=geometry((0.8, 0.8, 5))),
    "unequal-pixels": _legal(affine=geometry((0.7, 0.8, 1.5))),
    "isotropic": _legal(affine=geometry((1.5, 1.5, 1.5))),
    "one-mm-voxels-somewhere": _legal(affine=geometry((1, 1, 1))),
    "not-square": _legal(lambda: chest()[:, 6:58]),
    "three-equal-sides": _legal(lambda: chest((48, 48, 48))),
    "long": _legal(lambda: chest((40, 40, 200))),
    "smallest": _legal(lambda: chest((32, 32, 8), noise=3.0)),
    "one-phase": Legal(".nii.gz", lambda: gz(nifti(chest()[..., None]))),
    "unused-sides-of-zero": _legal(dim=(3, *SHAPE, 0, 0, 0, 0)),
    "gzip-members": Legal(".nii.gz", lambda: members(same, same)),
    "gzip-level-0": Legal(".nii.gz", lambda: gz(nifti(), level=0)),
    "gzip-level-9": Legal(".nii.gz", lambda: gz(nifti(), level=9)),
    "gzip-with-a-file-name": Legal(
        ".nii.gz", lambda: whole()[:3] + b"\x08" + whole()[4:10] + b"chest.nii\0" + whole()[10:]
    ),
    "upper-case-name": Legal(".NII.GZ", whole),
    "units-unknown": _legal(xyzt_units=0),
    "units-mm-only": _legal(xyzt_units=2),
    "comment-extension": _legal(extension=extension(b"resampled to 0.8 x 0.8 x 1.25 mm")),
    "json-extension": _legal(extension=extension(b'{"Modality": "CT", "KVP": 120, "ConversionSoftware": "dcm2niix"}')),
    "xml-extension-nii": _legal(
        extension=extension(b"<?xml version='1.0' ?><AFNI_attributes/>", code=4), suffix=".nii"
    ),
    "descrip-totalsegmentator": _legal(descrip=b"TotalSegmentator"),
    "descrip-fsl": _legal(descrip=b"FSL5.0"),
    "descrip-fsl-6": _legal(descrip=b"6.0.5:9e026117", aux_file=b"none"),
    "descrip-dcm2niix": _legal(descrip=b"TE=2;Time=123456.000", aux_file=b"imgComments"),
    "descrip-spm": _legal(descrip=b"spm - 3D normalized", intent_name=b"HU"),
    "mediastinum": _legal(mediastinum),
    "mediastinum-of-bright-contrast": _legal(lambda: bright(mediastinum())),
    "bright-contrast": _legal(lambda: bright(chest())),
    "low-noise": _legal(lambda: chest(noise=3.0)),
    "high-noise": _legal(lambda: chest(noise=120.0)),
    "nrrd-raw": _of(nrrd, ".nrrd"),
    "nrrd-gzip": _of(lambda: nrrd(encoding="gzip"), ".nrrd"),
    "nrrd-ras": _of(lambda: nrrd(encoding="gzip", space="right-anterior-superior"), ".nrrd"),
    "nrrd-big-endian": _of(lambda: nrrd(endian=">"), ".nrrd"),
    "nrrd-float": _of(lambda: nrrd(chest() + np.float32(0.25)), ".nrrd"),
    "nrrd-permuted": _of(lambda: nrrd(*turned(chest(), geometry(degrees=10), "SPL")), ".nrrd", geometry(degrees=10)),
    "nrrd-with-keys": _of(lambda: nrrd(encoding="gzip", keys={"SourceSoftware": "3D Slicer 5.6"}), ".nrrd"),
    "mha-raw": _of(metaimage, ".mha"),
    "mha-compressed": _of(lambda: metaimage(compressed=True), ".mha"),
    "mha-big-endian": _of(lambda: metaimage(endian=">"), ".mha"),
    "mha-oblique": _of(lambda: metaimage(*turned(chest(), geometry(degrees=10), "LPS")), ".mha", geometry(degrees=10)),
    "mhd-and-raw": _of(lambda: {"pair.mhd": metaimage(file="pair.raw"), "pair.raw": metaimage_data(chest())}, ".mhd"),
    "mhd-and-zraw": _of(
        lambda: {
            "pair.mhd": metaimage(file="pair.zraw", compressed=True),
            "pair.zraw": metaimage_data(chest(), compressed=True),
        },
        ".mhd",
    ),
}

# scans that begin and end in air: read as they are, and a warning is not wrong
BLANK_ENDS = {
    "padded-slices-at-both-ends": _legal(lambda: changed(-2048, np.s_[..., :2], np.s_[..., -3:])),
    "air-at-both-ends": _legal(lambda: changed(-1000, np.s_[..., :3], np.s_[..., -2:])),
    "air-of-1024-at-both-ends": _legal(lambda: changed(-1024, np.s_[..., :1], np.s_[..., -4:])),
    "air-at-one-end-permuted": _legal(lambda: changed(-1000, np.s_[..., -3:]), axes="SPL"),
}
