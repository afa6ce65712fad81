"""Find volumes below files and folders: by name, DICOM by content, archives unpacked."""

from __future__ import annotations

import contextlib
import errno
import gzip
import os
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctpa_vqgan.data.checks.rules import refuse
from ctpa_vqgan.data.formats.dicom import FIXED_SUFFIXES, Series, Skipped, find_series, is_dicom
from ctpa_vqgan.data.volumes import is_volume_file
from ctpa_vqgan.errors import BadVolume, UserError

ARCHIVES = (".tar.gz", ".tgz", ".tar", ".zip")


@dataclass
class Found:
    """What lies below some files and folders.

    Args:
        volumes: NIfTI, NRRD and MetaImage files.
        series: DICOM series.
        refused: what cannot be a volume, by rule.
        skipped: DICOM files that are no volumes, with the reason.
        ignored: number of other files, by suffix.
        unpacked: where an archive was unpacked, and the archive.
    """

    volumes: list[Path] = field(default_factory=list)
    series: list[Series] = field(default_factory=list)
    refused: list[BadVolume] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    ignored: Counter = field(default_factory=Counter)
    unpacked: dict[Path, Path] = field(default_factory=dict)

    def shown(self, path: str | os.PathLike) -> str:
        """How a path is called: in an archive by the archive's path and the member's below it."""
        archive, inner = self._in_archive(path)
        return str(path) if archive is None else str(archive / inner)

    def archive(self, path: str | os.PathLike) -> Path | None:
        """The archive that a path was unpacked from."""
        return self._in_archive(path)[0]

    def _in_archive(self, path: str | os.PathLike) -> tuple[Path | None, Path]:
        for folder, archive in self.unpacked.items():
            if Path(path).is_relative_to(folder):
                return archive, Path(path).relative_to(folder)
        return None, Path(path)


def find_volumes(
    inputs: Sequence[str | os.PathLike],
    unpack_to: Callable[[], Path],
    leave_out: Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """Everything that may be a volume below files and folders, in any nesting.

    Hidden files and folders are passed over, links to folders not followed. A file that is named itself is always
    taken for a volume.

    Args:
        inputs: files and folders.
        unpack_to: makes a folder for what an archive holds; the caller removes it.
        leave_out: a folder that is passed over, such as that of the results.
        progress: called with the number of DICOM headers read.

    Raises:
        UserError: an input does not exist.
    """
    found, dicom = Found(), []
    for given in inputs:
        if not Path(given).exists():
            raise UserError(f"{given}: no such file or folder")
    for path, named in _files([Path(os.path.abspath(given)) for given in inputs], found, unpack_to):
        if leave_out is not None and path.is_relative_to(leave_out) and found.archive(path) is None:
            continue
        if is_volume_file(path):
            found.volumes.append(path)
        elif is_dicom(path) or path.suffix.lower() in FIXED_SUFFIXES:  # a damaged one belongs to a series
            dicom.append(path)
        elif named:
            found.refused.append(refuse("unreadable", path, "neither a NIfTI, NRRD, MetaImage nor a DICOM file"))
        else:
            found.ignored[path.suffix.lower() or "no suffix"] += 1
    if dicom:
        series, refused, skipped = find_series(dicom, progress)
        found.series += series
        found.refused += refused
        found.skipped += skipped
    found.volumes = sorted(dict.fromkeys(found.volumes))
    return found


def is_archive(path: str | os.PathLike) -> bool:
    """Whether the name ends like an archive: ``.tar.gz``, ``.tgz``, ``.tar`` or ``.zip``."""
    return str(path).lower().endswith(ARCHIVES)


def _files(paths: Sequence[Path], found: Found, unpack_to: Callable[[], Path]) -> Iterator[tuple[Path, bool]]:
    """Every file below the paths, and whether it was named itself."""
    for path in paths:
        if path.is_dir():
            for folder, folders, names in os.walk(path):
                folders[:] = sorted(name for name in folders if not _hidden(name))
                for name in sorted(names):
                    if not _hidden(name):
                        yield from _one(Path(folder, name), False, found, unpack_to)
        else:
            yield from _one(path, True, found, unpack_to)


def _one(path: Path, named: bool, found: Found, unpack_to: Callable[[], Path]) -> Iterator[tuple[Path, bool]]:
    if not is_archive(path):
        yield path, named
        return
    folder = unpack_to()
    found.unpacked[folder] = path
    try:
        _unpack(path, folder)
    except (OSError, EOFError, zlib.error, tarfile.TarError, zipfile.BadZipFile) as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(
                f"{folder}: no room to unpack {path}; free some space, or give the unpacked folder"
            ) from error
        found.refused.append(refuse("unreadable", path, f"an archive that cannot be unpacked ({error})"))
        return
    yield from ((inner, False) for inner, _ in _files([folder], found, unpack_to))


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack files and folders only: links and names that lead out of the folder are left behind by both libraries."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as content:
            content.extractall(folder)
        return
    compressed = archive.name.lower().endswith("gz")
    with gzip.open(archive) if compressed else archive.open("rb") as stream, tarfile.open(fileobj=stream) as content:
        for member in content:
            # what the filter refuses (links, devices, names with ..) is no volume
            with contextlib.suppress(tarfile.FilterError):
                content.extract(member, folder, filter="data")
        while stream.read(2**20):  # to the end, where the checksum is
            pass


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
