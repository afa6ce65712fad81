"""What a decoded voxel lacks, in steps of a width that keeps the bound, and how such steps are coded.

Near-lossless coding as JPEG-LS does it (ITU-T T.87, annex A.4): with steps of 2 E + 1 no rounded difference is off by
more than E. The steps are coded by bz2; small ones of either sign become small unsigned numbers first, and low bytes
are kept apart from high ones. ``benchmarks/residual.py`` compares this with other ways.
"""

from __future__ import annotations

import bz2

import numpy as np

INT16 = np.iinfo(np.int16)


def quantize(original: np.ndarray, decoded: np.ndarray, max_error_hu: int) -> np.ndarray:
    """Differences in units of 2 E + 1, rounded, int16; for E = 0 modulo 2**16, which :func:`add` undoes."""
    difference = original.astype(np.int32) - decoded
    return ((difference + max_error_hu) // (2 * max_error_hu + 1)).astype(np.int16)


def add(decoded: np.ndarray, steps: np.ndarray, max_error_hu: int) -> np.ndarray:
    """The bounded voxels, int16."""
    if max_error_hu == 0:
        return decoded + steps  # int16 wraps around: the exact inverse
    bounded = decoded + steps.astype(np.int32) * (2 * max_error_hu + 1)
    # the original is int16, so clipping brings a voxel nearer to it
    return np.clip(bounded, INT16.min, INT16.max).astype(np.int16)


def to_planes(steps: np.ndarray) -> bytes:
    """0, -1, 1, -2, ... as 0, 1, 2, 3, ... of two bytes; all low bytes, then all high ones; x is fastest.

    >>> list(to_planes(np.array([0, -1, 1, -2, 300], np.int16)))
    [0, 1, 2, 3, 88, 0, 0, 0, 0, 2]
    """
    unsigned = ((steps << 1) ^ (steps >> 15)).ravel(order="F").astype("<u2")
    return unsigned.view(np.uint8).reshape(-1, 2).T.tobytes()


def from_planes(planes: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Undo :func:`to_planes`."""
    low, high = np.frombuffer(planes, np.uint8).reshape(2, -1).astype(np.uint16)
    unsigned = low | (high << 8)
    return ((unsigned >> 1) ^ -(unsigned & 1)).view(np.int16).reshape(shape, order="F")


def compress(steps: np.ndarray) -> bytes:
    """One bz2 stream."""
    return bz2.compress(to_planes(steps))


def decompress(stream: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """Undo :func:`compress`; takes no more memory than the voxels need, whatever the stream says.

    Raises:
        ValueError: if it is no such stream, or holds another number of voxels.
    """
    expected, decompressor = 2 * int(np.prod(shape)), bz2.BZ2Decompressor()
    try:
        planes = decompressor.decompress(stream, max_length=expected + 1)
    except OSError as error:
        raise ValueError(f"a damaged stream ({error})") from error
    # the end of the stream holds its checksum
    if len(planes) != expected or not decompressor.eof or decompressor.unused_data:
        raise ValueError(f"expected a whole stream of {expected} bytes, found another")
    return from_planes(planes, shape)
