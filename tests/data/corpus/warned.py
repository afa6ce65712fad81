"""Files that are accepted, each with its warning."""

from __future__ import annotations

import numpy as np

from corpus.kinds import in_gz, in_mha, in_nii, in_nrrd
from corpus.metaimage import metaimage
from corpus.nifti import extension, nifti
from corpus.nrrd import nrrd
from corpus.patient import AFFINE, chest, geometry, turned
from corpus.voxels import with_box

MISSING_SLICES = {
    "missing-slices": in_gz("slices-missing", lambda: nifti(np.delete(chest(), np.s_[12:28], axis=2))),
    "missing-slices-flipped": in_gz(
        "slices-missing", lambda: nifti(*turned(np.delete(chest(), np.s_[14:26], axis=2), AFFINE, "LPI"))
    ),
    "missing-slices-of-little-noise": in_gz(
        "slices-missing", lambda: nifti(np.delete(chest(noise=3.0), np.s_[17:22], axis=2))
    ),
}

WARNED = MISSING_SLICES | {
    "slices-of-10-mm": in_gz("thickness", lambda: nifti(affine=geometry((0.8, 0.8, 10)))),
    "slices-of-10-mm-permuted": in_gz("thickness", lambda: nifti(*turned(chest(), geometry((0.8, 0.8, 10)), "SPL"))),
    "lungs-that-begin-at-once": in_gz("slices-missing", lambda: nifti(with_box(chest()))),
    "slices-of-0.2-mm": in_gz("thickness", lambda: nifti(affine=geometry((0.8, 0.8, 0.2)))),
    "mha-slices-of-10-mm": in_mha("thickness", lambda: metaimage(affine=geometry((0.8, 0.8, 10)))),
    "name-in-descrip": in_gz("patient-name", lambda: nifti(descrip=b"DOE^JOHN")),
    "name-in-descrip-with-more": in_gz("patient-name", lambda: nifti(descrip=b"Chest CT of Doe^John^A, 1.25 mm")),
    "name-in-descrip-latin1": in_nii("patient-name", lambda: nifti(descrip="MÜLLER^JÜRGEN".encode("latin-1"))),
    "name-in-aux-file": in_gz("patient-name", lambda: nifti(aux_file=b"DOE^JOHN")),
    "name-in-db-name": in_gz("patient-name", lambda: nifti(db_name=b"DOE^JOHN")),
    "name-in-intent-name": in_gz("patient-name", lambda: nifti(intent_name=b"DOE^JOHN")),
    "name-in-intent-name-nifti2": in_gz("patient-name", lambda: nifti(version=2, intent_name=b"DOE^JOHN")),
    "name-in-an-extension": in_gz("patient-name", lambda: nifti(extension=extension(b"PatientName: DOE^JOHN"))),
    "name-in-a-second-extension": in_nii(
        "patient-name", lambda: nifti(extension=extension(b"resampled") + extension(b"DOE^JOHN", code=0))
    ),
    "name-in-dicom-attributes": in_gz(
        "patient-name", lambda: nifti(extension=extension(b"\x10\0\x10\0PN\x08\0DOE^JOHN", code=2))
    ),
    "name-in-nrrd-content": in_nrrd("patient-name", lambda: nrrd(content="DOE^JOHN")),
    "name-in-mha-comment": in_mha("patient-name", lambda: metaimage(Comment="DOE^JOHN")),
    "name-in-nrrd-keys": in_nrrd("patient-name", lambda: nrrd(keys={"PatientName": "DOE^JOHN"})),
}
