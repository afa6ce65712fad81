"""Train for many iterations, and watch memory, open files and event files."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from ignite.engine import Engine, Events

from ctpa_vqgan.files import write_whole
from faults.training import Run, wait

# the smallest training with all parts: a step takes tens of milliseconds
SETTINGS = {
    "patch_size": [16, 16, 8],
    "num_samples": 500,
    "channels": [4, 4],
    "batch_size": 1,
    "num_val_cases": 1,
    "log_interval": 10,
    "num_workers": 1,
    "save_interval": 250,
}
METER = "meter.jsonl"
ENOUGH_TO_TELL = 2000  # iterations; before that the C library still takes what it will keep


class Meter:
    """Write down what a process holds.

    Args:
        folder: of the run.
        interval: iterations between looks.
    """

    def __init__(self, folder: str, interval: int) -> None:
        self.folder, self.interval = Path(folder), interval

    def attach(self, engine: Engine) -> None:
        """Follow this trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self._look)

    def _look(self, engine: Engine) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        events = sum(path.stat().st_size for path in (self.folder / "tensorboard").glob("events*"))
        row = {
            "iteration": engine.state.iteration,
            "resident_bytes": pages * os.sysconf("SC_PAGE_SIZE"),
            "open_files": len(os.listdir("/proc/self/fd")),
            "event_bytes": events,
        }
        with (self.folder / METER).open("a") as file:
            file.write(json.dumps(row) + "\n")


class Endurance(NamedTuple):
    """What grew, per 1000 iterations, after the first tenth of the run."""

    iterations: int
    resident_mb: float
    open_files: int
    event_kb: float
    seconds_per_iteration: float

    @property
    def passed(self) -> bool:
        """No more open files, and less than 1 MB of memory per 1000 iterations, if there were enough to tell."""
        return self.open_files == 0 and (self.resident_mb < 1 or self.iterations < ENOUGH_TO_TELL)


def campaign(data: Path, folder: Path, iterations: int, **settings: Any) -> tuple[Endurance, list[dict]]:
    """One training of so many iterations, with validation, checkpoints and curves.

    Returns:
        What grew, and all that was seen.
    """
    pictures = {"validate::handlers::0::max_cases": 1}  # they may leak as well
    amount = {"num_samples": max(1, min(400, iterations // 10))}
    run = Run(data, folder / "run", **{**SETTINGS, **pictures, **amount, **settings})
    overlay = yaml.safe_load(run.overlay.read_text())
    per_epoch = 3 * overlay["num_samples"]  # three cases of four
    overlay["max_epochs"] = -(-iterations // per_epoch)
    interval = max(1, iterations // 200)
    meter = {"_target_": "faults.endurance.Meter", "folder": str(run.folder), "interval": interval}
    overlay["+train::handlers"].append(meter)
    write_whole(run.overlay, yaml.safe_dump(overlay, sort_keys=False))
    began = time.monotonic()
    if code := wait(run.start(), 3600):
        raise RuntimeError(f"ended with {code}: {run.log()[-2000:]}")
    seconds = time.monotonic() - began
    rows = [json.loads(line) for line in (run.folder / METER).read_text().splitlines()]
    settled = [row for row in rows if row["iteration"] > 0.1 * iterations]
    at = [row["iteration"] / 1000 for row in settled]

    def slope(key: str) -> float:
        return float(np.polyfit(at, [row[key] for row in settled], 1)[0])

    files = settled[-1]["open_files"] - settled[0]["open_files"]
    done = rows[-1]["iteration"]
    result = Endurance(done, slope("resident_bytes") / 1e6, files, slope("event_bytes") / 1e3, seconds / done)
    return result, rows
