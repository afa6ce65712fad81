"""The command ``prepare``: from a disk full of DICOM, NIfTI, NRRD and MetaImage to a checked, fast data set."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ctpa_vqgan.data.cases import DATALIST
from ctpa_vqgan.data.checks.rules import MIN_SIDE, MIN_SLICES, refuse
from ctpa_vqgan.data.sizes import shown
from ctpa_vqgan.data.walk import Found, find_volumes
from ctpa_vqgan.errors import BadVolume, UserError
from ctpa_vqgan.prepare.cases import accept, forget, number_in_order
from ctpa_vqgan.prepare.convert import Record, convert
from ctpa_vqgan.prepare.data_set import list_cases, write_data_set
from ctpa_vqgan.prepare.journal import Journal
from ctpa_vqgan.prepare.locks import at_work
from ctpa_vqgan.prepare.pool import Crashed, map_safely
from ctpa_vqgan.prepare.shards import Finished, Part, part_at_work, state_of
from ctpa_vqgan.prepare.sources import Source, list_sources
from ctpa_vqgan.prepare.split import Patients
from ctpa_vqgan.progress import progress_bar, say
from ctpa_vqgan.ranks import Shard
from ctpa_vqgan.rendezvous import wait_for_ranks

MAX_WORKERS = 8
WORK = ".work"
PREPARED = "; a prepared data set? Give what it was made of, which its report.md names"


@dataclass
class Prepared:
    """What a call of :func:`prepare` left in its folder.

    Args:
        accepted: one record a case, of this run and earlier ones.
        refused: what this run met and did not take.
        skipped: DICOM files that are no volumes.
        shard: the part of the work that this was. Of one that left others to be done, ``accepted`` and ``refused`` are
            its own, without case ids.
        missing: the shards that are to be done before there is a data set.
        any_refused: whether this run or another rank of it refused something.
    """

    accepted: list[Record] = field(default_factory=list)
    refused: list[dict[str, str]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    shard: Shard = field(default_factory=Shard)
    missing: list[Shard] = field(default_factory=list)
    any_refused: bool = False


class Work(NamedTuple):
    """What there is to do.

    Args:
        folder: of the data set.
        space: for half-written files.
        found: what lies below the inputs.
        sources: the volumes among it, ordered by name.
        workers: processes.
        size: voxels x, y, z that every volume is brought to; None for their own.
    """

    folder: Path
    space: Path
    found: Found
    sources: list[Source]
    workers: int
    size: tuple[int, ...] | None


def prepare(
    inputs: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    workers: int | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    patients: str | os.PathLike | None = None,
    shard: str | None = None,
    size: Sequence[int] | None = None,
) -> Prepared:
    """Check volumes and write them as a data set: ``volumes/*.nii``, ``dataset.json``, reports and pictures.

    The same call again skips what is done; new inputs are added to what the folder holds. Several processes may share
    the volumes: the last to be done joins what they made, and the data set is that of one process alone.

    Args:
        inputs: files, folders and archives (tar, zip) with NIfTI, NRRD, MetaImage and DICOM, in any nesting.
        output: folder of the data set.
        workers: processes; each takes about three times the largest volume as int16. None: one a core, at most eight;
            0: this process.
        val_fraction: share of the patients held out.
        seed: of the division into training and validation.
        patients: CSV with the columns ``file`` and ``patient``; without it DICOM's PatientID counts, and any other file
            is a patient of its own.
        shard: part of the volumes, ``"i/n"`` counted from 1, of ``n`` calls that differ in this alone. None: all of
            them, or torchrun's share.
        size: voxels x, y, z (right, front, head) of a coarser grid over the same box, for networks that see whole
            volumes; a volume with fewer along an axis is refused. None keeps the grid of each source.

    Returns:
        Accepted, refused and skipped.

    Raises:
        UserError: an input does not exist, nothing was found, somebody else works in the folder, its volumes were made
            with another ``size``, or the disk is full; finished cases stay.
    """
    if not 0 <= val_fraction < 1:
        raise UserError(f"--val-fraction: expected at least 0 and less than 1, found {val_fraction}")
    if workers is not None and workers < 0:
        raise UserError(f"--workers: expected 0 or more processes, found {workers}")
    mine, folder, names, size = Shard.of(shard), Path(os.path.abspath(output)), Patients(patients), _checked(size)
    settings = {"val_fraction": val_fraction, "seed": seed, "inputs": list(map(str, inputs))}
    settings |= {} if size is None else {"size": list(size)}
    if mine.count == 1:
        with at_work(folder), _workspace(folder, WORK) as space:
            _refuse_other_size(folder, size)
            result = _join(_look(inputs, folder, space, workers, mine, size), names, settings, Finished(folder))
    else:
        named = [settings, names.names]
        with part_at_work(folder, mine, named) as part, _workspace(folder, f"{WORK}/{part.name}") as space:
            _refuse_other_size(folder, size)
            result = _prepare_part(_look(inputs, folder, space, workers, mine, size), names, settings, part)
    if not result.missing:
        for name in names.unused():
            say(f"{patients}: no volume matches {name}", every_rank=True)
    result.any_refused = wait_for_ranks(bool(result.refused))
    return result


def _is_data_set(source: str | os.PathLike) -> bool:
    return any((folder / DATALIST).is_file() for folder in (Path(source), Path(source).parent))


def _checked(size: Sequence[int] | None) -> tuple[int, ...] | None:
    if size is None:
        return None
    size, least = tuple(size), (MIN_SIDE, MIN_SIDE, MIN_SLICES)
    if len(size) != 3 or any(not isinstance(side, int) or side < few for side, few in zip(size, least)):
        raise UserError(f"--size: expected X Y Z of at least {shown(least)} voxels, found {' x '.join(map(str, size))}")
    return size


def _refuse_other_size(folder: Path, size: tuple[int, ...] | None) -> None:
    """A data set has volumes of one making."""
    for record in (*Journal(folder).records.values(), *Finished(folder).records.values()):
        before = tuple(record["shape"]) if "original_shape" in record else None
        if before != size:
            told = [f"--size {' '.join(map(str, one))}" if one else "no --size" for one in (before, size)]
            raise UserError(
                f"{folder}: expected {told[0]}, with which its volumes were made, found {told[1]}; give the same, or "
                "choose another --output"
            )


@contextmanager
def _workspace(folder: Path, name: str) -> Iterator[Path]:
    """A folder for half-written files, emptied before and after: a kill may have left one."""
    root = folder / name
    shutil.rmtree(root, ignore_errors=True)
    space = root / str(os.getpid())
    try:
        space.mkdir(parents=True)
        (folder / "volumes").mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error}); choose another --output") from error
    try:
        yield space
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _look(
    inputs: Sequence[str | os.PathLike],
    folder: Path,
    space: Path,
    workers: int | None,
    shard: Shard,
    size: tuple[int, ...] | None,
) -> Work:
    with progress_bar(None, "DICOM headers", leave=False) as bar:
        unpack_to = functools.partial(tempfile.mkdtemp, dir=space)
        found = find_volumes(inputs, unpack_to, leave_out=folder, take_prepared=False, progress=bar.update)
    if not (found.volumes or found.series or found.refused):
        others = ", ".join(f"{number} {suffix}" for suffix, number in found.ignored.most_common(5)) or "no files"
        raise UserError(
            f"{', '.join(map(str, inputs))}: holds no CT volume; expected NIfTI, NRRD, MetaImage or DICOM, found "
            f"{others}{PREPARED if any(map(_is_data_set, inputs)) else ''}"
        )
    for error in shard.take(found.refused):
        _say_refused(_refusal(error, found))
    if found.ignored:
        others = ", ".join(f"{number} {suffix}" for suffix, number in found.ignored.most_common())
        say(f"passed over, by suffix: {others}")
    if workers is None:  # torchrun's processes of one machine share its cores
        cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        workers = min(max(1, cores), MAX_WORKERS)
    return Work(folder, space, found, list_sources(found), workers, size)


# -- volume by volume --------------------------------------------------------------------------------------------------


def _prepare_part(work: Work, names: Patients, settings: dict, part: Part) -> Prepared:
    """What one of several shards does: its volumes; and the last of them joins what all have made."""
    result = Prepared(shard=part.shard)
    result.refused = [_refusal(error, work.found) for error in part.shard.take(work.found.refused)]
    todo = _unfinished(work, part, result)
    for source, volume, outcome in _convert(todo, work):
        if volume is None:
            part.refuse(source, outcome)
            result.refused.append(outcome)
        else:
            part.add(source, outcome, volume)
            result.accepted.append(outcome)
    with part.done() as result.missing:
        if not result.missing:
            result = _join(work, names, settings, Finished(work.folder, part.division))
            result.shard = part.shard
            shutil.rmtree(work.folder / WORK, ignore_errors=True)  # with what a shard left that was killed
    return result


def _unfinished(work: Work, part: Part, result: Prepared) -> list[Source]:
    """The sources that a shard has still to do; what came of the others is added to the result."""
    journal, finished, todo = Journal(work.folder), Finished(work.folder, part.division), []
    sources = part.shard.take(work.sources)
    for source in sources:
        if record := journal.finished(source, work.folder) or finished.records.get(state_of(source)):
            result.accepted.append(record)
        elif refusal := finished.refusals.get(state_of(source)):
            result.refused.append(refusal)
        else:
            todo.append(source)
    if result.accepted:
        told = f"{len(result.accepted)} of {len(sources)} volumes of shard {part.shard} are prepared already"
        say(told, every_rank=True)
    return todo


def _join(work: Work, names: Patients, settings: dict, finished: Finished) -> Prepared:
    """Make cases of what shards have finished, prepare the rest, and write the data set."""
    journal, known = Journal(work.folder), {source.key for source in work.sources}
    refusals, new, todo = {}, [], []
    for state, record in finished.records.items():  # of inputs that an earlier run had: cases like any other
        if state[:2] not in known:
            new.append(accept(record, finished.volume(state), journal, work.folder))
    waiting = [source for source in work.sources if journal.finished(source, work.folder) is None]
    for source in waiting:
        state = state_of(source)
        if state in finished.records:
            new.append(accept(finished.records[state], finished.volume(state), journal, work.folder))
        elif state in finished.refusals:
            refusals[source.key] = finished.refusals[state]
            forget(source, journal, work.folder)
        else:
            todo.append(source)
    if finished.division is None and len(todo) < len(work.sources):
        say(f"{len(work.sources) - len(todo)} of {len(work.sources)} volumes are prepared already")
    for source, volume, outcome in _convert(todo, work):
        if volume is None:
            refusals[source.key] = outcome
            forget(source, journal, work.folder)
        else:
            new.append(accept(outcome, volume, journal, work.folder))
    number_in_order(new, journal)
    result = Prepared(skipped=[{"source": work.found.shown(path), "why": why} for path, why in work.found.skipped])
    result.refused = [_refusal(error, work.found) for error in work.found.refused]
    result.refused += [refusals[source.key] for source in work.sources if source.key in refusals]
    result.accepted = list_cases(journal, work.folder, names, settings["val_fraction"], settings["seed"])
    write_data_set(work.folder, result.accepted, result.refused, result.skipped, work.found.ignored, settings)
    finished.remove()
    return result


def _convert(todo: list[Source], work: Work) -> Iterator[tuple[Source, Path | None, dict]]:
    """Sources as they are done, each with its volume and record, or with None and why it is refused."""
    jobs = [(source, str(work.space / f"{number}.nii"), work.size) for number, source in enumerate(todo)]
    with progress_bar(len(jobs), "prepare", show=bool(jobs)) as bar:
        for (source, target, _), outcome in map_safely(convert, jobs, min(work.workers, len(jobs))):
            bar.update()
            if isinstance(outcome, Crashed):
                outcome = refuse("unreadable", source.name, "a file that crashes its reader, or too little memory")
            if isinstance(outcome, BadVolume):
                refusal = _refusal(outcome, work.found, source)
                _say_refused(refusal)
                yield source, None, refusal
            else:
                archive = work.found.archive(source.files[0] if source.series else source.files)
                yield source, Path(target), {"container": str(archive or source.name), **outcome}


def _say_refused(refusal: dict[str, str]) -> None:
    text = " ".join(f"refused {refusal['source']}: [{refusal['rule']}] {refusal['found']}".split())
    say(text, every_rank=True)


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
