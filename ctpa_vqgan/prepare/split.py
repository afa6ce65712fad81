"""Divide cases into training and validation by patient, so that nobody is in both."""

from __future__ import annotations

import csv
import hashlib
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctpa_vqgan.data.volumes import case_name
from ctpa_vqgan.errors import UserError

TRAINING, VALIDATION = "training", "validation"

logger = logging.getLogger(__name__)


def patient_key(name: str) -> str:
    """A patient's name or number made opaque: it is compared, never shown."""
    return hashlib.sha256(f"patient {name}".encode()).hexdigest()[:16]


def split_patients(
    patients: Sequence[str], val_fraction: float, seed: int, before: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Which side each patient is on.

    A hash of seed and patient decides, so a patient keeps its side when others are added. Where no hash falls below the
    fraction, the patient with the smallest one is held out; a single patient is for training.

    Args:
        patients: opaque keys, one or more a patient.
        val_fraction: share of the patients held out, in [0, 1).
        seed: of the hash.
        before: sides of an earlier run with the same fraction and seed, which stay.

    Returns:
        ``"training"`` or ``"validation"`` by patient.
    """
    sides = dict(before or {})
    ranked = sorted(set(patients), key=lambda patient: _share(patient, seed))
    for patient in ranked:
        sides.setdefault(patient, VALIDATION if _share(patient, seed) < val_fraction else TRAINING)
    sides = {patient: sides[patient] for patient in ranked}
    if ranked and TRAINING not in sides.values():
        sides[ranked[-1]] = TRAINING
    if val_fraction and len(ranked) > 1 and VALIDATION not in sides.values():
        sides[ranked[0]] = VALIDATION
    return sides


def _share(patient: str, seed: int) -> float:
    """A number in [0, 1) that depends on seed and patient alone."""
    return int.from_bytes(hashlib.sha256(f"{seed} {patient}".encode()).digest()[:8], "big") / 2**64


class Patients:
    """Who is who, from a CSV with the columns ``file`` and ``patient``.

    ``file`` is a path, the end of one, a file name or its stem; for DICOM the folder of the series.

    Args:
        path: the CSV; None for none.

    Raises:
        UserError: no such file, or not with these columns.
    """

    def __init__(self, path: str | Path | None) -> None:
        self.names: dict[str, str] = {}
        self.used: set[str] = set()
        if path is None:
            return
        if not Path(path).is_file():
            raise UserError(f"{path}: no such file; --patients takes a CSV with the columns file and patient")
        try:
            text = Path(path).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: cannot be read as text ({error}); save it as CSV in UTF-8") from error
        with io.StringIO(text, newline="") as file:
            reader = csv.DictReader(file)
            if not {"file", "patient"} <= set(reader.fieldnames or []):
                found = ", ".join(reader.fieldnames or []) or "nothing"
                expected = "the columns file and patient in its first line, separated by a comma"
                raise UserError(f"{path}: expected {expected}, found {found}")
            for row in reader:
                name, patient = (row["file"] or "").strip(), (row["patient"] or "").strip()
                if name and patient and self.names.setdefault(name, patient) != patient:
                    raise UserError(f"{path}: names two patients for {name}; leave one")

    def of(self, source: str) -> str | None:
        """The patient of a source; the longest matching name decides."""
        parts = Path(source).parts
        ends = [str(Path(*parts[first:])) for first in range(len(parts))]
        for end in [*ends, case_name(source)]:
            if end in self.names:
                self.used.add(end)
                return self.names[end]
        return None

    def unused(self) -> list[str]:
        """Rows that matched no source."""
        return sorted(set(self.names) - self.used)


def warn_of_one_patient(records: Sequence[Mapping[str, Any]]) -> str | None:
    """A sentence where all cases carry one patient's number, as after some anonymisers; None otherwise."""
    if len(records) > 1 and len({record["patient"] for record in records}) == 1:
        return (
            f"all {len(records)} cases carry one and the same patient, so none can be held out; if they are different "
            "people, name them with --patients"
        )
    return None
