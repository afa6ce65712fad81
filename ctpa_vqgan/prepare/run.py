"""The command ``prepare``: from a disk full of DICOM, NIfTI, NRRD and MetaImage to a checked, fast data set."""

from __future__ import annotations

import base64
import fcntl
import functools
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctpa_vqgan.data.cases import DATALIST
from ctpa_vqgan.data.checks.rules import Finding, refuse
from ctpa_vqgan.data.walk import Found, find_volumes
from ctpa_vqgan.errors import BadVolume, UserError
from ctpa_vqgan.files import write_whole
from ctpa_vqgan.prepare.convert import Record, convert
from ctpa_vqgan.prepare.fingerprint import fingerprint
from ctpa_vqgan.prepare.journal import Journal
from ctpa_vqgan.prepare.page import render_report
from ctpa_vqgan.prepare.pool import Crashed, map_safely
from ctpa_vqgan.prepare.sketch import find_pairs
from ctpa_vqgan.prepare.sources import Source, list_sources
from ctpa_vqgan.prepare.split import TRAINING, VALIDATION, Patients, patient_key, split_patients, warn_of_one_patient
from ctpa_vqgan.prepare.thumbnails import save_thumbnails
from ctpa_vqgan.progress import progress_bar, say

PRIVATE = "names sources, which may identify patients: do not share; no later step reads this file"
MAX_WORKERS = 8
# what report.json leaves to the files that hold it
LEFT_OUT = ("sketch", "thumbnail", "stamp", "own_patient", "bytes", "container")

logger = logging.getLogger(__name__)


@dataclass
class Prepared:
    """What a call of :func:`prepare` left in its folder.

    Args:
        accepted: one record a case, of this run and earlier ones.
        refused: what this run met and did not take.
        skipped: DICOM files that are no volumes.
    """

    accepted: list[Record] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)


def prepare(
    inputs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    workers: int | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    patients: str | os.PathLike | None = None,
) -> Prepared:
    """Check volumes and write them as a data set: ``volumes/*.nii``, ``dataset.json``, reports and pictures.

    The same call again skips what is done; new inputs are added to what the folder holds.

    Args:
        inputs: files, folders and archives (tar, zip) with NIfTI, NRRD, MetaImage and DICOM, in any nesting.
        output: folder of the data set.
        workers: processes; each takes about three times the largest volume as int16. None: one a core, at most eight;
            0: this process.
        val_fraction: share of the patients held out.
        seed: of the division into training and validation.
        patients: CSV with the columns ``file`` and ``patient``; without it DICOM's PatientID counts, and any other file
            is a patient of its own.

    Returns:
        Accepted, refused and skipped.

    Raises:
        UserError: an input does not exist, nothing was found, or the disk is full; finished cases stay.
    """
    if not 0 <= val_fraction < 1:
        raise UserError(f"--val-fraction: expected at least 0 and less than 1, found {val_fraction}")
    if workers is not None and workers < 0:
        raise UserError(f"--workers: expected 0 or more processes, found {workers}")
    folder, names = Path(os.path.abspath(output)), Patients(patients)
    with _alone(folder), _workspace(folder) as work:
        found = _look(inputs, folder, work)
        sources, journal = list_sources(found), Journal(folder)
        result = Prepared(skipped=[{"source": found.shown(path), "why": why} for path, why in found.skipped])
        result.refused = [_refusal(error, found) for error in found.refused]
        todo = [source for source in sources if journal.finished(source, folder) is None]
        if len(todo) < len(sources):
            say(f"{len(sources) - len(todo)} of {len(sources)} volumes are prepared already")
        workers = min(len(os.sched_getaffinity(0)), MAX_WORKERS) if workers is None else workers
        _convert_all(todo, found, journal, result, folder, work, min(workers, len(todo)))
        result.accepted = _cases(journal, folder, names, val_fraction, seed)
        _write(result, found, folder, {"val_fraction": val_fraction, "seed": seed, "inputs": list(map(str, inputs))})
    for name in names.unused():
        say(f"{patients}: no volume matches {name}")
    return result


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep a second run out of the folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); choose another --output") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f"{folder}: another prepare is at work there; wait for it, or choose another") from error
        yield


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """A folder for half-written files, emptied before and after: a kill may have left one."""
    root = folder / ".work"
    shutil.rmtree(root, ignore_errors=True)
    work = root / str(os.getpid())
    try:
        work.mkdir(parents=True)
        (folder / "volumes").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error}); choose another --output") from error
    try:
        yield work
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _look(inputs: Sequence[str | os.PathLike], folder: Path, work: Path) -> Found:
    with progress_bar(None, "DICOM headers", leave=False) as bar:
        unpack_to = functools.partial(tempfile.mkdtemp, dir=work)
        found = find_volumes(inputs, unpack_to, leave_out=folder, take_prepared=False, progress=bar.update)
    if not (found.volumes or found.series or found.refused):
        others = ", ".join(f"{number} {suffix}" for suffix, number in found.ignored.most_common(5)) or "no files"
        raise UserError(
            f"{', '.join(map(str, inputs))}: holds no CT volume; expected NIfTI, NRRD, MetaImage or DICOM, found "
            f"{others}"
        )
    for error in found.refused:
        _say_refused(_refusal(error, found))
    if found.ignored:
        others = ", ".join(f"{number} {suffix}" for suffix, number in found.ignored.most_common())
        say(f"passed over, by suffix: {others}")
    return found


