"""What a report is made of: chapters of blocks, told once and written as Markdown and as HTML."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple


class Mark(NamedTuple):
    """A table's cell about a goal: met, not met, or (None) not measured."""

    met: bool | None
    text: str

    @property
    def word(self) -> str:
        """The mark in words, so that no reader depends on a sign or a colour."""
        return {True: "✓ met", False: "✗ not met", None: f"- not measured{':' if self.text else ''}"}[self.met]


class Heading(NamedTuple):
    """A heading within a chapter."""

    text: str


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Terms(NamedTuple):
    """A list of names, each with what there is to say about it."""

    items: list[tuple[str, str]]


class Facts(NamedTuple):
    """Key numbers: (label, value, note)."""

    items: list[tuple[str, str, str]]


class Table(NamedTuple):
    """A table; its first column names the rows, the others are centred on numbers.

    Attributes:
        caption: what it shows, one line.
        header: heading of each column.
        rows: cells, text or :class:`Mark`.
        ends_in_mean: whether the last row stands for the rows above.
    """

    caption: str
    header: list[str]
    rows: list[list[str | Mark]]
    ends_in_mean: bool = False


class Settings(NamedTuple):
    """Names and values word for word; values may have several lines."""

    items: dict[str, Any]


class Picture(NamedTuple):
    """A picture file, of one case or (None) of them all; the caption is its text for readers who do not see it."""

    path: Path
    case: str | None
    caption: str


Block = Heading | Text | Terms | Facts | Table | Settings | Picture


class Chapter(NamedTuple):
    """One chapter.

    Attributes:
        title: its heading.
        blocks: its content in order.
        terms: the keys of ``columns.TERMS`` that it speaks of.
    """

    title: str
    blocks: list[Block]
    terms: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The title as a word for links: ``what-the-numbers-mean``."""
        return "-".join("".join(c if c.isalnum() else " " for c in self.title.lower()).split())


def one_line(value: Any) -> str:
    """A text of one line: line breaks become spaces, other control characters and broken letters escapes."""
    text = " ".join(str(value).splitlines()) if value is not None else ""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
