"""NIfTI files with a geometry that is unknown, contradicts itself, or is no axial CT."""

from __future__ import annotations

import numpy as np

from corpus.kinds import Kind, in_gz, in_nii
from corpus.nifti import nifti, pixdim
from corpus.patient import AFFINE, ORIGIN, SPACING, TO_LPS, affine_with, chest, geometry, turned


def _affine(rules: str, affine, **fields) -> Kind:
    """The chest with another sform."""
    return in_gz(
        rules, lambda: nifti(affine=np.array(affine, float), **{"qform": 0, "pixdim": pixdim(*SPACING)} | fields)
    )


GEOMETRY = {
    "identity": _affine("affine-identity", np.eye(4), pixdim=pixdim(1, 1, 1)),
    "identity-qform-only": in_gz("affine-identity", lambda: nifti(affine=np.eye(4), sform=0)),
    "identity-of-itk": in_gz("affine-identity", lambda: nifti(affine=TO_LPS)),  # what it writes for unknown geometry
    "srow-zero": _affine("affine", np.zeros((4, 4))),
    "srow-zero-beside-a-qform": in_gz(
        "affine affine-qform", lambda: nifti(srow_x=(0,) * 4, srow_y=(0,) * 4, srow_z=(0,) * 4)
    ),
    "srow-nan": _affine("affine", np.full((4, 4), np.nan)),
    "one-nan-in-the-affine": _affine("affine", affine_with(1, 1, np.nan)),
    "origin-nan": _affine("affine", affine_with(2, 3, np.nan)),
    "origin-infinite": _affine("affine", affine_with(0, 3, np.inf)),
    "affine-singular": _affine("affine", [[0.8, 0.8, 0, 0], [0, 0, 0, 0], [0, 0, 1.25, 0], [0, 0, 0, 1]]),
    "affine-without-a-third-axis": _affine("affine", affine_with(2, 2, 0)),
    "quaternion-nan": in_gz("affine affine-qform", lambda: nifti(sform=0, quatern_b=np.nan)),
    "quaternion-too-long": in_gz("affine affine-qform", lambda: nifti(sform=0, quatern_b=0.9, quatern_c=0.9)),
    "quaternion-nan-beside-a-sform": in_gz("affine affine-qform", lambda: nifti(quatern_d=np.nan)),
    "pixdim-zero-without-codes": in_gz("affine-pixdim affine", lambda: nifti(sform=0, qform=0, pixdim=pixdim(0, 0, 0))),
    "pixdim-zero-with-a-qform": in_gz("affine-pixdim affine", lambda: nifti(sform=0, pixdim=pixdim(0.8, 0.8, 0))),
    "pixdim-zero-beside-a-sform": _affine("affine-pixdim", AFFINE, pixdim=pixdim(0, 0, 0)),
    "pixels-of-metres": in_gz("spacing", lambda: nifti(affine=geometry((800, 800, 1250)))),
    "pixels-of-nothing": in_gz("spacing", lambda: nifti(affine=geometry((0.0008, 0.0008, 0.00125)))),
    "pixdim-nan": _affine("affine-pixdim", AFFINE, pixdim=pixdim(0.8, 0.8, np.nan)),
    "pixdim-negative": _affine("affine-pixdim", AFFINE, pixdim=pixdim(0.8, -0.8, 1.25)),
    "pixdim-of-other-slices": _affine("affine-pixdim", AFFINE, pixdim=pixdim(0.8, 0.8, 2.5)),
    "pixdim-of-another-grid": _affine("affine-pixdim", AFFINE, pixdim=pixdim(0.75, 0.75, 1.25)),
    "pixdim-permuted": _affine("affine-pixdim", AFFINE, pixdim=pixdim(1.25, 0.8, 0.8)),
    "qform-turned": in_gz("affine-qform", lambda: nifti(quatern_d=np.sin(np.radians(5)))),
    "qform-of-other-spacing": in_gz("affine-qform affine-pixdim", lambda: nifti(pixdim=pixdim(1, 1, 1.25))),
    "qform-elsewhere": in_gz("affine-qform", lambda: nifti(qoffset_x=ORIGIN[0] + 10)),
    "qform-mirrored": in_gz("affine-qform", lambda: nifti(quatern_c=1, pixdim=(-1, *pixdim(*SPACING)[1:]))),
    "qfac-wrong": in_gz("affine-qform", lambda: nifti(pixdim=(-1, *pixdim(*SPACING)[1:]))),
    "gantry-tilt": _affine("affine-shear", geometry(shear=15)),
    "gantry-tilt-of-one-degree": _affine("affine-shear", geometry(shear=1)),
    "gantry-tilt-nii": in_nii("affine-shear", lambda: nifti(affine=geometry(shear=-20), qform=0)),
    "units-metre": in_gz("units", lambda: nifti(xyzt_units=1)),
    "units-metre-scaled": in_gz("units", lambda: nifti(affine=np.diag([1e-3] * 3 + [1]) @ AFFINE, xyzt_units=1)),
    "units-micron": in_gz("units", lambda: nifti(xyzt_units=3)),
    "units-micron-scaled": in_gz("units", lambda: nifti(affine=np.diag([1e3] * 3 + [1]) @ AFFINE, xyzt_units=3)),
    "units-unheard-of": in_gz("units header", lambda: nifti(xyzt_units=5)),
    "axes-permuted": in_gz("slice-axis", lambda: nifti(chest().transpose(2, 0, 1))),
    "axes-permuted-with-spacing": in_gz(
        "slice-axis", lambda: nifti(chest().transpose(2, 0, 1), geometry((1.25, 0.8, 0.8)))
    ),
    "sagittal": in_gz("slice-axis", lambda: nifti(chest((36, 64, 50)), geometry((3, 0.8, 0.8)))),
    "sagittal-slice-by-slice": in_gz(
        "slice-axis", lambda: nifti(*turned(chest((36, 64, 50)), geometry((3, 0.8, 0.8)), "PSR"))
    ),
    "coronal": in_gz("slice-axis", lambda: nifti(chest((64, 36, 50)), geometry((0.8, 3, 0.8)))),
    "small-in-plane": in_gz("size", lambda: nifti(chest((20, 20, 40)))),
    "narrow": in_gz("size", lambda: nifti(chest()[20:44])),
    "few-slices": in_gz("size", lambda: nifti(chest()[..., 10:17])),
    "one-slice": in_gz("size dimensions", lambda: nifti(chest()[..., 10:11])),
    "few-slices-permuted": in_gz("size", lambda: nifti(*turned(chest()[..., 10:17], AFFINE, "SPL"))),
}
