"""Builds folders of DICOM files with known voxels and geometry, one fault or oddity at a time.

``BAD`` maps what is wrong to the builder and the rule that must refuse it; ``LEGAL`` maps oddities to builders that
return the volumes which must come out.
"""

# I columns, J rows, K slices

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom import dcmread, dcmwrite
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

SIDE_I, SIDE_J, SLICES = 40, 36, 12
SPACING = (0.75, 0.5, 1.25)  # mm from column to column, row to row, slice to slice
ORIGIN = (-100.25, -90.5, -300.0)  # LPS mm, centre of the first voxel
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
NAME, PATIENT, BIRTH, DESCRIPTION = "Doe^Jane^Secret", "P-0017", "19500101", "Thorax of Jane"
STUDY = "1.2.3.4"
RAW_DATA, SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.66"), UID("1.2.840.10008.5.1.4.1.1.7")
REPORT, PRIVATE = UID("1.2.840.10008.5.1.4.1.1.88.11"), UID("1.3.12.2.1107.5.9.1")


class Expected(NamedTuple):
    """A volume that must come out."""

    hu: np.ndarray
    affine: np.ndarray


# -- parts -------------------------------------------------------------------------------------------------------------


def truth(slices: int = SLICES, seed: int = 3, shape: tuple[int, int] = (SIDE_I, SIDE_J)) -> np.ndarray:
    """[I, J, K] int16 HU; no two slices alike."""
    return np.random.default_rng(seed).integers(-1000, 1500, (*shape, slices)).astype(np.int16)


def affine_of(spacing=SPACING, origin=ORIGIN, orientation=AXIAL) -> np.ndarray:
    """The affine in RAS+ mm of a series of this geometry, written out from the standard (PS3.3 C.7.6.2.1.1)."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1] = row * spacing[0], column * spacing[1]
    lps[:3, 2], lps[:3, 3] = np.cross(row, column) * spacing[2], origin
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps


def ds(value: float) -> str:
    """A decimal string of at most 16 characters, as the standard asks."""
    return f"{value:.10g}"[:16]


def header(sop_class: UID, series: str, study: str = STUDY, patient: str = PATIENT) -> FileDataset:
    """All of an image but its size, place and pixels."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = sop_class
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    one.SOPClassUID, one.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    one.ImageType, one.Modality = ["ORIGINAL", "PRIMARY", "AXIAL"], "CT"
    one.PatientName, one.PatientID, one.PatientBirthDate = NAME, patient, BIRTH
    one.SeriesDescription = DESCRIPTION
    one.StudyInstanceUID, one.SeriesInstanceUID = study, series
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    one.BitsAllocated = one.BitsStored = 16
    one.HighBit, one.PixelRepresentation = 15, 1
    return one


def make(
    hu: np.ndarray | None = None,
    *,
    spacing=SPACING,
    origin=ORIGIN,
    orientation=AXIAL,
    series: str | None = None,
    study: str = STUDY,
    patient: str = PATIENT,
) -> list[FileDataset]:
    """The slices of a good series, in the order of their position."""
    hu = truth() if hu is None else hu
    series = generate_uid() if series is None else series
    normal = np.cross(orientation[:3], orientation[3:])
    slices = []
    for k in range(hu.shape[2]):
        one = header(CTImageStorage, series, study, patient)
        one.InstanceNumber = k + 1
        one.Rows, one.Columns = hu.shape[1], hu.shape[0]
        one.PixelSpacing = [ds(spacing[1]), ds(spacing[0])]  # rows first
        one.SliceThickness = ds(spacing[2])
        one.ImageOrientationPatient = [ds(value) for value in orientation]
        one.ImagePositionPatient = [ds(value) for value in np.array(origin) + k * spacing[2] * normal]
        store(one, hu[:, :, k])
        slices.append(one)
    return slices


