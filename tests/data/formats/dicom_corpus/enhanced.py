"""Multi-frame images (Enhanced CT Image Storage), and folders with one."""

from __future__ import annotations

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, generate_uid

from dicom_corpus.files import write
from dicom_corpus.images import header
from dicom_corpus.phantom import AXIAL, ORIGIN, SPACING, ds, truth


def make_enhanced(hu: np.ndarray | None = None, z=None, intercepts=None) -> FileDataset:
    """One multi-frame file (Enhanced CT Image Storage) of a whole series, with place and rescale per frame."""
    hu = truth() if hu is None else hu
    frames = hu.shape[2]
    z = [ORIGIN[2] + k * SPACING[2] for k in range(frames)] if z is None else z
    intercepts = [-1024] * frames if intercepts is None else intercepts
    one = header(EnhancedCTImageStorage, generate_uid())
    one.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    one.NumberOfFrames, one.Rows, one.Columns = frames, hu.shape[1], hu.shape[0]
    measures, orientation, shared = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [ds(SPACING[1]), ds(SPACING[0])], ds(SPACING[2])
    orientation.ImageOrientationPatient = [ds(value) for value in AXIAL]
    shared.PixelMeasuresSequence = Sequence([measures])
    shared.PlaneOrientationSequence = Sequence([orientation])
    one.SharedFunctionalGroupsSequence = Sequence([shared])
    one.PerFrameFunctionalGroupsSequence = Sequence([])
    for height, intercept in zip(z, intercepts, strict=True):
        place, values, frame = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = [ds(ORIGIN[0]), ds(ORIGIN[1]), ds(height)]
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "1", ds(intercept), "HU"
        frame.PlanePositionSequence = Sequence([place])
        frame.PixelValueTransformationSequence = Sequence([values])
        one.PerFrameFunctionalGroupsSequence.append(frame)
    stored = hu.transpose(2, 1, 0).astype(int) - np.array(intercepts)[:, None, None]
    one.PixelData = stored.astype(np.int16).tobytes()
    return one


def enhanced(**changes):
    """A builder of a folder with one multi-frame file."""
    return lambda folder: write([make_enhanced(**changes)], folder)


def heights(*places: int) -> list[float]:
    """Positions of frames, in slices."""
    return [ORIGIN[2] + SPACING[2] * place for place in places]
