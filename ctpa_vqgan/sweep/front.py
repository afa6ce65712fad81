"""Which settings nobody would pass by, and which one to take."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

NEAR_DB = 0.05  # of PSNR: less is no reason to wait
FAINT_HU = 0.1  # of seams: less is nobody's concern
ALIKE = 0.10  # share of the time that two runs of one setting may differ by

Row = dict[str, Any]


class Suggestion(NamedTuple):
    """The setting to take, by its place among the rows, and why."""

    index: int
    reason: str


def objectives(row: Row) -> tuple[float, float, float, float]:
    """Quality, seam, time and memory, the less the better, as finely as they are printed.

    What is finer is noise: 0.01 dB, 0.1 HU, two digits of the time, whole MB. What could not be measured is the worst.
    """
    seconds = row["case_seconds"]
    digits = 1 - math.floor(math.log10(seconds)) if 0 < seconds < math.inf else 0
    values = (-round(row["psnr"], 2), round(row["seam_hu"], 1), round(seconds, digits), round(row["memory_mb"], 0))
    return tuple(math.inf if math.isnan(value) else value for value in values)


def pareto_front(rows: Sequence[Row]) -> list[bool]:
    """For each row, whether no other is as good in all of :func:`objectives` and better in one.

    Rows without ``psnr`` (out of memory), and those that are not ``comparable`` (a window alone in a part of a case has
    no seam, but the whole case would have), are never on it and keep none from it.
    """
    points = [objectives(row) if "psnr" in row and row["comparable"] else None for row in rows]
    known = [point for point in points if point]
    return [point is not None and not any(_dominates(other, point) for other in known) for point in points]


def suggest(rows: Sequence[Row]) -> Suggestion | None:
    """The fastest setting that loses nearly nothing against the best one without a seam.

    Settings of the sliding window count that were ``comparable``. If all of them show seams, those with about the
    least count. Of settings that take about the same time, the best is taken.

    Args:
        rows: with ``kind``, ``comparable``, ``psnr``, ``seam_hu``, ``seams_found`` and ``case_seconds``.

    Returns:
        None if no row counts.
    """
    able = [
        (index, row)
        for index, row in enumerate(rows)
        if "psnr" in row and row["comparable"] and row["kind"] == "windows"
    ]
    if not able:
        return None
    pool = [(index, row) for index, row in able if _seamless(row)]
    if pool:
        seams = "in which no seam was found"
    else:
        least = min(_seam(row) for _, row in able)
        pool = [(index, row) for index, row in able if _seam(row) <= max(least * 1.1, FAINT_HU)]
        seams = (
            "in which seams could not be told"
            if math.isinf(least)
            else f"with about the weakest seams ({least:.2f} HU; every setting shows some)"
        )
    best = max(row["psnr"] for _, row in pool)
    near = [(index, row) for index, row in pool if row["psnr"] >= best - NEAR_DB]
    fastest = min(row["case_seconds"] for _, row in near)
    alike = [(index, row) for index, row in near if row["case_seconds"] <= fastest * (1 + ALIKE)]
    index, _ = max(alike, key=lambda entry: (entry[1]["psnr"], -_seam(entry[1])))
    if len(able) == 1:
        return Suggestion(index, "the only setting that could be compared")
    count = "1 setting" if len(pool) == 1 else f"{len(pool)} settings"
    speed = "the fastest" if len(alike) == 1 else f"the best of {len(alike)} about equally fast ones"
    return Suggestion(index, f"{speed} within {NEAR_DB} dB of the best PSNR ({best:.2f} dB) among {count} {seams}")


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other))


def _seam(row: Row) -> float:
    return math.inf if math.isnan(row["seam_hu"]) else row["seam_hu"]


def _seamless(row: Row) -> bool:
    return row["seams_found"] == 0 and not math.isnan(row["seam_hu"])
