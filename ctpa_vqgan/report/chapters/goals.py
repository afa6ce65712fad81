"""What a radiology researcher asks of a compressed CT, and whether it was reached."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ctpa_vqgan.report.blocks import Mark
from ctpa_vqgan.report.chapters.quality import kept
from ctpa_vqgan.report.values import dig, number, numbers, tell

Found = Iterator[tuple[str, float]]  # where, how much

BIAS_HU = 2  # of a tissue
ADEQUATE_HU = 211  # mean of the pulmonary artery (Lloyd et al. 2012)
PULMONARY = ("pulmonary_artery", "pulmonary_trunk", "artery")  # the last as ``data.phantom`` names it
UNMEASURED = (
    "Asked for elsewhere and not measured here (limits as this project would set them): diameter of the pulmonary "
    "trunk (≤ 0.5 mm) and RV/LV ratio (≤ 0.03), agreement of organ segmentations (Dice ≥ 0.97), radiomics "
    "(CCC > 0.9 in 85 % of the features), AUC of an embolism classifier (drop ≤ 0.01), readers."
)


class Goal(NamedTuple):
    """One goal and how it is measured.

    Attributes:
        name: what is asked.
        target: the goal as a reader wants it.
        source: who asks for this measure; the limits are this project's, but for enhancement.
        low: what every measured value must reach.
        high: what none may exceed.
        form: how a value is printed.
        unit: and its unit.
        measure: (metrics, version) to values, each with the place where it was found.
        why_not: (metrics, version) to the reason why nothing was measured, where one is known.
    """

    name: str
    target: str
    source: str
    low: float
    high: float
    form: str
    unit: str
    measure: Callable[[Mapping[str, Any], str], Found]
    why_not: Callable[[Mapping[str, Any], str], str] = lambda metrics, version: ""

    def judge(self, metrics: Mapping[str, Any], version: str) -> Mark:
        """Met only if every value is within the limits; the worst one is named either way."""
        found = [(where, value) for where, value in self.measure(metrics, version) if not math.isnan(value)]
        if not found:
            return Mark(None, self.why_not(metrics, version))
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


def meets_nothing(seams: Any) -> bool:
    """Whether a single window, or tile, held the volume: there is no plane on which a seam could be."""
    return dig(seams, "num_planes") == 0


def nothing_met(metrics: Mapping[str, Any], version: str) -> str:
    """That no case had two windows (or tiles) that meet, if so; empty if some had, or no seam was looked for."""
    looked = [seams for case in metrics["cases"] if (seams := dig(case, version, "seams"))]
    one = "one window" if version == "reconstruction" else "one tile"
    return f"{one}, nothing met" if looked and all(map(meets_nothing, looked)) else ""


def _seams(metrics: Mapping[str, Any], version: str) -> Found:
    for case in metrics["cases"]:
        for axis, ratio in zip("XYZ", numbers(dig(case, version, "seams", "ratio"))):
            yield f"axis {axis}, {case['case']}", ratio


def _seam_planes(metrics: Mapping[str, Any], version: str) -> Found:
    for case in metrics["cases"]:
        seams = dig(case, version, "seams")
        found = dig(seams, "found")
        yield case["case"], math.nan if found is None or meets_nothing(seams) else float(len(found))


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
OWN = "this project"
BENCH = "FDA-led bench tests (Proc. SPIE 11595)"
GOALS = [
    Goal("HU bias of every tissue", f"within ±{BIAS_HU} HU", BENCH, -BIAS_HU, BIAS_HU, "+.2f", " HU", _tissues),
    Goal(
        f"Adequate enhancement (≥ {ADEQUATE_HU} HU) stays so", "no flip", "Lloyd 2012", -INF, 0, ".0f", " flip", _flips
    ),
    Goal(
        "Contrast of emboli of 3 mm and more, after / before (phantom)",
        "0.95 to 1.05",
        OWN,
        0.95,
        1.05,
        ".2f",
        "",
        _of_phantoms("emboli", "recovery", "{diameter_mm:g} mm", lambda e: number(e.get("diameter_mm")) >= 3),
    ),
    Goal(
        "Sharpness, MTF50 after / before (phantom)",
        "0.90 to 1.10",
        f"AAPM TG-233; {BENCH}",
        0.9,
        1.1,
        ".2f",
        "",
        _of_phantoms("edges", "mtf50_ratio", "{shape}, {contrast_hu:g} HU"),
    ),
    Goal(
        "Noise power after / before (phantom)",
        "0.80 to 1.20",
        f"AAPM TG-233; {BENCH}",
        0.8,
        1.2,
        ".2f",
        "",
        _of_phantoms("noise", "nps_ratio", "at {background_hu:g} HU"),
    ),
    Goal(
        "Noise power after / before (patients)",
        "0.80 to 1.20",
        "Dolly 2016",
        0.8,
        1.2,
        ".2f",
        "",
        _structure("noise", "nps_ratio"),
    ),
    Goal(
        "Low contrast, detectability d' (phantom)",
        "≥ 0.95 kept",
        "MITA phantom CCT189; FDA LCD-CT",
        0.95,
        INF,
        ".2f",
        "",
        _of_phantoms("disks", "dprime_ratio", "{diameter_mm:g} mm, {contrast_hu:g} HU"),
    ),
    Goal("Lung vessels, Dice", "≥ 0.95", "DeepSTD 2026 (organs)", 0.95, INF, ".3f", "", _structure("vessels", "dice")),
    Goal("Lung vessels, clDice", "≥ 0.93", "Shit 2021", 0.93, INF, ".3f", "", _structure("vessels", "cldice")),
    Goal(
        "Shift of %LAA-950 (emphysema)",
        "within ±0.5 points",
        "Gevenois 1996",
        -0.5,
        0.5,
        "+.2f",
        "",
        _structure("laa950", "shift_pp"),
    ),
    Goal(
        "Anatomy in what was lost, correlation r",
        "within ±0.05",
        OWN,
        -0.05,
        0.05,
        "+.3f",
        "",
        _structure("residual", "anatomy_r"),
    ),
    Goal(
        "Seam index (error on window planes / nearby)",
        "0.98 to 1.02",
        OWN,
        0.98,
        1.02,
        ".3f",
        "",
        _seams,
        nothing_met,
    ),
    Goal("Seams found on window planes", "none", OWN, -INF, 0, ".0f", "", _seam_planes, nothing_met),
    Goal(
        "Shift test, mean SD when windows move",
        "at most 0.5 HU",
        OWN,
        -INF,
        0.5,
        ".2f",
        " HU",
        _once("shift", "mean_hu"),
    ),
    Goal(
        "Windows - exact tiles, largest difference",
        "at most 1 HU, the rounding",
        OWN,
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
