"""Find the cases of a data set: volumes, folders of volumes or DICOM, or a folder with a MONAI ``dataset.json``."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctpa_vqgan.data.volumes import SUFFIXES, case_name
from ctpa_vqgan.data.walk import find_volumes
from ctpa_vqgan.errors import UserError

DATALIST = "dataset.json"
EXPECTED = "expected a MONAI datalist {'training': [{'image': FILE}], 'validation': [...]}"
JOURNAL = "sources.jsonl"  # of a data set that prepare is making
MAX_NAME_BYTES = 160  # of 255 that a file's name may have: suffixes and the temporary name come on top
Case = dict[str, Any]

logger = logging.getLogger(__name__)


def find_cases(source: str | Path, section: str | None = None) -> list[Case]:
    """Cases of a file, folder, archive or datalist, ordered by name.

    Args:
        source: a volume, a folder of volumes and DICOM series in any nesting, an archive of such, a
            ``dataset.json``, or a folder that holds one.
        section: of the datalist, ``"training"`` or ``"validation"``; None takes all sections. Of no meaning for
            plain files.

    Returns:
        One ``{"image": path, "case": name}`` per volume; of a DICOM series the image is the tuple of its files. The
        name is the file's stem, or the folder's of a series, with the folders above it where that is not unique, made
        safe by :func:`safe_name`.

    Raises:
        UserError: nothing is there, or two files of one folder would have the same case name.
    """
    source = Path(source)
    if not os.path.exists(source):  # Path.exists raises for names that are too long
        raise UserError(f"{source}: no such file or folder; give a CT volume, a folder of volumes or a {DATALIST}")
    datalist = source if source.suffix == ".json" else source / DATALIST
    if datalist.is_file():
        files = _listed(datalist, section)
        if not files and section is None:
            raise UserError(f"{datalist}: {EXPECTED}, found no file in any list; write the files to train on into it")
        if not files:
            raise UserError(
                f"{datalist}: expected files in the list {section!r}, found none; write them into it, or name the files"
            )
        return _named([(path, path) for path in files])
    if (source / JOURNAL).is_file():
        raise UserError(f"{source}: expected a {DATALIST}, found none: prepare did not finish here; run it again")
    found = find_volumes([source], _unpacking_folder)
    images = [(str(path), found.shown(path)) for path in found.volumes]
    images += [(series.files, found.shown(series.folder)) for series in found.series]
    if found.refused and not images:
        raise found.refused[0]
    for error in found.refused:
        logger.warning("left out: %s", error)
    if not images:
        raise UserError(f"{source}: holds no volume; expected DICOM, or files that end in {', '.join(SUFFIXES)}")
    return _named(images)


def _named(images: Sequence[tuple[str | tuple[str, ...], str]]) -> list[Case]:
    """Cases with names of their own: as many folders in front of the stem as it takes.

    Args:
        images: what is read, and its path as the user knows it.
    """
    paths = [(*Path(shown).parent.parts, case_name(shown) or "case") for _, shown in images]
    for depth in range(1, max(map(len, paths)) + 1):
        names = [safe_name("_".join(part.strip("/") for part in path[-depth:])) for path in paths]
        if len(set(names)) == len(set(paths)):
            break
    first: dict[str, str] = {}
    series = Counter()
    cases = []
    for (image, shown), name in zip(images, names):
        if first.setdefault(name, shown) != shown:
            raise UserError(f"{shown}: has the same case name as {first[name]}; rename one of them")
        series[name] += 1  # several series of one DICOM folder, in the order of their UIDs
        cases.append({"image": image, "case": f"{name}-{series[name]}" if series[name] > 1 else name})
    return sorted(cases, key=lambda case: case["case"])


def safe_name(name: str) -> str:
    """A name as it is, if a file can be called so anywhere; otherwise a tame one with a hash of the name behind it.

    Files of results are called by it. It has no separator (nor what looks like one), no control or invisible character,
    does not begin like an option, a hidden file or a formula, and is at most 160 bytes long.
    """
    tame = "".join(c if c.isprintable() and not _is_separator(c) else "_" for c in name).lstrip(" .-~=+@")
    if tame and tame == name and len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:12]
    return f"{tame.encode()[: MAX_NAME_BYTES - 13].decode(errors='ignore') or 'case'}-{digest}"


@functools.lru_cache(4096)
def _is_separator(character: str) -> bool:
    return not {"/", "\\"}.isdisjoint(unicodedata.normalize("NFKC", character))


def _unpacking_folder() -> Path:
    """A folder that goes when this process ends."""
    folder = Path(tempfile.mkdtemp(prefix="ctpa_vqgan-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def training_cases(source: str | Path, val_fraction: float = 0.1) -> list[Case]:
    """Cases to train on: the datalist's ``training``, or those that :func:`validation_cases` leaves."""
    return _split(source, val_fraction)[0]


def validation_cases(source: str | Path, val_fraction: float = 0.1) -> list[Case]:
    """Cases to validate on: the datalist's ``validation``, or a share chosen by a hash of the name.

    The hash keeps a case on its side when others are added. At least one case is chosen (so in a small data set a new
    case may take the place of the one held out); a single case serves both sides, and the log says so.
    """
    training, validation = _split(source, val_fraction)
    if training == validation:
        logger.warning("no case is held out: those for training serve for validation too, so the scores flatter")
    return validation


def _split(source: str | Path, val_fraction: float) -> tuple[list[Case], list[Case]]:
    if not 0 <= val_fraction < 1:
        raise UserError(f"val_fraction: expected at least 0 and less than 1, found {val_fraction}")
    path = Path(source)
    if path.suffix == ".json" or os.path.isfile(path / DATALIST):
        training = find_cases(source, "training")
        datalist = path if path.suffix == ".json" else path / DATALIST
        return training, find_cases(source, "validation") if _listed(datalist, "validation") else training
    cases = find_cases(source)
    if len(cases) == 1:
        return cases, cases
    ranked = sorted(cases, key=lambda case: _share(case["case"]))
    count = min(max(1, sum(_share(case["case"]) < val_fraction for case in cases)), len(cases) - 1)
    held_out = {case["case"] for case in ranked[:count]}
    return (
        [case for case in cases if case["case"] not in held_out],
        [case for case in cases if case["case"] in held_out],
    )


def _share(name: str) -> float:
    """A number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def _listed(datalist: Path, section: str | None) -> list[str]:
    try:
        content = json.loads(datalist.read_text())
        items = (
            content[section]
            if section
            else [item for part in content.values() if isinstance(part, list) for item in part]
        )
        return [str(datalist.parent / _path(item if isinstance(item, str) else item["image"])) for item in items]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{datalist}: {EXPECTED} ({type(error).__name__}: {error})") from error


def _path(name: str) -> str:
    """A name that a file can have; ValueError otherwise."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a file is text, found {type(name).__name__}")
    if not name or "\0" in name or any(len(part) > 255 for part in name.encode(errors="surrogatepass").split(b"/")):
        raise ValueError(f"no file can be called {name[:80]!r}")
    return name
