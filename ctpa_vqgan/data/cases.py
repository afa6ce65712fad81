"""Find the cases of a data set: one volume, a flat folder of volumes, or a folder with a MONAI ``dataset.json``."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from ctpa_vqgan.data.reader import SUFFIXES, case_name, is_volume_file
from ctpa_vqgan.errors import UserError

DATALIST = "dataset.json"
Case = dict[str, str]

logger = logging.getLogger(__name__)


def find_cases(source: str | Path, section: str | None = None) -> list[Case]:
    """Cases of a file, folder or datalist, ordered by name.

    Args:
        source: a volume, a flat folder of volumes, a ``dataset.json`` or a folder that holds one.
        section: of the datalist, ``"training"`` or ``"validation"``; None takes all sections. Of no meaning for
            plain files.

    Returns:
        One ``{"image": path, "case": name}`` per volume.

    Raises:
        UserError: nothing is there, or two files would have the same case name.
    """
    source = Path(source)
    if not source.exists():
        raise UserError(f"{source}: no such file or folder; give a CT volume, a folder of volumes or a {DATALIST}")
    datalist = source if source.suffix == ".json" else source / DATALIST
    if datalist.is_file():
        files = _listed(datalist, section)
    elif source.is_dir():
        files = sorted(p for p in source.iterdir() if is_volume_file(p) and not p.name.startswith("."))
    else:
        files = [source]
    if not files:
        what = f"section {section!r} is empty" if datalist.is_file() else "holds no volume"
        raise UserError(f"{source}: {what}; expected files that end in {', '.join(SUFFIXES)}")
    cases = [{"image": str(path), "case": case_name(path)} for path in files]
    names: dict[str, str] = {}
    for case in cases:
        other = names.setdefault(case["case"], case["image"])
        if other != case["image"]:
            raise UserError(f"{case['image']}: has the same case name as {other}; rename one of them")
    return cases


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
        logger.warning("one case only: it is used for training and for validation, so the scores are not held out")
    return validation


def _split(source: str | Path, val_fraction: float) -> tuple[list[Case], list[Case]]:
    if not 0 <= val_fraction < 1:
        raise UserError(f"val_fraction: expected at least 0 and less than 1, found {val_fraction}")
    path = Path(source)
    if path.suffix == ".json" or (path / DATALIST).is_file():
        return find_cases(source, "training"), find_cases(source, "validation")
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


def _listed(datalist: Path, section: str | None) -> list[Path]:
    try:
        content = json.loads(datalist.read_text())
        items = (
            content[section]
            if section
            else [item for part in content.values() if isinstance(part, list) for item in part]
        )
        return [datalist.parent / (item if isinstance(item, str) else item["image"]) for item in items]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{datalist}: expected a MONAI datalist {{'training': [{{'image': FILE}}], 'validation': [...]}} "
            f"({type(error).__name__}: {error})"
        ) from error
