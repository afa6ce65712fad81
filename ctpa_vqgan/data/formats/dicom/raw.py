"""Search the bytes of a file for what GDCM hides or cannot read: texts at any depth, and the pixels."""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import re
import struct
from collections.abc import Iterator

_PIXEL_DATA = re.compile(
    rb"\xe0\x7f\x10\x00(?:O[BW]\0\0(?P<explicit>.{4})|(?P<implicit>.{4}))|\x7f\xe0\x00\x10O[BW]\0\0(?P<big>.{4})",
    re.DOTALL,
)
_UNDEFINED_LENGTH = 0xFFFFFFFF  # of compressed pixels, which end by a delimiter

Bytes = bytes | mmap.mmap


@contextlib.contextmanager
def bytes_of(path: str) -> Iterator[Bytes]:
    """The content of a file, mapped into memory."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:  # which cannot be mapped
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield data


def find_texts(data: Bytes, tag: str, end: int) -> list[str]:
    """Texts of every element of a tag such as ``0020|0032`` before ``end``, at any depth, in little endian."""
    name = struct.pack("<HH", *(int(half, 16) for half in tag.split("|")))
    pattern = re.escape(name) + rb"(?:(?:CS|DS|UI)(?P<explicit>..)|(?P<implicit>..)\0\0)"
    texts = []
    for match in re.compile(pattern, re.DOTALL).finditer(data, 0, end):
        (length,) = struct.unpack("<H", match["explicit"] or match["implicit"])
        text = data[match.end() : min(match.end() + length, end)].strip(b" \0")
        if len(text) <= 256 and re.fullmatch(rb"[\x20-\x7e]*", text):
            texts.append(text.decode())
    return texts


def has_pixels(data: Bytes) -> bool:
    """Whether there is an element of pixels, whole or not; a deflated file does not show it."""
    return _PIXEL_DATA.search(data) is not None


def find_pixels(data: Bytes, num_bytes: int) -> re.Match | None:
    """The start of the pixels' element; None where no such element is long enough (as that of an icon is not)."""
    for match in _PIXEL_DATA.finditer(data):
        order, field = (">I", match["big"]) if match["big"] else ("<I", match["explicit"] or match["implicit"])
        (length,) = struct.unpack(order, field)
        if length == _UNDEFINED_LENGTH or num_bytes <= length <= len(data) - match.end():
            return match
    return None


def digest_of_pixels(path: str, num_bytes: int) -> bytes:
    """SHA-256 of a file from its pixels on; of all of it where they are not found."""
    with bytes_of(path) as data, memoryview(data) as view:
        match = find_pixels(data, num_bytes)
        with view[match.end() if match else 0 :] as pixels:
            return hashlib.sha256(pixels).digest()
