"""Damage to the bytes of a file."""

from __future__ import annotations

from collections.abc import Callable

from corpus.nifti import gz, nifti

TEXT = b"These are not the voxels you are looking for.\n" * 40


def flip(content: bytes, place: float, bit: int = 3) -> bytes:
    """One bit turned over, at a byte or a share of the length."""
    at = int(place * len(content)) if isinstance(place, float) else place
    changed = bytearray(content)
    changed[at] ^= 1 << bit
    return bytes(changed)


def zero(content: bytes, start: int, size: int = 4096) -> bytes:
    """A block of zeros, as a lost cluster of a disk leaves it."""
    return content[:start] + bytes(len(content[start : start + size])) + content[start + size :]


def swap(content: bytes, size: int = 4096) -> bytes:
    """Two blocks in the middle in each other's place."""
    at = len(content) // 2
    return content[:at] + content[at + size : at + 2 * size] + content[at : at + size] + content[at + 2 * size :]


def members(*changes: Callable) -> bytes:
    """A file of two gzip members, each changed in turn."""
    content = nifti()
    halves = content[: len(content) // 2], content[len(content) // 2 :]
    return b"".join(change(gz(half)) for change, half in zip(changes, halves))


def same(content: bytes) -> bytes:
    """No damage."""
    return content
