"""Series whose slices are missing, doubled, or not at right angles to their line."""

from __future__ import annotations

import numpy as np

from dicom_corpus.files import write
from dicom_corpus.images import each, make, shift
from dicom_corpus.phantom import SPACING, ds, truth
from dicom_corpus.tables import BAD, bad


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


@bad("another slice at one position", "dicom-duplicate")
def _(slices):
    slices[7].ImagePositionPatient = slices[6].ImagePositionPatient
    return slices


@bad("two phases in one series", "dicom-duplicate")
def _(slices):
    return slices + make(truth(seed=8), series=slices[0].SeriesInstanceUID)


@bad("all slices at one position", "dicom-duplicate")
def _(slices):
    return each(slices, ImagePositionPatient=slices[0].ImagePositionPatient)


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
    return each(slices, ImageOrientationPatient=[1, 0, 0, ds(np.sin(0.02)), ds(np.cos(0.02)), 0])
