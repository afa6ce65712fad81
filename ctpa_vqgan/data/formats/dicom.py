"""CT series from DICOM files: which files belong together, whether they make one straight grid, and their HU.

GDCM (through itk, imported on first use) gives header values and pixels. The geometry is checked here, because readers
take a missing, doubled or tilted slice in silence. Of the patient's data only PatientID leaves this module.
"""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
import os
import re
import struct
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ctpa_vqgan.data.checks.rules import GEOMETRY_TOLERANCE, MAX_SHEAR, POSITION_TOLERANCE, refuse
from ctpa_vqgan.data.formats.volume import Volume, to_int16
from ctpa_vqgan.errors import BadVolume

SCOUT_IMAGES = 4  # fewer images than this, of another size or orientation than the series beside them, are scouts
ORIENTATION_TOLERANCE = 1e-4  # between direction cosines: 0.05 mm at the edge of a 500 mm field of view
UNIT_TOLERANCE = 1e-3  # direction cosines are often written with four decimals
SIDEWAYS_PIXELS = 0.5  # how far a slice may lie beside the straight line through the first and the last one
MAX_ORIENTATIONS = 16  # more in one series: radial reformats; also bounds the time to sort them
FIXED_SUFFIXES = (".dcm", ".dicom", ".ima")  # names that promise DICOM whatever the content
HEADER_BYTES = 1 << 20  # as much of a damaged file as is searched for its series

