"""A sealed ``.npz``: numpy reads it, and its last bytes are the SHA-256 of all bytes before them.

A zip keeps a checksum of what its members hold, but not of names, dates and offsets, and nobody looks at the checksum
of a member that nobody reads. The seal covers every byte: it stands in the comment at the end of the archive.

A member is deflated where that helps: codes repeat in the air around the patient. Others lie in the file as they are.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import zipfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.files import whole

FORMAT = 1
MARK = "ctpa_vqgan_format"  # name of the first member, which holds FORMAT
SEAL = b"sha256:"
DIGEST_SIZE = 64  # hexadecimal digits
NAME_AT = 30  # where a zip has the name of its first member
COPY_AGAIN = "copy it again from its source, or encode the volume again"


def refuse(path: str | os.PathLike, expected: str, found: str, way_out: str) -> UserError:
    """The error of a file that cannot be used, in one line."""
    return UserError(f"{path}: expected {expected}, found {found}; {way_out}")


def write_sealed(path: str | os.PathLike, members: Mapping[str, np.ndarray], deflate: Collection[str] = ()) -> Path:
    """Write arrays as a sealed ``.npz``, whole or not at all; the same arrays give the same bytes.

    Args:
        path: target.
        members: arrays by name.
        deflate: names of those that deflating makes smaller.

    Raises:
        UserError: if the disk does not take it.
    """
    with whole(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            for name, array in {MARK: np.array(FORMAT, "<i8"), **members}.items():
                _write_member(archive, name, array, zipfile.ZIP_DEFLATED if name in deflate else zipfile.ZIP_STORED)
            archive.comment = SEAL + bytes(DIGEST_SIZE)
        with temporary.open("r+b") as file:
            digest = _digest(file)
            file.seek(-DIGEST_SIZE, os.SEEK_END)
            file.write(digest)
    return Path(path)


@contextlib.contextmanager
def open_sealed(path: str | os.PathLike, verify: bool = True) -> Iterator[zipfile.ZipFile]:
    """Open a file of :func:`write_sealed`; errors inside the block become refusals that name it.

    Args:
        path: the file.
        verify: read the file through and compare its seal; without it, only what is read is checked, by the zip's CRC.

    Raises:
        UserError: if it is absent, another kind of file, of another format version, or damaged.
    """
    if not Path(path).is_file():
        raise refuse(path, "a code file", "no such file", "check the name, or encode the volume")
    try:
        with open(path, "rb") as file:
            _check_seal(path, file, verify)
            with zipfile.ZipFile(file) as archive:
                found = read_member(archive, MARK)
                if found.shape or found != FORMAT:
                    raise refuse(
                        path,
                        f"format version {FORMAT}",
                        f"version {found}",
                        "use the version of ctpa_vqgan that wrote it, or encode the volume again",
                    )
                yield archive
    except (UserError, MemoryError):
        raise
    except OSError as error:
        found = f"an error of the disk or the network ({error.strerror or error})"
        raise refuse(path, "a readable file", found, "try again") from error
    except Exception as error:  # zipfile and numpy raise of every kind on damaged bytes
        reason = " ".join(str(error).split())[:200]
        raise refuse(path, "a sound code file", f"{type(error).__name__}: {reason}", COPY_AGAIN) from error


def read_member(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """One array, its CRC checked to the end."""
    return np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)


def _write_member(archive: zipfile.ZipFile, name: str, array: np.ndarray, compress_type: int) -> None:
    info = zipfile.ZipInfo(f"{name}.npy")  # dated 1980: the bytes must not tell when they were written
    info.compress_type = compress_type
    info.create_system = 3  # what a zip writes on Linux, everywhere
    info.file_size = array.nbytes  # so that zip64 is chosen where it is needed
    with archive.open(info, "w") as member:
        np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)


def _check_seal(path: str | os.PathLike, file: BinaryIO, verify: bool) -> None:
    start = file.read(NAME_AT + len(MARK))
    if not start.startswith(b"PK\x03\x04") or start[NAME_AT:] != MARK.encode():
        raise refuse(path, "a code file of ctpa_vqgan", "other first bytes", "name a file that `encode` wrote")
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - DIGEST_SIZE - len(SEAL)))
    seal = file.read()
    if not seal.startswith(SEAL):
        raise refuse(path, "a seal at the end of the file", "none: it is cut short or was changed", COPY_AGAIN)
    if verify and seal[len(SEAL) :] != _digest(file):
        raise refuse(path, "the bytes that its seal was made of", "others: it is damaged", COPY_AGAIN)


def _digest(file: BinaryIO) -> bytes:
    """Of all but the digest itself."""
    digest, left = hashlib.sha256(), file.seek(0, os.SEEK_END) - DIGEST_SIZE
    file.seek(0)
    while left:
        block = file.read(min(left, 2**20))
        if not block:
            raise OSError("the file became shorter while it was read")
        digest.update(block)
        left -= len(block)
    return digest.hexdigest().encode()
