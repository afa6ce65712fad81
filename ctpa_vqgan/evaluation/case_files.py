"""Keep what is known of each case, so that an evaluation or inference that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctpa_vqgan.data.cases import Case
from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.results import strict

DATA_FILE = re.compile(rb"^(?:ElementDataFile\s*=|data ?file:)\s*([^\r\n]+)", re.MULTILINE | re.IGNORECASE)
HEADERS = (".mhd", ".nhdr")  # may name another file, in which the voxels lie
HEADER_BYTES = 2**16


class CaseFiles:
    """``cases/<case>.json`` in the folder of an evaluation or inference.

    A case is known if its file was made of the same volume by the same network and settings; a damaged file is as none.
    Whoever has the case reads the volume to compare its bytes; of cases of others size and modification time tell.

    Args:
        folder: that holds ``cases``.
        made_by: all that a row depends on but the volume, as plain values: the network's fingerprint, settings.
    """

    def __init__(self, folder: str | Path, made_by: Mapping[str, Any]) -> None:
        self.folder, self.made_by = Path(folder) / "cases", strict(dict(made_by))
        self._digests: dict[str, str] = {}

    def row(self, case: Case, by_bytes: bool = True) -> dict[str, Any] | None:
        """What was found of this case, as strict JSON has it; None if that is not known.

        Args:
            case: of a data set.
            by_bytes: whether the volume is read, to see that it is the one that the row was made of; one that was only
                copied anew or touched is noted then, for others. Otherwise size and modification time are compared.

        Raises:
            UserError: if that cannot be noted, as the disk is full.
        """
        known = self._known(case)
        try:
            if not by_bytes:
                return known["row"] if known["state"] == _state(case["image"]) else None
            if known["sha256"] != self._digest(case):
                return None
            if known.get("state") != _state(case["image"]):
                self.save(case, known["row"])
            return known["row"]
        except (OSError, KeyError):
            return None

    def save(self, case: Case, row: Mapping[str, Any]) -> None:
        """Keep what was found of this case.

        Raises:
            UserError: if the disk is full.
        """
        self._write(case, {"sha256": self._digest(case), "row": strict(dict(row))})

    def refusal(self, case: Case) -> str | None:
        """Why the volume of this case was refused when it was last read; None if it was not, or has changed since."""
        known = self._known(case)
        return known["refused"] if "refused" in known and known.get("state") == _state(case["image"]) else None

    def refuse(self, case: Case, error: str) -> None:
        """Keep that the volume of this case was refused, for shards that have other cases; the next run reads it anew.

        Raises:
            UserError: if the disk is full.
        """
        self._write(case, {"refused": error})

    def _write(self, case: Case, content: Mapping[str, Any]) -> None:
        content = {"made_by": self.made_by, "state": _state(case["image"]), **content}
        write_whole(self._path(case["case"]), json.dumps(content, allow_nan=False) + "\n")

    def _known(self, case: Case) -> dict[str, Any]:
        """The file of this case, if it was written by the same network and settings; empty otherwise."""
        try:
            known = json.loads(self._path(case["case"]).read_text())
            return known if known["made_by"] == self.made_by else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _digest(self, case: Case) -> str:
        """SHA-256 of the files of a case, each once in a run."""
        if case["case"] not in self._digests:
            self._digests[case["case"]] = _digest(case["image"])
        return self._digests[case["case"]]


def _digest(image: str | Path | Sequence[str]) -> str:
    digest = hashlib.sha256()
    for file in _files(image):
        with file.open("rb") as opened:
            digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _state(image: str | Path | Sequence[str]) -> str | None:
    """Size and modification time of all files of a volume, in one text; None if one of them is not there."""
    try:
        found = [(file.stat().st_size, file.stat().st_mtime_ns) for file in _files(image)]
    except OSError:
        return None
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _files(image: str | Path | Sequence[str]) -> list[Path]:
    """Those of a volume, and those that they name."""
    named = [Path(file) for file in ([image] if isinstance(image, (str, Path)) else image)]
    return [part for file in named for part in (file, *_data_files(file))]


def _data_files(header: Path) -> list[Path]:
    """The file beside a header that it names."""
    if header.suffix.lower() not in HEADERS:
        return []
    with header.open("rb") as file:
        named = DATA_FILE.search(file.read(HEADER_BYTES))
    path = header.parent / named[1].decode(errors="surrogateescape").strip() if named else header
    return [path] if path != header and path.is_file() else []
