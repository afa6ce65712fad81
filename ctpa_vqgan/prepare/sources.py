"""What there is to prepare: one source a volume, with a stamp that changes when its files do."""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ctpa_vqgan.data.walk import Found

FORMATS = {".nii": "NIfTI", ".gz": "NIfTI", ".nrrd": "NRRD", ".mha": "MetaImage", ".mhd": "MetaImage"}


@dataclass(frozen=True)
class Source:
    """One volume to be.

    Args:
        name: file, or folder of a DICOM series, as the report calls it.
        files: what is read: one file, or the files of the series.
        format: NIfTI, NRRD, MetaImage or DICOM.
        series: DICOM SeriesInstanceUID, which tells series of one folder apart.
        stamp: of names, sizes and times of the files; another stamp means another content.
    """

    name: str
    files: str | tuple[str, ...]
    format: str
    series: str
    stamp: str

    @property
    def key(self) -> tuple[str, str]:
        """By which a later run knows it again."""
        return self.name, self.series


def list_sources(found: Found) -> list[Source]:
    """The sources of all that was found, ordered by name."""
    sources = [
        Source(found.shown(path), str(path), FORMATS[path.suffix.lower()], "", _stamp(_parts(path), found))
        for path in found.volumes
    ]
    several: Counter = Counter()
    for series in sorted(found.series, key=lambda series: (series.folder, series.uid, series.files)):
        several[series.folder, series.uid] += 1  # one UID may hold images of two sizes
        number = several[series.folder, series.uid]
        uid = f"{series.uid} #{number}" if number > 1 else series.uid
        sources.append(Source(found.shown(series.folder), series.files, "DICOM", uid, _stamp(series.files, found)))
    return sorted(sources, key=lambda source: source.key)


def _parts(path: Path) -> list[Path]:
    """The file, and what may hold its voxels: ``.raw`` or ``.zraw`` beside a ``.mhd``."""
    return (
        [path, *sorted(path.parent.glob(f"{glob.escape(path.stem)}.*raw"))] if path.suffix.lower() == ".mhd" else [path]
    )


def _stamp(files: Sequence[str | os.PathLike], found: Found) -> str:
    """Names, sizes and times; of an unpacked archive the archive's time, as unpacking may set a new one."""
    digest = hashlib.sha256()
    for file in files:
        time = os.stat(found.archive(file) or file).st_mtime_ns
        digest.update(os.fsencode(f"{found.shown(file)}\0{os.stat(file).st_size}\0{time}\n"))
    return digest.hexdigest()[:32]
