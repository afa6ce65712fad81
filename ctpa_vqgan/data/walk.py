"""Find volumes below files and folders: by name, DICOM by content, archives unpacked."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ctpa_vqgan.data.archives import is_archive, unpack
from ctpa_vqgan.data.checks.rules import refuse
from ctpa_vqgan.data.formats.dicom import FIXED_SUFFIXES, Series, Skipped, find_series, is_dicom
from ctpa_vqgan.data.prepared import is_prepared
from ctpa_vqgan.data.volumes import is_volume_file
from ctpa_vqgan.errors import BadVolume, UserError


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
        path = Path(path)
        while (place := self._unpacked_in(path)) is not None:  # an archive may lie in another
            path = self.unpacked[place] / path.relative_to(place)
        return str(path)

    def archive(self, path: str | os.PathLike) -> Path | None:
        """The outermost archive that a path was unpacked from."""
        archive, path = None, Path(path)
        while (place := self._unpacked_in(path)) is not None:
            archive = path = self.unpacked[place]
        return archive

    def _unpacked_in(self, path: Path) -> Path | None:
        return next((folder for folder in self.unpacked if path.is_relative_to(folder)), None)


def find_volumes(
    inputs: Sequence[str | os.PathLike],
    unpack_to: Callable[[], str | Path],
    leave_out: Path | None = None,
    take_prepared: bool = True,
    progress: Callable[[int], None] | None = None,
) -> Found:
    """Everything that may be a volume below files and folders, in any nesting.

    Hidden files and folders are passed over, links to folders not followed. A file that is named itself is always
    taken for a volume.

    Args:
        inputs: files and folders.
        unpack_to: makes a folder for what an archive holds; the caller removes it.
        leave_out: a folder that is passed over, such as that of the results.
        take_prepared: take volumes that ``prepare`` wrote, too, without being named themselves.
        progress: called with the number of DICOM headers read.

    Raises:
        UserError: an input does not exist.
    """
    found, dicom = Found(), []
    for given in inputs:
        if not Path(given).exists():
            raise UserError(f"{given}: no such file or folder")
    leave_out = leave_out and Path(os.path.realpath(leave_out))
    # links resolved: one file under two names is one volume
    for path, named in _files([Path(os.path.realpath(given)) for given in inputs], found, unpack_to):
        if leave_out is not None and path.is_relative_to(leave_out) and found.archive(path) is None:
            continue
        if not path.is_file():
            found.refused.append(refuse("unreadable", path, "a link that leads nowhere, or no regular file"))
        elif not (take_prepared or named) and is_prepared(path):
            found.skipped.append(Skipped(str(path), "prepared already; name the file itself to take it anew"))
        elif is_volume_file(path):
            found.volumes.append(path)
        elif is_dicom(path) or path.suffix.lower() in FIXED_SUFFIXES:  # a damaged one belongs to a series
            dicom.append(path)
        elif named:
            found.refused.append(refuse("unreadable", path, "neither a NIfTI, NRRD, MetaImage nor a DICOM file"))
        else:
            found.ignored[path.suffix.lower() or "no suffix"] += 1
    if dicom:
        series, refused, skipped = find_series(list(dict.fromkeys(dicom)), progress)
        found.series += series
        found.refused += refused
        found.skipped += skipped
    found.volumes = sorted(dict.fromkeys(found.volumes))
    return found


def _files(paths: Sequence[Path], found: Found, unpack_to: Callable[[], str | Path]) -> Iterator[tuple[Path, bool]]:
    """Every file below the paths, and whether it was named itself."""

    def closed(error: OSError) -> None:
        found.refused.append(refuse("unreadable", error.filename, f"a folder that cannot be read ({error.strerror})"))

    for path in paths:
        if path.is_dir():
            for folder, folders, names in os.walk(path, onerror=closed):
                folders[:] = sorted(name for name in folders if not _hidden(name))
                for name in sorted(names):
                    if not _hidden(name):
                        yield from _one(Path(folder, name), False, found, unpack_to)
        else:
            yield from _one(path, True, found, unpack_to)


def _one(path: Path, named: bool, found: Found, unpack_to: Callable[[], str | Path]) -> Iterator[tuple[Path, bool]]:
    if path.is_file():
        path = path.resolve()
    elif not is_volume_file(path) and not is_archive(path):
        return  # sockets, pipes and dead links that nobody would take for a volume
    if not (is_archive(path) and path.is_file()):
        yield path, named
        return
    folder = Path(unpack_to())
    found.unpacked[folder] = path
    try:
        unpack(path, folder)
    except BadVolume as error:
        found.refused.append(error)
    else:
        yield from ((inner, False) for inner, _ in _files([folder], found, unpack_to))


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
