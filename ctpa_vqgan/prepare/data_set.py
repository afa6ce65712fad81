"""The data set as a whole: its cases, who is on which side, and the files that tell of them."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctpa_vqgan.data.cases import DATALIST
from ctpa_vqgan.data.checks.rules import Finding
from ctpa_vqgan.data.sizes import shown
from ctpa_vqgan.files import write_whole
from ctpa_vqgan.prepare.convert import Record
from ctpa_vqgan.prepare.fingerprint import fingerprint
from ctpa_vqgan.prepare.journal import Journal
from ctpa_vqgan.prepare.page import render_report
from ctpa_vqgan.prepare.sketch import find_pairs
from ctpa_vqgan.prepare.split import TRAINING, VALIDATION, Patients, patient_key, split_patients, warn_of_one_patient
from ctpa_vqgan.prepare.thumbnails import save_thumbnails
from ctpa_vqgan.progress import say

PRIVATE = "names sources, which may identify patients: do not share; no later step reads this file"
# what report.json leaves to the files that hold it
LEFT_OUT = ("sketch", "thumbnail", "stamp", "own_patient", "bytes", "container")


def list_cases(journal: Journal, folder: Path, names: Patients, val_fraction: float, seed: int) -> list[Record]:
    """Records of all cases whose volumes are there, with patient, side and shared voxels, ordered by case id."""
    gone = [key for key, record in journal.records.items() if not _is_whole(folder / record["file"], record["bytes"])]
    for key in gone:
        say(
            f"{journal.records[key]['file']}: gone or damaged, so its case is left out; prepare {key[0]} again",
            every_rank=True,
        )
    journal.drop(gone)
    known = {folder / record["file"] for record in journal.records.values()}
    if strangers := sum(path not in known for path in (folder / "volumes").iterdir()):
        say(f"{folder / 'volumes'}: {strangers} files there belong to no case; they are left alone", every_rank=True)
    write_whole(journal.path, journal.text())
    records = sorted((dict(record) for record in journal.records.values()), key=lambda record: record["case"])
    for record in records:
        named = names.of(record["source"])
        record["patient"] = patient_key(named) if named else record["own_patient"]
        record["warnings"] = list(record["warnings"])
    sides = split_patients(
        [record["patient"] for record in records], val_fraction, seed, _before(records, folder, val_fraction, seed)
    )
    for record in records:
        record["split"] = sides[record["patient"]]
    _warn_of_shared_voxels(records)
    if sentence := warn_of_one_patient(records):
        say(sentence, every_rank=True)
    return records


def _is_whole(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _before(records: list[Record], folder: Path, val_fraction: float, seed: int) -> dict[str, str]:
    """The sides that patients were on, if the last run divided by the same fraction and seed."""
    try:
        old = json.loads((folder / DATALIST).read_text())
        if old["split"] != {"val_fraction": val_fraction, "seed": seed}:
            return {}
        side = {item["image"]: part for part in (TRAINING, VALIDATION) for item in old[part]}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {record["patient"]: side[record["file"]] for record in records if record["file"] in side}


def _warn_of_shared_voxels(records: list[Record]) -> None:
    by_case = {record["case"]: record for record in records}
    for first, second, share in find_pairs({record["case"]: record["sketch"] for record in records}):
        a, b = by_case[first], by_case[second]
        if a["patient"] == b["patient"] and a["sha256"] != b["sha256"]:
            continue  # the user, or DICOM, says that they belong together
        apart = "; one is for training, one for validation" if a["split"] != b["split"] else ""
        for one, other in ((a, b), (b, a)):
            finding = Finding("shared-voxels", f"about {share:.0%} of the voxels of {other['case']}{apart}")
            one["warnings"].append(finding._asdict())
        say(f"{a['source']} and {b['source']} share voxels ({share:.0%}): parts of one scan?{apart}", every_rank=True)


def write_data_set(
    folder: Path,
    records: list[Record],
    refused: list[dict[str, str]],
    skipped: list[dict[str, str]],
    ignored: Mapping[str, int],
    settings: dict[str, Any],
) -> None:
    """Everything but the volumes; the datalist last, so that it never lists what is not there."""
    pictures = [(record, base64.b64decode(record["thumbnail"])) for record in records]
    save_thumbnails(folder / "thumbnails.png", pictures)
    facts = fingerprint(records)
    accepted = [{k: v for k, v in record.items() if k not in LEFT_OUT} for record in records]
    report = {
        "private": PRIVATE,
        "accepted": accepted,
        "refused": refused,
        "skipped": skipped,
        "ignored": dict(ignored),
        "settings": settings,
    }
    write_whole(folder / "report.json", json.dumps(report, indent=1) + "\n")
    told = settings | ({"passed over, by suffix": dict(ignored)} if ignored else {})
    write_whole(folder / "report.md", render_report(accepted, refused, skipped, facts, told))
    write_whole(folder / "fingerprint.json", json.dumps(facts, indent=1) + "\n")
    keys = {"image": "file", "shape": "shape", "spacing_mm": "spacing_mm", "sha256": "sha256"}
    parts = {
        part: [{key: record[name] for key, name in keys.items()} for record in accepted if record["split"] == part]
        for part in (TRAINING, VALIDATION)
    }
    split = {key: settings[key] for key in ("val_fraction", "seed")}
    made = f", brought to {shown(settings['size'])} voxels" if "size" in settings else ""
    datalist = {"description": f"CT volumes in HU, checked{made}", "split": split, **parts}
    write_whole(folder / DATALIST, json.dumps(datalist, indent=1) + "\n")
