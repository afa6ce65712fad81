"""Draw a sweep: quality over time, with seams as colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.sheet import INK, PAPER, Sheet

MARKERS = {"gaussian": "o", "linear": "^", "constant": "s", "one window": "P", "exact tiles": "D"}
SEAMLESS, GREY = "exact tiles", "#9aa0a6"  # nothing is blended in them, so no colour of a seam is theirs
WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 12.8, 7.2, 0.9, 0.9, 1.4, 0.8  # inches


def save_figure(path: str | Path, rows: Sequence[dict[str, Any]], title: str, suggested: int | None = None) -> Path:
    """PSNR over the time of the whole case; a number stands for a row of the table, a ring for the front.

    Args:
        path: PNG file to write, whole or not at all.
        rows: of ``sweep.json``; those that failed are left out.
        title: first line.
        suggested: number of the row to mark.
    """
    shown = [row for row in rows if isinstance(row.get("psnr"), (int, float))]
    sheet = Sheet(WIDTH, HEIGHT)
    for line, text in enumerate(title.split("; ")):
        sheet.text(LEFT, 0.3 + 0.22 * line, text, fontsize=11)
    sheet.text(LEFT, 0.74, "Ring: on the front of PSNR, seam, time and memory.  Star: suggested.", fontsize=11)
    axes = sheet.axes(LEFT, TOP, WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM)
    axes.set_facecolor(PAPER)
    seams = [row["seam_hu"] for row in shown if row["seam_hu"] is not None and row["blend"] != SEAMLESS]
    limits = {"vmin": 0.0, "vmax": max([1.0, *seams]), "cmap": "YlOrRd"}
    points = None
    for kind, marker in MARKERS.items():
        some = [row for row in shown if row["blend"].startswith(kind)]
        if not some:
            continue
        x, y = ([row[key] for row in some] for key in ("case_seconds", "psnr"))
        if kind == SEAMLESS:
            axes.scatter(x, y, s=90, color=GREY, marker=marker, label=f"{kind} (seam: n/a)")
            continue
        colours = [math.nan if row["seam_hu"] is None else row["seam_hu"] for row in some]
        points = axes.scatter(x, y, s=90, c=colours, marker=marker, label=kind, plotnonfinite=True, **limits)
    for row in shown:
        place = (row["case_seconds"], row["psnr"])
        axes.annotate(str(row["number"]), place, (9, 9), textcoords="offset points", color=INK, fontsize=11)
        if row["number"] == suggested:
            axes.scatter(*place, s=900, marker="*", facecolors="none", edgecolors="#58a6ff", linewidths=1.8)
        if row["front"]:
            axes.scatter(*place, s=260, marker="o", facecolors="none", edgecolors=INK, linewidths=1.6)
    _dress(axes)
    if points is not None:
        _scale(sheet, points)
    return write_whole(path, sheet.png())


def _dress(axes: Any) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("{x:g}")
    axes.set_xlabel("time of the whole case [s]", color=INK, fontsize=12)
    axes.set_ylabel("PSNR [dB]", color=INK, fontsize=12)
    axes.tick_params(which="both", colors=INK, labelsize=11)
    axes.margins(0.08, 0.1)
    axes.grid(color=INK, alpha=0.15)
    for spine in axes.spines.values():
        spine.set_color(INK)
    if axes.get_legend_handles_labels()[0]:
        legend = axes.legend(facecolor=PAPER, labelcolor=INK, fontsize=11, loc="best")
        for handle in legend.legend_handles:  # a shape alone: the colour is the seam's
            handle.set_array(None)
            handle.set_color(GREY)


def _scale(sheet: Sheet, points: Any) -> None:
    bar = sheet.figure.colorbar(points, cax=sheet.axes(WIDTH - RIGHT + 0.25, TOP, 0.2, HEIGHT - TOP - BOTTOM))
    bar.set_label("seam [HU]", color=INK, fontsize=12)
    bar.ax.tick_params(colors=INK, labelsize=11)
    bar.outline.set_visible(False)
