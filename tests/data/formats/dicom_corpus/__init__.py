"""Builds folders of DICOM files with known voxels and geometry, one fault or oddity at a time.

``BAD`` maps what is wrong to the builder and the rule that must refuse it; ``LEGAL`` maps oddities to builders that
return the volumes which must come out; ``WARNED`` has both, the rule being that of the warning. I are columns, J rows,
K slices.
"""

# ruff: noqa: F401  the modules enter their builders into the tables
from dicom_corpus import (
    bad_bytes,
    bad_geometry,
    bad_places,
    bad_values,
    copies,
    legal_company,
    legal_encodings,
    legal_folders,
    legal_places,
    legal_values,
    multi_frame,
    warned,
)
from dicom_corpus.tables import BAD, LEGAL, WARNED

__all__ = ["BAD", "LEGAL", "WARNED"]
