"""Multi-frame files, bad and legal."""

from __future__ import annotations

from pydicom.uid import ImplicitVRLittleEndian, RLELossless

from dicom_corpus.enhanced import enhanced, heights, make_enhanced
from dicom_corpus.files import write
from dicom_corpus.images import each
from dicom_corpus.phantom import GOOD, SIDE_I, SIDE_J
from dicom_corpus.tables import BAD, legal


def _enhanced_short(folder):
    one = make_enhanced()
    one.PixelData = one.PixelData[: -2 * SIDE_I * SIDE_J]
    write([one], folder)


def _enhanced_without(sequence):
    def build(folder):
        one = make_enhanced()
        for frame in one.PerFrameFunctionalGroupsSequence:
            delattr(frame, sequence)
        write([one], folder)

    return build


BAD["multi-frame with a gap"] = (enhanced(z=heights(*range(6), *range(8, 14))), "dicom-gap")
BAD["multi-frame with a frame twice"] = (enhanced(z=heights(*range(6), 5, *range(6, 11))), "dicom-duplicate")
BAD["multi-frame without positions"] = (_enhanced_without("PlanePositionSequence"), "dicom-position")
BAD["multi-frame without rescale"] = (_enhanced_without("PixelValueTransformationSequence"), "dicom-rescale")
BAD["multi-frame, a frame short"] = (_enhanced_short, "dicom-damaged")


def _enhanced_legal(**changes):
    def build(folder):
        enhanced(**changes)(folder)

    return build


def _enhanced_shuffled(folder):
    order = [5 * k % 12 for k in range(12)]
    enhanced(hu=GOOD.hu[:, :, order], z=heights(*order))(folder)


def _enhanced_jpeg(folder):
    one = make_enhanced()
    one.compress(RLELossless)
    write([one], folder)


legal("multi-frame")(_enhanced_legal())
legal("multi-frame, implicit VR")(
    lambda folder: write([make_enhanced()], folder, syntax=ImplicitVRLittleEndian) and None
)
legal("multi-frame, frames in disorder")(_enhanced_shuffled)
legal("multi-frame, another intercept in each frame")(_enhanced_legal(intercepts=[-1024 + k for k in range(12)]))
legal("multi-frame, RLE")(_enhanced_jpeg)


@legal("multi-frame in two files")
def _(folder):
    parts = [
        make_enhanced(GOOD.hu[:, :, :7], heights(*range(7))),
        make_enhanced(GOOD.hu[:, :, 7:], heights(*range(7, 12))),
    ]
    each(parts, SeriesInstanceUID="1.2.9")
    write(parts, folder)


@legal("single frames of the enhanced kind")
def _(folder):
    frames = [make_enhanced(GOOD.hu[:, :, k : k + 1], heights(k)) for k in range(12)]
    write(each(frames, SeriesInstanceUID="1.2.9"), folder)
