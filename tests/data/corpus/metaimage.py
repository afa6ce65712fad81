"""Write MetaImage line by line, right or wrong, with its voxels inside or in a file beside it."""

from __future__ import annotations

import zlib

import numpy as np

from corpus.patient import AFFINE, TO_LPS, chest

MET_TYPES = {"i2": "MET_SHORT", "u2": "MET_USHORT", "u1": "MET_UCHAR", "i4": "MET_INT", "f4": "MET_FLOAT"}


def metaimage(voxels=None, affine=AFFINE, *, compressed=False, endian="<", data=None, file="LOCAL", **lines) -> bytes:
    """A MetaImage; ``lines`` replace those of the header by name, or leave them out if None.

    Args:
        voxels: [I, J, K] as stored; the chest by default.
        affine: towards RAS.
        compressed: by zlib, as MetaImage does.
        endian: ``<`` or ``>``.
        data: changes the encoded voxels.
        file: the name of the file with the voxels; LOCAL puts them behind the header.
        **lines: of the header.
    """
    voxels = chest() if voxels is None else voxels
    world = TO_LPS @ affine
    spacing = np.linalg.norm(world[:3, :3], axis=0)
    content = metaimage_data(voxels, compressed, endian)
    content = data(content) if data else content
    header = (
        {
            "ObjectType": "Image",
            "NDims": voxels.ndim,
            "BinaryData": True,
            "BinaryDataByteOrderMSB": endian == ">",
            "CompressedData": compressed,
            "CompressedDataSize": len(content) if compressed else None,
            "TransformMatrix": _numbers((world[:3, :3] / spacing).T),  # an axis at a time
            "Offset": _numbers(world[:3, 3]),
            "CenterOfRotation": "0 0 0",
            "ElementSpacing": _numbers(spacing),
            "DimSize": _numbers(voxels.shape),
            "ElementType": MET_TYPES[voxels.dtype.str[1:]],
        }
        | lines
    )
    text = [f"{name} = {value}\n" for name, value in header.items() if value is not None]
    return "".join([*text, f"ElementDataFile = {file}\n"]).encode() + (content if file == "LOCAL" else b"")


def metaimage_data(voxels: np.ndarray, compressed: bool = False, endian: str = "<") -> bytes:
    """The voxels as MetaImage stores them."""
    content = voxels.astype(voxels.dtype.newbyteorder(endian)).tobytes("F")
    return zlib.compress(content, 1) if compressed else content


def _numbers(values) -> str:
    return " ".join(repr(n.item()) for n in np.ravel(values))
