"""Series with a position, orientation or pixel spacing that is missing, wrong or not the same in all slices."""

from __future__ import annotations

import numpy as np

from dicom_corpus.images import each, make, without
from dicom_corpus.phantom import ds, truth
from dicom_corpus.tables import bad


@bad("no position", "dicom-position")
def _(slices):
    return without(slices, "ImagePositionPatient")


@bad("no position in one slice", "dicom-position")
def _(slices):
    without(slices[11:], "ImagePositionPatient")
    return slices


@bad("half a position", "dicom-position")
def _(slices):
    return each(slices, ImagePositionPatient=["1", "2", ""])


@bad("no orientation", "dicom-position")
def _(slices):
    return without(slices, "ImageOrientationPatient")


@bad("no orientation in one slice", "dicom-position")
def _(slices):
    without(slices[:1], "ImageOrientationPatient")
    return slices


@bad("orientation of zeros", "dicom-position")
def _(slices):
    return each(slices, ImageOrientationPatient=[0] * 6)


@bad("two orientations", "dicom-orientation")
def _(slices):
    each(slices[6:], ImageOrientationPatient=[1, 0, 0, 0, ds(np.cos(0.1)), ds(np.sin(0.1))])
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
    each(slices[6:], PixelSpacing=["0.5", "0.8"])
    return slices


@bad("no pixel spacing", "dicom-spacing")
def _(slices):
    return without(slices, "PixelSpacing")


@bad("pixel spacing of zero", "dicom-spacing")
def _(slices):
    return each(slices, PixelSpacing=["0", "0"])
