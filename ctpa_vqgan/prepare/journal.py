"""What has been done, case by case: the private map from case ids to sources, and the memory of an interrupted run."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ctpa_vqgan.data.cases import JOURNAL
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.prepare.sources import Source

HEADER = {"private": "names sources, which may identify patients: do not share; no later step reads this file"}
CASE = re.compile(r"ct-[0-9a-f]{12}(-[0-9]+)?")
Record = dict[str, Any]


class Journal:
    """One line a finished case, appended as soon as its volume lies in its place.

    A line that a kill has torn is dropped: its case is prepared again, under the same id.

    Args:
        folder: of the data set.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        if self.path.is_symlink():  # lines are appended: they would go through it
            raise UserError(f"{self.path}: expected a file, found a link; put the file itself there")
        self.records: dict[tuple[str, str], Record] = {}
        # by case first: of data that moved, an interrupted run leaves the old line beside the new one
        for record in {record["case"]: record for record in _lines(self.path)}.values():
            self.records[record["source"], record["series"]] = record

    def finished(self, source: Source, folder: Path) -> Record | None:
        """The record of a source that has been prepared and has not changed since, if its volume is still there."""
        record = self.records.get(source.key)
        if record is None or record["stamp"] != source.stamp:
            return None
        file = folder / record["file"]
        return record if file.is_file() and file.stat().st_size == record["bytes"] else None

    def add(self, record: Record) -> None:
        """Remember a case, on disk before this returns."""
        try:
            self._append(record)
        except OSError as error:
            raise UserError(f"{self.path}: could not be written ({error.strerror}); free some space") from error
        self.records[record["source"], record["series"]] = record

    def _append(self, record: Record) -> None:
        new = not self.path.exists()
        with self.path.open("ab+") as file:
            if new:
                file.write(_line(HEADER))
            elif file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # after a torn line
                    file.write(b"\n")
            file.write(_line(record))
            file.flush()
            os.fsync(file.fileno())

    def drop(self, keys: list[tuple[str, str]]) -> None:
        """Forget sources; the caller rewrites the file by :meth:`text`."""
        for key in keys:
            self.records.pop(key, None)

    def text(self) -> bytes:
        """The whole file as it should be: one line a case."""
        return b"".join(map(_line, [HEADER, *self.records.values()]))


def _line(value: Record) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode() + b"\n"


def _is_own(case: Any, file: Any) -> bool:
    return isinstance(case, str) and CASE.fullmatch(case) is not None and file == f"volumes/{case}.nii"


def _lines(path: Path) -> list[Record]:
    records = []
    for line in path.read_bytes().splitlines() if path.is_file() else []:
        try:
            value = json.loads(line)
        except ValueError:
            continue
        # a line of somebody else's making must not name a file elsewhere, which might be removed
        if isinstance(value, dict) and _is_own(value.get("case"), value.get("file")):
            records.append(value)
    return records
