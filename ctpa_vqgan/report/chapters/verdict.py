"""The first chapter: what a reader in a hurry must know, good and bad."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ctpa_vqgan.report.blocks import Block, Chapter, Facts, Heading, Table, Terms, Text
from ctpa_vqgan.report.chapters.against import standing
from ctpa_vqgan.report.chapters.fidelity import average, summaries
from ctpa_vqgan.report.chapters.goals import ADEQUATE_HU, BIAS_HU, UNMEASURED, enhancement, judged, nothing_met
from ctpa_vqgan.report.chapters.quality import spread
from ctpa_vqgan.report.chapters.seams import planes_found, seam_sentence
from ctpa_vqgan.report.columns import show
from ctpa_vqgan.report.values import HU_RANGE, count, dig, mean, number, numbers, tell, versions, worst_first

INTRODUCTION = (
    "A CT volume was turned into integer codes of a learned codebook and back into a volume. This page compares the "
    "volume that came back with the one that went in. Values are in Hounsfield units (HU: air -1000, water 0, "
    "contrast-filled vessels about 300)."
)


def verdict_chapter(metrics: Mapping[str, Any], settings: Mapping[str, Any]) -> Chapter:
    """The key numbers, what they mean in a few lines, and the field's goals."""
    shown = versions(metrics)
    marks = judged(metrics, shown) if shown or metrics.get("phantoms") else []
    asked = [(goal, found) for goal, found in marks if any(mark.met is not None for mark in found)]
    blocks: list[Block] = [
        Text(" ".join([INTRODUCTION, *_other_range(settings)])),
        Facts(_facts(metrics, asked)),
        Terms(_sentences(metrics)),
    ]
    if asked:
        titles = ["sliding windows" if version == "reconstruction" else "decoded codes" for version in shown]
        blocks += [
            Heading("Goals"),
            Text(
                "What radiology asks of a compressed CT, and what this project asks of itself. The source is of the "
                "measure; limits are this project's, but for the enhancement's. A goal is met only if every value "
                "meets it, and the worst one is shown; too much of sharpness, contrast or noise counts as an error too."
            ),
            Table(
                "Goals, met or not.",
                ["goal", *titles, "source"],
                [[f"{goal.name}: {goal.target}", *found, goal.source] for goal, found in marks],
            ),
            Text(UNMEASURED),
        ]
    return Chapter("In short", blocks)


def _other_range(settings: Mapping[str, Any]) -> list[str]:
    """That the network sees another range than is scored, if so."""
    seen = numbers(settings.get("hu_window"))
    if len(seen) != 2 or tuple(seen) == HU_RANGE:
        return []
    return [f"Scored on {HU_RANGE[0]} to {HU_RANGE[1]} HU; the network sees {seen[0]:g} to {seen[1]:g}."]


def _facts(metrics: Mapping[str, Any], asked: list) -> list[tuple[str, str, str]]:
    num = len(metrics["cases"])
    note = f"mean of {num}" if num > 1 else ""
    facts = [
        (label, value, note)
        for label, key, unit in (
            ("PSNR", "psnr", " dB"),
            ("SSIM", "ssim", ""),
            ("MAE in the body", "body_mae_hu", " HU"),
            ("MAE", "mae_hu", " HU"),
            ("smaller than the scan", "compression_ratio", " times"),
            ("codes used", "usage", ""),
        )
        if not math.isnan(number(mean_of := metrics["mean"].get(key))) and (value := f"{show(key, mean_of)}{unit}")
    ]
    if "body_mae_hu" in metrics["mean"]:
        facts = [fact for fact in facts if fact[0] != "MAE"]
    lowest = worst_first(metrics["cases"])[0] if num > 1 else {}
    if not math.isnan(psnr := number(lowest.get("psnr"))):
        facts.append(("lowest PSNR", tell(psnr, ".2f", " dB"), lowest["case"]))
    planes = planes_found(metrics, "reconstruction")
    if why := nothing_met(metrics, "reconstruction"):
        facts.append(("seams", "not measured", why))
    elif planes is not None:
        facts.append(("seams found", str(len(planes)), "where windows meet"))
    if asked:
        met = sum(all(mark.met is not False for mark in found) for _, found in asked)
        facts.append(("goals met", f"{met} of {len(asked)}", "see below"))
    return facts


