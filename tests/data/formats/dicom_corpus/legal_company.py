"""A series beside files that belong to none: scouts, reports, junk."""

from __future__ import annotations

from pydicom.uid import UID

from dicom_corpus.files import write
from dicom_corpus.images import PRIVATE, RAW_DATA, REPORT, SECONDARY_CAPTURE, each, make, other_object, scout
from dicom_corpus.phantom import seed_hu, truth
from dicom_corpus.tables import legal


@legal("junk beside it")
def _(folder):
    write(make(), folder)
    (folder / "readme.txt").write_text("DICM is what files of DICOM have at byte 128. " * 10)
    (folder / "Thumbs.db").write_bytes(bytes(range(256)) * 8)
    (folder / "._IM0001.dcm").write_bytes(b"\0\5\x16\7" + bytes(200))
    (folder / "empty").write_bytes(b"")
    (folder / "report.json").write_text("{}")


@legal("DICOMDIR, report, raw data and a private object beside it")
def _(folder):
    slices = make()
    write(slices, folder)
    series = slices[0].SeriesInstanceUID
    others = [(REPORT, "SR"), (RAW_DATA, "CT"), (PRIVATE, "CT")]
    write([other_object(*one, series) for one in others], folder, name="OT{}")
    index = other_object(UID("1.2.840.10008.1.3.10"), "")
    write([index], folder, name="DICOMDIR")


@legal("small scout in the folder")
def _(folder):
    write(make(), folder)
    write(scout(), folder, name="SC{}.dcm")


@legal("small scouts of the same series")
def _(folder):
    slices = make()
    write(slices, folder)
    write(scout(series=slices[0].SeriesInstanceUID, images=2), folder, name="A{}.dcm")


@legal("scout of the same size in the series")
def _(folder):
    slices = make()
    write(slices, folder)
    same = make(truth(2, 9), series=slices[0].SeriesInstanceUID, orientation=(0, 1, 0, 0, 0, -1))
    write(same, folder, name="A{}.dcm")


@legal("LOCALIZER series of many images")
def _(folder):
    write(make(), folder)
    write(each(make(seed_hu(5)), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), folder / "LOC")


@legal("screenshot with a series of its own")
def _(folder):
    write(make(), folder / "CT")
    picture = make()[:1]
    each(picture, SOPClassUID=SECONDARY_CAPTURE)
    picture[0].file_meta.MediaStorageSOPClassUID = SECONDARY_CAPTURE
    write(picture, folder / "SC")
