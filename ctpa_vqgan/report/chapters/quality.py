"""The chapter about sharpness, noise and structure, on phantoms and on patients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ctpa_vqgan.report.blocks import Block, Chapter, Heading, Table, Text
from ctpa_vqgan.report.columns import show
from ctpa_vqgan.report.values import VERSIONS, between, dig, number, numbers, tell, versions, worst_first

Columns = Sequence[tuple[str, str, str]]  # heading, key, format

EDGES: Columns = (
    ("at [HU]", "background_hu", ".0f"),
    ("contrast [HU]", "contrast_hu", "+.0f"),
    ("MTF50 before [1/mm]", "original_mtf50_per_mm", ".3f"),
    ("after [1/mm]", "mtf50_per_mm", ".3f"),
    ("after / before", "mtf50_ratio", ".3f"),
    ("its error", "mtf50_ratio_error", ".3f"),
)
NOISE: Columns = (
    ("SD before [HU]", "sd_hu", ".1f"),
    ("SD after / before", "sd_ratio", ".3f"),
    ("noise power after / before", "nps_ratio", ".3f"),
    ("mean frequency after / before", "mean_frequency_ratio", ".3f"),
)
DISKS: Columns = (
    ("contrast [HU]", "contrast_hu", ".0f"),
    ("contrast kept", "recovery", ".2f"),
    ("CNR before", "original_cnr", ".2f"),
    ("CNR after", "cnr", ".2f"),
    ("d' before", "original_dprime", ".2f"),
    ("d' after", "dprime", ".2f"),
    ("d' after / before", "dprime_ratio", ".2f"),
)
EMBOLI: Columns = (
    ("vessel [mm]", "vessel_mm", ".0f"),
    ("clot [HU]", "clot_hu", ".0f"),
    ("blood [HU]", "blood_hu", ".0f"),
    ("contrast kept", "recovery", ".3f"),
    ("SD over positions", "recovery_sd", ".3f"),
    ("positions", "count", ".0f"),
)
LINEARITY: Columns = (
    ("slope", "slope", ".4f"),
    ("intercept [HU]", "intercept_hu", "+.2f"),
    ("largest residual of the line [HU]", "max_residual_hu", ".2f"),
    ("largest deviation from the truth [HU]", "max_deviation_hu", ".2f"),
)
# part of the phantoms, caption, what names a row, its columns, the column that is shown of the decoded codes too
PHANTOMS = (
    ("edges", "Sharpness: how fine a detail keeps half its contrast.", "edge", "{shape}", EDGES, "mtf50_ratio"),
    ("noise", "Noise: how much of it comes back, and how coarse.", "at", "{background_hu:g} HU", NOISE, "nps_ratio"),
    ("disks", "Low contrast in noise, as in the MITA phantom.", "disk", "{diameter_mm:g} mm", DISKS, "dprime_ratio"),
    ("emboli", "Emboli in contrast-filled vessels.", "embolus", "{diameter_mm:g} mm", EMBOLI, "recovery"),
)


def quality_chapter(metrics: Mapping[str, Any]) -> Chapter | None:
    """What happens to edges, noise, faint disks and emboli of known truth, and to the structure of patients."""
    phantoms, patients = _phantoms(metrics), _patients(metrics)
    if not phantoms and not patients:
        return None
    terms = ("mtf50", "nps", "linearity", "dprime", "emboli") if phantoms else ("nps",)
    terms += ("perc15", "residual") if patients else ()
    return Chapter("Sharpness, noise and structure", [*phantoms, *patients], terms)


def _phantoms(metrics: Mapping[str, Any]) -> list[Block]:
    measured = [version for version in VERSIONS if dig(metrics, "phantoms", version)]
    if not measured:
        return []
    first, *others = [metrics["phantoms"][version] for version in measured]
    spacing = " x ".join(tell(mm, ".2f") for mm in first.get("spacing_mm") or [])
    blocks: list[Block] = [
        Heading("Phantoms of known truth"),
        Text(
            "Shapes of known size, contrast and noise were sent through the network"
            f"{f' (voxels of {spacing} mm)' if spacing else ''}. A ratio of 1 means: nothing was lost. A network that "
            "is not linear must be asked at every contrast."
        ),
    ]
    for part, caption, name, label, columns, key in PHANTOMS:
        if entries := first.get(part):
            (form,) = [form for _, k, form in columns if k == key]
            rows = []
            for i, entry in enumerate(entries):
                cells = [tell(entry.get(k), form) for _, k, form in columns]
                cells += [tell(dig(dict(enumerate(other.get(part) or [])), i, key), form) for other in others]
                rows.append([label.format(**entry), *cells])
            titles = [title for title, _, _ in columns]
            titles += [f"decoded: {title}" for title, k, _ in columns if k == key for _ in others]
            blocks.append(Table(caption, [name, *titles], rows))
    if first.get("linearity"):
        rows = [[v, *(tell(dig(metrics, "phantoms", v, "linearity", k), f) for _, k, f in LINEARITY)] for v in measured]
        blocks.append(Table("Linearity: HU after against HU before.", ["volume", *(t for t, _, _ in LINEARITY)], rows))
    return blocks


def _patients(metrics: Mapping[str, Any]) -> list[Block]:
    blocks: list[Block] = []
    for version in versions(metrics):
        found = [(case["case"], dig(case, version, "structure")) for case in worst_first(metrics["cases"])]
        found = [(case, structure) for case, structure in found if structure]
        if found:
            name = "the reconstruction" if version == "reconstruction" else "the decoded codes"
            blocks += [
                Table(f"Lungs and vessels, {name}.", ["case", *_LUNGS], [[c, *_lungs(s)] for c, s in found]),
                Table(f"Noise and residual, {name}.", ["case", *_TEXTURE], [[c, *_texture(s)] for c, s in found]),
            ]
    return [Heading("Patients"), *blocks] if blocks else []


_LUNGS = (
    *("lungs [ml]", "%LAA-950, before → after", "shift [points]", "perc15 [HU], before → after", "shift [HU]"),
    *("vessels [ml], before → after", "Dice", "clDice"),
)
_TEXTURE = (
    *("flat regions", "SD after / before", "noise power after / before", "mean frequency after / before"),
    *("r with anatomy", "r with edges"),
)


def _change(entry: Any, before: str, after: str, form: str) -> str:
    return f"{tell(dig(entry, before), form)} → {tell(dig(entry, after), form)}"


def _lungs(structure: Mapping[str, Any]) -> list[str]:
    laa, perc, vessels = (structure.get(key) for key in ("laa950", "perc15", "vessels"))
    return [
        tell(structure.get("lung_ml"), ",.0f"),
        _change(laa, "original_percent", "percent", ".2f"),
        show("laa950_shift_pp", dig(laa, "shift_pp")),
        _change(perc, "original_hu", "hu", ".0f"),
        tell(dig(perc, "shift_hu"), "+.1f"),
        _change(vessels, "original_ml", "ml", ".1f"),
        *(tell(dig(vessels, key), ".3f") for key in ("dice", "cldice")),
    ]


def _texture(structure: Mapping[str, Any]) -> list[str]:
    noise, residual = structure.get("noise"), structure.get("residual")
    return [
        tell(dig(noise, "num_regions"), ".0f"),
        *(tell(dig(noise, key), ".3f") for key in ("sd_ratio", "nps_ratio", "mean_frequency_ratio")),
        *(tell(dig(residual, key), "+.3f") for key in ("anatomy_r", "gradient_r")),
    ]


def kept(entry: Mapping[str, Any], key: str) -> float:
    """What a phantom kept; 0 of the MTF50 where the network left no edge at all, NaN where it could not be measured."""
    value = number(entry.get(key))
    curve = numbers(entry.get("reconstruction"))
    lost = key == "mtf50_ratio" and curve and all(map(math.isnan, curve))
    return 0.0 if lost else value


def spread(metrics: Mapping[str, Any], part: str, key: str) -> str:
    """Smallest and largest value of one entry over the phantoms of a part, for a sentence; empty if there is none."""
    found = [kept(entry, key) for entry in dig(metrics, "phantoms", VERSIONS[0], part) or []]
    found = [value for value in found if not math.isnan(value)]
    if not found:
        return ""
    low, high = min(found), max(found)
    return tell(low, ".2f") if tell(low, ".2f") == tell(high, ".2f") else between(low, high, ".2f")
