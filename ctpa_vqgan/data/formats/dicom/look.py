"""Tell the images of a CT from all else that lies beside them, file by file."""

from __future__ import annotations

import os

from ctpa_vqgan.data.formats.dicom.facts import Header
from ctpa_vqgan.data.formats.dicom.headers import read_header
from ctpa_vqgan.data.formats.dicom.raw import bytes_of, has_pixels
from ctpa_vqgan.data.formats.dicom.series import Skipped
from ctpa_vqgan.data.formats.dicom.sniff import FIXED_SUFFIXES, first_bytes, is_dicomdir, starts_as_dicom

# reports, presentation states, key objects, segmentations, registrations, documents, waveforms
NON_IMAGE_MODALITIES = frozenset(
    ("SR", "PR", "KO", "SEG", "REG", "FID", "RWV", "SMR", "PLAN", "DOC", "AU", "ECG", "HD", "TEXTUREMAP")
) | frozenset(("RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "RTSEGANN"))
STANDARD_CLASSES = "1.2.840.10008."
STORAGE = STANDARD_CLASSES + "5.1.4.1.1."
# presentation states, raw data with registrations and segmentations, reports, encapsulated documents, radiotherapy
NON_IMAGE_CLASSES = tuple(STORAGE + tail for tail in ("11.", "66", "88.", "104.", "481."))


def look(path: str) -> Header | Skipped:
    """The facts of a file that may belong to a series, damaged ones too; or why it does not."""
    head, name = first_bytes(path), os.path.basename(path)
    if is_dicomdir(head):
        return Skipped(path, "DICOMDIR: a table of contents")
    if not starts_as_dicom(head):
        # macOS puts ._NAME beside files on foreign disks
        if not name.lower().endswith(FIXED_SUFFIXES) or name.startswith("."):
            return Skipped(path, "not DICOM")
        return Header(path, damage="no DICOM data in it")
    header = read_header(path)
    if header.modality in NON_IMAGE_MODALITIES or header.sop_class.startswith(NON_IMAGE_CLASSES):
        return Skipped(path, f"no image ({header.modality or header.sop_class})")
    if _is_private(header):
        return Skipped(path, "no image (a vendor's private object)")
    if "LOCALIZER" in header.image_type.upper().split("\\"):
        return Skipped(path, "scout: LOCALIZER")
    return header


def _is_private(header: Header) -> bool:
    """Whether GDCM fails for the good reason that a vendor's object holds no pixels."""
    if not header.damage or not header.sop_class or header.sop_class.startswith(STANDARD_CLASSES):
        return False
    with bytes_of(header.path) as data:
        return not has_pixels(data)
