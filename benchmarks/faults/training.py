"""A training of seconds with everything in it, in a forked process that can be killed, and what it leaves compared."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import ctpa_vqgan.handlers.checkpoints
from ctpa_vqgan.__main__ import main
from ctpa_vqgan.data.phantom import make_phantom
from ctpa_vqgan.data.prepared import write_prepared
from ctpa_vqgan.events import TrainerEvents
from ctpa_vqgan.files import write_whole
from ctpa_vqgan.sealed import load_sealed

# both discriminators join, codes are made by k-means in the middle of an epoch, and every step has two micro-batches
SETTINGS: dict[str, Any] = {
    "patch_size": [32, 32, 16],
    "num_samples": 4,
    "channels": [4, 8],
    "num_embeddings": 16,
    "embedding_dim": 4,
    "codebook_init_steps": 3,
    "max_epochs": 3,
    "batch_size": 2,
    "micro_batch_size": 1,
    "g_learning_rate": 2.0e-3,
    "warmup": 4,
    "adversarial_start": 5,
    "adversarial_ramp": 5,
    "discriminator_channels": 4,
    "discriminator_layers": 1,
    "num_workers": 0,
    "num_val_cases": 1,
    "save_interval": 4,
    "log_interval": 1,
    "progress": False,
    "validate::handlers::0::max_cases": 0,  # a picture at each validation is larger than all else that these runs write
}
DEVICE = os.environ.get("FAULTS_DEVICE", "cpu")  # of all trainings
PHASES = {b"i": "start", b"w": "waiting for data", b"s": "step", b"c": "saving", b"e": "end of an epoch"}
LOSSES, PHASE = "losses.jsonl", "phase"
ENOUGH_SECONDS = 120.0


class Outcome(NamedTuple):
    """What a campaign found: how many faults were put in, how many were survived as promised, and how they fell."""

    injected: int
    survived: int
    note: str = ""


class Trace:
    """Write every term of every iteration as a float in hexadecimal, and at each moment what the run is at.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.phase = os.open(self.folder / PHASE, os.O_WRONLY | os.O_CREAT)

    def attach(self, engine: Engine) -> None:
        """Follow this trainer; handlers attached before it come first."""
        self._tell(b"i")
        engine.add_event_handler(TrainerEvents.RESUMED, self._tell, b"i")
        engine.add_event_handler(Events.GET_BATCH_STARTED, self._tell, b"w")
        engine.add_event_handler(Events.ITERATION_STARTED, self._tell, b"s")
        # before checkpoints are written or a signal ends the run
        engine.add_event_handler(IterationEvents.MODEL_COMPLETED, self._losses)
        save = ctpa_vqgan.handlers.checkpoints.save_sealed

        def told(content: Any, path: Path) -> str:
            self._tell(b"c")
            digest = save(content, path)
            self._tell(b"e")
            return digest

        ctpa_vqgan.handlers.checkpoints.save_sealed = told

    def _tell(self, phase: bytes) -> None:
        os.pwrite(self.phase, phase, 0)

    def _losses(self, engine: Engine) -> None:
        terms = {name: value.hex() for name, value in engine.terms.items()}
        with (self.folder / LOSSES).open("a") as file:
            file.write(json.dumps([engine.state.iteration, terms]) + "\n")
        if engine.state.iteration % engine.state.epoch_length == 0:
            self._tell(b"e")


def make_data(folder: Path, number: int = 4) -> Path:
    """Prepared phantoms of 40 voxels a side."""
    for seed in range(number):
        phantom = make_phantom((40, 40, 36), (9.0, 9.0, 10.0), seed=seed)
        write_prepared(folder / f"case_{seed}.nii", phantom.volume, phantom.affine)
    return folder


