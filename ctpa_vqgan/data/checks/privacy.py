"""Recognise texts that may identify a patient."""

from __future__ import annotations

import re

# a DICOM person name; a label; a date; a number as long as a record's; "Doe, John", "John Doe" or "DOE JOHN"
_PATTERNS = (
    r"[^\W\d]\^[^\W\d]",
    r"\b(patient|name|birth\w*|dob|mrn|ssn)\b",
    r"(?<![\w.])(19|20)\d\d[-/.]?(0\d|1[0-2])[-/.]?[0-3]\d\b",  # not after a point: programs date their versions
    r"(?<![\d.])\d{7,}",
    r"\b[A-Z][a-z]+, ?[A-Z][a-z]+\b",
    r"\b[A-Z][a-z]+ [A-Z][a-z]+\b",
    r"\b[A-Z]{3,} [A-Z]{3,}\b",
)
_NAMED = re.compile("|".join(f"(?:{pattern})" for pattern in _PATTERNS[:1] + _PATTERNS[2:]))
_LABELLED = re.compile(_PATTERNS[1], re.IGNORECASE)


def may_name_patient(text: str) -> bool:
    """Whether a header's text looks like a name, a date of birth or a record number.

    Rather one warning too many: the text is left out of what is written in any case.
    """
    return bool(_NAMED.search(text) or _LABELLED.search(text))
