"""Shards: processes that each prepare a part of one data set, on their own until the last of them joins the parts.

What a shard makes lies in ``.parts``, called after its source. Which case it becomes is told when all shards are done,
in the order of the sources, as by one process alone: so shards never want the same name, nor wait for each other.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ctpa_vqgan.data.cases import JOURNAL
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.files import in_turn, write_whole
from ctpa_vqgan.prepare.convert import Record
from ctpa_vqgan.prepare.journal import append_lines, read_lines
from ctpa_vqgan.prepare.locks import at_work, is_taken, take
from ctpa_vqgan.prepare.sources import Source
from ctpa_vqgan.progress import say
from ctpa_vqgan.ranks import Shard

FOLDER = ".parts"
SHA256 = re.compile(r"[0-9a-f]{64}")
State = tuple[str, str, str]  # of a source: its name, series and stamp


class Finished:
    """What shards have made and nobody has joined yet: records without a case, their volumes, and refusals.

    A record counts whatever the number of shards was. A refusal counts for the division that met it; any other run
    tries again.

    Args:
        folder: of the data set.
        division: of the part at work; None for a run without shards.
    """

    def __init__(self, folder: Path, division: str | None = None) -> None:
        self.folder, self.division = folder / FOLDER, division
        self.records: dict[State, Record] = {}
        self.refusals: dict[State, dict[str, str]] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            for line in read_lines(path):
                if (state := _state(line)) is None:
                    continue
                if "refused" not in line:
                    self.records[state] = line
                elif division is not None and path.name.startswith(division):
                    self.refusals[state] = line["refused"]
        self.records = {state: record for state, record in self.records.items() if self._is_there(state, record)}

    def volume(self, state: State) -> Path:
        """Where the volume of a source lies, until it becomes a case."""
        return _volume(self.folder, state)

    def remove(self) -> None:
        """Clear away what is left when all is joined."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _is_there(self, state: State, record: Record) -> bool:
        file = self.volume(state)
        return file.is_file() and file.stat().st_size == record.get("bytes")


def state_of(source: Source) -> State:
    """By which a source is known again, if it has not changed."""
    return source.name, source.series, source.stamp


def _volume(folder: Path, state: State) -> Path:
    return folder / f"{hashlib.sha256(json.dumps(state).encode()).hexdigest()[:32]}.nii"


def _state(line: Record) -> State | None:
    """The source that a line is about; None for a line that no shard wrote."""
    state = line.get("source"), line.get("series"), line.get("stamp")
    content = isinstance(line.get("refused"), dict) or SHA256.fullmatch(str(line.get("sha256")))
    return state if content and all(isinstance(text, str) for text in state) else None


class Part:
    """A shard at work; see :func:`part_at_work`.

    Args:
        folder: of the data set.
        shard: which it is.
        settings: plain JSON; shards with others, or another number of shards, make another division of the work.

    Raises:
        UserError: this shard is at work already, or one of another division is.
    """

    def __init__(self, folder: Path, shard: Shard, settings: Any) -> None:
        self.folder, self.shard, self.name = folder, shard, _name(shard)
        settings = json.dumps([shard.count, settings], sort_keys=True)
        self.division = hashlib.sha256(settings.encode()).hexdigest()[:12]
        parts = folder / FOLDER
        if parts.is_symlink():
            raise UserError(f"{parts}: expected a folder, found a link; remove it")
        parts.mkdir(exist_ok=True)
        for lock in parts.glob("*.lock"):
            if not lock.name.startswith(self.division) and is_taken(lock):
                raise UserError(
                    f"{folder}: shard {_shown(lock)} is at work there, of another number of shards or with other "
                    f"inputs or settings than shard {shard}; wait for it, or give all shards the same"
                )
        self._lock = self._file(shard, ".lock").open("a+")
        if not take(self._lock):
            raise UserError(f"{folder}: shard {shard} is at work there already; wait for it")
        if old := sorted(_shown(path) for path in parts.glob("*.done") if not path.name.startswith(self.division)):
            say(
                f"shards {', '.join(old)} were of another number of shards, or had other inputs or settings: "
                "their volumes are taken over, but they do not count as done"
            )

    def add(self, source: Source, record: Record, volume: Path) -> None:
        """Keep a volume and what is known of it."""
        os.replace(volume, _volume(self.folder / FOLDER, state_of(source)))
        append_lines(self._file(self.shard, ".jsonl"), record)

    def refuse(self, source: Source, refusal: dict[str, str]) -> None:
        """Keep why a source was not taken."""
        name, series, stamp = state_of(source)
        line = {"refused": refusal, "source": name, "series": series, "stamp": stamp}
        append_lines(self._file(self.shard, ".jsonl"), line)

    @contextmanager
    def done(self) -> Iterator[list[Shard]]:
        """Tell that this shard has made its part; gives those that have not, and lets none begin meanwhile."""
        with in_turn(self.folder, self.shard):
            write_whole(self._file(self.shard, ".done"), "")
            self.close()
            shards = [Shard(index, self.shard.count) for index in range(self.shard.count)]
            # one that was started again may find more to do
            yield [s for s in shards if not self._file(s, ".done").is_file() or is_taken(self._file(s, ".lock"))]

    def close(self) -> None:
        """Give the claim back."""
        self._lock.close()

    def _file(self, shard: Shard, suffix: str) -> Path:
        return self.folder / FOLDER / f"{self.division}-{_name(shard)}{suffix}"


def _name(shard: Shard) -> str:
    return str(shard).replace("/", "-of-")


def _shown(path: Path) -> str:
    return path.stem.partition("-")[2].replace("-of-", "/")


@contextmanager
def part_at_work(folder: Path, shard: Shard, settings: Any) -> Iterator[Part]:
    """Work as a shard, beside the others of its division and nobody else."""
    with at_work(folder, shared=True):
        with in_turn(folder, shard):
            part = Part(folder, shard, settings)
            if not (folder / JOURNAL).exists():  # it tells of a data set in the making, where there is no datalist
                append_lines(folder / JOURNAL)
        try:
            yield part
        finally:
            part.close()
