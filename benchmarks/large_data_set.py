"""What do 100 000 volumes cost before the first patch? Memory of the list, seconds to start, the shuffling of an epoch.

    python benchmarks/large_data_set.py [--numbers 1000 10000 100000] [--json FILE]

Volumes are headers without voxels (sides of 512 x 512 x 400 to 699) in one folder, a tenth of them held out by a
``dataset.json``; no patch is read. Files lie on the local disk and in the page cache: a network file system adds the
time to open each file. Each row is a process of its own. Start-up is all that a training does once for every volume:
both lists of cases, the data set, the order of the first epoch, the hash of the cases for checkpoints, the quarantine.
Seconds are those of the clock; on a busy machine the processor's own say more. They are compared with the row above,
of a tenth as many volumes: about ten times as many are linear, and a hundred times would be quadratic.

Memory is the growth of the resident set, with what Python keeps of memory that was freed: by the list of cases, and by
the data set with the order of an epoch. Every loader process has an order of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from side_by_side import MIB, Row, argument_parser, number, parsed, provenance, report, table

from ctpa_vqgan.bundle import cases_told
from ctpa_vqgan.data import load_volume, patch_dataset, prepare_patch, training_cases, validation_cases, write_prepared
from ctpa_vqgan.data.prepared import HEADER_BYTES
from ctpa_vqgan.handlers import Quarantine

GOAL_SECONDS = 30.0
HELD_OUT = 10  # one volume of so many
PATCH, STRIDE, NUM_SAMPLES = (256, 256, 128), (192, 192, 96), 54
SIDES_AT, TEXT_AT = 42, 148  # bytes in a NIfTI header: three sides, and 80 bytes of text with our mark
# kind of files, what is given as the data set, how patches are drawn
WAYS = {
    "prepared, dataset.json, random": ("prepared", "", "random"),
    "prepared, folder, random": ("prepared", "volumes", "random"),
    "prepared, dataset.json, grid": ("prepared", "", "grid"),
    "raw, dataset.json, random": ("raw", "", "random"),
    "raw, dataset.json, grid": ("raw", "", "grid"),
}
SIZES = {
    "smoke": {"numbers": [20, 200], "repeats": 1},
    "cpu": {"numbers": [1000, 10_000, 100_000], "repeats": 1},
    "cuda": {"numbers": [1000, 10_000, 100_000], "repeats": 1},
}
STEPS = {
    "training_cases": "training cases",
    "validation_cases": "validation cases",
    "data_set": "data set",
    "order": "first order",
    "cases_told": "hash",
    "quarantine": "quarantine",
}


def write_data_set(folder: Path, kind: str, count: int) -> None:
    """``dataset.json``, and headers of so many volumes below ``volumes``."""
    (folder / "volumes").mkdir(parents=True)
    affine = np.diag([0.7, 0.7, 0.6, 1.0])
    small = write_prepared(folder / "header.nii", np.zeros((32, 32, 8), np.int16), affine)
    header = bytearray(small.read_bytes()[:HEADER_BYTES])
    small.unlink()
    if kind == "raw":
        header[TEXT_AT : TEXT_AT + 80] = bytes(80)
    names = [f"volumes/patient_{index:06d}.nii" for index in range(count)]
    for index, name in enumerate(names):
        struct.pack_into("<3h", header, SIDES_AT, 512, 512, 400 + index % 300)
        (folder / name).write_bytes(header)
    items = [{"image": name} for name in names]
    held_out = items[::HELD_OUT]
    training = [item for index, item in enumerate(items) if index % HELD_OUT]
    (folder / "dataset.json").write_text(json.dumps({"training": training, "validation": held_out}))


def start(source: Path, sampling: str, note: Callable[[str], None]) -> Any:
    """What a training does before its first patch; ``note`` is told what was just done."""
    cases = training_cases(source)
    note("training_cases")
    validation_cases(source)
    note("validation_cases")
    transform = prepare_patch((-1000.0, 1000.0))
    dataset = patch_dataset(cases, load_volume(), transform, PATCH, STRIDE, sampling, NUM_SAMPLES)
    note("data_set")
    dataset.epoch_order(0)
    note("order")
    cases_told(dataset)
    note("cases_told")
    Quarantine(dataset).load_state_dict({"cases": []})
    note("quarantine")
    return dataset


def measure(source: Path, sampling: str) -> dict[str, Any]:
    """Seconds of each step and of the next epoch's order, and bytes; in this process."""
    seconds: dict[str, float] = {}
    held = {"before": resident_bytes()}
    clock, processor = time.perf_counter(), time.process_time()

    def note(step: str) -> None:
        nonlocal clock
        seconds[step] = time.perf_counter() - clock
        held[step] = resident_bytes()
        clock = time.perf_counter()

    dataset = start(source, sampling, note)
    processor, began = time.process_time() - processor, time.perf_counter()
    dataset.epoch_order(1)
    next_order = time.perf_counter() - began
    return {
        "steps": seconds,
        "seconds": sum(seconds.values()),
        "processor_seconds": processor,
        "next_order_seconds": next_order,
        "patches_per_epoch": dataset.num_patches,
        "list_bytes": held["training_cases"] - held["before"],
        "data_set_bytes": held["order"] - held["validation_cases"],
        "order_bytes": dataset.epoch_order(1).nbytes,
    }


