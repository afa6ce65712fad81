"""MetaImages with faults of bytes, header, geometry or values."""

from __future__ import annotations

import numpy as np

from corpus.damage import TEXT, flip
from corpus.kinds import UNREADABLE, Kind, in_mha
from corpus.metaimage import metaimage, metaimage_data
from corpus.patient import chest, geometry
from corpus.voxels import garbage, labels, windowed

METAIMAGE = {
    "mha-zlib-bit-flip": in_mha(
        "gzip unreadable payload", lambda: metaimage(compressed=True, data=lambda d: flip(d, 0.5))
    ),
    "mha-zlib-checksum": in_mha("gzip unreadable", lambda: metaimage(compressed=True, data=lambda d: flip(d, -2))),
    "mha-zlib-truncated": in_mha("gzip unreadable payload", lambda: metaimage(compressed=True)[:-5000]),
    "mha-bytes-after-the-zlib-stream": in_mha(
        "gzip payload", lambda: metaimage(compressed=True) + garbage("u1").tobytes()[:5000]
    ),
    "mha-dim-bomb": in_mha(
        "payload unreadable header", lambda: metaimage(compressed=True, DimSize="60000 60000 60000")
    ),
    "mha-tilted": in_mha("affine-shear", lambda: metaimage(affine=geometry(shear=15))),
    "mha-spacing-of-zero": in_mha(
        "affine affine-pixdim header unreadable", lambda: metaimage(ElementSpacing="0.8 0.8 0")
    ),
    "mha-raw-truncated": in_mha("payload unreadable", lambda: metaimage()[:-5000]),
    "mha-raw-too-long": in_mha("payload", lambda: metaimage() + bytes(5000)),
    "mha-says-fewer-slices": in_mha("payload", lambda: metaimage(compressed=True, DimSize="64 64 20")),
    "mha-text": in_mha(UNREADABLE, lambda: TEXT),
    "mha-2-d": in_mha(
        "dimensions",
        lambda: metaimage(
            chest()[..., 20],
            NDims=2,
            TransformMatrix="1 0 0 1",
            Offset="0 0",
            CenterOfRotation="0 0",
            ElementSpacing="0.8 0.8",
        ),
    ),
    "mha-rgb": in_mha(
        "voxel-type",
        lambda: metaimage(
            np.stack([windowed(-1000, 500, 255).astype("u1")] * 3),
            NDims=3,
            DimSize="64 64 40",
            ElementNumberOfChannels=3,
        ),
    ),
    "mha-without-geometry": in_mha(
        "affine affine-identity", lambda: metaimage(TransformMatrix=None, Offset=None, ElementSpacing=None)
    ),
    "mha-8bit": in_mha("hu-8bit", lambda: metaimage(windowed(-1000, 500, 255).astype("u1"), compressed=True)),
    "mha-mask": in_mha("hu-mask", lambda: metaimage(labels(20).astype("u1"), compressed=True)),
    "mha-intercept-twice": in_mha("hu-double-intercept", lambda: metaimage(chest() - 1024)),
    "mhd-without-its-raw": Kind(
        ".mhd", lambda: {"alone.mhd": metaimage(file="alone.raw")}, frozenset({"unreadable", "payload"})
    ),
    "mhd-with-half-its-raw": Kind(
        ".mhd",
        lambda: {"half.mhd": metaimage(file="half.raw"), "half.raw": metaimage_data(chest())[:90000]},
        frozenset({"payload", "unreadable"}),
    ),
}
