"""A bound on the error of every voxel: what the decoded volume lacks, coded beside the codes."""

# X Y Z voxels; x is fastest in a coded slab, as it is in the file of a volume

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.tokens import steps as coding
from ctpa_vqgan.tokens.steps import INT16

SLICES = 16  # of a slab; part of the format


@dataclass(frozen=True)
class Residual:
    """The coded difference between a volume and what its codes decode to.

    Args:
        max_error_hu: no voxel is further off; 0 restores the volume.
        shape: (X, Y, Z) of the volume.
        slabs: one bz2 stream per 16 slices.
        sha256: of the bounded volume, int16 little-endian, x fastest, in hexadecimal digits.

    Raises:
        ValueError: if these do not fit one another.
    """

    max_error_hu: int
    shape: tuple[int, int, int]
    slabs: tuple[bytes, ...] = field(repr=False)
    sha256: str

    def __post_init__(self) -> None:
        _checked_bound(self.max_error_hu)
        if len(self.slabs) != len(_slabs(self.shape)):
            raise ValueError(f"residual of {self.shape} must have {len(_slabs(self.shape))} slabs of {SLICES} slices")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"sha256 of the residual must be 64 hexadecimal digits, found {self.sha256[:100]!r}")

    @property
    def nbytes(self) -> int:
        """Size of the coded slabs."""
        return sum(map(len, self.slabs))

    def to_parts(self) -> dict[str, Any]:
        """Members of a code file."""
        return {
            "residual": np.frombuffer(b"".join(self.slabs), np.uint8),
            "residual_sizes": np.array([len(slab) for slab in self.slabs]),
            "residual_max_error_hu": self.max_error_hu,
            "residual_sha256": self.sha256,
        }

    @classmethod
    def from_parts(cls, shape: tuple[int, int, int], parts: Mapping[str, Any]) -> Residual | None:
        """Undo :meth:`to_parts`; None where there is no residual.

        Raises:
            KeyError: if only a part of it is there.
            ValueError: if the parts do not fit one another.
        """
        if not any(name.startswith("residual") for name in parts):
            return None
        stream, sizes = parts["residual"], parts["residual_sizes"]
        if (sizes < 0).any() or sizes.sum() != len(stream):
            raise ValueError(f"residual_sizes must be those of {len(stream)} bytes, found a sum of {sizes.sum()}")
        ends = np.cumsum(sizes)
        slabs = tuple(stream[end - size : end].tobytes() for end, size in zip(ends, sizes))
        return cls(parts["residual_max_error_hu"], shape, slabs, parts["residual_sha256"])


def bound_error(original: np.ndarray, decoded: np.ndarray, max_error_hu: int) -> Residual:
    """Code what must be added to a decoded volume so that every voxel is within ``max_error_hu`` of the original.

    Every voxel: those outside ``hu_window`` and scanner padding too. Both volumes are read in slabs of 16 slices, so
    that they may be memory maps of any length.

    Args:
        original: [X, Y, Z] int16 HU.
        decoded: [X, Y, Z] int16 HU, as the decoder gives it.
        max_error_hu: whole number from 0 (lossless) to 32767.

    Raises:
        ValueError: for another type, differing shapes, or a bound out of range.
    """
    bound = _checked_bound(max_error_hu)
    _check_volumes(original=original, decoded=decoded)
    digest, slabs = hashlib.sha256(), []
    for z in _slabs(original.shape):
        lacking, approximate = (np.asarray(volume[..., z]) for volume in (original, decoded))
        steps = coding.quantize(lacking, approximate, bound)
        bounded = coding.add(approximate, steps, bound)
        assert np.abs(lacking.astype(np.int32) - bounded).max(initial=0) <= bound
        digest.update(_bytes(bounded))
        slabs.append(coding.compress(steps))
    return Residual(bound, tuple(original.shape), tuple(slabs), digest.hexdigest())


def apply_residual(
    decoded: np.ndarray, residual: Residual, out: np.ndarray | None = None, name: str = "residual"
) -> np.ndarray:
    """The volume whose every voxel is within ``residual.max_error_hu`` of the original.

    Args:
        decoded: [X, Y, Z] int16 HU, from the same codes by the same network.
        residual: of :func:`bound_error`.
        out: where to write, such as a memory map, or ``decoded`` itself; new memory by default.
        name: of the file that messages shall name.

    Returns:
        ``out``, [X, Y, Z] int16.

    Raises:
        ValueError: for another type or shape.
        UserError: if the decoded voxels are others than those that were bounded, as another kind of device may give;
            what ``out`` holds then is no result.
    """
    if decoded.shape != residual.shape:
        raise ValueError(f"decoded must be of shape {residual.shape} as the residual, found {decoded.shape}")
    out = np.empty(residual.shape, np.int16, order="F") if out is None else out
    _check_volumes(decoded=decoded, out=out)
    digest = hashlib.sha256()
    for z, slab in zip(_slabs(residual.shape), residual.slabs):
        approximate = np.asarray(decoded[..., z])
        bounded = coding.add(approximate, _steps(slab, approximate.shape, name), residual.max_error_hu)
        digest.update(_bytes(bounded))
        out[..., z] = bounded
    if (found := digest.hexdigest()) != residual.sha256:
        raise UserError(
            f"{name}: expected a volume with the SHA-256 {residual.sha256[:12]}..., found {found[:12]}...: the decoder "
            f"gives other voxels here than where they were bounded to {residual.max_error_hu} HU; "
            "decode on the kind of device that encoded (--device cpu)"
        )
    return out


def _steps(slab: bytes, shape: tuple[int, ...], name: str) -> np.ndarray:
    try:
        return coding.decompress(slab, shape)
    except ValueError as error:
        raise UserError(
            f"{name}: a residual that cannot be read: {error}; copy the file again, or encode it again"
        ) from error


def _slabs(shape: tuple[int, ...]) -> list[slice]:
    return [slice(z, min(z + SLICES, shape[2])) for z in range(0, shape[2], SLICES)]


def _bytes(slab: np.ndarray) -> bytes:
    return slab.astype("<i2", copy=False).tobytes(order="F")


def _checked_bound(bound: int) -> int:
    if isinstance(bound, bool) or int(bound) != bound or not 0 <= bound <= INT16.max:
        raise ValueError(f"max_error_hu must be a whole number from 0 to {INT16.max}, found {bound}")
    return int(bound)


def _check_volumes(**volumes: np.ndarray) -> None:
    found = ", ".join(f"{name} {volume.dtype} {volume.shape}" for name, volume in volumes.items())
    alike = len({volume.shape for volume in volumes.values()}) == 1
    if not alike or any(volume.dtype != np.int16 or volume.ndim != 3 for volume in volumes.values()):
        raise ValueError(f"expected [X, Y, Z] int16 of one shape, found {found}")
