"""Good single-frame images as pydicom data sets, and small changes to them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from dicom_corpus.phantom import AXIAL, ORIGIN, SPACING, ds, truth

NAME, PATIENT, BIRTH, DESCRIPTION = "Doe^Jane^Secret", "P-0017", "19500101", "Thorax of Jane"
STUDY = "1.2.3.4"
RAW_DATA, SECONDARY_CAPTURE = UID("1.2.840.10008.5.1.4.1.1.66"), UID("1.2.840.10008.5.1.4.1.1.7")
REPORT, PRIVATE = UID("1.2.840.10008.5.1.4.1.1.88.11"), UID("1.3.12.2.1107.5.9.1")


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


def each(slices, **values):
    """Set elements in all of some images, and return them."""
    for one in slices:
        for keyword, value in values.items():
            setattr(one, keyword, value)
    return slices


def without(slices, *keywords):
    """Remove elements from all of some images, and return them."""
    for one in slices:
        for keyword in keywords:
            delattr(one, keyword)
    return slices
