"""Write an evaluation's numbers: ``metrics.json`` for machines, ``per_case.csv`` for spreadsheets."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path
from typing import Any

from ctpa_vqgan.files import write_whole

RESERVED = ("cases", "mean", "num_infinite", "num_missing")


def strict(value: Any) -> Any:
    """The value as strict JSON has it: NaN becomes None, infinity the string "inf" (or "-inf").

    JSON knows neither, and Python's default, the bare words NaN and Infinity, breaks every other reader.
    """
    if isinstance(value, dict):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy and torch, numbers and arrays alike
        return strict(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value if value is None or isinstance(value, (str, bool, int, float)) else str(value)


def is_metric(value: Any) -> bool:
    """Whether a strict value is a number, an infinite one or a missing one: something with a place in a mean."""
    return (
        value is None or value in ("inf", "-inf") or (isinstance(value, (int, float)) and not isinstance(value, bool))
    )


def summarize(cases: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean of each metric over its finite values, and how many values were left out of it as infinite or missing.

    One identical pair of volumes would otherwise make the mean PSNR infinite, one thin volume the mean SSIM NaN.
    Texts, lists and flags have no mean. A mean of no finite value is None.
    """
    mean, num_infinite, num_missing = {}, {}, {}
    for key in dict.fromkeys(key for case in cases for key in case if key != "case"):
        values = [case.get(key) for case in cases]
        if not all(is_metric(value) for value in values):
            continue
        finite = [value for value in values if isinstance(value, (int, float))]
        mean[key] = math.fsum(finite) / len(finite) if finite else None
        if missing := values.count(None):
            num_missing[key] = missing
        if infinite := len(values) - len(finite) - missing:
            num_infinite[key] = infinite
    return {"mean": mean, "num_infinite": num_infinite, "num_missing": num_missing}


def to_csv(cases: list[dict[str, Any]]) -> str:
    """One row a case, one column a key that holds single values; infinite is ``inf``, missing is empty.

    What lies deeper has its way there as heading, ``reconstruction.tissues.lung.bias_hu``, and stands on the right.
    """
    rows = [_flat(case) for case in cases]
    keys = dict.fromkeys(key for row in rows for key in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, sorted(keys, key=lambda key: "." in key), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _flat(row: dict[str, Any], way: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{way}{key}.")
        elif not isinstance(value, list):
            found[f"{way}{key}"] = value
    return found


def write_metrics(
    output_dir: str | os.PathLike, cases: list[dict[str, Any]], extra: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write ``metrics.json`` and ``per_case.csv``, each whole or not at all.

    ``metrics.json`` is ``{"cases": [...], "mean": {...}, "num_infinite": {...}, "num_missing": {...}}`` and is strict
    JSON: an infinite PSNR is the string ``"inf"`` and a missing value (NaN) is ``null``. Means are over finite values.

    Args:
        output_dir: folder of the evaluation; made if need be.
        cases: one dict per volume: ``case`` (its name) and metrics, see ``columns.COLUMNS``; numbers of any kind.
        extra: further top-level entries, for example the codebook's use over all cases.

    Returns:
        The content of ``metrics.json``, as ``json.load`` gives it back.

    Raises:
        ValueError: if a case has no ``case`` or ``extra`` would overwrite an entry.
    """
    if taken := set(RESERVED) & set(extra or {}):
        raise ValueError(f"extra must not hold {sorted(taken)}: metrics.json has these entries of its own")
    if nameless := [index for index, case in enumerate(cases) if "case" not in case]:
        raise ValueError(f"cases {nameless} have no name; give each dict an entry 'case'")
    rows = strict([{"case": case["case"]} | case for case in cases])
    metrics = {"cases": rows, **summarize(rows), **strict(extra or {})}
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "metrics.json", json.dumps(metrics, indent=2, allow_nan=False) + "\n")
    write_whole(folder / "per_case.csv", to_csv(rows))
    return metrics
