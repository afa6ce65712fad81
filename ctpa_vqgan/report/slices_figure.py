"""Draw the error of a volume slice by slice: ``slices_<case>.png``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.sheet import INK, VERSION_COLOURS, VERSION_LINES, Sheet

CURVES = {"mae_hu": "MAE [HU]", "bias_hu": "bias [HU]"}
WIDTH, LEFT, TOP, CHART, GAP, BOTTOM = 14.0, 1.0, 1.5, 2.4, 0.25, 0.75  # inches


def save_slices_figure(
    path: str | os.PathLike,
    by_slice: Mapping[str, Mapping[str, Sequence[float | None]]],
    spacing_z_mm: float,
    window_planes: Sequence[int] = (),
    title: str = "",
) -> Path:
    """Draw mean absolute error and bias over the axial slices, from feet to head.

    Planes on which windows of the inferer begin or end are marked: steps there, or errors that grow towards them, are
    the inferer's; elsewhere they are the anatomy's.

    Args:
        path: PNG file to write, whole or not at all; its folder is made if need be.
        by_slice: for each version of the volume (``reconstruction``, ``decoded``) its ``mae_hu`` and ``bias_hu``, one
            number a slice; None or NaN leaves a gap.
        spacing_z_mm: from slice to slice.
        window_planes: slices before which a window begins or ends, as :func:`~ctpa_vqgan.metrics.window_planes` has
            them for the last axis; those beyond the volume are left out.
        title: first line of the picture.

    Returns:
        ``path``.

    Raises:
        ValueError: if there is no version, their numbers of slices differ or the spacing is not positive.
    """
    curves = {
        name: {key: np.array(numbers[key], dtype=np.float64) for key in CURVES} for name, numbers in by_slice.items()
    }
    lengths = {len(numbers) for curve in curves.values() for numbers in curve.values()}
    if len(lengths) != 1 or lengths == {0}:
        raise ValueError(f"need versions with the same number of slices, got {sorted(lengths) or 'no version'}")
    if spacing_z_mm <= 0:
        raise ValueError(f"spacing_z_mm must be positive, got {spacing_z_mm}")
    num_slices = lengths.pop()
    sheet = Sheet(WIDTH, TOP + 2 * CHART + GAP + BOTTOM)
    sheet.text(LEFT, 0.45, title, fontsize=16)
    left = LEFT
    for name, curve in curves.items():
        dashed = "" if VERSION_LINES[name] == "-" else " (dashed)"
        text = f"{name}{dashed}: {_worst(curve['mae_hu'])}"
        sheet.text(left, 0.8, text, color=VERSION_COLOURS[name], fontsize=12)
        left += 6.5
    inside = [plane for plane in window_planes if 0 < plane < num_slices]
    if inside:
        sheet.text(LEFT, 1.08, f"dotted: {len(inside)} planes on which windows begin or end", fontsize=12)
    for row, (key, label) in enumerate(CURVES.items()):
        last = row == len(CURVES) - 1
        axes = sheet.chart(
            LEFT,
            TOP + row * (CHART + GAP),
            WIDTH - LEFT - 0.4,
            CHART,
            "axial slice, feet to head" if last else "",
            label,
        )
        for plane in inside:
            axes.axvline(plane + 0.5, color=INK, alpha=0.45, linewidth=0.8, linestyle=":")  # slices count from 1
        for name, curve in curves.items():
            style = {"color": VERSION_COLOURS[name], "linestyle": VERSION_LINES[name], "linewidth": 1.5}
            axes.plot(np.arange(1, num_slices + 1), curve[key], **style)
        axes.set_xlim(0.5, num_slices + 0.5)
        axes.tick_params(labelbottom=last)
        if key == "mae_hu":
            axes.set_ylim(bottom=0)
            _millimetres(axes, spacing_z_mm)
        else:
            axes.axhline(0, color=INK, linewidth=0.8)
    return write_whole(path, sheet.png())


def _millimetres(axes, spacing_z_mm: float) -> None:
    above = axes.secondary_xaxis(
        "top", functions=(lambda number: (number - 1) * spacing_z_mm, lambda mm: mm / spacing_z_mm + 1)
    )
    above.tick_params(colors=INK, labelsize=11)
    above.spines["top"].set_color(INK)
    above.xaxis.set_major_formatter(lambda mm, _: f"{mm:g} mm")


def _worst(mae_hu: np.ndarray) -> str:
    if np.isnan(mae_hu).all():
        return "not measured"
    worst = int(np.nanargmax(mae_hu))
    return f"MAE {np.nanmean(mae_hu):.1f} HU, worst {mae_hu[worst]:.1f} HU in slice {worst + 1}"
