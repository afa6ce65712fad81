"""What memory does a training step take, for the patches and batches that patch-wise training guides name?

    python benchmarks/guide_memory.py [--measure] [--json FILE]

Our default network, and the one that users of medicaldiffusion and X-ray2CTPA train (configs/baseline_256.yaml), each
with discriminators, losses, optimizers, averaged weights and codebook, at every patch size, in float32 and in bf16: a
whole batch of 1, 2 or 4 at once, and a batch of 4 one patch at a time.

Counted: the package's trainer makes a step for a CUDA device on tensors that know only their shape, and every one of
them is followed until it is freed, as ``python -m ctpa_vqgan plan`` does it. Knobs of the default network are counted
besides. ``--measure`` makes real steps in float32
on the CPU besides, of one patch where that needs less than ``--most-gib`` by the count, each in a process of its own:
its live tensors, and RssAnon of the process above that before. No GPU was asked.

The baseline's own code looks for codes with a matrix of distances and two one-hot matrices, of 4 + 8 + 4 bytes for
every position and code: that column is a formula, not a count.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from side_by_side import GIB, count_parser, number, provenance, report, table
from stream_memory import AnonymousMemory
from training_step import patch_size

from ctpa_vqgan.inferers.memory import LiveBytes
from ctpa_vqgan.plan.config import TrainingConfig
from ctpa_vqgan.plan.memory import CONTEXT, GAPS, RandomBatches, make_parts, make_trainer, step_memory

ROOT = Path(__file__).parents[1]
OURS, BASELINE = "ours", "the baseline's"
OVERLAYS = {OURS: [], BASELINE: [str(ROOT / "configs/baseline_256.yaml")]}
PATCHES = [(256, 256, 128), (192, 192, 96), (128, 128, 64)]
BATCHES = [(1, 1), (2, 2), (4, 4), (4, 1)]  # patches per step, patches at once
PRECISIONS = ("float32", "bf16")
CARD = 24 * 10**9  # bytes of the GPU that guides ask for
# knobs that change what a step of the default network takes
WAYS = (
    (),
    ("micro_batch_size=2",),
    ("micro_batch_size=4",),
    ("patch_size=[192,192,96]",),
    ("patch_size=[128,128,64]",),
    ("checkpointing=true",),
    ("precision=float32",),
    ("precision=float32", "checkpointing=true"),
    ("discriminator_channels=16",),
)
TEXTBOOK = 4 + 8 + 4  # bytes for each position and code: distance, one-hot as integers, and as numbers
Row = dict[str, Any]


def config(network: str, patch: Sequence[int], settings: Sequence[str], device: str) -> TrainingConfig:
    """The bundle's train.yaml for this network and patch; ``settings`` are knobs besides."""
    return TrainingConfig(OVERLAYS[network], [f"patch_size={list(patch)}", f"device={device}", *settings])