# reports, presentation states, key objects, segmentations, registrations, documents, waveforms
NON_IMAGE_MODALITIES = frozenset(
    ("SR", "PR", "KO", "SEG", "REG", "FID", "RWV", "SMR", "PLAN", "DOC", "AU", "ECG", "HD", "TEXTUREMAP")
) | frozenset(("RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "RTSEGANN"))
STORAGE = "1.2.840.10008.5.1.4.1.1."
# presentation states, raw data with registrations and segmentations, reports, encapsulated documents, radiotherapy
NON_IMAGE_CLASSES = tuple(STORAGE + tail for tail in ("11.", "66", "88.", "104.", "481."))
SECONDARY_CAPTURE = STORAGE + "7"
ENHANCED = (STORAGE + "2.1", STORAGE + "2.2")  # multi-frame CT, new and converted
STANDARD_CLASSES = "1.2.840.10008."

_VR = rb"(?:AE|AS|AT|CS|DA|DS|DT|IS|LO|LT|PN|SH|ST|TM|UI|UL|US)"
_DICOMDIR = re.compile(rb"\x02\x00\x02\x00UI\x14\x001\.2\.840\.10008\.1\.3\.10")
_PIXEL_DATA = re.compile(
    rb"\xe0\x7f\x10\x00(?:O[BW]\0\0(?P<explicit>.{4})|(?P<implicit>.{4}))|\x7f\xe0\x00\x10O[BW]\0\0(?P<big>.{4})",
    re.DOTALL,
)
_UNDEFINED_LENGTH = 0xFFFFFFFF  # of compressed pixels, which end by a delimiter


@dataclass(frozen=True)
class Series:
    """The files of one CT series.

    Args:
        files: ordered by position along the normal of the slices; by name where a position is missing.
        folder: the deepest folder that holds them all.
        uid: SeriesInstanceUID; empty where the files have none.
        patient: PatientID; None where the files have none.
    """

    files: tuple[str, ...]
    folder: str
    uid: str
    patient: str | None


class Skipped(NamedTuple):
    """A file that is no part of any series and no fault either."""

    path: str
    why: str


class _Slice(NamedTuple):
    """Where one image lies and how its numbers become HU; None for what the file does not say."""

    name: str
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None  # mm from row to row, from column to column
    slope: float | None
    intercept: float | None


class _Header(NamedTuple):
    """What is needed of one file, readable or not."""

    path: str
    uid: str
    study: str
    patient: str | None
    modality: str
    sop_class: str
    image_type: str
    slices: tuple[_Slice, ...] = ()
    size: tuple[int, int] = (0, 0)  # columns, rows
    num_bytes: int = 0  # of all pixels when they are not compressed
    colour: str = ""  # why a pixel is not one number of usual meaning
    thickness: float | None = None
    damage: str = ""

    @property
    def folder(self) -> str:
        return os.path.dirname(self.path)


# ------------------------------------------------------------------------------------------------ which files are DICOM


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a file is DICOM by its first bytes; False for a DICOMDIR and for what cannot be read.

    Old files without preamble count when they start with two elements of the group 0002 or 0008.
    """
    head = _head(path)
    return _starts_as_dicom(head) and not _DICOMDIR.search(head)


def _head(path: str | os.PathLike) -> bytes:
    try:
        if os.path.isfile(path):  # opening a pipe would wait for ever
            with open(path, "rb") as file:
                return file.read(512)
    except OSError:
        pass
    return b""


def _starts_as_dicom(head: bytes) -> bool:
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16:
        return False
    if re.match(rb"[\x02\x08]\x00.\x00" + _VR, head, re.DOTALL):
        (length,) = struct.unpack_from("<H", head, 6)
    elif re.match(rb"[\x02\x08]\x00.\x00.{2}\x00\x00", head, re.DOTALL):
        (length,) = struct.unpack_from("<I", head, 4)
    else:
        return False
    return bool(re.match(rb"[\x02\x08]\x00.\x00", head[8 + length :], re.DOTALL))


# --------------------------------------------------------------------------------------------------------- find series


def find_series(
    files: Iterable[str | os.PathLike], progress: Callable[[int], object] | None = None
) -> tuple[list[Series], list[BadVolume], list[Skipped]]:
    """Sort files into CT series.

    Images belong together by SeriesInstanceUID wherever they lie; where it is empty, by study and folder. Images of
    one UID that differ in size make a series each; fewer than ``SCOUT_IMAGES`` of another size or orientation are
    scouts. Geometry within a series is the matter of :func:`read_series`.

    Args:
        files: any files; give the ones that only their name calls DICOM too, so that a slice that was lost is noticed.
        progress: called with 1 after each file, like the ``update`` of a progress bar.

    Returns:
        The series; the refusals (rules dicom-damaged, dicom-modality, dicom-orientation); the files left out and why.
    """
    groups: dict[tuple, list[_Header]] = defaultdict(list)
    skipped, lost = [], []
    for path in sorted(os.fspath(path) for path in files):
        header = _look(path)
        if isinstance(header, Skipped):
            skipped.append(header)
        elif header.damage and not header.uid:
            lost.append(header)
        else:
            groups[(header.uid,) if header.uid else ("", header.study, header.folder)].append(header)
        if progress:
            progress(1)
    refused = _assign(lost, groups)
    series = []
    for group in groups.values():
        try:
            parts, scouts = _split(group)
        except BadVolume as error:
            refused.append(error)
        else:
            series += parts
            skipped += [Skipped(header.path, "scout: another size or orientation") for header in scouts]
    series, left_out = _without_strays(series)
    found = [_as_series(part) for part in series]
    return sorted(found, key=lambda one: (one.folder, one.files)), refused, skipped + left_out


def _look(path: str) -> _Header | Skipped:
    head, name = _head(path), os.path.basename(path)
    if _DICOMDIR.search(head):
        return Skipped(path, "DICOMDIR: a table of contents")
    if not _starts_as_dicom(head):
        # macOS puts ._NAME beside files on foreign disks
        if Path(name).suffix.lower() not in FIXED_SUFFIXES or name.startswith("."):
            return Skipped(path, "not DICOM")
        return _Header(path, "", "", None, "", "", "", damage="no DICOM data in it")
    header = _header(path)
    if header.modality in NON_IMAGE_MODALITIES or header.sop_class.startswith(NON_IMAGE_CLASSES):
        return Skipped(path, f"no image ({header.modality or header.sop_class})")
    if header.damage and header.sop_class and not header.sop_class.startswith(STANDARD_CLASSES):
        with _bytes_of(path) as data:
            if not _PIXEL_DATA.search(data):
                return Skipped(path, "no image (a vendor's private object)")
    if "LOCALIZER" in header.image_type.upper().split("\\"):
        return Skipped(path, "scout: LOCALIZER")
    return header


def _assign(lost: list[_Header], groups: dict[tuple, list[_Header]]) -> list[BadVolume]:
    """Count a damaged file of unknown series to every series of its folder; refuse it alone where there is none."""
    if not lost:
        return []
    by_folder: dict[str, set[tuple]] = defaultdict(set)
    for key, group in groups.items():
        for header in group:
            by_folder[header.folder].add(key)
    alone = []
    for header in lost:
        for key in by_folder[header.folder]:
            groups[key].append(header)
        if not by_folder[header.folder]:
            alone.append(refuse("dicom-damaged", header.path, header.damage))
    return alone


def _split(group: list[_Header]) -> tuple[list[list[_Header]], list[_Header]]:
    """The series of one UID, largest first, and the scouts among them."""
    modality = next((header.modality for header in group if header.modality), "")
    damaged = [header for header in group if header.damage]
    if modality != "CT" and (modality or not damaged):
        raise refuse("dicom-modality", _folder(group), f"{modality or 'no modality'} in {len(group)} files")
    if damaged:
        more = f" (and {len(damaged) - 1} more files of the series)" if damaged[1:] else ""
        raise refuse("dicom-damaged", damaged[0].path, damaged[0].damage + more)
    by_size = defaultdict(list)
    for header in group:
        by_size[header.size].append(header)
    parts, scouts = [], []
    for same_size in by_size.values():
        main, *others = _by_orientation(same_size)
        if any(_num_images(other) >= SCOUT_IMAGES for other in others):
            counts = " + ".join(str(_num_images(part)) for part in (main, *others))
            raise refuse("dicom-orientation", _folder(group), f"{1 + len(others)} orientations ({counts} images)")
        parts.append(main)
        scouts += [header for other in others for header in other]
    parts.sort(key=_num_images, reverse=True)
    kept = max(1, sum(_num_images(part) >= SCOUT_IMAGES for part in parts))
    return parts[:kept], scouts + [header for part in parts[kept:] for header in part]


def _by_orientation(headers: list[_Header]) -> list[list[_Header]]:
    """Images of one orientation together, most first; those without orientation join the most."""
    clusters: list[tuple[np.ndarray, list[_Header]]] = []
    unknown = []
    for header in headers:
        orientation = header.slices[0].orientation
        if orientation is None:
            unknown.append(header)
            continue
        near = (members for mean, members in clusters if np.abs(mean - orientation).max() <= ORIENTATION_TOLERANCE)
        if (members := next(near, None)) is not None:
            members.append(header)
        elif len(clusters) < MAX_ORIENTATIONS:
            clusters.append((np.array(orientation), [header]))
        else:
            raise refuse("dicom-orientation", _folder(headers), f"more than {MAX_ORIENTATIONS} orientations")
    parts = sorted((members for _, members in clusters), key=_num_images, reverse=True)
    if not parts:
        return [unknown]
    parts[0] += unknown
    return parts


def _without_strays(series: list[list[_Header]]) -> tuple[list[list[_Header]], list[Skipped]]:
    """Leave out screenshots, and scouts that have a UID of their own but lie beside a real series."""
    shapes: dict[str, set] = defaultdict(set)
    for part in series:
        if _num_images(part) >= SCOUT_IMAGES:
            for header in part:
                shapes[header.folder].add(_shape(header))
    kept, skipped = [], []
    for part in series:
        beside = set().union(*(shapes[header.folder] for header in part)) if _num_images(part) < SCOUT_IMAGES else set()
        if _num_images(part) < SCOUT_IMAGES and part[0].sop_class.startswith(SECONDARY_CAPTURE):
            skipped += [Skipped(header.path, "secondary capture: a screenshot or a report") for header in part]
        elif beside and not beside & {_shape(header) for header in part}:
            skipped += [Skipped(header.path, "scout: another size or orientation") for header in part]
        else:
            kept.append(part)
    return kept, skipped


def _shape(header: _Header) -> tuple:
    orientation = header.slices[0].orientation
    # adding 0 turns -0 into 0
    return header.size, orientation and tuple(round(value, 2) + 0 for value in orientation)


def _as_series(part: list[_Header]) -> Series:
    first = [header.slices[0] for header in part]
    if all(one.position and one.orientation for one in first):
        normal = np.cross(first[0].orientation[:3], first[0].orientation[3:])
        along = np.array([one.position for one in first]) @ normal
        part = [part[index] for index in np.argsort(along, kind="stable")]
    return Series(tuple(header.path for header in part), _folder(part), part[0].uid, part[0].patient)


def _num_images(part: list[_Header]) -> int:
    return sum(len(header.slices) for header in part)


def _folder(headers: Iterable[_Header]) -> str:
    folders = {header.folder for header in headers}
    return folders.pop() if len(folders) == 1 else os.path.commonpath(folders)


# ------------------------------------------------------------------------------------------------------ read one series


def read_series(files: Sequence[str | os.PathLike]) -> Volume:
    """Check a series and read its HU.

    Slices are ordered by their position along the normal, never by their number; the third voxel axis runs from slice
    to slice, the first from column to column. Memory peaks at the volume and a few slices (a multi-frame file is
    decoded whole, at 4 bytes a voxel).

    Args:
        files: the files of one series, in any order.

    Returns:
        The volume, with the scanner's padding as it is.

    Raises:
        BadVolume: for a file (dicom-damaged, voxel-type, dicom-rescale, scaling) or for the folder of the series
            (dicom-position, dicom-orientation, dicom-size, dicom-spacing, slice-axis, dicom-duplicate, dicom-gap,
            affine-shear).
    """
    headers = [_header(os.fspath(path)) for path in files]
    for header in headers:
        _check_file(header)
    folder = _folder(headers)
    _check_alike(headers, folder)
    slices = [one for header in headers for one in header.slices]
    affine, order = _grid(slices, folder, headers[0].thickness)
    voxels = np.empty((*headers[0].size, len(slices)), np.int16, order="F")
    planes = (plane for header in headers for plane in _planes(header))
    for place, plane in zip(np.argsort(order), planes, strict=True):
        voxels[:, :, place] = plane.T
    fractions = any(not (one.slope.is_integer() and one.intercept.is_integer()) for one in slices)
    return Volume(voxels, affine, patient=headers[0].patient, fractions=fractions)


def _check_file(header: _Header) -> None:
    if header.damage:
        raise refuse("dicom-damaged", header.path, header.damage)
    if header.colour:
        raise refuse("voxel-type", header.path, header.colour)
    for one in header.slices:
        if one.slope is None or one.intercept is None:
            raise refuse("dicom-rescale", header.path, f"none in {one.name}")
        if not (math.isfinite(one.slope) and math.isfinite(one.intercept)) or one.slope == 0:
            raise refuse("scaling", header.path, f"slope {one.slope:g}, intercept {one.intercept:g} in {one.name}")


def _check_alike(headers: list[_Header], folder: str) -> None:
    """Every slice says where it is, and all share size, pixel spacing and orientation."""
    first, slices = headers[0].slices[0], [one for header in headers for one in header.slices]
    for what in ("position", "orientation"):
        if without := [one.name for one in slices if getattr(one, what) is None]:
            found = f"no {what} in {len(without)} of {len(slices)} slices (first: {without[0]})"
            raise refuse("dicom-position", folder, found)
    for header in headers:
        if header.size != headers[0].size:
            (a, b), (c, d) = headers[0].size, header.size
            found = f"{a} x {b} pixels in {first.name} and {c} x {d} in {header.slices[0].name}"
            raise refuse("dicom-size", folder, found)
    for one in slices:
        if one.spacing is None or min(one.spacing) <= 0:
            found = "none" if one.spacing is None else f"{_text(one.spacing)} mm"
            raise refuse("dicom-spacing", folder, f"{found} in {one.name}")
        if np.abs(np.divide(one.spacing, first.spacing) - 1).max() > GEOMETRY_TOLERANCE:
            found = f"{_text(first.spacing)} mm in {first.name} and {_text(one.spacing)} mm in {one.name}"
            raise refuse("dicom-spacing", folder, found)
        if np.abs(np.subtract(one.orientation, first.orientation)).max() > ORIENTATION_TOLERANCE:
            found = f"{_text(first.orientation)} in {first.name} and {_text(one.orientation)} in {one.name}"
            raise refuse("dicom-orientation", folder, found)


def _grid(slices: list[_Slice], folder: str, thickness: float | None) -> tuple[np.ndarray, np.ndarray]:
    """The affine in RAS+ mm and the order of the slices along the normal."""
    row, column = np.reshape(slices[0].orientation, (2, 3))
    if np.abs(np.linalg.norm([row, column], axis=1) - 1).max() > UNIT_TOLERANCE:
        raise refuse("dicom-position", folder, f"an orientation of {_text(slices[0].orientation)}, not of unit length")
    row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    if abs(row @ column) > MAX_SHEAR:
        raise refuse(
            "affine-shear", folder, f"rows and columns that are not at right angles (cosine {row @ column:.4f})"
        )
    normal = np.cross(row, column)
    if np.abs(normal).argmax() != 2:
        plane = ("sagittal", "coronal")[np.abs(normal).argmax()]
        raise refuse("slice-axis", folder, f"{plane} slices")
    points = np.array([one.position for one in slices])
    order = np.argsort(points @ normal, kind="stable")
    between_rows, between_columns = slices[0].spacing
    axes = np.stack([row * between_columns, column * between_rows], axis=1)
    step = normal * (thickness or 1.0)
    if len(slices) > 1:
        step = _step(points[order], normal, axes, [slices[index].name for index in order], folder)
    lps = np.eye(4)
    lps[:3] = np.column_stack([axes, step, points[order[0]]])
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ lps, order


def _step(points: np.ndarray, normal: np.ndarray, axes: np.ndarray, names: list[str], folder: str) -> np.ndarray:
    """The vector from slice to slice, once no slice is doubled, missing or beside the line. ``points`` are in order."""
    along = points @ normal
    median = _check_duplicates(along, names, folder)
    step = (points[-1] - points[0]) / (len(points) - 1)
    cosines = axes.T @ step / np.linalg.norm(axes, axis=0) / np.linalg.norm(step)
    if np.abs(cosines).max() > MAX_SHEAR:
        tilt = math.degrees(math.asin(min(1.0, np.linalg.norm(cosines))))
        raise refuse("affine-shear", folder, f"slices that shift sideways as of a gantry tilt of {tilt:.1f} degrees")
    # measured from each slice's place, not from its neighbour: positions rounded to 0.1 mm pass, drift does not
    off = points - points[0] - np.arange(len(points))[:, None] * step
    if np.abs(off @ normal).max() > POSITION_TOLERANCE * median:
        raise refuse("dicom-gap", folder, _gaps(along, median))
    sideways = np.abs(off @ axes) / (axes**2).sum(axis=0)
    if sideways.max() > SIDEWAYS_PIXELS:
        worst = sideways.max(axis=1).argmax()
        raise refuse("affine-shear", folder, f"{names[worst]} shifted sideways by {sideways.max():.1f} pixels")
    return step


def _check_duplicates(along: np.ndarray, names: list[str], folder: str) -> float:
    """The median distance of neighbours in mm; refuses slices at one position."""
    steps = np.diff(along)
    apart = steps[steps > 1e-3]
    median = float(np.median(apart)) if len(apart) else math.inf
    same = np.flatnonzero(steps < POSITION_TOLERANCE * median)
    if len(same):
        first = same[0]
        found = f"two slices at {along[first]:.2f} mm ({names[first]} and {names[first + 1]})"
        more = f", and {len(same) - 1} more such pairs" if len(same) > 1 else ""
        raise refuse("dicom-duplicate", folder, found + more)
    return median


def _gaps(along: np.ndarray, median: float) -> str:
    steps = np.diff(along)
    wide = np.flatnonzero(steps > 1.5 * median)
    if len(wide) == 0 or len(wide) > len(steps) // 4:
        return f"steps from {steps.min():.2f} to {steps.max():.2f} mm"
    missing = int(np.rint(steps[wide] / median - 1).sum())
    where = f"{steps[wide[0]]:.2f} mm between {along[wide[0]]:.2f} and {along[wide[0] + 1]:.2f} mm"
    gaps = where if len(wide) == 1 else f"{len(wide)} gaps, the first of {where}"
    return f"{gaps} where {median:.2f} is the rule: about {missing} slice{'s'[: missing > 1]} missing"


def _planes(header: _Header) -> Iterator[np.ndarray]:
    """The images of a file in HU, [J, I] int16 each."""
    with _bytes_of(header.path) as data:
        if _pixel_data(data, header.num_bytes) == -1:  # GDCM fills up with whatever is in memory
            raise refuse("dicom-damaged", header.path, "fewer pixels than rows x columns")
    image, applied = _decode(header)
    # a view lives no longer than its image, which this frame holds; HU that leave it are copies
    pixels = _itk().array_view_from_image(image)
    expected = (len(header.slices), *header.size[::-1])
    if pixels.shape != expected:
        raise refuse("dicom-damaged", header.path, f"pixels of shape {pixels.shape} instead of {expected}")
    for plane, one in zip(pixels, header.slices, strict=True):
        if (one.slope, one.intercept) != applied:  # GDCM takes the first frame's for all
            plane = (plane.astype(np.float64) - applied[1]) / applied[0] * one.slope + one.intercept
        yield to_int16(plane)


def _decode(header: _Header) -> tuple[object, tuple[float, float]]:
    """The itk image of a file as GDCM rescales it, and the slope and intercept that it used."""
    itk = _itk()
    # double holds every product of 16 bits and a decimal slope; a whole multi-frame file would be too large in it
    reader = itk.ImageFileReader[itk.Image[itk.D if len(header.slices) == 1 else itk.F, 3]].New()
    io = itk.GDCMImageIO.New()
    reader.SetImageIO(io)
    reader.SetFileName(header.path)
    with _stderr() as noise:
        try:
            reader.Update()
        except RuntimeError as error:
            raise refuse("dicom-damaged", header.path, "pixels that cannot be decoded") from error
    # the JPEG decoder goes on after an error and only says so there
    if b"Corrupt JPEG" in noise or b"Premature end" in noise:
        raise refuse("dicom-damaged", header.path, "pixels that cannot be decoded to the end")
    return reader.GetOutput(), (io.GetRescaleSlope(), io.GetRescaleIntercept())


# -------------------------------------------------------------------------------------------------------------- headers


@functools.cache
def _itk():
    """The itk module: its import takes seconds, so it waits for the first DICOM file."""
    import itk

    itk.ProcessObject.SetGlobalWarningDisplay(False)
    return itk


@contextlib.contextmanager
def _stderr() -> Iterator[bytearray]:
    """Keep what C libraries print on stderr; the bytes are there when the block has ended."""
    noise = bytearray()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield noise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            noise += file.read(1 << 16)


def _header(path: str) -> _Header:
    io = _itk().GDCMImageIO.New()
    with _stderr():
        try:
            io.SetFileName(path)
            io.ReadImageInformation()
        except (RuntimeError, TypeError, UnicodeError):
            return _damaged(path)
    tags = io.GetMetaDataDictionary()

    def get(tag: str) -> str:
        return tags[tag].strip(" \0") if tags.HasKey(tag) else ""

    num_frames = io.GetDimensions(2) if io.GetNumberOfDimensions() > 2 else 1
    columns, rows, samples = io.GetDimensions(0), io.GetDimensions(1), io.GetNumberOfComponents()
    num_bytes = columns * rows * num_frames * samples * int(get("0028|0100") or 0) // 8
    sop_class = get("0008|0016")
    if num_frames == 1 and (sop_class not in ENHANCED or tags.HasKey("0020|0032")):
        slices = (
            _Slice(
                os.path.basename(path),
                _numbers(get("0020|0032"), 3),
                _numbers(get("0020|0037"), 6),
                _numbers(get("0028|0030"), 2),
                _number(get("0028|1053")),
                _number(get("0028|1052")),
            ),
        )
    else:
        slices = _frames(path, num_frames, num_bytes)
    colour = f"{samples} numbers a voxel ({get('0028|0004')})" if samples != 1 else ""
    if get("0028|0004") == "MONOCHROME1":  # which itk inverts, HU and all
        colour = "inverted grey values (MONOCHROME1)"
    return _Header(
        path,
        uid=get("0020|000e"),
        study=get("0020|000d"),
        patient=_readable(get("0010|0020")) or None,
        modality=get("0008|0060"),
        sop_class=sop_class,
        image_type=get("0008|0008"),
        slices=slices,
        size=(columns, rows),
        num_bytes=num_bytes,
        colour=colour,
        thickness=_number(get("0018|0050")),
    )


def _frames(path: str, num_frames: int, num_bytes: int) -> tuple[_Slice, ...]:
    """The slices of a multi-frame file, from the bytes: itk hides the sequences that say where each frame lies.

    GDCM's own summary will not do: it turns uneven frames into a spacing of 1 mm and takes the first frame's rescale
    for all.
    """
    with _bytes_of(path) as data:
        end = _pixel_data(data, num_bytes)
        end = len(data) if end is None or end < 0 else end
        texts = [
            _raw(data, tag, end) for tag in ((0x20, 0x32), (0x20, 0x37), (0x28, 0x30), (0x28, 0x1053), (0x28, 0x1052))
        ]
    # a value is each frame's own or shared by all; a position is never shared
    spread = [values * num_frames if len(values) == 1 else values for values in texts[1:]]
    spread = [values if len(values) == num_frames else [""] * num_frames for values in (texts[0], *spread)]
    name = os.path.basename(path)
    return tuple(
        _Slice(
            f"{name} frame {index + 1}",
            _numbers(position, 3),
            _numbers(orientation, 6),
            _numbers(spacing, 2),
            _number(slope),
            _number(intercept),
        )
        for index, (position, orientation, spacing, slope, intercept) in enumerate(zip(*spread, strict=True))
    )


def _damaged(path: str) -> _Header:
    """What the bytes of a file say that GDCM cannot read."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            data = file.read(HEADER_BYTES)
    except OSError as error:
        return _Header(path, "", "", None, "", "", "", damage=f"a file that cannot be opened ({error.strerror})")

    def get(group: int, element: int, which: int = 0) -> str:
        values = _raw(data, (group, element), len(data))
        return values[which] if values else ""

    return _Header(
        path,
        uid=get(0x20, 0x0E, -1),  # the last: references to other series come before the file's own
        study=get(0x20, 0x0D),
        patient=None,
        modality=get(0x08, 0x60),
        sop_class=get(0x08, 0x16),
        image_type=get(0x08, 0x08),
        damage=f"a file of {size} bytes that cannot be read (cut short or without pixels)",
    )


@contextlib.contextmanager
def _bytes_of(path: str) -> Iterator[bytes | mmap.mmap]:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # which cannot be mapped
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def _raw(data: bytes | mmap.mmap, tag: tuple[int, int], end: int) -> list[str]:
    """Texts of every element of this tag before ``end``, at any depth, in explicit or implicit little endian."""
    pattern = re.escape(struct.pack("<HH", *tag)) + rb"(?:(?:CS|DS|UI)(?P<explicit>..)|(?P<implicit>..)\0\0)"
    texts = []
    for match in re.compile(pattern, re.DOTALL).finditer(data, 0, end):
        (length,) = struct.unpack("<H", match["explicit"] or match["implicit"])
        text = data[match.end() : min(match.end() + length, end)].strip(b" \0")
        if len(text) <= 256 and re.fullmatch(rb"[\x20-\x7e]*", text):
            texts.append(text.decode())
    return texts


def _pixel_data(data: bytes | mmap.mmap, num_bytes: int) -> int | None:
    """Where the pixels' element starts; -1 if all such elements are too short, None if there is none (deflated)."""
    found = None
    for match in _PIXEL_DATA.finditer(data):
        if match["big"]:
            (length,) = struct.unpack(">I", match["big"])
        else:
            (length,) = struct.unpack("<I", match["explicit"] or match["implicit"])
        if length == _UNDEFINED_LENGTH or num_bytes <= length <= len(data) - match.end():
            return match.start()
        found = -1
    return found


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _numbers(text: str, count: int) -> tuple[float, ...] | None:
    """Exactly so many finite numbers of a multi-valued element."""
    values = [_number(part) for part in text.split("\\")]
    if len(values) != count or any(value is None or not math.isfinite(value) for value in values):
        return None
    return tuple(values)


def _readable(text: str) -> str:
    """Text of a Latin file, which itk hands over with its bytes escaped, as letters."""
    raw = text.encode(errors="surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _text(values: Iterable[float]) -> str:
    return "\\".join(f"{value:.6g}" for value in values)
