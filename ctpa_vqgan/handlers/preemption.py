"""Leave in good order when the system asks for it: finish the step, save, and say by the exit code why."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from ignite.engine import Engine, Events

from ctpa_vqgan import ranks
from ctpa_vqgan.errors import Stopped, printable
from ctpa_vqgan.events import TrainerEvents
from ctpa_vqgan.handlers.checkpoints import Checkpoints
from ctpa_vqgan.progress import say

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# they write, and tell of an epoch's end, in pieces that belong together; torch.save turns what is raised in it into a
# RuntimeError
UNBROKEN = ("ctpa_vqgan.sealed", "ctpa_vqgan.handlers.checkpoints")


class Preemption:
    """Save and exit on SIGTERM (143), SIGINT (130) and SIGUSR1 (138, or 0 once SLURM took the job back).

    A step or a file under way is finished first; a validation or a wait for data is not, it comes again when the run
    goes on. A second signal ends the process at once; what was saved before stays. Attach it after the checkpoints.

    Ranks that train together agree at the end of the next step, and leave at the same iteration; of a validation each
    leaves by itself. A rank that a signal cannot reach, because it waits in its GPU's queue for one that was killed, is
    ended from a thread some seconds before torchrun would kill it.

    SLURM sends SIGUSR1 some time before the limit where the job asked for it (``#SBATCH --signal``), and a job that is
    put back (``scontrol requeue``) starts the same command again, which resumes.

    Args:
        checkpoints: of the same trainer.
    """

    def __init__(self, checkpoints: Checkpoints) -> None:
        self.checkpoints = checkpoints
        self._before: dict[int, Any] = {}
        self._done, self._asked, self._process = 0, None, 0
        self._patience: _Patience | None = None

    def attach(self, engine: Engine) -> None:
        """Listen while this trainer runs."""
        engine.add_event_handler(TrainerEvents.RESUMED, self._listen)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._end_step)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._leave_if_asked)
        engine.add_event_handler(TrainerEvents.ENDED, self._listen_no_more)

    def _listen(self, engine: Engine) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python lets no other thread do this
        self._done, self._asked, self._process = engine.state.iteration, None, os.getpid()

        def on_signal(number: int, frame: FrameType | None) -> None:
            self._on_signal(engine, signal.Signals(number), frame)

        self._before = {number: signal.signal(number, on_signal) for number in SIGNALS}
        self._patience = _Patience() if ranks.are_many() else None

    def _listen_no_more(self, engine: Engine) -> None:
        error = sys.exc_info()[1]
        lost = isinstance(error, ranks.RankLost)
        if lost and self._before:  # torchrun's signal is on its way, and nobody was told of the error yet
            self._before[signal.SIGTERM] = functools.partial(_leave_with, str(error))
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if self._patience is not None:
            self._patience.end()
        if lost and self._asked:
            self._leave(engine, self._asked)  # others have left before, by the same signal

    def _end_step(self, engine: Engine) -> None:
        self._done = engine.state.iteration
        self._leave_if_asked(engine)

    def _leave_if_asked(self, engine: Engine) -> None:
        asked = max(ranks.gather_numbers(self._asked or 0)[0])
        if asked:
            self._leave(engine, signal.Signals(asked), together=True)

    def _on_signal(self, engine: Engine, asked: signal.Signals, frame: FrameType | None) -> None:
        if os.getpid() != self._process:  # a loader process that has only just been forked: it has nothing to save
            os._exit(128 + asked)
        if self._asked is not None:
            if ranks.are_many():
                return  # SLURM and torchrun may both tell; rank 0 may be saving; and torchrun's patience ends anyhow
            os.write(2, f"{asked.name} again: leaving at once\n".encode())
            os._exit(128 + asked)
        self._asked = asked
        # a rank may not leave while others are in a step, and cannot know
        step = engine.state.iteration != self._done or (ranks.are_many() and not engine.epoch_end_due)
        if step or _runs(UNBROKEN, frame):
            more = "" if ranks.are_many() else "; once more to leave at once"
            say(f"{asked.name}: finishing the {'step' if step else 'file'}, then saving{more}")
        else:
            self._leave(engine, asked)

    def _leave(self, engine: Engine, asked: signal.Signals, together: bool = False) -> None:
        if self._patience is not None:
            self._patience.end()
        done, saved = engine.state.iteration, False
        if done and done == self._done:
            saved = self.checkpoints.save(engine)
        if together:
            ranks.gather_numbers(0)  # the first rank to leave ends all others: not before rank 0 has saved
        what = f"saved at iteration {done}" if saved else "nothing new is saved"
        code = 128 + asked
        if asked == signal.SIGUSR1 and "SLURM_JOB_ID" in os.environ and _put_back():
            what, code = f"{what}, the job is put back into the queue", 0
        told = f"{asked.name}: {what}; the same command goes on"
        say(told)
        raise Stopped(code, told)


class _Patience:
    """End this process some time after a signal: Python hears of one only between two of its commands.

    torchrun kills what lives 30 s after it handed on SIGTERM, or as long as TORCH_ELASTIC_SHUTDOWN_TIMEOUT says; this
    is a little earlier, so that a job with a rank that was killed ends within 30 s. SIGUSR1 leaves time.
    """

    def __init__(self) -> None:
        self.seconds = 0.6 * float(os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "30"))
        self._over = threading.Event()
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()

    def end(self) -> None:
        """Watch no more."""
        if not self._over.is_set():
            self._over.set()
            signal.set_wakeup_fd(self._before)
            os.close(self._writer)

    def _watch(self) -> None:
        while number := os.read(self._reader, 1):  # empty once the other end is closed
            if number[0] in (signal.SIGTERM, signal.SIGINT) and not self._over.wait(self.seconds):
                told = f"{signal.Signals(number[0]).name}: the step is not done after {self.seconds:g} s; leaving"
                os.write(2, f"{told}, as other ranks may be gone\n".encode())
                os._exit(128 + number[0])
        os.close(self._reader)


def _leave_with(error: str, number: int, frame: FrameType | None) -> None:
    """End this process, as the signal does by default, but not without the error that is on its way up."""
    os.write(2, f"error: {printable(error)}\n".encode())
    os._exit(128 + number)


def _runs(modules: Sequence[str], frame: FrameType | None) -> bool:
    """Whether code of these modules is at work, there or in what called it."""
    while frame is not None and frame.f_globals.get("__name__") not in modules:
        frame = frame.f_back
    return frame is not None


def _put_back() -> bool:
    """Ask SLURM to start this job again; only one process of a job does."""
    # torchrun's ranks have the SLURM_PROCID of their machine, and rank 0 need not be on the first one
    first = ranks.is_main() if ranks.are_many() else os.environ.get("SLURM_PROCID", "0") == "0"
    if not first:
        return True
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if shutil.which("scontrol") is None:
        say(f"scontrol was not found: job {job} is not put back")
        return False
    result = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    if result.returncode:
        say(f"scontrol requeue {job} failed ({result.stderr.strip() or result.returncode}): it is not put back")
    return result.returncode == 0
