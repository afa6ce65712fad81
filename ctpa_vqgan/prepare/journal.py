"""What has been done, case by case: the private map from case ids to sources, and the memory of an interrupted run."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

from ctpa_vqgan.data.cases import JOURNAL
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.prepare.sources import Source

HEADER = {"private": "names sources, which may identify patients: do not share; no later step reads this file"}
CASE = re.compile(r"ct-[0-9a-f]{12}(-[0-9]+)?")
Record = dict[str, Any]
Key = tuple[str, str]  # of a source: its name, and the series


class Journal:
    """One line a finished case, appended as soon as its volume lies in its place.

    A line that a kill has torn is dropped: its case is prepared again, under the same id.

    Args:
        folder: of the data set.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        self.records: dict[Key, Record] = {}
        self._kin: defaultdict[str, set[Key]] = defaultdict(set)  # by the content's part of the case id
        # a line of somebody else's making must not name a file elsewhere, which might be removed
        own = [line for line in read_lines(self.path) if _is_own(line.get("case"), line.get("file"))]
        # by case first: of data that moved, an interrupted run leaves the old line beside the new one
        for record in {record["case"]: record for record in own}.values():
            self._remember(record)

    def finished(self, source: Source, folder: Path) -> Record | None:
        """The record of a source that has been prepared and has not changed since, if its volume is still there."""
        record = self.records.get(source.key)
        if record is None or record["stamp"] != source.stamp:
            return None
        file = folder / record["file"]
        return record if file.is_file() and file.stat().st_size == record["bytes"] else None

    def kin(self, content: str) -> dict[Key, Record]:
        """The records whose cases are called after this content, or after one whose SHA-256 begins alike."""
        return {key: self.records[key] for key in self._kin[content[:12]]}

    def add(self, record: Record) -> None:
        """Remember a case, on disk before this returns."""
        append_lines(self.path, record)
        self._remember(record)

    def _remember(self, record: Record) -> None:
        key = record["source"], record["series"]
        if key in self.records:
            self._kin[_content(self.records[key])].discard(key)
        self.records[key] = record
        self._kin[_content(record)].add(key)

    def drop(self, keys: list[Key]) -> None:
        """Forget sources; the caller rewrites the file by :meth:`text`."""
        for key in keys:
            if key in self.records:
                self._kin[_content(self.records.pop(key))].discard(key)

    def text(self) -> bytes:
        """The whole file as it should be: one line a case."""
        return b"".join(map(_line, [HEADER, *self.records.values()]))


def _line(value: Record) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _content(record: Record) -> str:
    return record["case"].split("-")[1]


def _is_own(case: Any, file: Any) -> bool:
    return isinstance(case, str) and CASE.fullmatch(case) is not None and file == f"volumes/{case}.nii"


def append_lines(path: Path, *values: Record) -> None:
    """Add lines, on disk before this returns; a new file begins with the line that says that it is private.

    Raises:
        UserError: if the disk does not take them, or the file is a link.
    """
    _refuse_link(path)
    try:
        with path.open("ab+") as file:
            text = b"".join(map(_line, values))
            if not file.tell():
                text = _line(HEADER) + text
            else:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # after a torn line
                    text = b"\n" + text
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path}: could not be written ({error.strerror}); free some space") from error


def read_lines(path: Path) -> list[Record]:
    """The lines that are whole; none where there is no file.

    Raises:
        UserError: the file is a link.
    """
    _refuse_link(path)
    records = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, dict):
            records.append(value)
    return records


def _refuse_link(path: Path) -> None:
    if path.is_symlink():  # lines are appended: they would go through it
        raise UserError(f"{path}: expected a file, found a link; put the file itself there")
