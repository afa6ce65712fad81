"""Tell an evaluation to a reader: ``report.md`` for people, a few lines for the terminal."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.blocks import (
    Block,
    Facts,
    Heading,
    Mark,
    Picture,
    Settings,
    Table,
    Terms,
    Text,
    one_line,
)
from ctpa_vqgan.report.chapters import tell_story
from ctpa_vqgan.report.chapters.fidelity import HEADLINES, left_out
from ctpa_vqgan.report.columns import describe, heading, show
from ctpa_vqgan.report.values import number, worst_first

_MARKDOWN = re.compile(r"[\\`*<>|~&]|\](?=[(\[:])|(?<![^\W_])_|_(?![^\W_])")


def _text(value: Any) -> str:
    """One line in which nothing is Markdown."""
    return _MARKDOWN.sub(r"\\\g<0>", one_line(value))


def _code(value: Any) -> str:
    """One line as code, fenced so that backticks in it stay what they are."""
    text = one_line(value)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence} {text} {fence}" if len(fence) > 1 else f"`{text}`"


def _table(table: Table) -> str:
    def cell(value: Any) -> str:
        return f"{value.word} {_text(value.text)}".strip() if isinstance(value, Mark) else _text(value)

    rows = [[cell(value) for value in row] for row in table.rows]
    if table.ends_in_mean:
        rows[-1] = [f"**{text}**" if text else "" for text in rows[-1]]
    lines = [[_text(name) for name in table.header], ["---"] + ["---:"] * (len(table.header) - 1), *rows]
    return f"{_text(table.caption)}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _settings(settings: Settings) -> str:
    lines = []
    for name, value in settings.items.items():
        text = str(value).strip()
        fence = "`" * (max(2, *map(len, re.findall("`+", text)), 0) + 1)
        block = f"\n\n  {fence}\n{textwrap.indent(text, '  ')}\n  {fence}"
        lines.append(f"- **{_text(name)}**:" + (block if "\n" in text else f" {_code(text)}"))
    return "\n".join(lines)


def _picture(picture: Picture, folder: Path) -> str:
    path = quote(Path(os.path.relpath(picture.path, folder)).as_posix())
    return f"![{_text(picture.caption)}]({path})\n\n*{_text(picture.caption)}*"


def _block(block: Block, folder: Path) -> str:
    match block:
        case Heading(text):
            return f"### {_text(text)}"
        case Text(text):
            return _text(text)
        case Terms(items):
            return "\n".join(f"- **{_text(name)}**: {_text(text)}" for name, text in items)
        case Facts(items):
            return "\n".join(f"- {_text(label)}: **{_text(value)}**" for label, value, _ in items)
        case Table():
            return _table(block)
        case Settings():
            return _settings(block)
        case Picture():
            return _picture(block, folder)


def write_report(
    output_dir: str | os.PathLike,
    metrics: Mapping[str, Any],
    title: str,
    settings: Mapping[str, Any],
    pictures: Sequence[Mapping[str, Any] | str | os.PathLike],
) -> Path:
    """Write ``report.md``: the verdict, the numbers of every case, pictures, what it all means, how it was run.

    It says what ``report.html`` says, in the same order.

    Args:
        output_dir: folder of the evaluation; made if need be.
        metrics: what ``write_metrics`` returned (or ``json.load`` of ``metrics.json``); any part may be missing.
        title: first line.
        settings: what a reader needs to repeat the numbers: command, commit, data, hardware, ...; printed in order.
        pictures: ``{"path", "case", "caption"}`` each, ``case`` None for a picture of all cases, or just a path;
            absolute or relative to ``output_dir``; embedded by relative path, so that the folder can be moved.

    Returns:
        Path of ``report.md``.
    """
    folder = Path(output_dir).absolute()
    lines = [f"# {_text(title)}"]
    for chapter in tell_story(metrics, settings, pictures, folder):
        lines += [f"## {_text(chapter.title)}", *(_block(block, folder) for block in chapter.blocks)]
    write_whole(folder / "report.md", "\n\n".join(line for line in lines if line) + "\n")
    return Path(output_dir) / "report.md"


def format_summary(metrics: Mapping[str, Any]) -> str:
    """The means, the worst case and what was left out, in a few lines for the terminal.

    Args:
        metrics: what ``write_metrics`` returned.
    """
    cases = metrics["cases"]
    mean = {k: v for k, v in metrics["mean"].items() if k in HEADLINES or describe(k)[0] != "decoded"}
    lines = [f"{len(cases)} case{'s' * (len(cases) != 1)}, mean:"]
    width = max((len(heading(key)) for key in mean), default=0)
    lines += [f"  {heading(key):<{width}}  {show(key, value)}" for key, value in mean.items()]
    worst = worst_first(cases)[0] if len(cases) > 1 else {}
    if number(worst.get("psnr")) == number(worst.get("psnr")):
        lines.append(f"  lowest PSNR: {worst['case']} ({show('psnr', worst['psnr'])} dB)")
    return "\n".join(lines + ["  " + sentence for sentence in left_out(metrics, mean)])
