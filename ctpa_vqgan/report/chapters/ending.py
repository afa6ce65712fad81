"""The last chapters: what was refused, pictures, what the numbers mean, how it was run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ctpa_vqgan.report.blocks import Chapter, Picture, Settings, Table, Terms
from ctpa_vqgan.report.columns import TERMS, describe
from ctpa_vqgan.report.values import worst_first


def refused_chapter(metrics: Mapping[str, Any]) -> Chapter | None:
    """Cases without numbers, and why."""
    rows = [[entry.get("case"), entry.get("error")] for entry in metrics.get("refused") or []]
    return Chapter("Refused", [Table("Not evaluated.", ["case", "why, and the way out"], rows)]) if rows else None


def pictures_chapter(metrics: Mapping[str, Any], pictures: Sequence[Picture]) -> Chapter | None:
    """Pictures that belong to no other chapter; of the worst case first, then those of all cases."""
    rank = {case["case"]: index for index, case in enumerate(worst_first(metrics["cases"]))}
    ordered = sorted(pictures, key=lambda picture: rank.get(picture.case, len(rank)))
    return Chapter("Pictures", ordered) if ordered else None


def definitions_chapter(metrics: Mapping[str, Any], told: Sequence[Chapter]) -> Chapter:
    """What each number on the page means."""
    keys = dict.fromkeys(key for key in metrics["mean"] if describe(key)[1].definition)
    prefixes = dict.fromkeys(prefix for key in keys if (prefix := describe(key)[0]))
    items = list(dict.fromkeys((c.heading, c.definition) for c in (describe(key)[1] for key in keys)))
    items += [TERMS[term] for term in dict.fromkeys(term for chapter in told for term in chapter.terms)]
    items += [_prefix(prefix) for prefix in prefixes]
    return Chapter("What the numbers mean", [Terms(items)])


def _prefix(prefix: str) -> tuple[str, str]:
    if prefix == "decoded":
        return TERMS["decoded"]
    return prefix, f"columns that begin with {prefix} measure the volume of that name the same way."


def settings_chapter(settings: Mapping[str, Any]) -> Chapter | None:
    """What a reader needs to repeat the numbers."""
    return Chapter("How it was run", [Settings(dict(settings))]) if settings else None
