"""Who may work in the folder of a data set: one process alone, or the shards of one division of the work."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ctpa_vqgan.errors import UserError


@contextmanager
def at_work(folder: Path, shared: bool = False) -> Iterator[None]:
    """Work in the folder, which is made if need be; the end of the process ends the claim too.

    Args:
        folder: of the data set.
        shared: with others that share; otherwise alone.

    Raises:
        UserError: somebody else works there, or it cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("a+")  # some network file systems share only what can be read
    except OSError as error:
        raise UserError(f"{folder}: cannot be written to ({error.strerror}); choose another --output") from error
    with lock:
        if not take(lock, shared):
            raise UserError(f"{folder}: another prepare is at work there; wait for it, or choose another")
        yield


def take(file: IO, shared: bool = False) -> bool:
    """Lock an open file until it is closed; False if somebody else has it. Where there are no locks nobody has any."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def is_taken(path: Path) -> bool:
    """Whether somebody has locked a file."""
    try:
        with path.open("r+") as file:
            return not take(file)
    except FileNotFoundError:
        return False