def store(one: Dataset, hu: np.ndarray, slope: float = 1, intercept: float = -1024, dtype=np.int16) -> None:
    """Put a slice [I, J] of HU into an image under this slope and intercept."""
    one.RescaleSlope, one.RescaleIntercept = ds(slope), ds(intercept)
    one.PixelRepresentation = int(np.dtype(dtype).kind == "i")
    one.PixelData = np.rint((hu.T.astype(float) - intercept) / slope).astype(dtype).tobytes()


def shift(slices: Iterable[Dataset], mm: float, axis: int = 2) -> None:
    """Move images along an axis of the patient."""
    for one in slices:
        position = list(one.ImagePositionPatient)
        position[axis] = ds(position[axis] + mm)
        one.ImagePositionPatient = position


def make_enhanced(hu: np.ndarray | None = None, z=None, intercepts=None) -> FileDataset:
    """One multi-frame file (Enhanced CT Image Storage) of a whole series, with place and rescale per frame."""
    hu = truth() if hu is None else hu
    frames = hu.shape[2]
    z = [ORIGIN[2] + k * SPACING[2] for k in range(frames)] if z is None else z
    intercepts = [-1024] * frames if intercepts is None else intercepts
    one = header(EnhancedCTImageStorage, generate_uid())
    one.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    one.NumberOfFrames, one.Rows, one.Columns = frames, hu.shape[1], hu.shape[0]
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [ds(SPACING[1]), ds(SPACING[0])], ds(SPACING[2])
    orientation.ImageOrientationPatient = [ds(value) for value in AXIAL]
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    one.SharedFunctionalGroupsSequence = Sequence([shared])
    one.PerFrameFunctionalGroupsSequence = Sequence([])
    for height, intercept in zip(z, intercepts, strict=True):
        place, values, frame = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [ds(ORIGIN[0]), ds(ORIGIN[1]), ds(height)]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "1", ds(intercept), "HU"
        frame.PlanePositionSequence = Sequence([place])
        frame.PixelValueTransformationSequence = Sequence([values])
        one.PerFrameFunctionalGroupsSequence.append(frame)
    stored = hu.transpose(2, 1, 0).astype(int) - np.array(intercepts)[:, None, None]
    one.PixelData = stored.astype(np.int16).tobytes()
    return one


