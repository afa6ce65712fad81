"""What a sweep leaves: ``sweep.md`` for people, ``sweep.json`` and ``sweep.csv`` for programs, ``sweep.png``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.results import strict, to_csv
from ctpa_vqgan.sweep.figure import save_figure
from ctpa_vqgan.sweep.front import Row, pareto_front, suggest
from ctpa_vqgan.sweep.settings import by

Show = Callable[[Any], str]
# heading, key, and how a value is shown
COLUMNS: list[tuple[str, str, Show]] = [
    ("window", "window", str),
    ("step", "step", str),
    ("overlap", "overlap", lambda v: f"{v:.0%}"),
    ("blend", "blend", str),
    ("PSNR [dB]", "psnr", lambda v: f"{v:.2f}"),
    ("SSIM", "ssim", lambda v: f"{v:.4f}"),
    ("MAE [HU]", "mae_hu", lambda v: f"{v:.2f}"),
    ("seam [HU]", "seam_hu", lambda v: f"{v:.2f}"),
    ("seam ratio", "seam_ratio", lambda v: f"{v:.3f}"),
    ("seams found", "seams_found", str),
    ("time [s]", "seconds", lambda v: _seconds(v)),
    ("whole case [s]", "case_seconds", lambda v: _seconds(v)),
    ("memory [MB]", "memory_mb", lambda v: f"{v:.0f}"),
]
MEANING = """\
- **window**, **step**: voxels of a window (knob `patch_size`), and from window to window (`stride`).
- **blend**: `blend_mode`, and of the gaussian `sigma_scale`. *Exact tiles* (`encode`, `decode`) blend nothing.
- **PSNR**, **SSIM**, **MAE**: against the original, as in an evaluation's report.
- **seam**: jump of the difference from exact tiles, which have no seams, on planes where windows begin and end, beyond
  that on planes nearby (root mean square); of the error, where a network has no exact tiles.
  **seams found**: such planes that stand out. **seam ratio**: mean absolute jump of the error there over that nearby,
  for the axis where it is farthest from 1: the field's index, which anatomy moves too.
- **time**: of the part that was measured. **whole case**: the same times the windows that the whole case takes.
- **front**: no other setting is as good in PSNR, seam, time of the whole case and memory, and better in one."""


def write_page(folder: Path, rows: Sequence[Row], found: dict[str, Any]) -> dict[str, Any]:
    """Write ``sweep.json``, ``sweep.csv`` and ``sweep.md``; the content of the first."""
    rows = [{"number": number, **row} for number, row in enumerate(rows, 1)]
    for row, front in zip(rows, pareto_front(rows)):
        row["front"] = front
    suggestion = suggest(rows)
    told = {"number": suggestion.index + 1, "reason": suggestion.reason} if suggestion else None
    if told:
        told["knobs"] = rows[suggestion.index]["knobs"]
        told["set"] = to_paste(told["knobs"])
    content = strict({"picture": None, **found, "rows": rows, "suggestion": told})
    write_whole(folder / "sweep.json", json.dumps(content, indent=1, allow_nan=False) + "\n")
    write_whole(folder / "sweep.csv", to_csv([{key: v for key, v in row.items() if key != "knobs"} for row in rows]))
    write_whole(folder / "sweep.md", _page(rows, content))
    return content


def finish(folder: str | Path, rows: Sequence[Row], found: dict[str, Any]) -> dict[str, Any]:
    """:func:`write_page` with its picture, and the table on the terminal."""
    folder = Path(folder)
    content = write_page(folder, rows, found)
    if any("psnr" in row for row in rows):
        save_figure(
            folder / "sweep.png", content["rows"], _subject(content), (content["suggestion"] or {}).get("number")
        )
        content = write_page(folder, rows, {**found, "picture": "sweep.png"})
    print(f"{_subject(content)}\n\n{_table(content['rows'])}\n\n{_verdict(content)}\n  written to {folder}", flush=True)
    return content


def to_paste(knobs: dict[str, Any]) -> str:
    """Knobs as the command line takes them.

    >>> to_paste({"patch_size": [64, 64, 32], "blend_mode": "linear"})
    '--set patch_size=[64,64,32] --set blend_mode=linear'
    """
    return " ".join(f"--set {name}={value}".replace(", ", ",") for name, value in knobs.items())


def _page(rows: Sequence[Row], content: dict[str, Any]) -> str:
    sections = ["# Settings of the sliding window, compared", _subject(content), _verdict(content), _table(rows)]
    if content["picture"]:
        sections.append(f"![PSNR over time]({content['picture']})")
    sections += [*_left_out(content), f"{MEANING}\n- **memory**: {content['memory']}."]
    if content["settings"]:
        sections += ["## How it was run", "\n".join(f"- **{k}**: `{v}`" for k, v in content["settings"].items())]
    return "\n\n".join(sections) + "\n"


def _subject(content: dict[str, Any]) -> str:
    shape, part = content["shape"], content["part"]["shape"]
    where = "the whole case" if part == shape else f"a part of {by(part)} voxels around the centre of the body"
    tried, possible = content["num_tried"], content["num_possible"]
    how = "all that differ" if tried == possible else f"of {possible} that differ, one knob away from the default each"
    done = sum(row["kind"] == "windows" for row in content["rows"])
    count = tried if done == tried else f"{done} so far of {tried}"
    return f"{content['case']}, {by(shape)} voxels: {where}; {count} setting{'s' * (tried != 1)} ({how})."


def _verdict(content: dict[str, Any]) -> str:
    suggestion = content["suggestion"]
    if suggestion is None:
        return "No suggestion: no setting has windows that meet here as they would in a whole case."
    return f"Suggested: number {suggestion['number']}, {suggestion['reason']}.\n\n    {suggestion['set']}"


def _left_out(content: dict[str, Any]) -> list[str]:
    if not content["too_large"]:
        return []
    windows = ", ".join(map(by, content["too_large"]))
    return [
        f"Not compared as they are: windows of {windows} voxels. Two of them do not fit beside each other into this "
        "part (a row as large as the part is one window alone); sweep_voxels=null takes the whole case."
    ]


def _table(rows: Sequence[Row]) -> str:
    """A Markdown table that is aligned, so that a terminal may show it too."""
    lines = [["#", *(heading for heading, *_ in COLUMNS), "remark"]]
    for row in rows:
        remark = "front" if row["front"] else row.get("failed", "").replace("|", "/")
        lines.append([str(row["number"]), *(_cell(row.get(key), show) for _, key, show in COLUMNS), remark])
    widths = [max(2, *(len(line[column]) for line in lines)) for column in range(len(lines[0]))]
    lines.insert(1, ["-" * (width - 1) + ":" for width in widths])
    return "\n".join("| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths)) + " |" for line in lines)


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _cell(value: Any, show: Show) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "n/a"
    return "∞" if value in ("inf", math.inf) else show(value)
