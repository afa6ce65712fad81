"""Which lines of which block of shell are run: by ``make test`` the quick ones, each once; by docs-check the rest."""

from __future__ import annotations

from dataclasses import dataclass

import commands
from commands import NotUnderstoodError
from pages import Block, all_blocks


@dataclass(frozen=True)
class Run:
    """Lines of a block, to be run in order."""

    block: Block
    lines: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.block)


def kinds(line: str) -> set[str]:
    """Who runs the commands of a line; nobody knows of one that fits no pattern, which another test tells."""
    found = set()
    for words in commands.simple_commands(line):
        try:
            found.add(commands.kind(words)[0])
        except NotUnderstoodError:
            found.add("never")
    return found


def is_quick(line: str) -> bool:
    """Whether ``make test`` runs it: one command of the kind, without a shell's operators."""
    return kinds(line) == {"test"} and len(commands.simple_commands(line)) == 1


def quick() -> list[Run]:
    """What ``make test`` runs: a command that stood before is run again only where a new one needs what it writes.

    Blocks that start something in the background are left to docs-check as a whole.
    """
    seen: set[tuple[bool, ...]] = set()
    found = []
    for block in all_blocks("sh"):
        lines = [line for _, line in commands.lines(block)]
        if any(len(commands.simple_commands(line)) > 1 for line in lines):
            continue
        lines = list(filter(is_quick, lines))
        words = [commands.simple_commands(line)[0] for line in lines]
        names = [(commands.is_typed_in_bundle(block), *those) for those in words]
        new = [name not in seen for name in names]
        later = [[those for those, is_new in zip(words[i:], new[i:]) if is_new] for i in range(1, len(lines) + 1)]
        kept = [new[i] or _feeds(words[i], later[i]) for i in range(len(lines))]
        seen |= set(names)
        if any(kept):
            found.append(Run(block, tuple(line for line, keep in zip(lines, kept) if keep)))
    return found


def _feeds(words: list[str], later: list[list[str]]) -> bool:
    """Whether a later command names a folder that this one writes, and that the sandbox does not have by itself."""
    written = [name for name in commands.outputs(words) if name not in ("DATA", "phantoms", "runs/first")]
    return any(word.startswith(name) for after in later for word in after for name in written)


def slow() -> list[Run]:
    """What ``make docs-check`` runs: blocks with a new line that takes long, with all their lines that can be run."""
    seen: set[str] = set()
    found = []
    for block in all_blocks("sh"):
        lines = [line for _, line in commands.lines(block) if "never" not in kinds(line)]
        new = {str(commands.simple_commands(line)) for line in lines if not is_quick(line)} - seen
        seen |= new
        if new:
            found.append(Run(block, tuple(lines)))
    return found


def unrun() -> dict[str, str]:
    """Commands that nobody runs, with the reason."""
    reasons = {}
    for block in all_blocks("sh"):
        for number, line in commands.lines(block):
            for words in commands.simple_commands(line):
                who, pattern = commands.kind(words)
                if who == "never":
                    reasons[f"{block.page}:{number}: {' '.join(words)}"] = commands.TABLE[who][pattern]
    return reasons
