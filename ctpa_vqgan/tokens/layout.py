"""The members of a code file, and what each must look like; ``docs/code-format.md`` explains them."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ctpa_vqgan.tokens.container import read_member

ANY = -1  # length of an axis that other members tell
# member: types, shape
REQUIRED = {
    "codes": (("uint8",), (ANY,)),
    "shape": (("int64",), (3,)),
    "affine": (("float64",), (4, 4)),
    "original_shape": (("int64",), (3,)),
    "original_affine": (("float64",), (4, 4)),
    "hu_window": (("float64",), (2,)),
    "factor": (("int64",), (3,)),
    "num_embeddings": (("int64",), ()),
    "network": (("str",), ()),
    "version": (("str",), ()),
}
OPTIONAL = {
    "latents": (("float16", "float32"), (ANY, ANY, ANY, ANY)),
    "latent_mean": (("float32",), (ANY,)),
    "latent_std": (("float32",), (ANY,)),
    "residual": (("uint8",), (ANY,)),
    "residual_sizes": (("int64",), (ANY,)),
    "residual_max_error_hu": (("int64",), ()),
    "residual_sha256": (("str",), ()),
}
BULKY = ("codes", "latents", "residual", "residual_sizes")
DEFLATE = ("codes",)


def to_members(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays of little-endian types in a fixed order; None is left out."""
    members = {}
    for name, (types, _) in {**REQUIRED, **OPTIONAL}.items():
        if (value := values.get(name)) is not None:
            dtype = np.asarray(value).dtype if len(types) > 1 or types[0] == "str" else np.dtype(types[0])
            members[name] = np.asarray(value, dtype.newbyteorder("<"), order="C")
    return members


def from_archive(archive: zipfile.ZipFile, bulky: bool = True) -> dict[str, Any]:
    """Read the members that are there; text and numbers become Python's own.

    Args:
        archive: of :func:`~ctpa_vqgan.tokens.container.open_sealed`.
        bulky: codes, latents and residual too.

    Raises:
        KeyError: if a required member is missing.
        ValueError: if one has another type or shape.
    """
    there = {name.removesuffix(".npy") for name in archive.namelist()}
    wanted = [*REQUIRED, *(name for name in OPTIONAL if name in there)]
    return {name: _checked(name, read_member(archive, name)) for name in wanted if bulky or name not in BULKY}


def _checked(name: str, array: np.ndarray) -> Any:
    types, shape = {**REQUIRED, **OPTIONAL}[name]
    found = "str" if array.dtype.kind == "U" else array.dtype.name
    fits = array.ndim == len(shape) and all(side in (ANY, length) for side, length in zip(shape, array.shape))
    if found not in types or not fits:
        sides = ", ".join("n" if side == ANY else str(side) for side in shape)
        raise ValueError(f"{name} must be {' or '.join(types)} [{sides}], found {found} {list(array.shape)}")
    return array if array.ndim else array.item()