def _convert_all(
    todo: list[Source], found: Found, journal: Journal, result: Prepared, folder: Path, work: Path, workers: int
) -> None:
    jobs = [(source, str(work / f"{number}.nii")) for number, source in enumerate(todo)]
    with progress_bar(len(jobs), "prepare", show=bool(jobs)) as bar:
        for (source, target), outcome in map_safely(convert, jobs, workers):
            bar.update()
            if isinstance(outcome, Crashed):
                outcome = refuse("unreadable", source.name, "a file that crashes its reader, or too little memory")
            old = journal.records.get(source.key)
            if isinstance(outcome, BadVolume):
                refusal = _refusal(outcome, found, source)
                result.refused.append(refusal)
                _say_refused(refusal)
                journal.drop([source.key])
            else:
                journal.drop(_moved(outcome["sha256"], journal))
                case = _case_id(outcome["sha256"], source, journal)
                container = str(found.archive(source.files[0] if source.series else source.files) or source.name)
                record = {"case": case, "file": f"volumes/{case}.nii", "container": container, **outcome}
                os.replace(target, folder / record["file"])
                journal.add(record)
            if old and old["file"] not in {record["file"] for record in journal.records.values()}:
                (folder / old["file"]).unlink(missing_ok=True)  # the source has changed since


def _say_refused(refusal: dict[str, str]) -> None:
    say(" ".join(f"refused {refusal['source']}: [{refusal['rule']}] {refusal['found']}".split()))


def _moved(content: str, journal: Journal) -> list[tuple[str, str]]:
    """Sources of the same content that are no longer where they were: the new one takes their case over."""
    return [
        key
        for key, record in journal.records.items()
        if record["sha256"] == content and not os.path.lexists(record["container"])
    ]


def _case_id(content: str, source: Source, journal: Journal) -> str:
    """From the content, so it names nobody and is the same in every data set; a second equal volume gets a number."""
    taken = {record["case"] for key, record in journal.records.items() if key != source.key}
    base, number = f"ct-{content[:12]}", 2
    case = base
    while case in taken:
        case, number = f"{base}-{number}", number + 1
    return case


def _refusal(error: BadVolume, found: Found, source: Source | None = None) -> dict[str, str]:
    # a damaged slice is named itself, a series as a whole by its folder
    name = found.shown(error.path)
    return {
        "source": name,
        "rule": error.rule,
        "expected": error.expected,
        "found": error.found,
        "what_to_do": error.way_out,
    } | ({"series": source.series} if source and source.series else {})


# -- the data set as a whole -------------------------------------------------------------------------------------------


def _cases(journal: Journal, folder: Path, names: Patients, val_fraction: float, seed: int) -> list[Record]:
    """Records of all cases whose volumes are there, with patient, side and shared voxels, ordered by case id."""
    gone = [key for key, record in journal.records.items() if not _is_whole(folder / record["file"], record["bytes"])]
    for key in gone:
        say(f"{journal.records[key]['file']}: gone or damaged, so its case is left out; prepare {key[0]} again")
    journal.drop(gone)
    known = {folder / record["file"] for record in journal.records.values()}
    if strangers := sum(path not in known for path in (folder / "volumes").iterdir()):
        say(f"{folder / 'volumes'}: {strangers} files there belong to no case; they are left alone")
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
        say(sentence)
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
        say(f"{a['source']} and {b['source']} share voxels ({share:.0%}): parts of one scan?{apart}")


def _write(result: Prepared, found: Found, folder: Path, settings: dict[str, Any]) -> None:
    """Everything but the volumes; the datalist last, so that it never lists what is not there."""
    pictures = [(record, base64.b64decode(record["thumbnail"])) for record in result.accepted]
    save_thumbnails(folder / "thumbnails.png", pictures)
    facts = fingerprint(result.accepted)
    accepted = [{k: v for k, v in record.items() if k not in LEFT_OUT} for record in result.accepted]
    report = {
        "private": PRIVATE,
        "accepted": accepted,
        "refused": result.refused,
        "skipped": result.skipped,
        "ignored": dict(found.ignored),
        "settings": settings,
    }
    write_whole(folder / "report.json", json.dumps(report, indent=1) + "\n")
    told = settings | ({"passed over, by suffix": dict(found.ignored)} if found.ignored else {})
    write_whole(folder / "report.md", render_report(accepted, result.refused, result.skipped, facts, told))
    write_whole(folder / "fingerprint.json", json.dumps(facts, indent=1) + "\n")
    keys = {"image": "file", "shape": "shape", "spacing_mm": "spacing_mm", "sha256": "sha256"}
    parts = {
        part: [{key: record[name] for key, name in keys.items()} for record in accepted if record["split"] == part]
        for part in (TRAINING, VALIDATION)
    }
    split = {key: settings[key] for key in ("val_fraction", "seed")}
    datalist = {"description": "CT volumes in HU, checked", "split": split, **parts}
    write_whole(folder / DATALIST, json.dumps(datalist, indent=1) + "\n")
