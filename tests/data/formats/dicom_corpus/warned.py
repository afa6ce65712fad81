"""Series that are accepted, each with its warning."""

from __future__ import annotations

from dicom_corpus.enhanced import make_enhanced
from dicom_corpus.files import write
from dicom_corpus.images import each, make
from dicom_corpus.tables import warned


@warned("five slices compressed with loss", "dicom-lossy")
def _(folder):
    slices = make()
    each(slices[2:6], LossyImageCompression="01", LossyImageCompressionRatio="8")
    each(slices[6:7], LossyImageCompression="01", LossyImageCompressionRatio=["12.5", "2"])
    each(slices[7:], LossyImageCompression="00")
    write(slices, folder)


@warned("compressed with loss, no ratio stated", "dicom-lossy")
def _(folder):
    write(each(make(), LossyImageCompression="01"), folder)


@warned("multi-frame compressed with loss", "dicom-lossy")
def _(folder):
    write(each([make_enhanced()], LossyImageCompression="01", LossyImageCompressionRatio="10"), folder)
