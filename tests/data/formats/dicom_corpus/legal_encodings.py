"""Series in other transfer syntaxes, without the preamble, or with other names."""

from __future__ import annotations

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from dicom_corpus.files import compress, without_start, write
from dicom_corpus.images import make
from dicom_corpus.phantom import truth
from dicom_corpus.tables import legal, legal_slices


def _same(slices):
    return slices


legal_slices("plain")(_same)
legal_slices("no extension", name="CT.1.2.840.{}")(_same)
legal_slices("implicit VR", syntax=ImplicitVRLittleEndian)(_same)
legal_slices("big endian", syntax=ExplicitVRBigEndian)(_same)
legal_slices("deflated", syntax=DeflatedExplicitVRLittleEndian)(_same)


@legal_slices("RLE")
def _(slices):
    for one in slices:
        one.compress(RLELossless)
    return slices


def _codec(codec):
    def build(folder):
        slices = make()
        folder.mkdir()
        compress(slices, truth(), codec, folder)
        write(slices, folder)

    return build


legal("JPEG lossless")(_codec("JPEG"))
legal("JPEG 2000 lossless")(_codec("JPEG2000"))


def _preambleless(pattern, **options):
    def build(folder):
        for path in write(make(), folder, **options):
            without_start(path, pattern)

    return build


legal("no preamble")(_preambleless(b"\2\0\2\0UI"))
legal("neither preamble nor meta header")(_preambleless(b"\x08\0\x08\0CS"))
legal("neither preamble nor meta header, implicit")(
    _preambleless(b"\x08\0\x08\0\x16\0\0\0", syntax=ImplicitVRLittleEndian)
)
