"""Picture what a tokenizer and its rivals make of the same bits: ``rates_<case>.png``."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.sheet import INK, Sheet
from ctpa_vqgan.report.values import number

PANELS = {
    "psnr": "PSNR of the whole volume [dB] (higher is better)",
    "body_mae_hu": "MAE in the body [HU] (lower is better)",
}
SHORT = {"psnr": ("left", "PSNR"), "body_mae_hu": ("right", "MAE in the body")}  # its panel and its name in a note
CODEC_COLOURS = ("#5aa9e6", "#7fd1ae", "#c9a0dc")
OTHERS = {
    # style of the first, the second, ... of a kind; the model's second is a ring, as it often lies on the first
    "model": (
        {"marker": "*", "ms": 18, "color": "#ff9f1c"},
        {"marker": "o", "ms": 21, "color": "#ff4d6d", "mfc": "none", "mew": 2},
        {"marker": "P", "ms": 13, "color": "#ffd166"},
    ),
    "baseline": ({"marker": "D", "ms": 10, "color": "#f4f1de"},),
    "interpolation": ({"marker": "s", "ms": 10, "color": "#9aa0a6"}, {"marker": "^", "ms": 11, "color": "#d08c60"}),
}
# layout in inches
WIDTH, PANEL, HEIGHT, TOP, BELOW, LINE = 12.8, 5.45, 4.6, 0.7, 0.75, 0.3
LEFTS = (0.75, 7.05)
COLUMNS = 3  # of the legend


def save_rate_figure(path: str | os.PathLike, against: Sequence[Mapping[str, Any]], title: str = "") -> Path:
    """Draw bits per voxel against PSNR, and against the mean absolute error in the body.

    Codecs are curves, everything else a point; the axis of bits is logarithmic. What has no rate or no finite number
    is left out of that panel and named below it, as is what was skipped. 1280 pixels wide.

    Args:
        path: PNG file to write, whole or not at all; its folder is made if need be.
        against: rows as :func:`ctpa_vqgan.rivals.compare_with_rivals` returns them.
        title: first line of the picture, for example the case.

    Returns:
        ``path``.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in against:
        groups.setdefault((row["kind"], row["name"]), []).append(row)
    styles = dict(_styles(groups))
    notes = [note for (_, name), rows in groups.items() for note in _notes(name, rows)]
    num_lines = math.ceil(len(groups) / COLUMNS) + len(notes)
    sheet = Sheet(WIDTH, TOP + HEIGHT + BELOW + LINE * num_lines + 0.25)
    sheet.text(0.2, 0.3, title, fontsize=17)
    drawn = {}
    for left, (key, heading) in zip(LEFTS, PANELS.items()):
        axes = sheet.chart(left, TOP, PANEL, HEIGHT, "bits per voxel (logarithmic)", heading)
        for group, rows in groups.items():
            points = sorted((row["bits_per_voxel"], row[key]) for row in rows if _shown(row, key))
            if points:
                drawn[group] = axes.plot(*zip(*points), **styles[group])[0]
        _ticks(axes)
    _legend(sheet, {group: drawn[group] for group in groups if group in drawn})
    for i, note in enumerate(reversed(notes)):
        sheet.text(0.2, sheet.height - 0.2 - LINE * i, note, fontsize=11.5)
    return write_whole(path, sheet.png())


def _legend(sheet: Sheet, lines: Mapping[tuple[str, str], Any]) -> None:
    legend = sheet.figure.legend(
        list(lines.values()),
        [_short(name) for _, name in lines],
        loc="upper center",
        bbox_to_anchor=(0.5, 1 - (TOP + HEIGHT + BELOW) / sheet.height),
        ncols=COLUMNS,
        fontsize=12.5,
        labelcolor=INK,
        frameon=False,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a dollar sign is a dollar sign, as in ``Sheet.text``


def _styles(groups: Iterable[tuple[str, str]]) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    seen: Counter[str] = Counter()
    for kind, name in groups:
        nth = seen[kind]
        seen[kind] += 1
        if kind == "codec":
            style = {"marker": "o", "ms": 6, "lw": 2, "color": CODEC_COLOURS[nth % len(CODEC_COLOURS)], "zorder": 2}
        else:
            style = {"ls": "", "zorder": 3, **OTHERS[kind][nth % len(OTHERS[kind])]}
        yield (kind, name), style


def _shown(row: Mapping[str, Any], key: str) -> bool:
    rate, value = number(row.get("bits_per_voxel")), number(row.get(key))
    return rate > 0 and math.isfinite(rate) and math.isfinite(value)


def _notes(name: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Why something is not in the picture."""
    if why := [row["skipped"] for row in rows if "skipped" in row]:
        yield _short(f"{name} skipped: {why[0]}", 150)
    elif missing := [key for key in PANELS if not any(_shown(row, key) for row in rows)]:
        if not any(number(row.get("bits_per_voxel")) > 0 for row in rows):
            yield _short(f"{name} not shown: its bits per voxel are not known", 150)
        else:
            why = {key: "infinite" if math.isinf(number(rows[0].get(key))) else "not measured" for key in missing}
            told = "; ".join(f"not in the {SHORT[key][0]} panel: {SHORT[key][1]} {why[key]}" for key in missing)
            yield _short(f"{name} {told}", 150)


def _short(text: str, length: int = 44) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _ticks(axes) -> None:
    from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(0.07)
