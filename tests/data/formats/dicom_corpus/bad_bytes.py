"""Series with a file that is cut, empty, or spoilt within its pixels."""

from __future__ import annotations

from pydicom.uid import ImplicitVRLittleEndian

from dicom_corpus.files import compress, cut, write
from dicom_corpus.images import make
from dicom_corpus.phantom import truth
from dicom_corpus.tables import BAD, bad_files


@bad_files("file cut in the middle", "dicom-damaged")
def _(paths):
    cut(paths[5], 2000)


@bad_files("last file cut by a byte", "dicom-damaged")
def _(paths):
    cut(paths[-1], -1)


@bad_files("last file cut before its series UID", "dicom-damaged")
def _(paths):
    cut(paths[-1], 400)


@bad_files("last file empty", "dicom-damaged")
def _(paths):
    cut(paths[-1], 0)


@bad_files("last file all zeros", "dicom-damaged")
def _(paths):
    paths[-1].write_bytes(bytes(3000))


def _cut_implicit(folder):
    cut(write(make(), folder, syntax=ImplicitVRLittleEndian)[-1], 1500)


BAD["implicit VR, last file cut"] = (_cut_implicit, "dicom-damaged")


def _cut_jpeg(folder):
    slices = make()
    folder.mkdir()
    compress(slices, truth(), "JPEG", folder)
    cut(write(slices, folder)[-1], -600)


BAD["JPEG lossless, last file cut"] = (_cut_jpeg, "dicom-damaged")


def _spoil(codec, spoil):
    def build(folder):
        slices = make()
        folder.mkdir()
        compress(slices, truth(), codec, folder)
        path = write(slices, folder)[4]
        content = bytearray(path.read_bytes())
        spoil(content, content.index(b"\xe0\x7f\x10\x00"))
        path.write_bytes(content)

    return build


def _zero_scan(content, start):
    content[-900:-860] = bytes(40)


def _zero_header(content, start):
    content[start + 40 : start + 70] = bytes(30)


BAD["JPEG lossless, pixels spoilt"] = (_spoil("JPEG", _zero_scan), "dicom-damaged")
BAD["JPEG 2000, header of the pixels spoilt"] = (_spoil("JPEG2000", _zero_header), "dicom-damaged")
