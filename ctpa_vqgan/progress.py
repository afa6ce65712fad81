"""One way to show progress with the time left."""

from __future__ import annotations

import os
import sys
import threading

from tqdm import tqdm

from ctpa_vqgan import ranks
from ctpa_vqgan.errors import printable

LOG_SECONDS = 30


def _lock_of_this_process() -> None:
    """tqdm shares its lock with forked processes: one that is killed while it writes would stop all others for ever."""
    tqdm.set_lock(threading.RLock())


_lock_of_this_process()
os.register_at_fork(after_in_child=_lock_of_this_process)


def say(text: str, every_rank: bool = False) -> None:
    """A line on stderr that does not tear a bar apart.

    Args:
        text: one line.
        every_rank: of processes that work together each says its own; otherwise rank 0 speaks for all.
    """
    if ranks.is_main():
        tqdm.write(printable(text), file=sys.stderr)
    elif every_rank:
        tqdm.write(printable(f"rank {ranks.Shard.of_this_process().index}: {text}"), file=sys.stderr)


def progress_bar(total: int | None, label: str, initial: int = 0, leave: bool = True, show: bool = True) -> tqdm:
    """A bar on stderr, of rank 0 alone; where that is a log file, a line every half minute instead of a moving bar."""
    interval = 0.2 if sys.stderr.isatty() else LOG_SECONDS
    return tqdm(
        total=total,
        initial=initial,
        desc=label,
        leave=leave,
        disable=not (show and ranks.is_main()),
        dynamic_ncols=True,
        mininterval=interval,
        maxinterval=max(interval, 10),
    )
