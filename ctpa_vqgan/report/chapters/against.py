"""The chapter about rivals: the guide's baseline, interpolation and codecs at the model's rate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ctpa_vqgan.report.blocks import Block, Chapter, Heading, Table, Text
from ctpa_vqgan.report.columns import GUIDE, heading, show
from ctpa_vqgan.report.values import number, tell, worst_first

Row = Mapping[str, Any]

QUOTED = (
    ["the guide: its baseline", "resized", "35.3", "0.971", "", "", ""],
    ["the guide: expected at full resolution", "", "37 to 39", "0.98 to 0.99", "", "", ""],
)
RESIZED = ("baseline", "interpolation")
SCORES = {"psnr": ".2f", "ssim": ".4f", "mae_hu": ".1f"}
CODES = ("usage", "perplexity")
NEAR = 0.25  # a rate this far from the model's, relative to it, may still be compared, and is named
EQUAL_DB = 0.05  # what a table's two decimals do not tell apart reliably


def against_chapter(metrics: Mapping[str, Any]) -> Chapter | None:
    """The model beside what else could be done with as many bits, by case."""
    cases = [case for case in worst_first(metrics["cases"]) if case.get("against")]
    if not cases:
        return None
    blocks: list[Block] = _guide(cases)
    for case in cases:
        measured = [row for row in case["against"] if not row.get("skipped")]
        blocks.append(Heading(f"{case['case']} at the same rate"))
        told = standing(case["against"]) or ["No comparison at one rate: the model's rate or PSNR is no finite number."]
        blocks += [Text(sentence[:1].upper() + sentence[1:]) for sentence in told]
        if measured:
            table = Table("Rate and quality on the full grid.", ["what", *_COLUMNS], [_row(row) for row in measured])
            blocks.append(table)
        skipped = [f"{row['name']}: not measured, {row['skipped']}." for row in case["against"] if row.get("skipped")]
        if skipped:
            blocks.append(Text(" ".join(skipped)))
    return Chapter("Against other ways", blocks, ("guide", "baseline", "rate"))


def _guide(cases: Sequence[Row]) -> list[Block]:
    rows = []
    for case in cases:
        for row in (row for row in case["against"] if row.get("kind") in RESIZED and not row.get("skipped")):
            here = "the guide's baseline, measured here" if row["kind"] == "baseline" else "here"
            name = f"{here}: {row['name']}, {case['case']}"
            if any(math.isfinite(number(row.get(f"small_{key}"))) for key in SCORES):
                size = " x ".join(map(str, row.get("small_size") or []))
                rows.append([name, f"small, {size}", *_scores(row, "small_"), *_codes(row)])
            rows.append([name, "full", *_scores(row), *_codes(row)])
        rows += [
            [f"here: {row['name']}, {case['case']}", "full", *_scores(row), *_codes(case)]
            for row in case["against"]
            if row.get("kind") == "model" and not row.get("skipped")
        ]
    if not any(row.get("kind") == "baseline" for case in cases for row in case["against"]):
        return []
    return [
        Text(
            f"The guide: {GUIDE}. Its baseline brings a volume to 256 x 256 x 64 voxels first and is scored on that "
            "small grid: what was lost by resizing does not count. Only numbers of the full grid can be compared with "
            "the model's; the guide's own data are others, so its rows show the size to expect and no more."
        ),
        Table(
            "The guide's numbers beside those measured here.",
            ["what", "grid", *map(heading, (*SCORES, *CODES))],
            [*map(list, QUOTED), *rows],
        ),
    ]


def _scores(row: Row, prefix: str = "") -> list[str]:
    return [tell(row.get(f"{prefix}{key}"), form) for key, form in SCORES.items()]


def _codes(row: Row) -> list[str]:
    """Use of the codebook; nothing where there are no codes."""
    return [show(key, row[key]) if row.get(key) is not None else "" for key in CODES]


_COLUMNS = (
    *("setting", "bits/voxel", "PSNR [dB]", "SSIM", "MAE [HU]", "RMSE [HU]"),
    *("body PSNR [dB]", "body MAE [HU]", "noise power", "time [s]"),
)
_FORMS = {
    **{"bits_per_voxel": ".4f", "psnr": ".2f", "ssim": ".4f", "mae_hu": ".1f", "rmse_hu": ".1f"},
    **{"body_psnr": ".2f", "body_mae_hu": ".1f", "nps_ratio": ".2f", "seconds": ".1f"},
}


def _row(row: Row) -> list[str]:
    return [row["name"], row.get("setting") or "", *(tell(row.get(key), form) for key, form in _FORMS.items())]


def at_rate(points: Sequence[Row], bits: float, key: str) -> tuple[float, float]:
    """What a rival reaches at a rate: (value, at which bits per voxel).

    Between two measured points it is interpolated along the logarithm of the rate; beyond them the nearest point counts
    if its rate is at most a quarter off. (NaN, NaN) otherwise.
    """
    known = sorted((b, v) for p in points if math.isfinite(v := number(p.get(key))) and (b := _bits(p)) > 0)
    for (low, before), (high, after) in itertools.pairwise(known):
        if low <= bits <= high:
            share = math.log(bits / low) / math.log(high / low) if high > low else 0.0
            return before + share * (after - before), bits
    near = min(known, key=lambda point: abs(math.log(point[0] / bits)), default=(math.nan, math.nan))
    return near[::-1] if abs(near[0] / bits - 1) <= NEAR else (math.nan, math.nan)


def _bits(row: Row) -> float:
    return number(row.get("bits_per_voxel"))


def standing(rows: Sequence[Row]) -> list[str]:
    """How each version of the model stands against every rival at its rate: a sentence each, win or lose."""
    rows = [row for row in rows if not row.get("skipped")]
    rivals: dict[str, list[Row]] = {}
    for row in rows:
        if row.get("kind") != "model":
            rivals.setdefault(row["name"], []).append(row)
    sentences = []
    for model in (row for row in rows if row.get("kind") == "model"):
        bits, psnr = _bits(model), number(model.get("psnr"))
        if bits > 0 and math.isfinite(psnr):
            duels = {name: _duel(model, name, points) for name, points in rivals.items()}
            told = [text for text in duels.values() if text]
            told += [_far(name, rivals[name], bits) for name, text in duels.items() if not text]
            if told:
                sentences.append(f"{model['name']} with {psnr:.2f} dB at {bits:.4f} bits/voxel: {'; '.join(told)}.")
    return sentences


def _far(name: str, points: Sequence[Row], bits: float) -> str:
    """That a rival has no point near the model's rate, and which is the nearest."""
    rates = [rate for point in points if (rate := _bits(point)) > 0 and math.isfinite(number(point.get("psnr")))]
    if not rates:
        return f"{name}: no point with a rate and a finite PSNR"
    which = "only one" if len(rates) == 1 else "lowest" if min(rates) > bits else "highest"
    rate = max(rates) if which == "highest" else min(rates)
    return f"{name}: no point near this rate (its {which} is {rate:.4f} bits/voxel)"


def _duel(model: Row, name: str, points: Sequence[Row]) -> str:
    """Win or lose against one rival; empty if that has no point near the model's rate."""
    bits = _bits(model)
    psnr, rate = at_rate(points, bits, "psnr")
    if math.isnan(psnr):
        return ""
    gap = number(model.get("psnr")) - psnr
    verdict = "equals" if abs(gap) < EQUAL_DB else "beats" if gap > 0 else "loses to"
    by = "" if verdict == "equals" else f" by {abs(gap):.1f} dB"
    mae, other = number(model.get("body_mae_hu")), at_rate(points, bits, "body_mae_hu")[0]
    body = f"; body MAE {mae:.1f} against {other:.1f} HU" if math.isfinite(mae + other) else ""
    return f"{verdict} {name}{by} ({psnr:.2f} dB{'' if rate == bits else f' at {rate:.4f}'}{body})"
