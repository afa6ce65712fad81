"""Know DICOM by the first bytes of a file."""

from __future__ import annotations

import os
import re
import struct

FIXED_SUFFIXES = (".dcm", ".dicom", ".ima")  # names that promise DICOM whatever the content

_VR = rb"(?:AE|AS|AT|CS|DA|DS|DT|IS|LO|LT|PN|SH|ST|TM|UI|UL|US)"
_DICOMDIR = re.compile(rb"\x02\x00\x02\x00UI\x14\x001\.2\.840\.10008\.1\.3\.10")


def is_dicom(path: str | os.PathLike) -> bool:
    """Whether a file is DICOM by its first bytes; False for a DICOMDIR and for what cannot be read.

    Old files without preamble count when they start with two elements of the group 0002 or 0008.
    """
    head = first_bytes(path)
    return starts_as_dicom(head) and not is_dicomdir(head)


def first_bytes(path: str | os.PathLike) -> bytes:
    """As many bytes as tell DICOM; none of what is no file or cannot be read."""
    try:
        if os.path.isfile(path):  # opening a pipe would wait for ever
            with open(path, "rb") as file:
                return file.read(512)
    except OSError:
        pass
    return b""


def is_dicomdir(head: bytes) -> bool:
    """Whether a file that starts so is the table of contents of a medium."""
    return bool(_DICOMDIR.search(head))


def starts_as_dicom(head: bytes) -> bool:
    """Whether DICOM data starts so, a DICOMDIR's too."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 16:
        return False
    if re.match(rb"[\x02\x08]\x00.\x00" + _VR, head, re.DOTALL):
        (length,) = struct.unpack_from("<H", head, 6)
    elif re.match(rb"[\x02\x08]\x00.\x00.{2}\x00\x00", head, re.DOTALL):
        (length,) = struct.unpack_from("<I", head, 4)
    else:
        return False
    return bool(re.match(rb"[\x02\x08]\x00.\x00", head[8 + length :], re.DOTALL))
