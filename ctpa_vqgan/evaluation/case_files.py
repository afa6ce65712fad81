"""Keep what is known of each case, so that an evaluation that was stopped goes on where it was."""

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
    """``cases/<case>.json`` in the folder of an evaluation.

    A case is known if its file was made of the same bytes by the same network and settings; a damaged file is as none.

    Args:
        folder: of the evaluation.
        made_by: all that a row depends on but the volume, as plain values: the network's fingerprint, settings.
    """

    def __init__(self, folder: str | Path, made_by: Mapping[str, Any]) -> None:
        self.folder, self.made_by = Path(folder) / "cases", strict(dict(made_by))
        self._digests: dict[str, str] = {}

    def row(self, case: Case, same_volume: bool = True) -> dict[str, Any] | None:
        """What was found of this case, as strict JSON has it; None if that is not known.

        Args:
            case: of a data set.
            same_volume: whether the bytes of the volume are read, to see that they are those that the row was made of.
        """
        known = self._known(case)
        try:
            return known["row"] if not same_volume or known["sha256"] == self._digest(case) else None
        except (OSError, KeyError):
            return None

    def save(self, case: Case, row: Mapping[str, Any]) -> None:
        """Keep what was found of this case.

        Raises:
            UserError: if the disk is full.
        """
        content = {"made_by": self.made_by, "sha256": self._digest(case), "row": strict(dict(row))}
        write_whole(self._path(case["case"]), json.dumps(content, allow_nan=False) + "\n")

    def refusal(self, case: Case) -> str | None:
        """Why the volume of this case was refused when it was last read; None if it was not."""
        return self._known(case).get("refused")

    def refuse(self, case: Case, error: str) -> None:
        """Keep that the volume of this case was refused, for shards that have other cases; the next run reads it anew.

        Raises:
            UserError: if the disk is full.
        """
        content = {"made_by": self.made_by, "refused": error}
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
    for file in [image] if isinstance(image, (str, Path)) else image:
        for part in (Path(file), *_data_files(Path(file))):
            with part.open("rb") as opened:
                digest.update(hashlib.file_digest(opened, "sha256").digest())
    return digest.hexdigest()


def _data_files(header: Path) -> list[Path]:
    """The file beside a header that it names."""
    if header.suffix.lower() not in HEADERS:
        return []
    with header.open("rb") as file:
        named = DATA_FILE.search(file.read(HEADER_BYTES))
    path = header.parent / named[1].decode(errors="surrogateescape").strip() if named else header
    return [path] if path != header and path.is_file() else []
