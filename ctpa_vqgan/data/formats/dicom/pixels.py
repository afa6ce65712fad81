"""Decode the pixels of a file and rescale them to HU, each image by its own slope and intercept."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ctpa_vqgan.data.checks.rules import refuse
from ctpa_vqgan.data.formats.dicom import gdcm
from ctpa_vqgan.data.formats.dicom.facts import Header
from ctpa_vqgan.data.formats.dicom.raw import bytes_of, find_pixels, has_pixels
from ctpa_vqgan.data.formats.volume import to_int16


def planes(header: Header) -> Iterator[np.ndarray]:
    """The images of a file in HU, [J, I] int16 each.

    Raises:
        BadVolume: dicom-damaged.
    """
    with bytes_of(header.path) as data:
        if find_pixels(data, header.num_bytes) is None and has_pixels(data):  # GDCM fills up with what is in memory
            raise refuse("dicom-damaged", header.path, "fewer pixels than rows x columns")
    image, applied = _decode(header)
    # a view lives no longer than its image, which this frame holds; HU that leave it are copies
    pixels = gdcm.itk().array_view_from_image(image)
    expected = (len(header.slices), *header.size[::-1])
    if pixels.shape != expected:
        raise refuse("dicom-damaged", header.path, f"pixels of shape {pixels.shape} instead of {expected}")
    for plane, one in zip(pixels, header.slices, strict=True):
        if (one.slope, one.intercept) != applied:  # GDCM takes the first frame's for all
            plane = (plane.astype(np.float64) - applied[1]) / applied[0] * one.slope + one.intercept
        yield to_int16(plane)


def _decode(header: Header) -> tuple[object, tuple[float, float]]:
    """The itk image of a file as GDCM rescales it, and the slope and intercept that it used."""
    itk = gdcm.itk()
    # double holds every product of 16 bits and a decimal slope; a whole multi-frame file would be too large in it
    reader = itk.ImageFileReader[itk.Image[itk.D if len(header.slices) == 1 else itk.F, 3]].New()
    io = itk.GDCMImageIO.New()
    reader.SetImageIO(io)
    reader.SetFileName(header.path)
    with gdcm.stderr() as noise:
        try:
            reader.Update()
        except RuntimeError as error:
            raise refuse("dicom-damaged", header.path, "pixels that cannot be decoded") from error
    # the JPEG decoder goes on after an error and only says so there
    if b"Corrupt JPEG" in noise or b"Premature end" in noise:
        raise refuse("dicom-damaged", header.path, "pixels that cannot be decoded to the end")
    return reader.GetOutput(), (io.GetRescaleSlope(), io.GetRescaleIntercept())
