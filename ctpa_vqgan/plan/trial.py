"""A few real steps on the device at hand: how long one takes, and on CUDA how much memory."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from ctpa_vqgan.plan.memory import RandomBatches, make_parts, make_trainer

STEPS = 3  # timed; the one before them is not


class Trial(NamedTuple):
    """What was measured."""

    device: str
    seconds: float  # per step, without loading data
    peak: int | None  # bytes allocated at most; None where it is not measured


def try_steps(parser: ConfigParser, device: torch.device, precision: str, discriminators: bool) -> Trial:
    """Train for a moment on noise; writes nothing.

    Args:
        parser: of train.yaml with overlays, its ``device`` this one.
        device: to compute on.
        precision: ``"bf16"`` or ``"float32"``.
        discriminators: whether they are at work.
    """
    on_cuda = device.type == "cuda"
    if on_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    parts = make_parts(parser)
    shape = (parser["batch_size"], parts.network.in_channels, *parser["patch_size"])
    trainer = make_trainer(parts, RandomBatches(STEPS + 1, shape), parser, device, precision, discriminators)
    ends: list[float] = []

    def note_time(engine: Engine) -> None:
        if on_cuda:
            torch.cuda.synchronize(device)
        ends.append(time.perf_counter())

    trainer.add_event_handler(Events.ITERATION_COMPLETED, note_time)
    trainer.run()
    peak = torch.cuda.max_memory_allocated(device) if on_cuda else None
    name = torch.cuda.get_device_name(device) if on_cuda else f"CPU, {torch.get_num_threads()} threads"
    return Trial(name, (ends[-1] - ends[0]) / STEPS, peak)
