"""Go through the files of a shard, and on past those that must be refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ctpa_vqgan.progress import progress_bar, say
from ctpa_vqgan.ranks import Shard

Row = dict[str, Any]


class Refused(Exception):
    """A file cannot be used, by a fault of its own; the message is the whole line."""


def go_through(
    paths: Sequence[Path], shard: Shard, work: Callable[[Path], Row], label: str, progress: bool = True
) -> tuple[dict[Path, Row], dict[Path, str]]:
    """Do the work on every file of a shard.

    Args:
        paths: code files of all shards.
        shard: the part to do.
        work: gives the row of a file, or raises :class:`Refused`; any other error ends the run.
        label: of the bar.
        progress: show it.

    Returns:
        Rows of what is done, and why files were refused.
    """
    rows, refused, share = {}, {}, shard.take(paths)
    label = label if shard.count == 1 else f"{label}, {shard}"
    with progress_bar(len(share), label, show=progress) as bar:
        for path in share:
            try:
                rows[path] = work(path)
            except Refused as error:
                refused[path] = str(error)
                if len(paths) > 1:  # the error of a single file is that of the run
                    say(f"left out: {error}", every_rank=True)
            bar.update()
    return rows, refused
