"""Read numbers out of ``metrics.json``, where any part may be missing, infinite or null."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

VERSIONS = ("reconstruction", "decoded")
NOTHING = "n/a"
HU_RANGE = (-1000, 1000)  # to which both volumes are clipped before fidelity is measured


def dig(entry: Any, *keys: str) -> Any:
    """What lies under these keys, one below the other; None where the way ends early."""
    for key in keys:
        entry = entry.get(key) if isinstance(entry, Mapping) else None
    return entry


def number(value: Any) -> float:
    """A value of ``metrics.json`` as a float: null and whatever is no number are NaN, "inf" is infinite."""
    if value in ("inf", "-inf"):
        return float(value)
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan


def numbers(values: Any) -> list[float]:
    """A list of values as floats; empty if it is none."""
    return [number(value) for value in values] if isinstance(values, Sequence) and not isinstance(values, str) else []


def mean(values: Iterable[float]) -> float:
    """Mean of the finite values, NaN if there is none."""
    finite = [value for value in values if math.isfinite(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def tell(value: Any, form: str, unit: str = "") -> str:
    """A number for a reader: ``tell(2.345, "+.1f", " HU")`` is ``+2.3 HU``; NaN is ``n/a``."""
    value = value if isinstance(value, float) else number(value)
    if math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    text = format(value, form)
    if not any(digit in text for digit in "123456789"):
        text = text.lstrip("+-")  # nothing rounds to minus nothing
    return text + unit


def between(low: Any, high: Any, form: str) -> str:
    """Two limits of a range."""
    return f"{tell(low, form)} to {tell(high, form)}" if not math.isnan(number(low)) else NOTHING


def count(amount: int, noun: str) -> str:
    """An amount with its noun: ``3 cases``."""
    return f"{amount:,} {noun}{'s' * (amount != 1)}"


def versions(metrics: Mapping[str, Any]) -> list[str]:
    """Which versions of the volumes were looked at in detail: the reconstruction, the decoded codes, both or none."""
    return [name for name in VERSIONS if any(dig(case, name) for case in metrics["cases"])]


def worst_first(cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Cases by rising PSNR; those without one come last."""
    psnr = [number(case.get("psnr")) for case in cases]
    order = sorted(range(len(cases)), key=lambda i: (math.isnan(psnr[i]), psnr[i] if psnr[i] == psnr[i] else 0.0))
    return [cases[i] for i in order]
