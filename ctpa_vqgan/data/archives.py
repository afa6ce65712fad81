"""Unpack archives of volumes, to their checksums, without letting anything out of the folder."""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import lzma
import os
import tarfile
import zipfile
import zlib
from pathlib import Path

from ctpa_vqgan.data.checks.rules import refuse
from ctpa_vqgan.errors import UserError

# by the end of the name: how a tar is decompressed; None for zip
SUFFIXES = {
    ".tar": open,
    ".tar.gz": gzip.open,
    ".tgz": gzip.open,
    ".tar.bz2": bz2.open,
    ".tar.xz": lzma.open,
    ".zip": None,
}
# what the libraries say of damaged, encrypted (RuntimeError) and unknown (NotImplementedError) archives
UNPACKING_ERRORS = (
    OSError,
    EOFError,
    RuntimeError,
    NotImplementedError,
    zlib.error,
    lzma.LZMAError,
    tarfile.TarError,
    zipfile.BadZipFile,
)


def is_archive(path: str | os.PathLike) -> bool:
    """Whether the name ends like an archive: ``.zip``, or ``.tar``, plain or compressed."""
    return str(path).lower().endswith(tuple(SUFFIXES))


def unpack(archive: Path, folder: Path) -> None:
    """Unpack the files of an archive.

    Args:
        archive: by whose suffix it is read.
        folder: where to; links and names that lead out of it are left behind.

    Raises:
        BadVolume: if the archive is damaged, encrypted, or of an unknown kind.
        UserError: if the disk is full.
    """
    decompress = next(open_ for suffix, open_ in SUFFIXES.items() if archive.name.lower().endswith(suffix))
    try:
        if decompress is None:
            with zipfile.ZipFile(archive) as content:
                content.extractall(folder)
        else:
            _unpack_tar(archive, folder, decompress)
    except UNPACKING_ERRORS as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"{archive}: no room to unpack it in {folder}; free some space") from error
        reason = " ".join(str(error).split())
        raise refuse("unreadable", archive, f"an archive that cannot be unpacked ({reason})") from error


def _unpack_tar(archive: Path, folder: Path, decompress) -> None:
    with decompress(archive, "rb") as stream, tarfile.open(fileobj=stream) as content:
        for member in content:
            # what the filter refuses (links, devices, names with ..) is no volume
            with contextlib.suppress(tarfile.FilterError):
                content.extract(member, folder, filter="data")
        while stream.read(2**20):  # to the end, where the checksum is
            pass
