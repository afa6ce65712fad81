"""Kill a process that does nothing but save, damage what lies on disk, and fill the disk."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.handlers import Checkpoints
from ctpa_vqgan.sealed import Damaged, load_sealed
from faults.training import Outcome, Run, differences, draws, kill, wait

VALUES = 100_000  # float32 in a checkpoint: 0.4 MB


class Counter:
    """As much of a trainer as checkpoints see."""

    def __init__(self) -> None:
        self.state = SimpleNamespace(iteration=0, epoch_length=10**6, max_epochs=1)

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""
        return {"iteration": self.state.iteration, "epoch_length": self.state.epoch_length}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go there."""
        self.state.iteration = state["iteration"]


def _parts(folder: Path) -> tuple[Counter, torch.nn.Module, Checkpoints]:
    model = torch.nn.Linear(VALUES, 1, bias=False)
    return Counter(), model, Checkpoints(folder, {"model": model}, keep_last=2)


def _save_for_ever(folder: Path) -> None:
    counter, model, checkpoints = _parts(folder)
    checkpoints.resume(counter)
    while True:
        counter.state.iteration += 1
        model.weight.data.fill_(counter.state.iteration)
        checkpoints.save(counter)


def kills(folder: Path, number: int, seed: int = 0) -> Outcome:
    """SIGKILL a process that saves without a pause, and let another go on from what it left.

    Survived: every file under a final name is sound, at least one is there, and no older one comes back.
    """
    draw, survived, last, on_their_way, failures = draws(seed), 0, 0, 0, []
    counter, _, checkpoints = _parts(folder)
    checkpoints.save(counter)
    for _ in range(number):
        pid = os.fork()
        if not pid:
            with contextlib.suppress(BaseException), open(os.devnull, "w") as nothing:
                os.dup2(nothing.fileno(), 2)
                _save_for_ever(folder)
            os._exit(1)
        time.sleep(draw.uniform(0.02, 0.25))
        kill(pid)
        wait(pid)
        on_their_way += any(path.name.startswith(".") for path in folder.iterdir())
        try:
            contents = [load_sealed(path) for path in sorted(folder.glob("checkpoint_*.pt"))]
            newest = contents[-1]["trainer"]["iteration"]
            assert newest >= last
            assert all((c["model"]["weight"] == c["trainer"]["iteration"]).all() for c in contents[-1:] if newest)
            survived, last = survived + 1, newest
        except (Damaged, IndexError, AssertionError) as error:
            failures.append(repr(error))
    note = f"{last} checkpoints written; {on_their_way} kills left a file on its way, none under a final name"
    return Outcome(number, survived, "; ".join([note, *failures[:3]]))


def damage(folder: Path, number: int, seed: int = 0) -> dict[str, Outcome]:
    """Flip a bit of the newest checkpoint, or cut it short, and resume.

    Survived: the file is refused by name, and the run goes on from the one before.
    """
    draw, outcomes = draws(seed), {}
    for kind in ("bit flips", "truncations"):
        place = folder / kind.replace(" ", "_")
        counter, _, checkpoints = _parts(place)
        for counter.state.iteration in (1, 2):
            checkpoints.save(counter)
        newest = checkpoints.files()[-1]
        seal = newest.with_name(f"{newest.name}.sha256")
        content, line, survived = newest.read_bytes(), seal.read_bytes(), 0
        for _ in range(number):
            damaged = bytearray(content)
            if kind == "bit flips":
                damaged[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            else:
                del damaged[draw.randrange(len(content)) :]
            newest.write_bytes(damaged)
            seal.write_bytes(line)
            try:
                load_sealed(newest)
            except Damaged as error:
                refused = str(newest) in str(error)
            else:
                refused = False
            counter, _, checkpoints = _parts(place)
            with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
                checkpoints.resume(counter)
            checkpoints._end(counter)
            survived += refused and counter.state.iteration == 1
        outcomes[kind] = Outcome(number, survived, "refused by name, the checkpoint before it taken")
    return outcomes


def full_disk(data: Path, folder: Path, number: int, seed: int = 0) -> Outcome:
    """Let a training write no file larger than some kilobytes for a while (RLIMIT_FSIZE), at random iterations.

    Survived: it says so in a line, ends with 0, comes out bit for bit, and what was on disk stays sound.
    """
    draw, survived, failures = draws(seed), 0, []
    reference = Run(data, folder / "reference", save_interval=1)
    reference.finish()
    for place in range(number):
        run = Run(data, folder / f"full_{place}", save_interval=1)
        first = draw.randrange(1, 12)
        begin, end, size = first, first + draw.randrange(2, 7), draw.randrange(20_000, 60_000)
        code = wait(run.start(lambda: _limit_between(begin, end, size)))  # noqa: B023
        told = run.log().count("could not be written")
        sound = all(_is_sound(path) for path in (run.folder / "checkpoints").glob("checkpoint_*.pt"))
        found = differences(run, reference, points=False)  # a full disk takes no points
        if code == 0 and told and sound and not found:
            survived += 1
        else:
            failures.append(f"{code}, {told} lines, sound {sound}, {found[:3]}")
    return Outcome(number, survived, "; ".join(["training goes on, the next checkpoint is written", *failures[:3]]))


def small_disk(data: Path, folder: Path, megabytes: float = 0.5) -> Outcome | None:
    """A training whose output lies on a file system that is too small (tmpfs); None where none can be mounted.

    Survived: a line, and an exit code that says that it is not saved.
    """
    place = folder / "small"
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={int(megabytes * 2**20)}", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    try:
        run = Run(data, folder / "outside", save_interval=1)
        (folder / "outside").symlink_to(place)
        (place / "ballast").write_bytes(bytes(int(megabytes * 2**20) - 250_000))
        code = wait(run.start())
        told = "could not be written (No space left on device)" in run.log()
        last = run.log().strip().splitlines()[-1]
        sound = all(_is_sound(path) for path in (place / "checkpoints").glob("checkpoint_*.pt"))
        (place / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=50m", str(place)], check=True, capture_output=True)
        run.finish()
        good = code == 1 and told and sound and "the same command goes on" in last
        return Outcome(1, int(good), f"ended with {code}; with more space the same command went on to the end")
    finally:
        subprocess.run(["umount", str(place)], check=False)


def _is_sound(path: Path) -> bool:
    try:
        load_sealed(path)
    except UserError:
        return False
    return True


def _limit_between(begin: int, end: int, size: int) -> None:
    """In this process, from iteration ``begin`` on and up to ``end``, no file grows beyond ``size`` bytes."""
    from ctpa_vqgan.trainer import VQGANTrainer

    step = VQGANTrainer._iteration

    def limited(self: VQGANTrainer, engine: VQGANTrainer, batch: dict) -> dict:
        now = size if begin <= self.state.iteration < end else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (now, resource.RLIM_INFINITY))
        return step(self, engine, batch)

    VQGANTrainer._iteration = limited
