"""Series turned in space."""

from __future__ import annotations

from dicom_corpus.files import write
from dicom_corpus.images import make
from dicom_corpus.phantom import GOOD, Expected, affine_of
from dicom_corpus.tables import legal


def _turned(orientation):
    def build(folder):
        write(make(orientation=orientation), folder)
        return [Expected(GOOD.hu, affine_of(orientation=orientation))]

    return build


# exact in a few decimals: turned by the angle of the triangle 3-4-5 and its like
legal("oblique")(_turned((0.96, 0.28, 0, -0.28, 0.96, 0)))
legal("tilted patient, straight gantry")(_turned((1, 0, 0, 0, 0.96, 0.28)))
legal("prone, feet first")(_turned((1, 0, 0, 0, -1, 0)))
legal("turned in plane")(_turned((0, 1, 0, -1, 0, 0)))
