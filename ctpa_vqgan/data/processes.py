"""Loader processes that may die or hang: found out when a batch is fetched, and told by process, signal and file."""

from __future__ import annotations

import contextlib
import ctypes
import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai.data.utils import worker_init_fn
from torch.utils.data import get_worker_info
from torch.utils.data._utils import signal_handling

from ctpa_vqgan.data.unreadable import case_key
from ctpa_vqgan.errors import UserError

POLL_SECONDS = 1.0  # how often a process that waits for a batch looks whether those that make it are alive
# the main process gets these too, from the terminal or from SLURM: it finishes its step, and needs no batch for that
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGUSR1)
NOTHING = -1
PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>


class ProcessDied(Exception):
    """Loader processes ended that should not; the message says which, how, and at which files.

    Args:
        processes: what became of each.
        way_out: what helps if it goes on like that.
    """

    def __init__(self, processes: Sequence[str], way_out: str) -> None:
        super().__init__(", ".join(processes))
        self.way_out = way_out


def reading_board(num_workers: int) -> torch.Tensor:
    """Where each loader process notes the number of the case that it reads: [num_workers] int64, shared."""
    return torch.full([num_workers], NOTHING).share_memory_()


def begin(worker_id: int, board: torch.Tensor) -> None:
    """First thing in a loader process: MONAI's seeds, a name, a place on the board, and no signals of the terminal."""
    _die_with_parent()
    signal.set_wakeup_fd(-1)  # that of the main process means the main process
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    multiprocessing.current_process().name = f"loader-{worker_id}"
    worker_init_fn(worker_id)
    get_worker_info().dataset.reading = board[worker_id]


def _die_with_parent() -> None:
    """Let the kernel kill this process when its parent dies.

    PyTorch's watchdog does not look while a file is read, and waits for ever if the parent was gone when it began.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # the parent may be gone already; that of a forkserver's process is the server
    if multiprocessing.get_start_method() != "forkserver" and os.getppid() != multiprocessing.parent_process().pid:
        os._exit(1)


def collate_and_rest(samples: Sequence[dict], collate: Callable) -> dict:
    """Last thing for a batch in a loader process: after it, no file is being read."""
    batch = collate(samples)
    get_worker_info().dataset.reading.fill_(NOTHING)
    return batch


@contextlib.contextmanager
def reported_by_no_signal() -> Iterator[None]:
    """Within it, PyTorch makes an iterator whose processes its handler of SIGCHLD does not know.

    That handler raises at any point of the main process, as in the middle of an optimizer step.
    """
    register, signal_handling._set_worker_pids = signal_handling._set_worker_pids, lambda *ignored: None
    try:
        yield
    finally:
        signal_handling._set_worker_pids = register


class LoaderProcesses:
    """PyTorch's iterator over batches, whose processes may die and hang.

    PyTorch asks its processes to end by an event behind a lock, and waits for ever if one was killed that held it. Here
    all are killed, as they have nothing to lose.

    Args:
        batches: the iterator, made within :func:`reported_by_no_signal`, with :data:`POLL_SECONDS` as ``timeout``.
        board: see :func:`reading_board`.
        cases: what the numbers on the board mean.
    """

    def __init__(self, batches: Any, board: torch.Tensor, cases: Sequence[dict]) -> None:
        self.batches, self.board, self.cases = batches, board, cases
        # kept, as spawned processes look it up when they begin; never set
        self.asked_to_end, batches._workers_done_event = batches._workers_done_event, threading.Event()

    def next_batch(self, timeout: float) -> dict:
        """Wait for the next batch.

        Args:
            timeout: seconds; 0 waits for ever.

        Raises:
            ProcessDied: a process did.
            UserError: no batch came in time.
        """
        deadline = time.monotonic() + (timeout or math.inf)
        while True:
            try:
                return next(self.batches)
            except Exception as error:
                waiting = str(error).startswith("DataLoader timed out")
                if not waiting:
                    time.sleep(0.1)  # what a dying process leaves half done is noticed before its death
                self._look_for_deaths(error)
                if not waiting:
                    raise
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{self._files(self.board) or 'no file'}: expected a batch within loader_timeout = {timeout:g} s, "
                    "found loader processes that hang at this point; check the disk or network drive and start again, "
                    "or raise loader_timeout"
                )

    def stop(self) -> None:
        """Kill the processes, whatever they do."""
        self.batches._shutdown = True  # for PyTorch, there is nothing left to end
        for process in self.batches._workers:
            process.kill()
        for process in self.batches._workers:
            process.join(timeout=5)  # longer only where a dead network drive keeps even a killed process
        for queue in self.batches._index_queues:
            queue.cancel_join_thread()
            queue.close()

    def _look_for_deaths(self, error: Exception) -> None:
        ended = [number for number, process in enumerate(self.batches._workers) if process.exitcode is not None]
        dead = [number for number in ended if self.batches._workers[number].exitcode]
        if not dead and "exited unexpectedly" in str(error):
            dead = ended
        if dead:
            killed = any(self.batches._workers[number].exitcode == -signal.SIGKILL for number in dead)
            way_out = "likely out of memory: lower num_workers" if killed else "check these files and their disk"
            raise ProcessDied([self._fate(number) for number in dead], way_out) from None

    def _fate(self, number: int) -> str:
        process = self.batches._workers[number]
        file = self._files(self.board[number : number + 1])
        return f"loader process {number} (pid {process.pid}) {_end(process.exitcode)}" + (file and f" reading {file}")

    def _files(self, read: torch.Tensor) -> str:
        return ", ".join(dict.fromkeys(case_key(self.cases[case]) for case in read.tolist() if case != NOTHING))


def _end(exit_code: int) -> str:
    if exit_code >= 0:
        return f"ended with code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:  # a real-time signal
        return f"was killed by signal {-exit_code}"
