"""Small CT files, right and wrong, written byte by byte: what a reader of volumes must refuse, warn about, or accept.

The headers are filled from the standards (NIfTI-1.1, NIfTI-2, NRRD 4, MetaImage) without any image writer, which would
repair what is meant to be broken. ``BAD``, ``WARNED`` and ``LEGAL`` are the tables; each entry makes its file anew.
I J K are voxels in the order of the file, X Y Z voxels towards patient Right, Anterior, Superior.
"""

from corpus.bad_compression import COMPRESSION
from corpus.bad_geometry import GEOMETRY
from corpus.bad_header import HEADER
from corpus.bad_metaimage import METAIMAGE
from corpus.bad_nrrd import NRRD
from corpus.bad_values import VALUES
from corpus.legal import BLANK_ENDS, LEGAL
from corpus.warned import WARNED

BAD = COMPRESSION | HEADER | GEOMETRY | VALUES | NRRD | METAIMAGE

__all__ = ["BAD", "BLANK_ENDS", "LEGAL", "WARNED"]
