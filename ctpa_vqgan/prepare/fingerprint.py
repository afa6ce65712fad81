"""What a data set looks like as a whole: facts that name no case, to be shared and compared."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

PERCENTILES = (5, 25, 50, 75, 95)
MAX_BINS = 12


def fingerprint(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Sum up the records of the accepted cases; the order of the records has no influence.

    Args:
        records: one dict per case with ``patient``, ``split``, ``format``, ``original_orientation``, ``shape``,
            ``spacing_mm``, ``warnings``, and ``statistics`` as
            :func:`~ctpa_vqgan.prepare.statistics.volume_statistics` gives them.

    Returns:
        Plain JSON without names and ids: numbers of ``cases``, ``patients``, ``voxels``; ``splits``, ``formats``,
        ``orientations`` and ``warnings`` (by rule) with their numbers of cases; ``shape``, ``spacing_mm`` and
        ``extent_mm`` per axis x, y, z, each with ``min``, ``max``, ``percentiles`` and ``histogram``; ``hu`` with the
        range and the histogram over all voxels; ``contrast`` with ``cases``, ``share`` and ``median_hu``. A histogram
        has ``start``, ``step`` and ``counts``.
    """
    return {
        "cases": len(records),
        "patients": len({record["patient"] for record in records}),
        "voxels": sum(math.prod(record["shape"]) for record in records),
        "splits": _numbers(record["split"] for record in records),
        "formats": _numbers(record["format"] for record in records),
        "orientations": _numbers(record["original_orientation"] for record in records),
        "warnings": _numbers(rule for record in records for rule in {found["rule"] for found in record["warnings"]}),
        "shape": _per_axis(records, lambda record: record["shape"]),
        "spacing_mm": _per_axis(records, lambda record: record["spacing_mm"]),
        "extent_mm": _per_axis(records, _extent_mm),
        "hu": _hu([record["statistics"] for record in records]),
        "contrast": _contrast([record["statistics"] for record in records]),
    }


def _extent_mm(record: dict[str, Any]) -> list[float]:
    return [side * mm for side, mm in zip(record["shape"], record["spacing_mm"])]


def _numbers(names: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(names).items()))


def _per_axis(
    records: Sequence[dict[str, Any]], measure: Callable[[dict[str, Any]], Sequence[float]]
) -> dict[str, dict[str, Any]]:
    columns = zip(*(measure(record) for record in records))
    return {axis: _distribution(column) for axis, column in zip("xyz", columns)}


def _distribution(values: Sequence[float]) -> dict[str, Any]:
    levels = np.percentile(values, PERCENTILES)
    return {
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "percentiles": {str(percent): round(float(level), 4) for percent, level in zip(PERCENTILES, levels)},
        "histogram": _histogram(values),
    }


def _histogram(values: Sequence[float]) -> dict[str, Any]:
    """At most a dozen bins of a round width, their borders multiples of it."""
    step = _round_step(values)
    # a value that is a multiple but for its last bit belongs to the bin that it opens
    places = [math.floor(value / step + 1e-6) for value in values]
    counts = np.bincount(np.array(places) - min(places))
    return {"start": round(min(places) * step, 6), "step": step, "counts": counts.tolist()}


def _round_step(values: Sequence[float]) -> float:
    """The smallest of ..., 0.1, 0.2, 0.5, 1, 2, ... that keeps to the number of bins; a tenth of the size at least."""
    width = max((max(values) - min(values)) / (MAX_BINS - 1), max(values) / 10)
    power = 10.0 ** math.floor(math.log10(width))
    return round(next(factor * power for factor in (1, 2, 5, 10) if factor * power >= width * (1 - 1e-9)), 9)


def _hu(statistics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    if not statistics:
        return {}
    first, *_ = histograms = [entry["histogram"] for entry in statistics]
    return {
        "min": min(entry["min"] for entry in statistics),
        "max": max(entry["max"] for entry in statistics),
        "histogram": {
            "start": first["start"],
            "step": first["step"],
            "counts": [sum(counts) for counts in zip(*(histogram["counts"] for histogram in histograms), strict=True)],
            "under": sum(histogram["under"] for histogram in histograms),
            "over": sum(histogram["over"] for histogram in histograms),
        },
    }


def _contrast(statistics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    levels = [entry["contrast_hu"] for entry in statistics if entry["contrast"]]
    return {
        "cases": len(levels),
        "share": round(len(levels) / len(statistics), 4) if statistics else None,
        "median_hu": round(float(np.median(levels)), 1) if levels else None,
    }
