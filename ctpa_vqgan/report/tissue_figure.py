"""Picture the error of each tissue: ``tissues.png``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.chapters.fidelity import average, summaries
from ctpa_vqgan.report.chapters.goals import BIAS_HU
from ctpa_vqgan.report.sheet import INK, VERSION_COLOURS, Sheet
from ctpa_vqgan.report.values import number, versions

NAMES = {"reconstruction": "reconstruction (sliding windows)", "decoded": "decoded codes (exact tiles)"}

TITLES = ("bias [HU]; dot: a case, tick: their mean, green: goal", "95 % of errors [HU]; white dot: mean bias")

# layout in inches
WIDTH, LEFT, TOP, BOTTOM, ROW, GAP = 12.8, 1.7, 1.25, 0.75, 0.75, 0.35


def save_tissue_figure(path: str | os.PathLike, cases: Sequence[Mapping[str, Any]]) -> Path:
    """Draw the bias of each tissue and where 95 % of its errors lie, before and after coding to codes.

    On the left the bias, one dot a case and a line at their mean, over the goal of 2 HU on either side; on the right
    the 2.5 to 97.5 percentiles of the error, mean over cases. 1280 pixels wide.

    Args:
        path: PNG file to write, whole or not at all; its folder is made if need be.
        cases: rows of an evaluation; ``row["reconstruction"]["tissues"]`` and, where there are codes,
            ``row["decoded"]["tissues"]`` hold an error summary by tissue.

    Returns:
        ``path``.

    Raises:
        ValueError: if no case has a tissue.
    """
    metrics = {"cases": cases}
    shown = versions(metrics)
    found = {
        (version, name): summaries(metrics, version, "tissues", name)
        for version in shown
        for case in cases
        for name in (case.get(version) or {}).get("tissues") or {}
    }
    names = list(dict.fromkeys(name for (_, name), with_voxels in found.items() if with_voxels))
    if not names:
        raise ValueError("no case has an error by tissue; give rows as tissue_fidelity fills them")
    sheet = Sheet(WIDTH, TOP + ROW * len(names) + BOTTOM)
    sheet.text(0.3, 0.42, f"Error by tissue, {len(cases)} case{'s' * (len(cases) != 1)}", fontsize=16)
    width = (WIDTH - LEFT - GAP - 0.3) / 2
    for column, title in enumerate(TITLES):
        axes = sheet.axes(LEFT + column * (width + GAP), TOP, width, ROW * len(names))
        _style(axes, title, names if column == 0 else [""] * len(names))
        for index, version in enumerate(shown):
            offset = (index - (len(shown) - 1) / 2) * 0.34
            for place, name in enumerate(names):
                draw = _draw_limits if column else _draw_bias
                draw(axes, place + offset, found.get((version, name), []), VERSION_COLOURS[version])
        axes.set_ylim(len(names) - 0.5, -0.5)
        limits = axes.get_xlim()
        axes.set_xlim(min(limits[0], -1.5 * BIAS_HU), max(limits[1], 1.5 * BIAS_HU))
    for index, version in enumerate(shown):
        sheet.text(LEFT + 4.2 * index, 0.82, f"■ {NAMES[version]}", color=VERSION_COLOURS[version])
    return write_whole(path, sheet.png())


def _style(axes, title: str, names: Sequence[str]) -> None:
    axes.set_facecolor("#1b1d22")
    axes.set_title(title, color=INK, fontsize=12, loc="left")
    axes.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
    axes.tick_params(colors=INK, labelsize=12, length=0)
    axes.spines[:].set_visible(False)
    axes.grid(axis="x", color="#3a3d45", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.axvline(0, color="#9aa0aa", linewidth=1)
    axes.axvspan(-BIAS_HU, BIAS_HU, color="#4f9d69", alpha=0.35, linewidth=0)
    axes.margins(x=0.08)


def _draw_bias(axes, place: float, found: Sequence[tuple[str, Mapping[str, Any]]], colour: str) -> None:
    biases = [number(summary.get("bias_hu")) for _, summary in found]
    axes.plot(biases, [place] * len(biases), "o", color=colour, markersize=6, alpha=0.85)
    axes.plot([average(found, "bias_hu")] * 2, [place - 0.15, place + 0.15], color=colour, linewidth=3)


def _draw_limits(axes, place: float, found: Sequence[tuple[str, Mapping[str, Any]]], colour: str) -> None:
    low, high = average(found, "low_95_hu"), average(found, "high_95_hu")
    axes.plot([low, high], [place, place], color=colour, linewidth=5, solid_capstyle="butt")
    axes.plot([average(found, "bias_hu")], [place], "o", color=INK, markersize=5)
