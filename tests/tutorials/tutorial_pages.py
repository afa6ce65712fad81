"""The Python of a tutorial, block by block, and the output that its page shows."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

TUTORIALS = Path(__file__).parents[2] / "docs/tutorials"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w])")


class Block(NamedTuple):
    """One fence of Python.

    Attributes:
        code: as it stands on the page.
        line: of the page, the first of the code.
        output: what the next fence shows, if it is one of text: the last lines that are printed.
    """

    code: str
    line: int
    output: str | None


def blocks(page: Path) -> list[Block]:
    """The blocks of a page that run, in order."""
    text = page.read_text()
    fences = list(FENCE.finditer(text))
    found = []
    for fence, following in zip(fences, [*fences[1:], None]):
        if fence[1] != "python":
            continue
        shown = following is not None and following[1] == "text"
        found.append(Block(fence[2], text.count("\n", 0, fence.start()) + 2, following[2] if shown else None))
    return found


def run(page: Path, names: dict[str, Any]) -> Iterator[tuple[Block, str]]:
    """Run the blocks of a page in one namespace; gives each with what it printed."""
    for block in blocks(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names)
        yield block, printed.getvalue()


def differences(shown: str, printed: str, share: float = 0.1) -> list[str]:
    """Where a page shows something else than the last lines that were printed.

    Words have to be equal; numbers with a point may differ by one in the last place or by ``share``, as they do from
    one CPU and version of PyTorch to another. Whole numbers are counts, and have to be equal too.
    """
    printed = "".join(printed.splitlines(keepends=True)[-len(shown.splitlines()) :])
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return [f"shown {shown!r}, printed {printed!r}"]
    found = []
    for there, here in zip(NUMBER.findall(shown), NUMBER.findall(printed)):
        last_place = 10.0 ** -len(there.partition(".")[2]) if "." in there else 0.0
        if abs(float(there) - float(here)) > (max(last_place * 1.001, share * abs(float(there))) if last_place else 0):
            found.append(f"shown {there}, printed {here}")
    return found
