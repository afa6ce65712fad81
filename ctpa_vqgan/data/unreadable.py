"""Cases that break in the middle of a run: told apart from other errors, remembered, and passed on inside batches."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ctpa_vqgan.data.checks.rules import refuse
from ctpa_vqgan.errors import BadVolume, user_error

# a BadVolume of which only the text is left, as MONAI's LoadImage hands it on
_REFUSAL = re.compile(r"\[([a-z0-9-]+)\] expected .+, found ")


class Unreadable(NamedTuple):
    """A case that cannot be used: its file, the rule that it breaks, and the whole message."""

    path: str
    rule: str
    message: str


def case_key(case: Mapping[str, Any]) -> str:
    """By what a case is remembered: its file, or the first one of a DICOM series."""
    image = case["image"]
    return image if isinstance(image, str) else str(image[0])


def unreadable(error: BaseException, path: str) -> Unreadable | None:
    """What is wrong with a file, if that is what the error is about; None for any other error."""
    known = user_error(error)
    if isinstance(known, BadVolume):
        return Unreadable(path, known.rule, str(known))
    if known is not None and (rule := _REFUSAL.search(str(known))):
        return Unreadable(path, rule[1], str(known))
    cause = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__cause__ or cause.__context__
    if cause is None:
        return None
    return Unreadable(path, "unreadable", str(refuse("unreadable", path, cause.strerror or str(cause))))


def to_text(found: Sequence[Unreadable]) -> str:
    """For a sample: text is what every collate function takes. Empty for none."""
    return json.dumps(found) if found else ""


def from_texts(texts: Iterable[str]) -> list[Unreadable]:
    """What the samples of a batch tell."""
    return [Unreadable(*entry) for text in texts if text for entry in json.loads(text)]