class Run:
    """A training with a folder of its own, started as often as it takes.

    Args:
        data: of :func:`make_data`.
        folder: of the run.
        settings: knobs beside :data:`SETTINGS`.
    """

    def __init__(self, data: Path, folder: Path, **settings: Any) -> None:
        self.data, self.folder = data, folder
        if DEVICE == "cuda":  # so that a run can be compared bit for bit
            settings = {"deterministic": True} | settings
        handler = {"_target_": "faults.training.Trace", "folder": str(folder)}
        overlay = SETTINGS | {"device": DEVICE} | settings | {"+train::handlers": [handler]}
        self.overlay = folder.with_suffix(".yaml")
        write_whole(self.overlay, yaml.safe_dump(overlay, sort_keys=False))

    def start(self, before: Callable[[], None] | None = None) -> int:
        """Fork a process that trains, in a session of its own; returns its number."""
        (self.folder / PHASE).unlink(missing_ok=True)
        pid = os.fork()
        if pid:
            return pid
        code = 70
        try:
            os.setsid()
            log = os.open(self.folder.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            sys.stdout, sys.stderr = open(1, "w", buffering=1), open(2, "w", buffering=1)  # noqa: SIM115
            torch.set_num_threads(1)
            if before:
                before()
            arguments = ["train", "--data", self.data, "--output", self.folder, "--overlay", self.overlay, "--trust"]
            code = main([str(word) for word in arguments])
        except SystemExit as left:
            code = left.code
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            os._exit(code)

    def finish(self) -> None:
        """Start, and wait for the end.

        Raises:
            RuntimeError: if it does not end with 0; the last lines of its log.
        """
        if code := wait(self.start()):
            raise RuntimeError(f"{self.folder.name} ended with {code}:\n{self.log()[-2000:]}")

    def phase(self) -> str:
        """What it is at, or was when it died."""
        with contextlib.suppress(OSError):
            return PHASES.get((self.folder / PHASE).read_bytes(), "start")
        return "start"

    def log(self) -> str:
        """What it printed, over all starts."""
        return self.folder.with_suffix(".log").read_text()

    def lives(self) -> list[tuple[int, dict[str, str]]]:
        """Every iteration that was ever done, in the order of its doing, with its terms."""
        path, found = self.folder / LOSSES, []
        for line in path.read_bytes().split(b"\n") if path.exists() else ():
            with contextlib.suppress(ValueError):  # half a line, of a process that was killed
                found.append(tuple(json.loads(line)))
        return found

    def curve(self) -> list[int]:
        """Iterations at which TensorBoard draws the loss, in its order."""
        logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of each restart
        events = EventAccumulator(str(self.folder / "tensorboard"), size_guidance={"scalars": 0})
        events.Reload()
        return [event.step for event in events.Scalars("loss/total")]

    def weights(self) -> str:
        """SHA-256 of the exported weights, and of all that the last checkpoint holds but its place."""
        last = sorted((self.folder / "checkpoints").glob("checkpoint_*.pt"))[-1]
        digest = hashlib.sha256((self.folder / "model.pt").read_bytes())
        _add(digest, load_sealed(last))
        return digest.hexdigest()


def differences(run: Run, reference: Run, points: bool = True) -> list[str]:
    """How a run that was disturbed differs from one that was not; nothing, as promised.

    Args:
        run: the one with faults.
        reference: the one without.
        points: whether TensorBoard has to have every point of the curve, or only no point twice and in order.
    """
    expected = dict(reference.lives())
    found = [f"iteration {n}" for n, terms in run.lives() if not terms or expected.get(n) != terms]
    missing = expected.keys() - dict(run.lives()).keys()
    found += [f"iteration {iteration} is missing" for iteration in sorted(missing)]
    found += [] if run.weights() == reference.weights() else ["final state"]
    curve = run.curve()
    drawn = curve == sorted(expected) if points else curve == sorted(set(curve))
    return found + ([] if drawn else [f"the curve in TensorBoard ({curve})"])


def largest_difference(run: Run, other: Run) -> float:
    """Of all terms of all iterations, relative to the larger of the two."""
    gaps, others = [0.0], dict(other.lives())
    for iteration, terms in run.lives():
        for name, value in terms.items():
            one, two = float.fromhex(value), float.fromhex(others[iteration][name])
            gaps.append(abs(one - two) / max(abs(one), abs(two), 1e-30))
    return max(gaps)


def wait(pid: int, seconds: float = ENOUGH_SECONDS) -> int:
    """Exit code of a process; minus the signal that killed it.

    Raises:
        RuntimeError: if it takes too long; it is killed then.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    kill(pid)
    raise RuntimeError(f"process {pid} did not end within {seconds} s")


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process alone; its loader processes notice by themselves."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def ended_within(pid: int, seconds: float) -> int | None:
    """Exit code if the process ends by itself so soon, None if it is still at work."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(min(left, 0.005))
    return None


@contextlib.contextmanager
def scratch() -> Any:
    """A folder for a campaign."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        yield Path(folder)


def draws(seed: int) -> random.Random:
    """Where the moments and places of faults come from."""
    return random.Random(seed)


def tally(names: Sequence[str]) -> str:
    """``3 step, 1 saving``: how faults fell."""
    return ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names), key=names.count, reverse=True))


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for key in sorted(value, key=str):
            digest.update(str(key).encode())
            _add(digest, value[key])
    elif isinstance(value, (list, tuple)):
        for item in value:
            _add(digest, item)
    else:
        digest.update(repr(value).encode())
