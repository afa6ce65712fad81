"""Tell an evaluation to a reader: ``report.md`` for people, a few lines for the terminal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.columns import describe, heading, show
from ctpa_vqgan.report.results import is_metric

INTRODUCTION = """\
A CT volume was turned into integer codes of a learned codebook and back into a volume. This page compares the volume
that came back (the reconstruction) with the one that went in (the original). Values are in Hounsfield units (HU:
air -1000, water 0, contrast-filled vessels about 300)."""


def _cell(text: Any) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _left_out(metrics: dict[str, Any]) -> list[str]:
    """One sentence for each metric whose mean is not over all cases."""
    total = len(metrics["cases"])
    return [
        f"{heading(key)}: {count} of {total} cases {why}, left out of the mean."
        for entry, why in (("num_infinite", "infinite (identical volumes)"), ("num_missing", "without a value"))
        for key, count in metrics.get(entry, {}).items()
    ]


def _case_table(metrics: dict[str, Any]) -> str:
    cases = metrics["cases"]
    keys = dict.fromkeys(key for case in cases for key in case if key != "case")
    keys = [key for key in keys if not any(isinstance(case.get(key), (list, dict)) for case in cases)]
    rows = [[case["case"], *(show(key, case.get(key)) for key in keys)] for case in cases]
    mean = [f"**{show(key, metrics['mean'][key])}**" if key in metrics["mean"] else "" for key in keys]
    return _table(["case", *map(heading, keys)], [*rows, [f"**mean of {len(cases)}**", *mean]])


def _definitions(metrics: dict[str, Any]) -> str:
    described = [describe(key) for key in metrics["mean"]]
    lines = dict.fromkeys(
        f"- **{column.heading}**: {column.definition}" for _, column in described if column.definition
    )
    prefixes = dict.fromkeys(prefix for prefix, _ in described if prefix)
    lines |= dict.fromkeys(
        f"- Columns that begin with **{p}** measure the `{p}` volume the same way." for p in prefixes
    )
    return "\n".join(lines)


def _settings(settings: dict[str, Any]) -> str:
    lines = []
    for name, value in settings.items():
        text = str(value).strip()
        lines.append(f"- **{name}**:\n\n  ```\n{_indent(text)}\n  ```" if "\n" in text else f"- **{name}**: `{text}`")
    return "\n".join(lines)


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())


def _picture(picture: str | os.PathLike, folder: Path) -> str:
    path = os.path.relpath(picture, folder) if os.path.isabs(picture) else os.fspath(picture)
    return f"![{Path(path).stem}]({quote(Path(path).as_posix())})"


def write_report(
    output_dir: str | os.PathLike,
    metrics: dict[str, Any],
    title: str,
    settings: dict[str, Any],
    pictures: list[str],
) -> Path:
    """Write ``report.md``: the cases, their mean, what the metrics mean, how it was run, and pictures.

    Args:
        output_dir: folder of the evaluation; made if need be.
        metrics: what ``write_metrics`` returned (or ``json.load`` of ``metrics.json``).
        title: first line.
        settings: what a reader needs to repeat the numbers: command, commit, data, hardware, ...; printed in order.
        pictures: PNG files, absolute or relative to ``output_dir``; embedded by relative path, so that the folder can
            be moved.

    Returns:
        Path of ``report.md``.
    """
    folder = Path(output_dir)
    sections = [
        f"# {title}",
        INTRODUCTION,
        "## Results",
        _case_table(metrics),
        "\n".join(f"- {sentence}" for sentence in _left_out(metrics)),
        "The same numbers, unrounded: `metrics.json` and `per_case.csv`.",
        "## What the numbers mean",
        _definitions(metrics),
    ]
    if settings:
        sections += ["## How it was run", _settings(settings)]
    if pictures:
        sections += ["## Pictures", *(_picture(picture, folder) for picture in pictures)]
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "report.md", "\n\n".join(section for section in sections if section) + "\n")
    return folder / "report.md"


def format_summary(metrics: dict[str, Any]) -> str:
    """The means, the worst case and what was left out, in a few lines for the terminal.

    Args:
        metrics: what ``write_metrics`` returned.
    """
    cases, mean = metrics["cases"], metrics["mean"]
    lines = [f"{len(cases)} case{'s' * (len(cases) != 1)}, mean:"]
    width = max((len(heading(key)) for key in mean), default=0)
    lines += [f"  {heading(key):<{width}}  {show(key, value)}" for key, value in mean.items()]
    rated = [case for case in cases if is_metric(case.get("psnr")) and case.get("psnr") is not None]
    if len(rated) > 1:
        worst = min(rated, key=lambda case: float(case["psnr"]))
        lines.append(f"  lowest PSNR: {worst['case']} ({show('psnr', worst['psnr'])} dB)")
    return "\n".join(lines + ["  " + sentence for sentence in _left_out(metrics)])
