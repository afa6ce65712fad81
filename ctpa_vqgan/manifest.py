"""The bundle's files with their SHA-256, in the format of ``sha256sum``: what was changed is told by name."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.files import write_whole

MANIFEST = "manifest.sha256"
# caches, and where a bundle's user keeps data and results: the defaults of dataset_dir and output_dir, and the folder
# that the model card writes to
LEFT_OUT = ("__pycache__", "data", "eval", "runs")
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


class Differences(NamedTuple):
    """How a bundle differs from its manifest; names are relative to the bundle, ordered."""

    missing: list[str]
    changed: list[str]
    additional: list[str]


def compare(bundle: Path) -> Differences:
    """Hash every file of a bundle and compare it with ``manifest.sha256``.

    ``sha256sum --check manifest.sha256`` in the bundle's folder finds the same, but for additional files.

    Raises:
        UserError: there is no manifest, a line of it is none, or a file cannot be read.
    """
    told, there = read_manifest(bundle), set(_names(bundle))
    return Differences(
        missing=sorted(told.keys() - there),
        changed=changed(bundle, told, told.keys() & there),
        additional=sorted(there - told.keys()),
    )


def changed(bundle: Path, told: dict[str, str], names: Iterable[str]) -> list[str]:
    """Those of ``names`` whose bytes are not what a manifest told, ordered."""
    return sorted(name for name in names if name in told and _sha256(bundle / name) != told[name])


def read_manifest(bundle: Path) -> dict[str, str]:
    """SHA-256 by name.

    Raises:
        UserError: there is no manifest, or a line of it is none.
    """
    path = bundle / MANIFEST
    if not path.is_file():
        raise UserError(f"{path}: no such file; python -m ctpa_vqgan verify --write makes it")
    found = [LINE.fullmatch(line) for line in path.read_text(errors="replace").splitlines()]
    if None in found:
        number = found.index(None) + 1
        raise UserError(f"{path}: line {number}: expected a SHA-256 and a name; verify --write makes it anew")
    return {match[2]: match[1] for match in found}


def write_manifest(bundle: Path) -> int:
    """Write ``manifest.sha256`` anew.

    Returns:
        The number of files that it names.

    Raises:
        UserError: a file's name does not fit a line, or a file cannot be read.
    """
    names = sorted(_names(bundle))
    if strange := [name for name in names if not name.isprintable() or "\\" in name]:
        raise UserError(f"{bundle}: {strange[0]!r}: expected a printable name without a backslash; rename or remove it")
    write_whole(bundle / MANIFEST, "".join(f"{_sha256(bundle / name)}  {name}\n" for name in names))
    return len(names)


def _names(bundle: Path) -> list[str]:
    """Every file below a bundle but caches, the user's own and the manifest; links to folders are not followed."""
    names = []
    for folder, folders, files in os.walk(bundle):
        inside = [name for name in folders if name != LEFT_OUT[0] and (name not in LEFT_OUT or Path(folder) != bundle)]
        links = [name for name in inside if os.path.islink(os.path.join(folder, name))]
        folders[:] = [name for name in inside if name not in links]
        names += [Path(folder, name).relative_to(bundle).as_posix() for name in [*files, *links]]
    return [name for name in names if name != MANIFEST]


def _sha256(path: Path) -> str:
    """Of a file's bytes; UserError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{path}: expected a file that can be read ({error.strerror})") from error
