"""Make cases of volumes: each has its id from its content, and one place below ``volumes``."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ctpa_vqgan.prepare.convert import Record
from ctpa_vqgan.prepare.journal import Journal, Key
from ctpa_vqgan.prepare.sources import Source


def accept(record: Record, volume: Path, journal: Journal, folder: Path) -> Key:
    """Make a case of a volume."""
    key = record["source"], record["series"]
    old = journal.records.get(key)
    journal.drop(_moved(record["sha256"], journal))
    case = _case_id(record["sha256"], key, journal)
    record = {"case": case, "file": f"volumes/{case}.nii", **record}
    os.replace(volume, folder / record["file"])
    journal.add(record)
    _remove_unused(old, journal, folder)
    return key


def forget(source: Source, journal: Journal, folder: Path) -> None:
    """Drop the case of a source that was good before and is refused now."""
    old = journal.records.get(source.key)
    journal.drop([source.key])
    _remove_unused(old, journal, folder)


def _remove_unused(old: Record | None, journal: Journal, folder: Path) -> None:
    if old and old["file"] not in {record["file"] for record in journal.records.values()}:
        (folder / old["file"]).unlink(missing_ok=True)  # the source has changed since


def _moved(content: str, journal: Journal) -> list[Key]:
    """Sources of the same content that are no longer where they were: the new one takes their case over."""
    return [
        key
        for key, record in journal.kin(content).items()
        if record["sha256"] == content and not os.path.lexists(record["container"])
    ]


def _case_id(content: str, source: Key, journal: Journal) -> str:
    """From the content, so it names nobody and is the same in every data set; a second equal volume gets a number."""
    taken = {record["case"] for key, record in journal.kin(content).items() if key != source}
    base, number = f"ct-{content[:12]}", 2
    case = base
    while case in taken:
        case, number = f"{base}-{number}", number + 1
    return case


def number_in_order(new: Iterable[Key], journal: Journal) -> None:
    """Number equal volumes in the order of their sources, whichever was ready first: their files are the same."""
    equal = defaultdict(list)
    for key in sorted(set(new) & journal.records.keys()):
        equal[journal.records[key]["sha256"]].append(key)
    for keys in equal.values():
        cases = sorted((journal.records[key]["case"] for key in keys), key=lambda case: (len(case), case))
        for key, case in zip(keys, cases):
            journal.records[key] |= {"case": case, "file": f"volumes/{case}.nii"}
