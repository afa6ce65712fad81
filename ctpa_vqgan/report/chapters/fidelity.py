"""The chapters about HU: case by case, tissue by tissue, window by window, label by label."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ctpa_vqgan.report.blocks import Chapter, Table, Text
from ctpa_vqgan.report.chapters.goals import ADEQUATE_HU, PULMONARY, enhancement
from ctpa_vqgan.report.columns import describe, heading, show
from ctpa_vqgan.report.results import is_metric
from ctpa_vqgan.report.values import (
    NOTHING,
    between,
    count,
    dig,
    mean,
    number,
    numbers,
    tell,
    versions,
    worst_first,
)

HEADLINES = (
    *("psnr", "ssim", "mae_hu", "rmse_hu", "body_psnr", "body_ssim", "body_mae_hu", "body_rmse_hu"),
    *("decoded_psnr", "decoded_ssim", "decoded_mae_hu", "decoded_rmse_hu"),
)
VOLUMES = ("clipped_share", "seconds", "decoded_seconds")


def left_out(metrics: Mapping[str, Any], keys: Iterable[str]) -> list[str]:
    """One sentence for each of these metrics whose mean is not over all cases."""
    total = len(metrics["cases"])
    return [
        f"{heading(key)}: {amount} of {total} cases {why}, left out of the mean."
        for entry, why in (("num_infinite", "infinite (identical volumes)"), ("num_missing", "without a value"))
        for key, amount in metrics.get(entry, {}).items()
        if key in keys
    ]


def case_table(metrics: Mapping[str, Any], keys: Sequence[str], caption: str) -> Table:
    """A row for each case, worst first, and the mean of several."""
    rows = [[case["case"], *(show(key, case.get(key)) for key in keys)] for case in worst_first(metrics["cases"])]
    means = [show(key, metrics["mean"][key]) if key in metrics["mean"] else "" for key in keys]
    header = ["case", *map(heading, keys)]
    if len(rows) == 1:
        return Table(caption, header, rows)
    return Table(caption, header, [*rows, [f"mean of {len(rows)}", *means]], ends_in_mean=True)


def found_keys(metrics: Mapping[str, Any], wanted: Sequence[str]) -> list[str]:
    """Those of the wanted metrics that some case has."""
    return [key for key in wanted if any(key in case for case in metrics["cases"])]


def cases_chapter(metrics: Mapping[str, Any]) -> Chapter:
    """Headline numbers of every case, and what the volumes are."""
    keys = found_keys(metrics, HEADLINES)
    every = dict.fromkeys(key for case in metrics["cases"] for key in case if key != "case")
    keys += [k for k in every if not describe(k)[1].definition and all(is_metric(c.get(k)) for c in metrics["cases"])]
    blocks = [case_table(metrics, keys, "Every case, lowest PSNR first."), *_volumes(metrics)]
    if sentences := left_out(metrics, keys):
        blocks.append(Text(" ".join(sentences)))
    blocks.append(Text("The same numbers and more, unrounded: metrics.json and per_case.csv."))
    return Chapter("Case by case", blocks)


def _volumes(metrics: Mapping[str, Any]) -> list[Table]:
    cases = worst_first(metrics["cases"])
    columns: dict[str, list[str]] = {
        "voxels": [" x ".join(map(str, case.get("shape") or [])) for case in cases],
        "voxel [mm]": [" x ".join(tell(mm, ".2f") for mm in case.get("spacing_mm") or []) for case in cases],
        "worst axial slice (MAE)": [_worst_slice(case) for case in cases],
    }
    columns = {name: cells for name, cells in columns.items() if any(cells)}
    columns |= {heading(k): [show(k, case.get(k)) for case in cases] for k in found_keys(metrics, VOLUMES)}
    rows = [[case["case"], *cells] for case, *cells in zip(cases, *columns.values())]
    return [Table("The volumes.", ["case", *columns], rows)] if columns else []


def _worst_slice(case: Mapping[str, Any]) -> str:
    errors = numbers(dig(case, "reconstruction", "by_slice", "mae_hu"))
    errors = [(error, index) for index, error in enumerate(errors) if math.isfinite(error)]
    return f"{max(errors)[1] + 1} of {len(errors)} ({max(errors)[0]:.1f} HU)" if errors else ""


def summaries(metrics: Mapping[str, Any], *path: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The error summaries under this path, with the case's name; those of no voxel are left out."""
    found = [(case["case"], dig(case, *path)) for case in metrics["cases"]]
    return [(case, summary) for case, summary in found if number(dig(summary, "num_voxels")) > 0]


def average(found: Iterable[tuple[str, Mapping[str, Any]]], key: str) -> float:
    """Mean over cases of one entry of their error summaries."""
    return mean(number(summary.get(key)) for _, summary in found)


def farthest(found: Sequence[tuple[str, Mapping[str, Any]]]) -> tuple[float, str]:
    """The bias farthest from 0, and whose it is."""
    biases = [(number(summary.get("bias_hu")), case) for case, summary in found]
    return max((b for b in biases if math.isfinite(b[0])), key=lambda b: abs(b[0]), default=(math.nan, ""))


