"""Tell an evaluation as a page that needs nothing but itself: ``report.html``."""

from __future__ import annotations

import base64
import hashlib
import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.blocks import (
    Block,
    Chapter,
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
from ctpa_vqgan.report.embedded import embed
from ctpa_vqgan.report.style import STYLE

SHORT = 25  # rows of a table that is not cut between two sheets of paper
PROSE = 26  # letters from which on a column is read from the left
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<a class="skip" href="#{first}">To the content</a>
<h1>{title}</h1>
</header>
<nav aria-label="Contents"><ul>
{contents}
</ul></nav>
<main>
{chapters}
</main>
</body>
</html>
"""


def write_html_report(
    output_dir: str | os.PathLike,
    metrics: Mapping[str, Any],
    title: str,
    settings: Mapping[str, Any],
    pictures: Sequence[Mapping[str, Any] | str | os.PathLike],
) -> Path:
    """Write ``report.html``: the verdict, the numbers of every case, pictures, what it all means, how it was run.

    It says what ``report.md`` says, in the same order, in one file that can be sent: pictures are embedded (about
    300 kB each), nothing is fetched, no script runs, and a content security policy keeps it so. Readable from 390
    pixels on, in light and dark, printable on A4.

    Args:
        output_dir: folder of the evaluation; made if need be.
        metrics: what ``write_metrics`` returned (or ``json.load`` of ``metrics.json``); any part may be missing.
        title: first line.
        settings: what a reader needs to repeat the numbers: command, commit, data, hardware, ...; printed in order.
        pictures: ``{"path", "case", "caption"}`` each, ``case`` None for a picture of all cases, or just a path;
            absolute or relative to ``output_dir``. One that cannot be read is named in its place.

    Returns:
        Path of ``report.html``.
    """
    folder = Path(output_dir)
    chapters = tell_story(metrics, settings, pictures, folder)
    style = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    page = PAGE.format(
        policy=f"default-src 'none'; img-src data:; style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'",
        title=_text(title),
        style=STYLE,
        first=chapters[0].name,
        contents="\n".join(f'<li><a href="#{chapter.name}">{_text(chapter.title)}</a></li>' for chapter in chapters),
        chapters="\n".join(_chapter(chapter) for chapter in chapters),
    )
    return write_whole(folder / "report.html", page)


def _text(value: Any) -> str:
    return html.escape(one_line(value))


def _chapter(chapter: Chapter) -> str:
    blocks = "\n".join(_block(block) for block in chapter.blocks)
    return f'<section id="{chapter.name}" aria-labelledby="{chapter.name}-title">\n' + (
        f'<h2 id="{chapter.name}-title">{_text(chapter.title)}</h2>\n{blocks}\n</section>'
    )


def _block(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h3>{_text(text)}</h3>"
        case Text(text):
            return f"<p>{_text(text)}</p>"
        case Terms(items):
            terms = "".join(f"<div><dt>{_text(name)}</dt><dd>{_text(text)}</dd></div>\n" for name, text in items)
            return f'<dl class="terms">\n{terms}</dl>'
        case Facts(items):
            return f'<dl class="facts">\n{"".join(map(_fact, items))}</dl>'
        case Table():
            return _table(block)
        case Settings(items):
            return f'<dl class="settings">\n{"".join(_setting(*item) for item in items.items())}</dl>'
        case Picture():
            return _picture(block)


def _fact(fact: tuple[str, str, str]) -> str:
    label, value, note = map(_text, fact)
    return f"<div><dt>{label}</dt><dd>{value}</dd>{f'<dd>{note}</dd>' if note else ''}</div>\n"


def _setting(name: str, value: Any) -> str:
    text = str(value).strip()
    lines = "\n".join(map(_text, text.splitlines()))
    code = f"<pre>{lines}</pre>" if "\n" in text else f"<code>{lines}</code>"
    return f"<div><dt>{_text(name)}</dt><dd>{code}</dd></div>\n"


def _table(table: Table) -> str:
    prose = [
        any(isinstance(cell, Mark) or len(str(cell or "")) > PROSE for cell in column) for column in zip(*table.rows)
    ]
    kinds = ["prose" if wide else "number" for wide in prose] or ["number"] * len(table.header)
    header = "".join(f'<th scope="col" class="{kind}">{_text(name)}</th>' for name, kind in zip(table.header, kinds))
    rows = []
    for index, (first, *cells) in enumerate(table.rows):
        mean = ' class="mean"' if table.ends_in_mean and index == len(table.rows) - 1 else ""
        body = "".join(f'<td class="{kind}">{_cell(cell)}</td>' for cell, kind in zip(cells, kinds[1:]))
        rows.append(f'<tr{mean}><th scope="row" class="{kinds[0]}">{_text(first)}</th>{body}</tr>')
    caption, size = _text(table.caption), ' class="short"' if len(rows) <= SHORT else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{caption}">\n<table{size}>\n'
        f"<caption><span>{caption}</span></caption>\n<thead><tr>{header}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody>\n</table>\n</div>"
    )


def _cell(cell: Any) -> str:
    if not isinstance(cell, Mark):
        return _text(cell)
    kind = {True: "met", False: "unmet", None: "unknown"}[cell.met]
    return f'<span class="{kind}">{cell.word}</span> {_text(cell.text)}'.strip()


def _picture(picture: Picture) -> str:
    caption = _text(picture.caption)
    try:
        address, width, height = embed(picture.path)
    except OSError as error:
        return f"<p>{caption} ({_text(picture.path.name)}: no picture, {_text(error.strerror or error)})</p>"
    return (
        f'<figure>\n<img src="{address}" width="{width}" height="{height}" alt="{caption}">\n'
        f"<figcaption>{caption}</figcaption>\n</figure>"
    )
