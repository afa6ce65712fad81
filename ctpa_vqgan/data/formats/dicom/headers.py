"""Read the facts of one file: by GDCM, and from its bytes where GDCM hides them or fails."""

from __future__ import annotations

import os
from collections.abc import Callable

from ctpa_vqgan.data.formats.dicom import gdcm
from ctpa_vqgan.data.formats.dicom.facts import POSITION, SLICE_TAGS, Header, Slice, finite_numbers, number
from ctpa_vqgan.data.formats.dicom.raw import bytes_of, find_pixels, find_texts

ENHANCED = ("1.2.840.10008.5.1.4.1.1.2.1", "1.2.840.10008.5.1.4.1.1.2.2")  # multi-frame CT, new and converted
HEADER_BYTES = 1 << 20  # as much of a damaged file as is searched for its series
SERIES_UID, PHOTOMETRIC = "0020|000e", "0028|0004"


def read_header(path: str) -> Header:
    """The facts of a DICOM file, or its damage; never raises for what is in it."""
    io = gdcm.itk().GDCMImageIO.New()
    with gdcm.stderr():
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
    kind = _kind(get)
    if num_frames == 1 and (kind["sop_class"] not in ENHANCED or get(POSITION)):
        slices = (Slice.of(os.path.basename(path), map(get, SLICE_TAGS)),)
    else:
        slices = _frames(path, num_frames, num_bytes)
    return Header(
        path,
        **kind,
        uid=get(SERIES_UID),
        instance=get("0008|0018"),
        patient=_readable(get("0010|0020")) or None,
        slices=slices,
        size=(columns, rows),
        num_bytes=num_bytes,
        colour=_colour(samples, get(PHOTOMETRIC)),
        thickness=number(get("0018|0050")),
        lossy=get("0028|2110") == "01",
        lossy_ratio=max(finite_numbers(get("0028|2112")), default=0.0),
    )


def _kind(get: Callable[[str], str]) -> dict[str, str]:
    tags = {"study": "0020|000d", "modality": "0008|0060", "sop_class": "0008|0016", "image_type": "0008|0008"}
    return {name: get(tag) for name, tag in tags.items()}


def _colour(samples: int, photometric: str) -> str:
    if photometric == "MONOCHROME1":  # which itk inverts, HU and all
        return "inverted grey values (MONOCHROME1)"
    return f"{samples} numbers a voxel ({photometric})" if samples != 1 else ""


def _frames(path: str, num_frames: int, num_bytes: int) -> tuple[Slice, ...]:
    """The slices of a multi-frame file, from the bytes: itk hides the sequences that say where each frame lies.

    GDCM's own summary will not do: it turns uneven frames into a spacing of 1 mm and takes the first frame's rescale
    for all.
    """
    with bytes_of(path) as data:
        pixels = find_pixels(data, num_bytes)
        end = pixels.start() if pixels else len(data)
        found = {tag: find_texts(data, tag, end) for tag in SLICE_TAGS}
    # a value is each frame's own or shared by all; a position is never shared
    spread = [texts * num_frames if len(texts) == 1 and tag != POSITION else texts for tag, texts in found.items()]
    spread = [texts if len(texts) == num_frames else [""] * num_frames for texts in spread]
    name = os.path.basename(path)
    return tuple(Slice.of(f"{name} frame {k + 1}", texts) for k, texts in enumerate(zip(*spread, strict=True)))


def _damaged(path: str) -> Header:
    """What the bytes of a file say that GDCM cannot read."""
    try:
        size = os.path.getsize(path)
        with open(path, "rb") as file:
            data = file.read(HEADER_BYTES)
    except OSError as error:
        return Header(path, damage=f"a file that cannot be opened ({error.strerror})")

    def get(tag: str, which: int = 0) -> str:
        return (find_texts(data, tag, len(data)) or [""])[which]

    damage = f"a file of {size} bytes that cannot be read (cut short or without pixels)"
    # the last: references to other series come before the file's own
    return Header(path, **_kind(get), uid=get(SERIES_UID, -1), damage=damage)


def _readable(text: str) -> str:
    """Text of a Latin file, which itk hands over with its bytes escaped, as letters."""
    raw = text.encode(errors="surrogateescape")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