def _errors(found: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    low, high = (average(found, key) for key in ("low_95_hu", "high_95_hu"))
    return [tell(average(found, "bias_hu"), "+.2f"), tell(average(found, "mae_hu"), ".2f"), between(low, high, "+.0f")]


ERRORS = ["bias [HU]", "MAE [HU]", "95 % of errors [HU]"]


def _names(metrics: Mapping[str, Any], part: str) -> list[str]:
    """Names under a part, from the reconstruction and the decoded volume of all cases."""
    return list(dict.fromkeys(n for c in metrics["cases"] for v in versions(metrics) for n in dig(c, v, part) or {}))


def tissues_chapter(metrics: Mapping[str, Any]) -> Chapter | None:
    """Signed error by tissue and by display window."""
    from ctpa_vqgan.metrics.tissues import DISPLAY_WINDOWS, TISSUES_HU  # here: it loads torch, which takes a second

    shown, names = versions(metrics), _names(metrics, "tissues")
    if not names:
        return None
    voxels = sum(number(s["num_voxels"]) for _, s in summaries(metrics, shown[0], "regions", "whole")) or math.nan
    rows = []
    for part, name in [*(("regions", region) for region in ("whole", "body")), *(("tissues", name) for name in names)]:
        found = {version: summaries(metrics, version, part, name) for version in shown}
        bias, case = farthest(found[shown[0]])
        share = sum(number(summary["num_voxels"]) for _, summary in found[shown[0]]) / voxels
        limits = "" if part == "regions" else _range(TISSUES_HU.get(name))
        largest = f"{tell(bias, '+.2f')} ({case})" if case else NOTHING
        mean_bias, *others = (cell for version in shown for cell in _errors(found[version]))
        rows.append([name.replace("_", " "), limits, tell(share, ".1%"), mean_bias, largest, *others])
    header = ["tissue", "HU of the original", "voxels", ERRORS[0], "largest bias (case)", *ERRORS[1:]]
    header += [f"decoded: {name}" for name in ERRORS] * (len(shown) > 1)
    blocks = [
        Text(
            "Error = after - before. A positive bias: the tissue came back brighter. A tissue is told by the "
            "original's HU; noise that is smoothed away shows as a bias of narrow ranges. Numbers are means over cases."
        ),
        Table("Error by tissue.", header, rows),
    ]
    rows = []
    for name in _names(metrics, "windows"):
        level, width = DISPLAY_WINDOWS.get(name, (math.nan, math.nan))
        body = {version: summaries(metrics, version, "body_windows", name) for version in shown}
        whole = average(summaries(metrics, shown[0], "windows", name), "mae_hu")
        cells = [f"W{width:g} L{level:g}", tell(average(body[shown[0]], "psnr"), ".2f"), tell(whole, ".2f")]
        rows.append([name, *cells, *(cell for version in shown for cell in _errors(body[version]))])
    header = ["window", "HU", "PSNR [dB]", "MAE, all voxels [HU]", *ERRORS]
    header += [f"decoded: {name}" for name in ERRORS] * (len(shown) > 1)
    if rows:
        blocks.append(
            Table("Error inside the body, by display window: both volumes cut to what it shows.", header, rows)
        )
    return Chapter("HU by tissue and window", blocks, ("bias", "limits_95", "tissue", "body", "window"))


def _range(limits: Sequence[float] | None) -> str:
    low, high = limits or (math.nan, math.nan)
    return f"below {high:g}" if low == -math.inf else f"from {low:g}" if high == math.inf else f"{low:g} to {high:g}"


def labels_chapter(metrics: Mapping[str, Any]) -> Chapter | None:
    """Mean HU of labelled structures before and after, and whether an adequate enhancement stays adequate."""
    shown = versions(metrics)
    rows, num, flips = [], 0, 0
    for case in worst_first(metrics["cases"]):
        for name, summary in (dig(case, "reconstruction", "labels") or {}).items():
            means = [dig(summary, "original_mean_hu"), *(dig(case, v, "labels", name, "mean_hu") for v in shown)]
            before, after = number(means[0]), number(means[1])
            cells = [tell(mean_hu, ".1f") for mean_hu in means]
            cells += [tell(after - before, "+.1f"), tell(dig(summary, "mae_hu"), ".1f")]
            rows.append([name.replace("_", " "), case["case"], tell(dig(summary, "num_voxels"), ",.0f"), *cells])
            answers = ["yes" if value >= ADEQUATE_HU else "no" for value in (before, after)]
            rows[-1].append(" → ".join(answers) if name in PULMONARY and not math.isnan(before + after) else "")
        for _, before, after in enhancement(case, "reconstruction"):
            num, flips = num + 1, flips + ((before >= ADEQUATE_HU) != (after >= ADEQUATE_HU))
    if not rows:
        return None
    blocks: list = [
        Table(
            "Mean HU of labelled structures.",
            [
                *("label", "case", "voxels", "before [HU]", *("after [HU]", "decoded [HU]")[: len(shown)]),
                *("change [HU]", "MAE [HU]", f"adequate (≥ {ADEQUATE_HU} HU), before → after"),
            ],
            rows,
        )
    ]
    if num:
        blocks.insert(
            0,
            Text(
                f"Enhancement of the pulmonary artery is adequate from a mean of {ADEQUATE_HU} HU (Lloyd et al. 2012): "
                f"the answer changed in {flips} of {count(num, 'label')}."
            ),
        )
    return Chapter("Labelled structures", blocks, ("bias",))
