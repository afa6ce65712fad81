"""Series whose numbers are no HU, or no CT's."""

from __future__ import annotations

from dicom_corpus.images import each, without
from dicom_corpus.phantom import SIDE_I, SIDE_J
from dicom_corpus.tables import bad


@bad("no rescale", "dicom-rescale")
def _(slices):
    return without(slices, "RescaleSlope", "RescaleIntercept")


@bad("no rescale intercept in one slice", "dicom-rescale")
def _(slices):
    without(slices[3:4], "RescaleIntercept")
    return slices


@bad("empty rescale", "dicom-rescale")
def _(slices):
    return each(slices, RescaleSlope="", RescaleIntercept="")


@bad("slope of zero", "scaling")
def _(slices):
    return each(slices[:1], RescaleSlope="0") + slices[1:]


@bad("modality MR", "dicom-modality")
def _(slices):
    return each(slices, Modality="MR")


@bad("no modality", "dicom-modality")
def _(slices):
    return each(slices, Modality="")


@bad("colour", "voxel-type")
def _(slices):
    pixels = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "PlanarConfiguration": 0}
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    return each(slices, **pixels, **bits, PixelData=bytes(3 * SIDE_I * SIDE_J))


@bad("inverted grey values", "voxel-type")
def _(slices):
    return each(slices, PhotometricInterpretation="MONOCHROME1")


@bad("pixels of one slice missing", "dicom-damaged")
def _(slices):
    without(slices[4:5], "PixelData")
    return slices


@bad("fewer pixels than rows x columns", "dicom-damaged")
def _(slices):
    slices[4].PixelData = slices[4].PixelData[:-100]
    return slices
