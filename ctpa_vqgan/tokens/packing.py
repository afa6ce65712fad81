"""Codes as a stream of bits: each takes as many as the largest code of the codebook needs, and no more."""

from __future__ import annotations

import numpy as np

CHUNK = 2**16  # codes at a time, a multiple of 8: every chunk fills whole bytes


def bits_per_code(num_embeddings: int) -> int:
    """ceil(log2) of the codebook's size: 13 for 8192. ValueError for a size that is not 2 to 2**32."""
    if not 2 <= num_embeddings <= 2**32:
        raise ValueError(f"num_embeddings must be 2 to 2**32, found {num_embeddings}")
    return (int(num_embeddings) - 1).bit_length()


def code_dtype(num_embeddings: int) -> np.dtype:
    """The type of unpacked codes: uint16 up to 65536 of them, uint32 above."""
    return np.dtype(np.uint16 if num_embeddings <= 2**16 else np.uint32)


def packed_size(num_codes: int, num_embeddings: int) -> int:
    """Bytes that :func:`pack_codes` takes.

    >>> packed_size(128 * 128 * 151, 8192)
    4020224
    """
    return -(-num_codes * bits_per_code(num_embeddings) // 8)


def pack_codes(codes: np.ndarray, num_embeddings: int) -> np.ndarray:
    """Write codes one behind the other, the highest bit of each first; zeros fill the last byte.

    Args:
        codes: unsigned integers below ``num_embeddings``, of any shape; taken in C order.
        num_embeddings: size of the codebook.

    Returns:
        uint8 [bytes].

    >>> pack_codes(np.array([1, 2, 7, 0, 5], np.uint16), num_embeddings=8)  # 001 010 111 000 101 0
    array([ 43, 138], dtype=uint8)
    """
    bits, flat = bits_per_code(num_embeddings), codes.reshape(-1)
    packed = np.empty(packed_size(len(flat), num_embeddings), np.uint8)
    for start in range(0, len(flat), CHUNK):
        part = flat[start : start + CHUNK]
        big_endian = part.astype(part.dtype.newbyteorder(">")).view(np.uint8)
        flags = np.unpackbits(big_endian).reshape(len(part), -1)  # flat: by row it takes ten times as long
        done = np.packbits(flags[:, flags.shape[1] - bits :])
        packed[start * bits // 8 :][: len(done)] = done
    return packed


def unpack_codes(packed: np.ndarray, num_codes: int, num_embeddings: int) -> np.ndarray:
    """Undo :func:`pack_codes`.

    Args:
        packed: uint8 [bytes].
        num_codes: how many codes are in it.
        num_embeddings: size of the codebook.

    Returns:
        [num_codes], uint16 or uint32 as :func:`code_dtype` says.

    Raises:
        ValueError: if there are more or fewer bytes than the codes take.
    """
    expected = packed_size(num_codes, num_embeddings)
    if len(packed) != expected:
        raise ValueError(f"expected {expected} bytes of {num_codes} codes, found {len(packed)}")
    bits, dtype = bits_per_code(num_embeddings), code_dtype(num_embeddings)
    codes = np.empty(num_codes, dtype)
    for start in range(0, num_codes, CHUNK):
        part = codes[start : start + CHUNK]
        flags = np.zeros((len(part), 8 * dtype.itemsize), np.uint8)
        source = packed[start * bits // 8 :][: packed_size(len(part), num_embeddings)]
        flags[:, flags.shape[1] - bits :] = np.unpackbits(source, count=len(part) * bits).reshape(len(part), bits)
        part[:] = np.packbits(flags).view(dtype.newbyteorder(">"))
    return codes
