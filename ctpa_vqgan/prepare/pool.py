"""Work on many things in parallel processes, none of which can stop the others."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

T = TypeVar("T")


class Crashed(Exception):
    """The process that worked on an item died: of a fault in a library, or because memory ran out."""


def map_safely(function: Callable[[T], Any], items: Sequence[T], workers: int) -> Iterator[tuple[T, Any]]:
    """``function`` of every item, as they are done.

    Args:
        function: of one item; must be importable by name, as it runs in other processes.
        items: in the order of starting.
        workers: processes; 0 works in this one.

    Yields:
        Item and result; a result is :class:`Crashed` where the process died. An exception of the function is raised.
    """
    if not workers:
        yield from ((item, function(item)) for item in items)
        return
    waiting, suspects = list(reversed(items)), []
    while waiting or suspects:
        # after a crash nobody knows whose fault it was: those at work are tried again one by one
        alone = bool(suspects)
        queue, most = (suspects, 1) if alone else (waiting, workers)
        broken = yield from _run(function, queue, most)
        if alone and broken:
            yield broken[0], Crashed()
        else:
            suspects += broken


def _run(function: Callable[[T], Any], queue: list[T], most: int) -> Iterator[tuple[T, Any]]:
    """Empty the queue from its end; returns the items that were at work when a process died."""
    # spawned: a fork of a process that holds threads may hang
    pool = ProcessPoolExecutor(most, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)
    at_work: dict[Future, T] = {}
    try:
        while queue or at_work:
            while queue and len(at_work) < most:
                item = queue.pop()
                try:
                    at_work[pool.submit(function, item)] = item
                except BrokenProcessPool:
                    queue.append(item)
                    return list(at_work.values())
            for future in wait(at_work, return_when=FIRST_COMPLETED).done:
                if isinstance(future.exception(), BrokenProcessPool):
                    return list(at_work.values())
                yield at_work.pop(future), future.result()
        return []
    finally:
        with _no_ctrl_c():  # a second one would leave the pool half shut, and that waits for ever
            pool.shutdown(wait=True, cancel_futures=True)  # what is being written is finished first


@contextlib.contextmanager
def _no_ctrl_c() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _begin() -> None:
    """Leave Ctrl-C, which reaches every process of a terminal, to the parent; and do not outlive it.

    Each process computes on one core: there are as many of them as cores.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch, where a job needs it, is not imported yet
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)
