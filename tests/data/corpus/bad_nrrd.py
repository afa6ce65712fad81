"""NRRD files with faults of bytes, header, geometry or values."""

from __future__ import annotations

import numpy as np

from corpus.damage import TEXT, flip
from corpus.kinds import UNREADABLE, in_nrrd
from corpus.nrrd import nrrd
from corpus.patient import affine_with, chest, geometry
from corpus.voxels import changed, copied, windowed

NRRD = {
    "nrrd-gzip-bit-flip": in_nrrd("gzip unreadable", lambda: nrrd(encoding="gzip", data=lambda d: flip(d, 0.5))),
    "nrrd-gzip-checksum": in_nrrd("gzip", lambda: nrrd(encoding="gzip", data=lambda d: flip(d, -6))),
    "nrrd-gzip-truncated": in_nrrd("gzip payload unreadable", lambda: nrrd(encoding="gzip", data=lambda d: d[:90000])),
    "nrrd-bytes-after-the-gzip-stream": in_nrrd("gzip payload", lambda: nrrd(encoding="gzip", data=lambda d: d + TEXT)),
    "nrrd-raw-truncated": in_nrrd("payload unreadable", lambda: nrrd(data=lambda d: d[:90000])),
    "nrrd-raw-too-long": in_nrrd("payload", lambda: nrrd(data=lambda d: d + bytes(5000))),
    "nrrd-says-more-slices": in_nrrd("payload unreadable", lambda: nrrd(encoding="gzip", sizes="64 64 60")),
    "nrrd-says-fewer-slices": in_nrrd("payload", lambda: nrrd(encoding="gzip", sizes="64 64 20")),
    "nrrd-dim-bomb": in_nrrd("payload unreadable header", lambda: nrrd(encoding="gzip", sizes="60000 60000 60000")),
    "nrrd-text": in_nrrd(UNREADABLE, lambda: TEXT),
    "nrrd-empty": in_nrrd(UNREADABLE, bytes),
    "nrrd-without-geometry": in_nrrd(
        "affine affine-identity", lambda: nrrd(space=None, space_directions=None, space_origin=None)
    ),
    "nrrd-tilted": in_nrrd("affine-shear", lambda: nrrd(affine=geometry(shear=15))),
    "nrrd-phases": in_nrrd("dimensions", lambda: nrrd(np.stack([chest(), chest(seed=1)]))),
    "nrrd-phases-last": in_nrrd(
        "dimensions",
        lambda: nrrd(
            np.stack([chest(), chest(seed=1)], axis=-1),
            space=None,
            space_dimension=4,
            space_directions="(0.8,0,0,0) (0,0.8,0,0) (0,0,1.25,0) (0,0,0,1)",
            space_origin="(0,0,0,0)",
            kinds="domain domain domain domain",
        ),
    ),
    "nrrd-directions-nan": in_nrrd("affine unreadable header", lambda: nrrd(affine=affine_with(1, 1, np.nan))),
    "nrrd-rgb": in_nrrd(
        "voxel-type dimensions",
        lambda: nrrd(np.stack([windowed(-1000, 500, 255).astype("u1")] * 3), kinds="RGB-color domain domain domain"),
    ),
    "nrrd-nan": in_nrrd("finite", lambda: nrrd(changed(np.nan, (30, 30, 20), dtype="f4"))),
    "nrrd-offset": in_nrrd("hu-offset", lambda: nrrd(chest() + 1024, encoding="gzip")),
    "nrrd-normalised": in_nrrd("hu-normalised", lambda: nrrd(windowed(-1000, 1000, 1).astype("f4"))),
    "nrrd-duplicate-slice": in_nrrd("slices-duplicate", lambda: nrrd(copied(20, 21))),
}
