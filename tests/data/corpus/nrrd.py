"""Write NRRD 4 line by line, right or wrong."""

from __future__ import annotations

from corpus.nifti import gz
from corpus.patient import AFFINE, TO_LPS, chest

NRRD_TYPES = {"i2": "short", "u2": "unsigned short", "u1": "unsigned char", "i4": "int", "f4": "float", "f8": "double"}


def nrrd(
    voxels=None, affine=AFFINE, *, encoding="raw", endian="<", space="left-posterior-superior", data=None, **lines
):
    """An NRRD file; ``lines`` replace those of the header by name (``_`` for a space), or leave them out if None.

    Args:
        voxels: [I, J, K] as stored; the chest by default.
        affine: towards RAS.
        encoding: ``raw`` or ``gzip``.
        endian: ``<`` or ``>``.
        space: world coordinates in which the header states the affine.
        data: changes the encoded voxels.
        **lines: of the header; ``keys`` are key/value pairs.
    """
    voxels = chest() if voxels is None else voxels
    world = TO_LPS @ affine if space == "left-posterior-superior" else affine
    vectors = [f"({','.join(repr(float(n)) for n in vector)})" for vector in world[:3].T]
    header = {
        "type": NRRD_TYPES[voxels.dtype.str[1:]],
        "dimension": voxels.ndim,
        "space": space,
        "space dimension": None,  # instead of a space; the vectors must come after it
        "sizes": " ".join(map(str, voxels.shape)),
        "space directions": " ".join(["none"] * (voxels.ndim - 3) + vectors[:3]),
        "kinds": " ".join(["list"] * (voxels.ndim - 3) + ["domain"] * 3),
        "endian": {"<": "little", ">": "big"}[endian],
        "encoding": encoding,
        "space origin": vectors[3],
    }
    keys = lines.pop("keys", {})
    header |= {name.replace("_", " "): value for name, value in lines.items()}
    text = ["NRRD0004", *(f"{name}: {value}" for name, value in header.items() if value is not None)]
    text += [f"{name}:={value}" for name, value in keys.items()]
    content = voxels.astype(voxels.dtype.newbyteorder(endian)).tobytes("F")
    content = gz(content) if encoding == "gzip" else content
    return "\n".join([*text, "", ""]).encode() + (data(content) if data else content)
