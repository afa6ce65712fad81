"""What a radiology researcher asks of a compressed CT, and whether it was reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ctpa_vqgan.report.blocks import Mark
from ctpa_vqgan.report.chapters.quality import kept
from ctpa_vqgan.report.values import dig, number, numbers, tell

Found = Iterator[tuple[str, float]]  # where, how much

ADEQUATE_HU = 211  # mean of the pulmonary artery (Lloyd et al. 2012)
PULMONARY = ("pulmonary_artery", "pulmonary_trunk", "artery")  # the last as ``data.phantom`` names it
UNMEASURED = (
    "Asked for in the literature and not measured here: diameter of the pulmonary trunk (≤ 0.5 mm) and RV/LV ratio "
    "(≤ 0.03), agreement of organ segmentations (Dice ≥ 0.97), radiomics (CCC > 0.9 in 85 % of the features), AUC of "
    "an embolism classifier (drop ≤ 0.01), readers."
)


class Goal(NamedTuple):
    """One goal and how it is measured.

    Attributes:
        name: what is asked.
        target: the goal as a reader wants it.
        low: what every measured value must reach.
        high: what none may exceed.
        form: how a value is printed.
        unit: and its unit.
        measure: (metrics, version) to values, each with the place where it was found.
    """

    name: str
    target: str
    low: float
    high: float
    form: str
    unit: str
    measure: Callable[[Mapping[str, Any], str], Found]

    def judge(self, metrics: Mapping[str, Any], version: str) -> Mark:
        """Met only if every value is within the limits; the worst one is named either way."""
        found = [(where, value) for where, value in self.measure(metrics, version) if not math.isnan(value)]
        if not found:
            return Mark(None, "")
        inside = sum(self.low <= value <= self.high for _, value in found)
        where, worst = max(found, key=lambda item: max(self.low - item[1], item[1] - self.high))
        share = f"; {inside} of {len(found)} within" if len(found) > 1 else ""
        return Mark(inside == len(found), f"{tell(worst, self.form, self.unit)} ({where}{share})")


def _of_cases(*path: str) -> Callable[[Mapping[str, Any], str], Found]:
    return lambda metrics, version: ((c["case"], number(dig(c, version, *path))) for c in metrics["cases"])


def _structure(*path: str) -> Callable[[Mapping[str, Any], str], Found]:
    return _of_cases("structure", *path)


def _once(*path: str) -> Callable[[Mapping[str, Any], str], Found]:
    """Of tests that were done with the sliding windows, whatever the version."""
    return lambda metrics, version: (
        (c["case"], number(dig(c, *path))) for c in metrics["cases"] if version == "reconstruction"
    )


def _of_phantoms(part: str, key: str, where: str, wanted: Callable[[Mapping], bool] = lambda _: True):
    return lambda metrics, version: (
        (where.format(**entry), kept(entry, key))
        for entry in dig(metrics, "phantoms", version, part) or []
        if wanted(entry)
    )


def _tissues(metrics: Mapping[str, Any], version: str) -> Found:
    for case in metrics["cases"]:
        for name, summary in (dig(case, version, "tissues") or {}).items():
            yield f"{name.replace('_', ' ')}, {case['case']}", number(dig(summary, "bias_hu"))


def _seams(metrics: Mapping[str, Any], version: str) -> Found:
    for case in metrics["cases"]:
        for axis, ratio in zip("XYZ", numbers(dig(case, version, "seams", "ratio"))):
            yield f"axis {axis}, {case['case']}", ratio


def _seam_planes(metrics: Mapping[str, Any], version: str) -> Found:
    for case in metrics["cases"]:
        found = dig(case, version, "seams", "found")
        yield case["case"], math.nan if found is None else float(len(found))


def enhancement(case: Mapping[str, Any], version: str) -> Iterator[tuple[str, float, float]]:
    """Labels of the pulmonary artery in this case: name, mean HU before, mean HU after."""
    for name, summary in (dig(case, version, "labels") or {}).items():
        before, after = number(dig(summary, "original_mean_hu")), number(dig(summary, "mean_hu"))
        if name in PULMONARY and not math.isnan(before + after):
            yield name, before, after


def _flips(metrics: Mapping[str, Any], version: str) -> Found:
    for case in metrics["cases"]:
        for _, before, after in enhancement(case, version):
            yield case["case"], float((before >= ADEQUATE_HU) != (after >= ADEQUATE_HU))


INF = math.inf
GOALS = [
    Goal("HU bias of every tissue", "within ±2 HU", -2, 2, "+.2f", " HU", _tissues),
    Goal(f"Adequate enhancement (≥ {ADEQUATE_HU} HU) stays so", "no flip", -INF, 0, ".0f", " flip", _flips),
    Goal(
        "Contrast of emboli of 3 mm and more (phantom)",
        "≥ 0.95 kept",
        0.95,
        INF,
        ".2f",
        "",
        _of_phantoms("emboli", "recovery", "{diameter_mm:g} mm", lambda e: number(e.get("diameter_mm")) >= 3),
    ),
    Goal(
        "Sharpness, MTF50 after / before (phantom)",
        "≥ 0.90",
        0.9,
        INF,
        ".2f",
        "",
        _of_phantoms("edges", "mtf50_ratio", "{shape}, {contrast_hu:g} HU"),
    ),
    Goal(
        "Noise power after / before (phantom)",
        "0.80 to 1.20",
        0.8,
        1.2,
        ".2f",
        "",
        _of_phantoms("noise", "nps_ratio", "at {background_hu:g} HU"),
    ),
    Goal(
        "Noise power after / before (patients)",
        "0.80 to 1.20",
        0.8,
        1.2,
        ".2f",
        "",
        _structure("noise", "nps_ratio"),
    ),
    Goal(
        "Low contrast, detectability d' (phantom)",
        "≥ 0.95 kept",
        0.95,
        INF,
        ".2f",
        "",
        _of_phantoms("disks", "dprime_ratio", "{diameter_mm:g} mm, {contrast_hu:g} HU"),
    ),
    Goal("Lung vessels, Dice", "≥ 0.95", 0.95, INF, ".3f", "", _structure("vessels", "dice")),
    Goal("Lung vessels, clDice", "≥ 0.93", 0.93, INF, ".3f", "", _structure("vessels", "cldice")),
    Goal(
        "Shift of %LAA-950 (emphysema)",
        "±0.5 points",
        -0.5,
        0.5,
        "+.2f",
        "",
        _structure("laa950", "shift_pp"),
    ),
    Goal(
        "Anatomy in what was lost, |r|",
        "≤ 0.05",
        -0.05,
        0.05,
        "+.3f",
        "",
        _structure("residual", "anatomy_r"),
    ),
    Goal("Seam index (error on window planes / nearby)", "0.98 to 1.02", 0.98, 1.02, ".3f", "", _seams),
    Goal("Seams found on window planes", "none", -INF, 0, ".0f", "", _seam_planes),
    Goal("Shift test, mean SD when windows move", "at most 0.5 HU", -INF, 0.5, ".2f", " HU", _once("shift", "mean_hu")),
    Goal(
        "Windows - exact tiles, largest difference",
        "at most 1 HU, the rounding",
        -INF,
        1,
        ".2f",
        " HU",
        _once("tiles", "max_hu"),
    ),
]


def judged(metrics: Mapping[str, Any], shown: list[str]) -> list[tuple[Goal, list[Mark]]]:
    """Every goal with its marks, one for each version shown."""
    return [(goal, [goal.judge(metrics, version) for version in shown]) for goal in GOALS]
