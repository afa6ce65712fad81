"""The pages of the project as tests see them: fenced blocks, headings, links."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUNDLE = "bundles/ctpa_vqgan"
TUTORIALS = "docs/tutorials/"


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Args:
        page: path of its page from the root of the repository.
        line: of its first line within the fence, from 1.
        language: what stands behind the opening fence.
        text: without the fences, and without their indentation.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def pages() -> list[str]:
    """Paths of all pages from the root of the repository."""
    found = [*sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob(f"{BUNDLE}/docs/*.md"))]
    return ["README.md", "CHANGELOG.md", *(path.relative_to(ROOT).as_posix() for path in found)]


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    opened, kept = None, []
    for number, line in enumerate(read(page).splitlines(), start=1):
        fence = re.match(r" *(`{3,})\s*(\S*)", line)
        if opened is None and fence:
            opened, kept = (number + 1, *fence.groups()), []
        elif opened is not None and line.strip() == opened[1]:
            yield Block(page, opened[0], opened[2], textwrap.dedent("".join(f"{line}\n" for line in kept)))
            opened = None
        elif opened is not None:
            kept.append(line)
    assert opened is None, f"{page}:{opened[0] - 1}: this fence is never closed"


def all_blocks(*languages: str) -> list[Block]:
    """The blocks of all pages in these languages; all blocks where none is named."""
    found = [block for page in pages() for block in blocks(page)]
    return [block for block in found if not languages or block.language in languages]


def prose(page: str) -> str:
    """The lines of a page, empty where front matter and fenced blocks are, without code spans: what holds links."""
    kept, fence = [], ""
    text = re.sub(
        r"\A---\n.*?^---\n", lambda front: "\n" * front[0].count("\n"), read(page), flags=re.DOTALL | re.MULTILINE
    )
    for line in text.splitlines():
        opening = re.match(r" *(`{3,})", line)
        if fence:
            kept.append("")
            fence = "" if line.strip() == fence else fence
        elif opening:
            kept.append("")
            fence = opening[1]
        else:
            kept.append(re.sub(r"`[^`]*`", lambda span: "`" * len(span[0]), line))
    return "\n".join(kept)


def anchors(page: str) -> set[str]:
    """What a link may name behind ``#``, by GitHub's rule: lower case, no punctuation, a dash for each blank."""
    found: dict[str, int] = {}
    in_block = False
    for line in read(page).splitlines():
        in_block ^= bool(re.match(r" *```", line))
        heading = re.match(r"#{1,6} +(.*?) *$", line)
        if heading and not in_block:
            plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1])
            slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
            found[slug] = found.get(slug, -1) + 1
    return {slug if number == 0 else f"{slug}-{number}" for slug, last in found.items() for number in range(last + 1)}


def links(page: str) -> list[tuple[int, str]]:
    """Line and target of every link and picture of a page."""
    found = []
    for number, line in enumerate(prose(page).splitlines(), start=1):
        found += [(number, target) for target in re.findall(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)", line)]
        found += [(number, target) for target in re.findall(r"<(?:img|a)[^>]*(?:src|href)=\"([^\"]+)\"", line)]
    return found