def _sentences(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    told = {
        "Fidelity": _fidelity(metrics),
        "Worst case": _worst(metrics),
        "HU by tissue": _bias(metrics),
        "Pulmonary artery": _enhancement(metrics),
        "Seams": seam_sentence(metrics, "reconstruction"),
        "Sharpness": _sharpness(metrics),
        "Noise": _noise(metrics),
        "Emboli": _emboli(metrics),
        "Against others": _standing(metrics),
        "Refused": _refused(metrics),
    }
    return [(name, text) for name, text in told.items() if text]


def _fidelity(metrics: Mapping[str, Any]) -> str:
    means = metrics["mean"]
    scores = [
        ("PSNR {} dB", "psnr"),
        ("SSIM {}", "ssim"),
        ("MAE {} HU", "mae_hu"),
        ("{} HU inside the body", "body_mae_hu"),
    ]
    told = [text.format(show(key, means[key])) for text, key in scores if not math.isnan(number(means.get(key)))]
    text = f"{count(len(metrics['cases']), 'case')}" + (f"; mean {', '.join(told)}." if told else ".")
    if identical := dig(metrics, "num_infinite", "psnr"):
        text += f" {count(identical, 'volume')} came back identical."
    if not math.isnan(number(decoded := means.get("decoded_psnr"))):
        text += f" Decoded from the codes alone: PSNR {show('psnr', decoded)} dB."
    return text


def _worst(metrics: Mapping[str, Any]) -> str:
    first = worst_first(metrics["cases"])[0] if len(metrics["cases"]) > 1 else {}
    if math.isnan(psnr := number(first.get("psnr"))):
        return ""
    mae = f", MAE in the body {tell(first['body_mae_hu'], '.1f')} HU" if number(first.get("body_mae_hu")) >= 0 else ""
    return f"{first['case']}, PSNR {tell(psnr, '.2f')} dB{mae}."


def _bias(metrics: Mapping[str, Any]) -> str:
    names = dict.fromkeys(name for case in metrics["cases"] for name in dig(case, "reconstruction", "tissues") or {})
    biases = {n: average(summaries(metrics, "reconstruction", "tissues", n), "bias_hu") for n in names}
    told = [f"{name.replace('_', ' ')} {tell(bias, '+.1f')}" for name, bias in biases.items() if math.isfinite(bias)]
    if not told:
        return ""
    far = max(abs(bias) for bias in biases.values() if math.isfinite(bias))
    shifted = f"Some tissue is shifted by more than {BIAS_HU} HU on average"
    start = shifted if far > BIAS_HU else f"Every mean bias is within {BIAS_HU} HU"
    return f"{start}: {', '.join(told)} HU."


def _enhancement(metrics: Mapping[str, Any]) -> str:
    found = [found for case in metrics["cases"] for found in enhancement(case, "reconstruction")]
    if not found:
        return ""
    flips = sum((before >= ADEQUATE_HU) != (after >= ADEQUATE_HU) for _, before, after in found)
    before, after = (mean(means) for means in list(zip(*found))[1:])
    return (
        f"Mean {before:.0f} HU before, {after:.0f} HU after; whether it is adequately enhanced (≥ {ADEQUATE_HU} HU) "
        f"changes in {flips} of {len(found)}."
    )


def _sharpness(metrics: Mapping[str, Any]) -> str:
    kept = spread(metrics, "edges", "mtf50_ratio")
    return f"Edges of the phantoms keep {kept} of their MTF50 (1: as sharp as before)." if kept else ""


def _noise(metrics: Mapping[str, Any]) -> str:
    told = []
    if kept := spread(metrics, "noise", "nps_ratio"):
        told.append(f"{kept} of its power comes back in phantoms")
    if math.isfinite(kept := number(metrics["mean"].get("nps_ratio"))):
        told.append(f"{kept:.2f} in flat regions of patients")
    return f"{', '.join(told)} (1: the same texture; below: smoother)." if told else ""


def _emboli(metrics: Mapping[str, Any]) -> str:
    entries = dig(metrics, "phantoms", "reconstruction", "emboli") or []
    told = [f"{entry['diameter_mm']:g} mm {tell(entry.get('recovery'), '.2f')}" for entry in entries]
    return f"Share of their contrast that is kept, by size: {', '.join(told)}." if told else ""


def _standing(metrics: Mapping[str, Any]) -> str:
    """Of the worst case that was compared: the chapter on rivals has them all."""
    for case in worst_first(metrics["cases"]):
        if sentences := standing(case.get("against") or []):
            return f"{case['case']}, {sentences[0]}"
    return ""


def _refused(metrics: Mapping[str, Any]) -> str:
    refused = metrics.get("refused") or []
    return f"{count(len(refused), 'volume')} could not be evaluated, left out of every number." if refused else ""
