"""GDCM through itk: imported late, and kept from printing."""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Iterator


@functools.cache
def itk():
    """The itk module: its import takes seconds, so it waits for the first DICOM file."""
    import itk

    itk.ProcessObject.SetGlobalWarningDisplay(False)
    return itk


@contextlib.contextmanager
def stderr() -> Iterator[bytearray]:
    """Keep what C libraries print on stderr; the bytes are there when the block has ended."""
    noise = bytearray()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield noise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            file.seek(0)
            noise += file.read(1 << 16)
