"""Series whose numbers and headers are unusual and right."""

from __future__ import annotations

import numpy as np

from dicom_corpus.files import write
from dicom_corpus.images import each, make, store, without
from dicom_corpus.phantom import GOOD, ORIGIN, SPACING, Expected, affine_of, ds
from dicom_corpus.tables import legal, legal_slices


@legal_slices("instance numbers in disorder")
def _(slices):
    for k, one in enumerate(slices):
        one.InstanceNumber = (7 * k) % 12 + 1
    return slices


@legal_slices("no instance numbers")
def _(slices):
    return without(slices, "InstanceNumber")


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
    return each(slices, SOPClassUID="")


@legal_slices("positions rounded to 0.1 mm")
def _(slices):
    for one in slices:
        one.ImagePositionPatient = [ds(ORIGIN[0]), ds(ORIGIN[1]), f"{one.ImagePositionPatient[2]:.1f}"]
    slices[-1].ImagePositionPatient[2] = ds(ORIGIN[2] + 11 * SPACING[2])
    return slices


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