def write(
    slices: Iterable[FileDataset],
    folder: Path,
    name: str = "IM{:04d}.dcm",
    syntax: UID | None = None,
) -> list[Path]:
    """Write images under numbered names; other transfer syntaxes than the compressed ones are made on the way."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index, one in enumerate(slices):
        if syntax is not None:
            one.file_meta.TransferSyntaxUID = syntax
        used = one.file_meta.TransferSyntaxUID
        if "PixelData" in one:
            one["PixelData"].VR = "OB" if used.is_compressed and not used.is_deflated else "OW"
            if not used.is_little_endian:
                one.PixelData = np.frombuffer(one.PixelData, np.int16).byteswap().tobytes()
        paths.append(folder / name.format(index + 1))
        encoding = {"implicit_vr": used.is_implicit_VR, "little_endian": used.is_little_endian}
        dcmwrite(paths[-1], one, **encoding, force_encoding=True)
    return paths


def compress(slices: list[FileDataset], hu: np.ndarray, codec: str, scratch: Path) -> None:
    """Put the HU in as JPEG or JPEG 2000, both lossless, as GDCM writes them."""
    import itk

    path = scratch / "compressed.dcm"
    for k, one in enumerate(slices):
        image = itk.image_from_array(np.ascontiguousarray((hu[:, :, k].T.astype(int) + 1024).astype(np.uint16)))
        io, writer = itk.GDCMImageIO.New(), itk.ImageFileWriter[type(image)].New()
        io.SetCompressionType(getattr(itk.GDCMImageIOEnums, f"Compression_{codec}"))
        writer.SetImageIO(io)
        writer.SetUseCompression(True)
        writer.SetFileName(str(path))
        writer.SetInput(image)
        writer.Update()
        written = dcmread(path)
        one.PixelRepresentation, one.PixelData = 0, written.PixelData
        one["PixelData"].is_undefined_length = True
        one.file_meta.TransferSyntaxUID = written.file_meta.TransferSyntaxUID
    path.unlink()


def cut(path: Path, num_bytes: int) -> None:
    """Leave the first bytes of a file only; of a negative number all but so many."""
    path.write_bytes(path.read_bytes()[:num_bytes])


def without_start(path: Path, pattern: bytes) -> None:
    """Drop what comes before a pattern: preamble, or the meta header too."""
    content = path.read_bytes()
    path.write_bytes(content[content.index(pattern) :])


def scout(size: int = 32, images: int = 1, **changes) -> list[FileDataset]:
    """A small overview, not marked as one."""
    return make(truth(images, 9, (size, size)), orientation=(1, 0, 0, 0, 0, -1), **changes)


def other_object(sop_class: UID, modality: str, series: str | None = None) -> FileDataset:
    """A DICOM object without pixels."""
    one = header(sop_class, series or generate_uid())
    one.Modality = modality
    for keyword in ("SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit"):
        delattr(one, keyword)
    return one


# -- what must be refused ----------------------------------------------------------------------------------------------

BAD: dict[str, tuple[Callable[[Path], None], str]] = {}


def bad(name: str, rule: str):
    """Enter a builder into the table: it gets the slices of a good series and returns those to write."""

    def enter(build):
        BAD[name] = (lambda folder: write(build(make()), folder), rule)
        return build

    return enter


def bad_files(name: str, rule: str):
    """Enter a builder that changes the written files of a good series."""

    def enter(build):
        BAD[name] = (lambda folder: build(write(make(), folder)), rule)
        return build

    return enter


def _each(slices, **values):
    for one in slices:
        for keyword, value in values.items():
            setattr(one, keyword, value)
    return slices


def _without(slices, *keywords):
    for one in slices:
        for keyword in keywords:
            delattr(one, keyword)
    return slices


@bad("one slice missing", "dicom-gap")
def _(slices):
    return slices[:5] + slices[6:]


@bad("the slice before the last missing", "dicom-gap")
def _(slices):
    return slices[:10] + slices[11:]


BAD["ten slices missing"] = (
    lambda folder: write([one for k, one in enumerate(make(truth(24))) if not 6 <= k < 16], folder),
    "dicom-gap",
)


@bad("spacing 1.25 then 2.5 mm", "dicom-gap")
def _(slices):
    for k, one in enumerate(slices[6:]):
        shift([one], 1.25 * (k + 1))
    return slices


@bad("spacing that grows by 2 % a slice", "dicom-gap")
def _(slices):
    for k, one in enumerate(slices):
        shift([one], 0.0125 * k * k)
    return slices


@bad("a slice twice", "dicom-duplicate")
def _(slices):
    return [*slices, slices[4]]


@bad("another slice at one position", "dicom-duplicate")
def _(slices):
    slices[7].ImagePositionPatient = slices[6].ImagePositionPatient
    return slices


@bad("two phases in one series", "dicom-duplicate")
def _(slices):
    return slices + make(truth(seed=8), series=slices[0].SeriesInstanceUID)


@bad("all slices at one position", "dicom-duplicate")
def _(slices):
    return _each(slices, ImagePositionPatient=slices[0].ImagePositionPatient)


@bad("gantry tilt of 15 degrees", "affine-shear")
def _(slices):
    for k, one in enumerate(slices):
        shift([one], k * SPACING[2] * np.tan(np.radians(15)), axis=1)
    return slices


@bad("a slice shifted sideways", "affine-shear")
def _(slices):
    shift(slices[5:6], 0.6, axis=0)
    return slices


@bad("rows and columns not at right angles", "affine-shear")
def _(slices):
    return _each(slices, ImageOrientationPatient=[1, 0, 0, ds(np.sin(0.02)), ds(np.cos(0.02)), 0])


@bad("no rescale", "dicom-rescale")
def _(slices):
    return _without(slices, "RescaleSlope", "RescaleIntercept")


@bad("no rescale intercept in one slice", "dicom-rescale")
def _(slices):
    _without(slices[3:4], "RescaleIntercept")
    return slices


@bad("empty rescale", "dicom-rescale")
def _(slices):
    return _each(slices, RescaleSlope="", RescaleIntercept="")


@bad("slope of zero", "scaling")
def _(slices):
    return _each(slices[:1], RescaleSlope="0") + slices[1:]


@bad("no position", "dicom-position")
def _(slices):
    return _without(slices, "ImagePositionPatient")


@bad("no position in one slice", "dicom-position")
def _(slices):
    _without(slices[11:], "ImagePositionPatient")
    return slices


@bad("half a position", "dicom-position")
def _(slices):
    return _each(slices, ImagePositionPatient=["1", "2", ""])


@bad("no orientation", "dicom-position")
def _(slices):
    return _without(slices, "ImageOrientationPatient")


@bad("no orientation in one slice", "dicom-position")
def _(slices):
    _without(slices[:1], "ImageOrientationPatient")
    return slices


@bad("orientation of zeros", "dicom-position")
def _(slices):
    return _each(slices, ImageOrientationPatient=[0] * 6)


@bad("two orientations", "dicom-orientation")
def _(slices):
    _each(slices[6:], ImageOrientationPatient=[1, 0, 0, 0, ds(np.cos(0.1)), ds(np.sin(0.1))])
    return slices


@bad("every slice turned", "dicom-orientation")
def _(slices):
    slices = make(truth(40))
    for k, one in enumerate(slices):
        one.ImageOrientationPatient = [ds(value) for value in (np.cos(k / 9), np.sin(k / 9), 0, 0, 0, -1)]
    return slices


@bad("coronal series", "slice-axis")
def _(slices):
    return make(orientation=(1, 0, 0, 0, 0, -1))


@bad("sagittal series", "slice-axis")
def _(slices):
    return make(orientation=(0, 1, 0, 0, 0, -1))


@bad("mixed pixel spacing", "dicom-spacing")
def _(slices):
    _each(slices[6:], PixelSpacing=["0.5", "0.8"])
    return slices


@bad("no pixel spacing", "dicom-spacing")
def _(slices):
    return _without(slices, "PixelSpacing")


@bad("pixel spacing of zero", "dicom-spacing")
def _(slices):
    return _each(slices, PixelSpacing=["0", "0"])


@bad("modality MR", "dicom-modality")
def _(slices):
    return _each(slices, Modality="MR")


@bad("no modality", "dicom-modality")
def _(slices):
    return _each(slices, Modality="")


@bad("colour", "voxel-type")
def _(slices):
    pixels = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    return _each(slices, **pixels, **bits, PixelData=bytes(3 * SIDE_I * SIDE_J))


@bad("inverted grey values", "voxel-type")
def _(slices):
    return _each(slices, PhotometricInterpretation="MONOCHROME1")


@bad("pixels of one slice missing", "dicom-damaged")
def _(slices):
    _without(slices[4:5], "PixelData")
    return slices


@bad("fewer pixels than rows x columns", "dicom-damaged")
def _(slices):
    slices[4].PixelData = slices[4].PixelData[:-100]
    return slices


@bad_files("file cut in the middle", "dicom-damaged")
def _(paths):
    cut(paths[5], 2000)


@bad_files("last file cut by a byte", "dicom-damaged")
def _(paths):
    cut(paths[-1], -1)


@bad_files("last file cut before its series UID", "dicom-damaged")
def _(paths):
    cut(paths[-1], 400)


@bad_files("last file empty", "dicom-damaged")
def _(paths):
    cut(paths[-1], 0)


@bad_files("last file all zeros", "dicom-damaged")
def _(paths):
    paths[-1].write_bytes(bytes(3000))


def _cut_implicit(folder):
    cut(write(make(), folder, syntax=ImplicitVRLittleEndian)[-1], 1500)


BAD["implicit VR, last file cut"] = (_cut_implicit, "dicom-damaged")


def _cut_jpeg(folder):
    slices = make()
    folder.mkdir()
    compress(slices, truth(), "JPEG", folder)
    cut(write(slices, folder)[-1], -600)


BAD["JPEG lossless, last file cut"] = (_cut_jpeg, "dicom-damaged")


def _spoil(codec, spoil):
    def build(folder):
        slices = make()
        folder.mkdir()
        compress(slices, truth(), codec, folder)
        path = write(slices, folder)[4]
        content = bytearray(path.read_bytes())
        spoil(content, content.index(b"\xe0\x7f\x10\x00"))
        path.write_bytes(content)

    return build


def _zero_scan(content, start):
    content[-900:-860] = bytes(40)


def _zero_header(content, start):
    content[start + 40 : start + 70] = bytes(30)


BAD["JPEG lossless, pixels spoilt"] = (_spoil("JPEG", _zero_scan), "dicom-damaged")
BAD["JPEG 2000, header of the pixels spoilt"] = (_spoil("JPEG2000", _zero_header), "dicom-damaged")


def enhanced(**changes):
    """A builder of a folder with one multi-frame file."""
    return lambda folder: write([make_enhanced(**changes)], folder)


def heights(*places: int) -> list[float]:
    """Positions of frames, in slices."""
    return [ORIGIN[2] + SPACING[2] * place for place in places]


def _enhanced_short(folder):
    one = make_enhanced()
    one.PixelData = one.PixelData[: -2 * SIDE_I * SIDE_J]
    write([one], folder)


def _enhanced_without(sequence):
    def build(folder):
        one = make_enhanced()
        for frame in one.PerFrameFunctionalGroupsSequence:
            delattr(frame, sequence)
        write([one], folder)

    return build


BAD["multi-frame with a gap"] = (enhanced(z=heights(*range(6), *range(8, 14))), "dicom-gap")
BAD["multi-frame with a frame twice"] = (enhanced(z=heights(*range(6), 5, *range(6, 11))), "dicom-duplicate")
BAD["multi-frame without positions"] = (_enhanced_without("PlanePositionSequence"), "dicom-position")
BAD["multi-frame without rescale"] = (_enhanced_without("PixelValueTransformationSequence"), "dicom-rescale")
BAD["multi-frame, a frame short"] = (_enhanced_short, "dicom-damaged")


# -- what must be read -------------------------------------------------------------------------------------------------

LEGAL: dict[str, Callable[[Path], list[Expected]]] = {}
GOOD = Expected(truth(), affine_of())


def legal(name: str):
    """Enter a builder of a folder; it returns what must come out unless that is the good series alone."""

    def enter(build):
        LEGAL[name] = lambda folder: build(folder) or [GOOD]
        return build

    return enter


def legal_slices(oddity: str, **options):
    """Enter a builder that gets the slices of a good series and returns those to write."""

    def enter(build):
        def write_it(folder):
            write(build(make()), folder, **options)
            return [GOOD]

        LEGAL[oddity] = write_it
        return build

    return enter


def _same(slices):
    return slices


legal_slices("plain")(_same)
legal_slices("no extension", name="CT.1.2.840.{}")(_same)
legal_slices("implicit VR", syntax=ImplicitVRLittleEndian)(_same)
legal_slices("big endian", syntax=ExplicitVRBigEndian)(_same)
legal_slices("deflated", syntax=DeflatedExplicitVRLittleEndian)(_same)


@legal_slices("instance numbers in disorder")
def _(slices):
    for k, one in enumerate(slices):
        one.InstanceNumber = (7 * k) % 12 + 1
    return slices


@legal_slices("no instance numbers")
def _(slices):
    return _without(slices, "InstanceNumber")


@legal_slices("files from top to bottom")
def _(slices):
    return slices[::-1]


@legal_slices("another intercept in every slice")
def _(slices):
    for k, one in enumerate(slices):
        store(one, GOOD.hu[:, :, k], intercept=-1024 + k)
    return slices


@legal_slices("another slope in every other slice")
def _(slices):
    for k, one in enumerate(slices):
        store(one, GOOD.hu[:, :, k], slope=1 if k % 2 else 0.5)
    return slices


@legal_slices("slope of 0.1")
def _(slices):
    for k, one in enumerate(slices):
        store(one, GOOD.hu[:, :, k], slope=0.1, intercept=-1000.5)
    return slices


@legal_slices("unsigned pixels")
def _(slices):
    for k, one in enumerate(slices):
        store(one, GOOD.hu[:, :, k], dtype=np.uint16)
    return slices


@legal_slices("12 bits with an overlay in the upper four")
def _(slices):
    for k, one in enumerate(slices):
        store(one, GOOD.hu[:, :, k], dtype=np.uint16)
        pixels = np.frombuffer(one.PixelData, np.uint16).copy()
        pixels[::3] |= 0xF000
        one.BitsStored, one.HighBit, one.PixelData = 12, 11, pixels.tobytes()
    return slices


@legal_slices("no SOP class")
def _(slices):
    return _each(slices, SOPClassUID="")


@legal_slices("positions rounded to 0.1 mm")
def _(slices):
    for one in slices:
        one.ImagePositionPatient = [ds(ORIGIN[0]), ds(ORIGIN[1]), f"{one.ImagePositionPatient[2]:.1f}"]
    slices[-1].ImagePositionPatient[2] = ds(ORIGIN[2] + 11 * SPACING[2])
    return slices


@legal_slices("RLE")
def _(slices):
    for one in slices:
        one.compress(RLELossless)
    return slices


def _codec(codec):
    def build(folder):
        slices = make()
        folder.mkdir()
        compress(slices, truth(), codec, folder)
        write(slices, folder)

    return build


legal("JPEG lossless")(_codec("JPEG"))
legal("JPEG 2000 lossless")(_codec("JPEG2000"))


def _turned(orientation):
    def build(folder):
        write(make(orientation=orientation), folder)
        return [Expected(GOOD.hu, affine_of(orientation=orientation))]

    return build


# exact in a few decimals: turned by the angle of the triangle 3-4-5 and its like
legal("oblique")(_turned((0.96, 0.28, 0, -0.28, 0.96, 0)))
legal("tilted patient, straight gantry")(_turned((1, 0, 0, 0, 0.96, 0.28)))
legal("prone, feet first")(_turned((1, 0, 0, 0, -1, 0)))
legal("turned in plane")(_turned((0, 1, 0, -1, 0, 0)))


@legal("2.5 mm slices, 0.9 mm pixels")
def _(folder):
    write(make(spacing=(0.9, 0.9, 2.5)), folder)
    return [Expected(GOOD.hu, affine_of(spacing=(0.9, 0.9, 2.5)))]


@legal("values beyond int16")
def _(folder):
    slices = make()
    for one in slices:
        one.RescaleSlope = "100"
    stored = GOOD.hu.astype(int) + 1024
    write(slices, folder)
    return [Expected(np.clip(stored * 100 - 1024, -32768, 32767).astype(np.int16), GOOD.affine)]


@legal("one slice")
def _(folder):
    write(make()[:1], folder)
    return [Expected(GOOD.hu[:, :, :1], GOOD.affine)]


@legal("junk beside it")
def _(folder):
    write(make(), folder)
    (folder / "readme.txt").write_text("DICM is what files of DICOM have at byte 128. " * 10)
    (folder / "Thumbs.db").write_bytes(bytes(range(256)) * 8)
    (folder / "._IM0001.dcm").write_bytes(b"\0\5\x16\7" + bytes(200))
    (folder / "empty").write_bytes(b"")
    (folder / "report.json").write_text("{}")


@legal("DICOMDIR, report, raw data and a private object beside it")
def _(folder):
    slices = make()
    write(slices, folder)
    series = slices[0].SeriesInstanceUID
    others = [(REPORT, "SR"), (RAW_DATA, "CT"), (PRIVATE, "CT")]
    write([other_object(*one, series) for one in others], folder, name="OT{}")
    index = other_object(UID("1.2.840.10008.1.3.10"), "")
    write([index], folder, name="DICOMDIR")


@legal("small scout in the folder")
def _(folder):
    write(make(), folder)
    write(scout(), folder, name="SC{}.dcm")


@legal("small scouts of the same series")
def _(folder):
    slices = make()
    write(slices, folder)
    write(scout(series=slices[0].SeriesInstanceUID, images=2), folder, name="A{}.dcm")


@legal("scout of the same size in the series")
def _(folder):
    slices = make()
    write(slices, folder)
    same = make(truth(2, 9), series=slices[0].SeriesInstanceUID, orientation=(0, 1, 0, 0, 0, -1))
    write(same, folder, name="A{}.dcm")


@legal("LOCALIZER series of many images")
def _(folder):
    write(make(), folder)
    write(_each(make(seed_hu(5)), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), folder / "LOC")


@legal("screenshot with a series of its own")
def _(folder):
    write(make(), folder / "CT")
    picture = make()[:1]
    _each(picture, SOPClassUID=SECONDARY_CAPTURE)
    picture[0].file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    write(picture, folder / "SC")


def seed_hu(seed: int) -> np.ndarray:
    """Other voxels than those of the good series."""
    return truth(seed=seed)


@legal("spread over nested folders")
def _(folder):
    slices = make()
    write(slices[:4], folder / "a")
    write(slices[4:9], folder / "b/c")
    write(slices[9:], folder)


@legal("two series mixed in one folder")
def _(folder):
    other = make(seed_hu(5), origin=(-50, -40, -299.5), spacing=(0.5, 0.5, 1.0))
    mixed = [one for pair in zip(make(), other, strict=True) for one in pair]
    write(mixed, folder)
    return [GOOD, Expected(seed_hu(5), affine_of((0.5, 0.5, 1.0), (-50, -40, -299.5)))]


@legal("two sizes under one UID")
def _(folder):
    large = truth(6, 5, (48, 44))
    write(make(series="1.2.9") + make(large, series="1.2.9"), folder)
    return [GOOD, Expected(large, GOOD.affine)]


@legal("no series UID")
def _(folder):
    write(make(series=""), folder)


@legal("no series UID, two folders of one study")
def _(folder):
    write(make(series=""), folder / "a")
    write(make(seed_hu(5), series=""), folder / "b")
    return [GOOD, Expected(seed_hu(5), GOOD.affine)]


def _preambleless(pattern, **options):
    def build(folder):
        for path in write(make(), folder, **options):
            without_start(path, pattern)

    return build


legal("no preamble")(_preambleless(b"\2\0\2\0UI"))
legal("neither preamble nor meta header")(_preambleless(b"\x08\0\x08\0CS"))
legal("neither preamble nor meta header, implicit")(
    _preambleless(b"\x08\0\x08\0\x16\0\0\0", syntax=ImplicitVRLittleEndian)
)


def _enhanced_legal(**changes):
    def build(folder):
        enhanced(**changes)(folder)

    return build


def _enhanced_shuffled(folder):
    order = [5 * k % 12 for k in range(12)]
    enhanced(hu=GOOD.hu[:, :, order], z=heights(*order))(folder)


def _enhanced_jpeg(folder):
    one = make_enhanced()
    one.compress(RLELossless)
    write([one], folder)


legal("multi-frame")(_enhanced_legal())
legal("multi-frame, implicit VR")(
    lambda folder: write([make_enhanced()], folder, syntax=ImplicitVRLittleEndian) and None
)
legal("multi-frame, frames in disorder")(_enhanced_shuffled)
legal("multi-frame, another intercept in each frame")(_enhanced_legal(intercepts=[-1024 + k for k in range(12)]))
legal("multi-frame, RLE")(_enhanced_jpeg)


@legal("multi-frame in two files")
def _(folder):
    parts = [
        make_enhanced(GOOD.hu[:, :, :7], heights(*range(7))),
        make_enhanced(GOOD.hu[:, :, 7:], heights(*range(7, 12))),
    ]
    _each(parts, SeriesInstanceUID="1.2.9")
    write(parts, folder)


@legal("single frames of the enhanced kind")
def _(folder):
    frames = [make_enhanced(GOOD.hu[:, :, k : k + 1], heights(k)) for k in range(12)]
    write(_each(frames, SeriesInstanceUID="1.2.9"), folder)