def counted(network: str, patch: Sequence[int], settings: Sequence[str]) -> Row:
    """Bytes of a step at its worst moment, for every batch in both precisions."""
    asked, steps = config(network, patch, settings, "cuda"), []
    for (batch, micro), precision in itertools.product(BATCHES, PRECISIONS):
        parser = asked.parser(device="cpu", batch_size=batch, micro_batch_size=micro)
        memory = step_memory(parser, "cuda", precision, True)
        sizes = {"batch": batch, "micro_batch": micro, "precision": precision}
        steps.append({**sizes, "peak_bytes": memory.peak, "device_bytes": memory.device_bytes})
    made = asked.parser(device="cpu").get_parsed_content("network")
    positions = math.prod(side // factor for side, factor in zip(patch, made.factor))
    textbook = positions * made.num_embeddings * TEXTBOOK
    return {"network": network, "patch": list(patch), "steps": steps, "textbook_bytes": textbook}


def way_out(knobs: Sequence[str], settings: Sequence[str]) -> Row:
    """What a step of the default network takes with these knobs, before its discriminators join and afterwards."""
    asked = TrainingConfig(settings=["device=cuda", *settings, *knobs])
    return {
        "knobs": list(knobs),
        "before_bytes": asked.memory(False).peak,
        "joined_bytes": asked.memory(True).peak,
    }


def measured(network: str, patch: Sequence[int], settings: Sequence[str]) -> Row:
    """A real step with one patch in float32 on the CPU, beside what is counted for a CPU."""
    parser = config(network, patch, settings, "cpu").parser(batch_size=1, micro_batch_size=1)
    foretold = step_memory(parser, "cpu", "float32", True).peak
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(real_step, (network, patch, settings))
    return {"network": network, "patch": list(patch), "counted_bytes": foretold} | found


def real_step(network: str, patch: Sequence[int], settings: Sequence[str]) -> Row:
    """One step in this process, with its bytes and the seconds that its processor took."""
    parser = config(network, patch, settings, "cpu").parser(batch_size=1, micro_batch_size=1)
    with AnonymousMemory() as resident, LiveBytes() as live:
        parts = make_parts(parser)
        for tensor in itertools.chain.from_iterable((*part.parameters(), *part.buffers()) for part in parts[:4]):
            tensor.detach()  # an operation, by which ``live`` learns of it
        for optimizer in parts[4:]:  # as after the first step
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.grad = torch.zeros_like(parameter)
            optimizer.step()
            optimizer.zero_grad()
        batches = RandomBatches(1, (1, parts.network.in_channels, *patch))
        trainer, began = make_trainer(parts, batches, parser, "cpu", "float32", True), time.process_time()
        trainer.run()
        seconds = time.process_time() - began
    return {"live_bytes": live.peak, "resident_bytes": resident.above, "cpu_seconds": seconds}


def one_patch_bytes(row: Row) -> int:
    """What a step with one patch in float32 was counted to take."""
    return next(s["peak_bytes"] for s in row["steps"] if (s["batch"], s["precision"]) == (1, "float32"))


# -- tables ------------------------------------------------------------------------------------------------------------


def markdown(content: dict[str, Any]) -> str:
    """Counted and measured, for docs/from-the-guide.md."""
    head = ["network, patch"]
    head += [f"{p}: {_batch(*sizes)}" for p in PRECISIONS for sizes in BATCHES]
    lines = []
    for row in content["rows"]:
        cells = {(s["precision"], s["batch"], s["micro_batch"]): cell(s) for s in row["steps"]}
        cells = [cells[p, *sizes] for p in PRECISIONS for sizes in BATCHES]
        lines.append([f"{row['network']}, {_by(row['patch'])}", *cells, number(row["textbook_bytes"] / GIB)])
    foot = (
        f"GiB at the worst moment of a step, counted. Bold: with {GAPS - 1:.0%} for gaps of the allocator and "
        f"{CONTEXT / GIB:g} GiB for CUDA itself, both assumed, more than a GPU of {CARD / 1e9:g} GB has."
    )
    parts = [table([*head, "one-hot search, a patch"], lines), foot]
    if content["measured"]:
        parts += ["Measured on the CPU, one patch, float32:", _measured(content["measured"])]
    return "\n\n".join([*parts, provenance(content)])


def ways_markdown(content: dict[str, Any]) -> str:
    """What knobs change, for docs/troubleshooting.md."""
    head = ["knobs", "before the discriminators join [GiB]", "after [GiB]", "after, times the default's"]
    first, lines = content["ways"][0]["joined_bytes"], []
    for row in content["ways"]:
        cells = [number(row[key] / GIB) for key in ("before_bytes", "joined_bytes")]
        name = ", ".join(f"`{knob}`" for knob in row["knobs"]) or "the defaults: a batch of 4, one at a time, bf16"
        lines.append([name, *cells, f"{row['joined_bytes'] / first:.2f}"])
    return f"{table(head, lines)}\n\nWorst moment of a step, counted for CUDA. {provenance(content)}"


def tables(content: dict[str, Any]) -> str:
    """Both, for the screen."""
    return f"{markdown(content)}\n\n{ways_markdown(content)}"


def _measured(rows: Sequence[Row]) -> str:
    head = ["one step", "counted [GiB]", "live tensors [GiB]", "process, RssAnon [GiB]", "processor [s]"]
    lines = []
    for row in rows:
        cells = [number(row[key] / GIB) for key in ("counted_bytes", "live_bytes", "resident_bytes")]
        lines.append([f"{row['network']}, {_by(row['patch'])}", *cells, number(row["cpu_seconds"], digits=2)])
    return table(head, lines)


def cell(step: Row) -> str:
    """GiB of a step, bold if a GPU of the usual size has too little."""
    text = number(step["peak_bytes"] / GIB)
    return f"**{text}**" if step["device_bytes"] > CARD else text


def _batch(batch: int, micro: int) -> str:
    return f"batch {batch}" if batch == micro else f"batch {batch}, {micro} at a time"


def _by(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def main(argv: Sequence[str] | None = None) -> dict:
    """Count, measure if asked, print and write."""
    parser = count_parser(__doc__)
    parser.add_argument("--patches", type=patch_size, nargs="+", default=PATCHES, metavar="XxYxZ")
    parser.add_argument("--set", action="append", default=[], metavar="KNOB=VALUE", help="of both networks")
    parser.add_argument("--measure", action="store_true", help="real steps on the CPU too: some minutes")
    parser.add_argument("--most-gib", type=float, default=8.0, help="measure patches that are counted below this")
    options = parser.parse_args(argv)
    rows = [counted(network, patch, options.set) for network in OVERLAYS for patch in options.patches]
    small = [row for row in rows if options.measure and one_patch_bytes(row) < options.most_gib * GIB]
    steps = [measured(row["network"], row["patch"], options.set) for row in small]
    ways = [way_out(knobs, options.set) for knobs in WAYS]
    return report(options, tables, rows=rows, ways=ways, measured=steps)


if __name__ == "__main__":
    main()
