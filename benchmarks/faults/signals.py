"""Send the signals of terminals and schedulers to trainings, at every phase, and let them go on."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from faults.training import PHASES, Outcome, Run, differences, draws, ended_within, tally, wait

CODES = {signal.SIGTERM: 143, signal.SIGUSR1: 0, signal.SIGINT: 130}  # SLURM takes a job back after SIGUSR1
JOB = "4711"


def campaign(data: Path, folder: Path, number: int, seed: int = 0, limit_s: float = 60.0) -> Outcome:
    """Signals to the whole process group at each phase in turn, a fake ``scontrol`` at hand.

    Survived: the exit code is the one of the signal, it ends in time, the state of the last finished iteration is on
    disk, and the run comes out bit for bit in the end. A run that is still starting has nothing to save: there the
    signal may end it the usual way.
    """
    draw = draws(seed)
    calls = _fake_slurm(folder)
    # long enough for many stops; validation and saving are met often
    settings = {"num_workers": 2, "max_epochs": 4, "save_interval": 3, "num_val_cases": 2, "val_fraction": 0.5}
    reference = Run(data, folder / "reference", **settings)
    reference.finish()
    survived, slowest, phases, failures, requeued = 0, 0.0, [], [], 0
    wanted, runs, run, done = list(PHASES.values()), 0, None, 0
    while done < number:
        if run is None:
            runs += 1
            run = Run(data, folder / f"run_{runs}", **settings)
        phase, name = wanted[done % len(wanted)], list(CODES)[(done // len(wanted)) % len(CODES)]
        pid = run.start()
        code = _when(run, pid, phase, draw.uniform(0.0, 1.5))
        if code is not None:  # it came to its end first
            failures += [f"run {runs} ended with {code}"] if code else differences(run, reference)
            run = None
            continue
        phases.append(phase)
        sent = time.monotonic()
        os.killpg(pid, name)
        code = wait(pid, limit_s)
        slowest = max(slowest, time.monotonic() - sent)
        requeued += code == 0 and name == signal.SIGUSR1
        if code == CODES[name] or (phase == "start" and code in (-name, 128 + name)):
            if phase == "start" or _saved(run):
                survived += 1
            else:
                failures.append(f"{name.name} in {phase}: the last iteration is not on disk")
        else:
            failures.append(f"{name.name} in {phase}: ended with {code}: {run.log()[-200:]}")
        done += 1
    if run is not None:
        run.finish()
        failures += differences(run, reference)
    asked = calls.read_text().splitlines() if calls.exists() else []
    if asked != [f"requeue {JOB}"] * requeued:
        failures.append(f"scontrol was called {len(asked)} times for {requeued} jobs")
    note = f"{tally(phases)}; slowest {slowest:.1f} s; every run bit for bit"
    return Outcome(number, survived if not failures else min(survived, number - 1), "; ".join([note, *failures[:5]]))


def _when(run: Run, pid: int, phase: str, later_s: float) -> int | None:
    """Wait until the run is at a phase, not before some time is over; its exit code if it ends before that."""
    if (code := ended_within(pid, later_s)) is not None:
        return code
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if run.phase() == phase or (phase == "start" and later_s < 0.5):
            return None
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
        if phase == "start":
            return None
    raise RuntimeError(f"{run.folder.name} never came to {phase}")


def _saved(run: Run) -> bool:
    """Whether the newest checkpoint is that of the last iteration that was done."""
    files = sorted((run.folder / "checkpoints").glob("checkpoint_*.pt"))
    lives = run.lives()
    return not lives or (bool(files) and int(files[-1].stem.split("_")[1]) >= lives[-1][0])


def _fake_slurm(folder: Path) -> Path:
    """A ``scontrol`` that writes down what it is asked for, first in the path of all processes to come."""
    script, calls = folder / "bin" / "scontrol", folder / "calls"
    script.parent.mkdir(parents=True)
    script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    script.chmod(0o755)
    os.environ["PATH"] = f"{script.parent}:{os.environ['PATH']}"
    os.environ |= {"SLURM_JOB_ID": JOB, "SLURM_PROCID": "0"}
    return calls
