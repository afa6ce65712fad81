"""Files with a header that is wrong, or that does not fit the voxels behind it."""

from __future__ import annotations

import numpy as np

from corpus.damage import TEXT
from corpus.kinds import UNREADABLE, Kind, in_gz, in_nii, in_raw_gz
from corpus.nifti import dim, nifti
from corpus.patient import SHAPE, chest
from corpus.voxels import garbage, windowed

RGB = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
RGBA = np.dtype([*RGB.descr, ("A", "u1")])


HEADER = {
    "missing-file": Kind(".nii.gz", lambda: None, frozenset({"unreadable"})),
    "empty-nii-gz": in_raw_gz(UNREADABLE + " gzip extension", bytes),
    "empty-nii": in_nii(UNREADABLE, bytes),
    "text-named-nii-gz": in_raw_gz("extension gzip unreadable", lambda: TEXT),
    "text-in-nii-gz": in_gz(UNREADABLE, lambda: TEXT),
    "text-named-nii": in_nii(UNREADABLE, lambda: TEXT),
    "random-bytes": in_nii(UNREADABLE, lambda: garbage("u1").tobytes()),
    "half-a-header": in_gz(UNREADABLE, lambda: nifti()[:200]),
    "header-only": in_gz("payload", lambda: nifti()[:352]),
    "header-only-nii": in_nii("payload", lambda: nifti()[:352]),
    "sizeof-hdr": in_gz(UNREADABLE, lambda: nifti(sizeof_hdr=999)),
    "sizeof-hdr-of-zero": in_nii(UNREADABLE, lambda: nifti(sizeof_hdr=0)),
    "sizeof-hdr-nifti2": in_gz(UNREADABLE, lambda: nifti(version=2, sizeof_hdr=999)),
    "magic": in_gz(UNREADABLE, lambda: nifti(magic=b"abc")),
    "magic-blank": in_gz(UNREADABLE, lambda: nifti(magic=b"")),
    "magic-nifti2": in_gz(UNREADABLE, lambda: nifti(version=2, magic=b"n+3")),
    "magic-of-a-pair": in_gz(UNREADABLE, lambda: nifti(magic=b"ni1", vox_offset=0)),
    "datatype-unknown": in_gz("header voxel-type", lambda: nifti(datatype=333)),
    "datatype-zero": in_gz("header voxel-type", lambda: nifti(datatype=0)),
    "vox-offset-nan": in_gz("header", lambda: nifti(vox_offset=np.nan)),
    "vox-offset-negative": in_gz("header", lambda: nifti(vox_offset=-352)),
    "vox-offset-inside-the-header": in_gz("header payload", lambda: nifti(vox_offset=160)),
    "vox-offset-beyond-the-file": in_nii("header payload", lambda: nifti(vox_offset=1e9)),
    "vox-offset-infinite": in_nii("header", lambda: nifti(vox_offset=np.inf)),
    "dim0-of-zero": in_gz("header dimensions", lambda: nifti(dim=(0, *dim(*SHAPE)[1:]))),
    "dim0-of-nine": in_gz("header dimensions", lambda: nifti(dim=(9, *dim(*SHAPE)[1:]))),
    "dim0-negative": in_gz("header dimensions", lambda: nifti(dim=(-3, *dim(*SHAPE)[1:]))),
    "dim-negative": in_gz("header dimensions", lambda: nifti(dim=dim(64, 64, -40))),
    "dim-negative-in-plane": in_nii("header dimensions", lambda: nifti(dim=dim(-64, 64, 40))),
    "dim-zero": in_gz("header dimensions", lambda: nifti(dim=dim(64, 0, 40))),
    "dim-zero-slices": in_nii("header dimensions", lambda: nifti(dim=dim(64, 64, 0))),
    "dim-bomb": in_gz("payload", lambda: nifti(dim=dim(32767, 32767, 32767))),
    "dim-bomb-nii": in_nii("payload", lambda: nifti(dim=dim(32767, 32767, 32767))),
    "dim-bomb-nifti2": in_gz("payload header", lambda: nifti(version=2, dim=dim(2**40, 2**40, 2**40))),
    "header-says-fewer-slices": in_gz("payload", lambda: nifti(dim=dim(64, 64, 20))),
    "header-says-fewer-slices-nii": in_nii("payload", lambda: nifti(dim=dim(64, 64, 20))),
    "header-says-more-slices": in_gz("payload", lambda: nifti(dim=dim(64, 64, 60))),
    "header-says-more-slices-nii": in_nii("payload", lambda: nifti(dim=dim(64, 64, 60))),
    "header-says-wider-voxels": in_gz("payload", lambda: nifti(datatype=16, bitpix=32)),
    "one-voxel-short": in_gz("payload", lambda: nifti()[:-2]),
    "one-byte-short-nii": in_nii("payload", lambda: nifti()[:-1]),
    "one-byte-too-many": in_gz("payload", lambda: nifti() + b"\0"),
    "one-byte-too-many-nii": in_nii("payload", lambda: nifti() + b"\0"),
    "2-d": in_gz("dimensions", lambda: nifti(chest()[..., 20])),
    "4-d-two-phases": in_gz("dimensions", lambda: nifti(np.stack([chest(), chest(seed=1)], axis=-1))),
    "5-d-vectors": in_gz(
        "dimensions", lambda: nifti(np.stack([chest()] * 3, axis=-1)[:, :, :, None], intent_code=1007)
    ),
    "rgb": in_gz(
        "voxel-type", lambda: nifti(windowed(-1000, 500, 255).astype("u1").repeat(3).view(RGB).reshape(SHAPE))
    ),
    "rgba": in_nii(
        "voxel-type", lambda: nifti(windowed(-1000, 500, 255).astype("u1").repeat(4).view(RGBA).reshape(SHAPE))
    ),
    "complex": in_gz("voxel-type", lambda: nifti(chest().astype("c8"))),
    "complex-double": in_gz("voxel-type", lambda: nifti(chest().astype("c16"))),
    "slope-nan": in_gz("scaling", lambda: nifti(scl_slope=np.nan)),
    "slope-nan-nifti2": in_gz("scaling", lambda: nifti(version=2, scl_slope=np.nan)),
    "slope-infinite": in_gz("scaling", lambda: nifti(scl_slope=np.inf)),
    "intercept-infinite": in_gz("scaling", lambda: nifti(scl_inter=-np.inf)),
    "intercept-nan": in_nii("scaling", lambda: nifti(scl_inter=np.nan)),
}