def resident_bytes() -> int:
    """Of this process, now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run(options: argparse.Namespace) -> list[Row]:
    """All rows, each from a fresh process."""
    rows: list[Row] = []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for count in options.numbers:
        for kind in dict.fromkeys(kind for kind, *_ in WAYS.values()):
            with tempfile.TemporaryDirectory() as folder:
                write_data_set(Path(folder) / "data", kind, count)
                for name, (files, below, sampling) in WAYS.items():
                    if files != kind:
                        continue
                    source = str(Path(folder) / "data" / below)
                    command = [sys.executable, "-W", "ignore", __file__, "--measure", source, sampling]
                    output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
                    rows.append({"name": name, "volumes": count, **json.loads(output.stdout.splitlines()[-1])})
                    print(f"{name}, {count} volumes: {rows[-1]['seconds']:.2f} s", file=sys.stderr, flush=True)
    return sorted(rows, key=lambda row: list(WAYS).index(row["name"]))


def markdown(content: dict) -> str:
    """A table for the screen and for the documents."""
    lines, before = [], {}
    for row in content["rows"]:
        steps = [number(row["steps"][step], digits=2) for step in STEPS]
        memory = [number(row[what] / MIB, digits=2) for what in ("list_bytes", "data_set_bytes", "order_bytes")]
        start_up = number(row["seconds"], digits=2) + ("" if row["seconds"] < GOAL_SECONDS else ", goal not met")
        last = before.get(row["name"])
        growth = "" if last is None else number(row["processor_seconds"] / last, digits=2)
        before[row["name"]] = row["processor_seconds"]
        next_order = number(row["next_order_seconds"], digits=2)
        lines.append([row["name"], f"{row['volumes']:,}".replace(",", " "), *steps, start_up])
        lines[-1] += [number(row["processor_seconds"], digits=2), growth, next_order, *memory]
    head = ["data set and patches", "volumes", *(f"{name} [s]" for name in STEPS.values()), "start-up [s]"]
    head += ["of the processor [s]", "times the row above", "next order [s]"]
    head += ["list [MiB]", "data set [MiB]", "of it an order [MiB]"]
    return table(head, lines) + f"\n\nGoal: start-up below {GOAL_SECONDS:g} s. {provenance(content)}"


def main(argv: Sequence[str] | None = None) -> dict | None:
    """Read the arguments, measure, print and write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--numbers", type=int, nargs="+", metavar="N", help="volumes, ascending")
    parser.add_argument("--measure", nargs=2, metavar=("DATA", "SAMPLING"), help=argparse.SUPPRESS)
    options = parsed(parser, argv, SIZES)
    if options.measure:
        print(json.dumps(measure(Path(options.measure[0]), options.measure[1])))
        return None
    return report(options, markdown, rows=run(options))


if __name__ == "__main__":
    main()
