"""Images that are there twice, or that share the UID which should tell them apart."""

from __future__ import annotations

from pydicom.uid import DeflatedExplicitVRLittleEndian

from dicom_corpus.files import write
from dicom_corpus.images import each, make
from dicom_corpus.phantom import seed_hu
from dicom_corpus.tables import bad, legal, legal_slices


@bad("a slice twice", "dicom-duplicate")
def _(slices):
    return [*slices, slices[4]]


@legal("a series copied into two folders")
def _(folder):
    slices = make()
    write(slices, folder / "a")
    write(slices, folder / "b", name="other name {}")


@legal("a series copied, part of it without the first files")
def _(folder):
    slices = make()
    write(slices[3:7], folder / "a")
    write(slices, folder / "b")


@legal("a copy under another name of the patient")
def _(folder):
    slices = make()
    write(slices, folder / "a")
    write(each(slices, PatientName="Anonymous", SeriesDescription=""), folder / "b")


@legal("a series copied that has no pixels to be found")
def _(folder):
    slices = make()
    write(slices, folder / "a", syntax=DeflatedExplicitVRLittleEndian)
    write(slices, folder / "b")


@legal_slices("one instance UID in all slices")
def _(slices):
    return each(slices, SOPInstanceUID=slices[0].SOPInstanceUID)


@bad("two phases under the same instance UIDs", "dicom-duplicate")
def _(slices):
    other = make(seed_hu(8), series=slices[0].SeriesInstanceUID)
    for one, twin in zip(slices, other, strict=True):
        twin.SOPInstanceUID = one.SOPInstanceUID
    return slices + other


@bad("a slice again with other pixels", "dicom-duplicate")
def _(slices):
    again = make(seed_hu(8), series=slices[0].SeriesInstanceUID)[4]
    again.SOPInstanceUID = slices[4].SOPInstanceUID
    return [*slices, again]
