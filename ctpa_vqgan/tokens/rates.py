"""What codes cost: as they are packed, and what an entropy coder could make of them."""

from __future__ import annotations

import lzma

import numpy as np


def order0_entropy_bits(codes: np.ndarray) -> float:
    """Shannon entropy of the codes' frequencies, in bits per code: the floor of a coder that looks at no neighbour.

    >>> order0_entropy_bits(np.array([0, 0, 1, 2], np.uint16))
    1.5
    """
    share = np.unique(codes, return_counts=True)[1] / codes.size
    return float(-(share * np.log2(share)).sum()) + 0.0  # no minus zero


def lzma_bytes(codes: np.ndarray) -> int:
    """Size of the unpacked codes under lzma; 1 to 2 s for half a million."""
    little_endian = codes.astype(codes.dtype.newbyteorder("<"), order="C")
    return len(lzma.compress(little_endian.tobytes(), preset=6))
