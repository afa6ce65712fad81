"""Draw what phantoms of known truth say about a network: ``phantoms.png``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.sheet import INK, VERSION_COLOURS, VERSION_LINES, Sheet

COLOURS = ("#3fcf9f", "#f08fc0", "#f0e442", "#b9a0e8")  # of contrasts; told apart by colour-blind eyes too
MARKERS = {"reconstruction": "o", "decoded": "s"}
FAINT = "#9aa0a6"

# layout in inches
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 12.8, 0.9, 0.25, 1.05, 1.0
ACROSS, DOWN = 0.85, 1.1  # between panels
PANEL, HEIGHT = (WIDTH - LEFT - RIGHT - 2 * ACROSS) / 3, 3.2


def save_phantom_figure(path: str | os.PathLike, phantoms: Mapping[str, dict], title: str = "") -> Path:
    """Draw sharpness, noise, HU scale, emboli and low contrast in six panels, 1280 pixels wide.

    Curves of sharpness and noise power are those of the first version; the other panels show all versions.

    Args:
        path: PNG file to write, whole or not at all; its folder is made if need be.
        phantoms: what :func:`ctpa_vqgan.quality_phantom.measure_phantoms` gave, by version of the volume
            (``reconstruction``, ``decoded``).
        title: first line of the picture.

    Returns:
        ``path``.

    Raises:
        ValueError: if there is no version.
    """
    if not phantoms:
        raise ValueError("need the phantoms of one version or more, got none")
    sheet = Sheet(WIDTH, TOP + 2 * HEIGHT + DOWN + BOTTOM)
    name, first = next(iter(phantoms.items()))
    sheet.text(LEFT, 0.4, title or "Phantoms of known truth", fontsize=16)
    rods, balls = ([edge for edge in first["edges"] if edge["shape"] == shape] for shape in ("rod", "ball"))
    _edges(_panel(sheet, 0, 0, f"Sharpness in the plane ({name})", "cycles per mm", "MTF"), rods)
    _edges(_panel(sheet, 0, 1, f"Sharpness in all directions ({name})", "cycles per mm", "MTF"), balls)
    _noise(_panel(sheet, 0, 2, f"Noise power ({name})", "cycles per mm", "HU² mm²"), first["noise"])
    _linearity(_panel(sheet, 1, 0, "HU scale", "HU fed in", "mean HU after minus before"), phantoms)
    _emboli(_panel(sheet, 1, 1, "Emboli: contrast recovered", "diameter (mm)", "recovered / fed in"), phantoms)
    _disks(_panel(sheet, 1, 2, "Low-contrast disks", "", "after / before"), phantoms)
    spacing = " x ".join(f"{mm:.2f}" for mm in first["spacing_mm"])
    caption = f"Voxels of {spacing} mm. Dotted: as fed in. Bars: SD over positions (emboli), standard error (disks)."
    sheet.text(LEFT, sheet.height - 0.15, caption, fontsize=12)
    return write_whole(path, sheet.png())


def _panel(sheet: Sheet, row: int, column: int, heading: str, across: str, up: str):
    left, top = LEFT + column * (PANEL + ACROSS), TOP + row * (HEIGHT + DOWN)
    sheet.text(left, top - 0.15, heading, fontsize=13)
    axes = sheet.axes(left, top, PANEL, HEIGHT)
    axes.set_facecolor("none")
    axes.tick_params(colors=INK, labelsize=11)
    axes.set_xlabel(across, color=INK, fontsize=12)
    axes.set_ylabel(up, color=INK, fontsize=12)
    axes.grid(color=INK, alpha=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    return axes


def _legend(axes, place: str, title: str = "") -> None:
    legend = axes.legend(loc=place, fontsize=11, labelcolor=INK, frameon=False, title=title, title_fontsize=11)
    legend.get_title().set_color(INK)


def _style(name: str) -> dict[str, str]:
    return {"color": VERSION_COLOURS[name], "marker": MARKERS[name]}


def _numbers(rows: Sequence[dict], key: str) -> np.ndarray:
    return np.array([row.get(key) for row in rows], dtype=np.float64)  # None, as JSON has it, becomes NaN


def _said(number: float | None) -> str:
    return "none" if number is None or np.isnan(number) else f"{number:.2f}"


def _edges(axes, edges: Sequence[dict]) -> None:
    for edge, colour in zip(edges, COLOURS):
        frequency = _numbers([edge], "frequency_per_mm")[0]
        axes.plot(frequency, _numbers([edge], "original")[0], ":", color=FAINT, lw=1.5)
        label = f"{edge['contrast_hu']:+.0f} HU: {_said(edge['mtf50_ratio'])}"
        axes.plot(frequency, _numbers([edge], "reconstruction")[0], color=colour, lw=2, label=label)
    axes.axhline(0.5, color=FAINT, lw=0.8)
    axes.set_ylim(0, None)
    axes.set_xlim(0, None)
    _legend(axes, "upper right", "contrast: MTF50 after / before")


def _noise(axes, noise: Sequence[dict]) -> None:
    for part, colour in zip(noise, COLOURS):
        frequency = _numbers([part], "frequency_per_mm")[0]
        axes.plot(frequency, _numbers([part], "original")[0], ":", color=colour, lw=1.5)
        label = f"{part['background_hu']:.0f} ± {part['sd_hu']:.0f} HU: {_said(part['nps_ratio'])}"
        axes.plot(frequency, _numbers([part], "reconstruction")[0], color=colour, lw=2, label=label)
    axes.set_ylim(0, 1.2 * axes.get_ylim()[1])  # room for the legend
    axes.set_xlim(0, None)
    _legend(axes, "upper right", "power after / before")


def _linearity(axes, phantoms: Mapping[str, dict]) -> None:
    axes.axhline(0, color=FAINT, lw=0.8)
    for k, (name, phantom) in enumerate(phantoms.items()):
        line = phantom["linearity"]
        known, measured = (_numbers([line], key)[0] for key in ("known_hu", "measured_hu"))
        style = {**_style(name), "lw": 1, "ms": 5 + 3 * k, "mfc": "none" if k else None}  # one around the other
        axes.plot(known, measured - known, ls=VERSION_LINES[name], label=f"{name}: slope {line['slope']:.3f}", **style)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.15 * len(phantoms) * (high - low))  # room for the legend
    _legend(axes, "upper right")


def _emboli(axes, phantoms: Mapping[str, dict]) -> None:
    axes.axhline(1, color=FAINT, lw=1.5, ls=":")
    for k, (name, phantom) in enumerate(phantoms.items()):
        rows = phantom["emboli"]
        style = {**_style(name), "ls": VERSION_LINES[name], "ms": 6, "capsize": 4, "label": name}
        axes.errorbar(
            _numbers(rows, "diameter_mm") + 0.1 * k, _numbers(rows, "recovery"), _numbers(rows, "recovery_sd"), **style
        )
    axes.set_ylim(min(0, axes.get_ylim()[0]), None)
    _legend(axes, "lower right")


def _disks(axes, phantoms: Mapping[str, dict]) -> None:
    axes.axhline(1, color=FAINT, lw=1.5, ls=":")
    for k, (name, phantom) in enumerate(phantoms.items()):
        rows = phantom["disks"]
        place = np.arange(len(rows)) + 0.1 * k
        style = {**_style(name), "ms": 6}
        errors = _numbers(rows, "recovery_error")
        axes.errorbar(place, _numbers(rows, "recovery"), errors, capsize=4, label=f"{name}: contrast", **style)
        axes.plot(place, _numbers(rows, "dprime_ratio"), ls="--", mfc="none", label=f"{name}: d'", **style)
    axes.set_xticks(np.arange(len(rows)), [f"{row['diameter_mm']:.0f} mm\n{row['contrast_hu']:.0f} HU" for row in rows])
    axes.set_ylim(min(0, axes.get_ylim()[0]), None)
    _legend(axes, "lower right")
