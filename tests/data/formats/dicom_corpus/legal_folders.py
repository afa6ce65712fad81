"""Series spread over folders, or several in one."""

from __future__ import annotations

from dicom_corpus.files import write
from dicom_corpus.images import make
from dicom_corpus.phantom import GOOD, Expected, affine_of, seed_hu, truth
from dicom_corpus.tables import legal


@legal("spread over nested folders")
def _(folder):
    slices = make()
    write(slices[:4], folder / "a")
    write(slices[4:9], folder / "b/c")
    write(slices[9:], folder)


@legal("two series mixed in one folder")
def _(folder):
    other = make(seed_hu(5), origin=(-50, -40, -299.5), spacing=(0.5, 0.5, 1.0))
    mixed = [one for pair in zip(make(), other, strict=True) for one in pair]
    write(mixed, folder)
    return [GOOD, Expected(seed_hu(5), affine_of((0.5, 0.5, 1.0), (-50, -40, -299.5)))]


@legal("two sizes under one UID")
def _(folder):
    large = truth(6, 5, (48, 44))
    write(make(series="1.2.9") + make(large, series="1.2.9"), folder)
    return [GOOD, Expected(large, GOOD.affine)]


@legal("no series UID")
def _(folder):
    write(make(series=""), folder)


@legal("no series UID, two folders of one study")
def _(folder):
    write(make(series=""), folder / "a")
    write(make(seed_hu(5), series=""), folder / "b")
    return [GOOD, Expected(seed_hu(5), GOOD.affine)]
