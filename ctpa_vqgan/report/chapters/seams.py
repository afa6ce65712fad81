"""The chapter about seams: whether one sees where windows and tiles met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ctpa_vqgan.report.blocks import Block, Chapter, Table, Text
from ctpa_vqgan.report.chapters.goals import meets_nothing, nothing_met
from ctpa_vqgan.report.values import NOTHING, count, dig, number, numbers, tell, versions, worst_first

MAX_PLANES = 20


def planes_found(metrics: Mapping[str, Any], version: str) -> list[tuple[str, Mapping[str, Any]]] | None:
    """Every seam found, strongest first, with its case; None if none was looked for or nothing met anywhere."""
    looked = [
        (case["case"], seams["found"])
        for case in metrics["cases"]
        if (seams := dig(case, version, "seams")) and seams.get("found") is not None and not meets_nothing(seams)
    ]
    planes = [(case, plane) for case, found in looked for plane in found]
    return sorted(planes, key=lambda item: -number(item[1].get("hu"))) if looked else None


def seams_chapter(metrics: Mapping[str, Any]) -> Chapter | None:
    """Seam index and seams found, tiles against the whole, shift test."""
    blocks: list[Block] = []
    for version in versions(metrics):
        name = "sliding windows" if version == "reconstruction" else "codes of exact tiles, decoded"
        found = [(case["case"], dig(case, version, "seams")) for case in worst_first(metrics["cases"])]
        if rows := [[case, *_row(seams)] for case, seams in found if seams]:
            header = ["case", "seams [HU]", "index X", "index Y", "index Z", "window planes", "found"]
            blocks.append(Table(f"Seams of the {name}.", header, rows))
        if planes := planes_found(metrics, version):
            more = f" The strongest {MAX_PLANES} of {len(planes)}." if len(planes) > MAX_PLANES else ""
            header = ["case", "axis", "between voxels", "height [HU]", "in SDs"]
            rows = [[case, *_plane(plane)] for case, plane in planes[:MAX_PLANES]]
            blocks.append(Table(f"Seams found, {name}.{more}", header, rows))
    if rows := [_agreement(case) for case in worst_first(metrics["cases"]) if case.get("tiles") or case.get("shift")]:
        header = [
            "case",
            "windows - tiles, mean [HU]",
            "largest [HU]",
            "shift SD, mean [HU]",
            "95 % below [HU]",
            "voxels",
        ]
        blocks += [
            Text(
                "A low seam index does not prove that windows agree: blending hides a disagreement. So the result is "
                "compared with exact tiles, and windows are moved."
            ),
            Table("Agreement of windows with exact tiles and with themselves when moved.", header, rows),
        ]
    skipped = [(case["case"], why) for case in worst_first(metrics["cases"]) if (why := dig(case, "shift", "skipped"))]
    blocks += [Text(f"{case}: no shift test, {why}.") for case, why in skipped]
    return Chapter("Seams", blocks, ("seams",)) if blocks else None


def _row(seams: Mapping[str, Any]) -> list[str]:
    ratios = [tell(ratio, ".3f") for ratio in numbers(seams.get("ratio"))]
    ratios += [NOTHING] * (3 - len(ratios))
    found = NOTHING if meets_nothing(seams) else str(len(seams.get("found") or []))
    return [tell(seams.get("hu"), ".2f"), *ratios, str(seams.get("num_planes", "")), found]


def _plane(plane: Mapping[str, Any]) -> list[str]:
    axis, index = int(number(plane.get("axis"))), int(number(plane.get("plane")))
    return ["XYZ"[axis], f"{index - 1} and {index}", tell(plane.get("hu"), ".1f"), tell(plane.get("z"), ".1f")]


def _agreement(case: Mapping[str, Any]) -> list[str]:
    tiles = [tell(dig(case, "tiles", key), ".3f") for key in ("mean_hu", "max_hu")]
    shift = [tell(dig(case, "shift", key), ".3f") for key in ("mean_hu", "p95_hu")]
    return [case["case"], *tiles, *shift, tell(dig(case, "shift", "num_voxels"), ",.0f")]


def seam_sentence(metrics: Mapping[str, Any], version: str) -> str:
    """Seams found or none, or that none could be, in one sentence; empty if none was looked for."""
    if why := nothing_met(metrics, version):
        return f"Not measured: {why}."
    planes = planes_found(metrics, version)
    if planes is None:
        return ""
    if not planes:
        alone = sum(meets_nothing(dig(case, version, "seams")) for case in metrics["cases"])
        return "None found where windows meet" + (f"; in {count(alone, 'case')} nothing met." if alone else ".")
    case, plane = planes[0]
    axis, between, height, _ = _plane(plane)
    cases = len({case for case, _ in planes})
    return (
        f"{count(len(planes), 'seam')} found in {count(cases, 'case')}; the highest has {height} HU "
        f"(axis {axis}, between voxels {between}, {case})."
    )
