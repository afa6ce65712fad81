"""Write what a training run does to TensorBoard: losses, codebook, speed, memory, and pictures of validation."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from ignite.engine import Engine, Events
from torch.utils.tensorboard import SummaryWriter

from ctpa_vqgan import ranks
from ctpa_vqgan.events import TrainerEvents
from ctpa_vqgan.progress import say
from ctpa_vqgan.report.columns import heading, show
from ctpa_vqgan.report.montage import draw_montage

PICTURE_WIDTH = 1200  # pixels; 1.4 MB for a chest of 512 x 512 x 133
SILENT_SECONDS = 60  # until a disk that was full is tried again


class TensorBoardLog:
    """An event file that all logs of a run share, and the iteration they are at.

    Everything is drawn over iterations. A run that goes on after a stop draws on from there: what its predecessor wrote
    later than the checkpoint is hidden (TensorBoard's ``purge_step``), so curves do not fold back. A full disk costs
    points and a line, not the run. Of ranks that train together rank 0 alone writes.

    Args:
        log_dir: folder of the event files.
    """

    def __init__(self, log_dir: str | Path) -> None:
        self.log_dir, self.iteration, self._done_before = str(log_dir), 0, 0
        self._silent_until = 0.0

    @cached_property
    def writer(self) -> SummaryWriter:
        """Opened at the first use, so that building a workflow writes nothing."""
        return SummaryWriter(self.log_dir, purge_step=self._done_before + 1)

    def begin(self, iteration: int) -> None:
        """Say how many iterations a run has done when it starts or goes on."""
        self.iteration = self._done_before = iteration

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        """A point of a curve."""
        self._write(lambda: self.writer.add_scalar(tag, value, step))

    def add_image(self, tag: str, image: np.ndarray, step: int) -> None:
        """A picture [C, H, W], bytes or 0 to 1."""
        self._write(lambda: self.writer.add_image(tag, image, step))

    def flush(self) -> None:
        """Put what was added on disk."""
        self._write(lambda: self.writer.flush())

    def _write(self, write: Callable[[], None]) -> None:
        if not ranks.is_main() or time.monotonic() < self._silent_until:
            return
        try:
            write()
        except OSError as error:
            # its thread is dead: a new writer, with a file of its own, goes on from here
            self.__dict__.pop("writer", None)
            self._done_before = self.iteration
            self._silent_until = time.monotonic() + SILENT_SECONDS
            reason = error.strerror or error
            say(f"{self.log_dir}: cannot be written ({reason}); no curves for {SILENT_SECONDS} s, training goes on")


class TrainingLog:
    """Scalars of a :class:`~ctpa_vqgan.trainer.VQGANTrainer`.

    Every ``interval`` iterations: each loss term, learning rates, patches per second, memory. Every epoch: the use of
    the codebook over all tokens and over body tokens.

    Args:
        log: where to.
        interval: iterations between points.
    """

    def __init__(self, log: TensorBoardLog, interval: int = 10) -> None:
        self.log, self.interval = log, interval

    def attach(self, engine: Engine) -> None:
        """Follow this trainer."""
        engine.add_event_handler(TrainerEvents.RESUMED, self._resume)
        engine.add_event_handler(Events.STARTED, self._plan)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._follow)
        engine.add_event_handler(Events.ITERATION_COMPLETED(every=self.interval), self._iteration)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._epoch)

    def _resume(self, engine: Engine) -> None:
        if engine.epoch_end_due:  # it may have been drawn in part: the last iteration is drawn anew, with all of that
            self.log.begin(engine.state.iteration - 1)
            self.log.iteration = engine.state.iteration
            if engine.state.iteration % self.interval == 0:
                self._iteration(engine)
        else:
            self.log.begin(engine.state.iteration)

    def _plan(self, engine: Engine) -> None:
        state, network = engine.state, engine.network
        total = state.max_epochs * state.epoch_length
        size = sum(p.numel() for p in network.parameters()) / 1e6
        joins = f"join at {engine.adversarial_start}" if 0 <= engine.adversarial_start < total else "do not join"
        dataset, number = getattr(engine.data_loader, "dataset", None), ranks.Shard.of_group().count
        batch = getattr(dataset, "batch_size", None) or getattr(engine.data_loader, "batch_size", None) or 1
        least, more = divmod(batch, number)
        shared = f", {least}{f' or {least + 1}' if more else ''} on each of {number} ranks" if number > 1 else ""
        rate = _learning_rate(engine.g_optimizer)
        rate += f" ({_learning_rate(engine.d_optimizer)} of the discriminators)" if engine.d_optimizer else ""
        if ranks.is_main():
            print(
                f"{state.max_epochs} epochs of {state.epoch_length} iterations on {state.device}; {size:.2f} M "
                f"parameters, {network.num_embeddings} codes; of {total} iterations the discriminators {joins}; "
                f"{batch} patches an iteration{shared}, learning rate {rate}",
                flush=True,
            )

    def _follow(self, engine: Engine) -> None:
        self.log.iteration = engine.state.iteration

    def _iteration(self, engine: Engine) -> None:
        if engine.bad_in_a_row:  # its terms are those of an earlier step
            return
        step, add = engine.state.iteration, self.log.add_scalar
        for name, value in engine.terms.items():
            group = "gradient" if name.endswith("grad_norm") else "loss"
            add(f"{group}/{'total' if name == 'loss' else name}", value, step)
        for name, optimizer in (("generator", engine.g_optimizer), ("discriminator", engine.d_optimizer)):
            if optimizer is not None:
                add(f"learning_rate/{name}", optimizer.param_groups[0]["lr"], step)
        if engine.patches_per_second:  # not of an iteration that is drawn anew
            add("speed/patches_per_second", engine.patches_per_second, step)
        add("memory/peak_GiB", peak_memory_gib(engine.state.device), step)
        self.log.flush()  # or a kill would take points with it that are older than the checkpoint

    def _epoch(self, engine: Engine) -> None:
        codes = engine.codes.summary()
        for name, value in codes.items():
            self.log.add_scalar(f"codebook/{name}", value, engine.state.iteration)
        self.log.flush()
        shown = (f"{heading(name)} {show(name, codes[name])}" for name in ("usage", "perplexity", "body_perplexity"))
        made = getattr(engine.network.quantizer, "initialized", True)
        note = "" if made else "; the codebook is not made yet, scores mean nothing"
        say(f"epoch {engine.state.epoch}: last loss {engine.terms.get('loss', math.nan):.4f}, {', '.join(shown)}{note}")


def _learning_rate(optimizer: torch.optim.Optimizer) -> str:
    """The rate that a schedule begins with or scales."""
    group = optimizer.param_groups[0]
    return f"{group.get('initial_lr', group['lr']):g}"


class ValidationLog:
    """Scores of a validation and pictures of its first cases, at the trainer's iteration.

    A picture is the page of :func:`~ctpa_vqgan.report.montage.draw_montage`, as an evaluation has it. Its planes depend
    on the original alone, and neither the windows nor the scale of the error (-200 to 200 HU) ever change, so epochs
    compare. Of ranks that share the cases rank 0 pictures its own.

    Args:
        log: where to.
        max_cases: how many cases are pictured.
    """

    def __init__(self, log: TensorBoardLog, max_cases: int = 3) -> None:
        self.log, self.max_cases = log, max_cases

    def attach(self, engine: Engine) -> None:
        """Follow this evaluator; its output is decollated and in HU."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._case)
        engine.add_event_handler(Events.COMPLETED, self._scores)

    def _case(self, engine: Engine) -> None:
        if engine.state.iteration > self.max_cases or not ranks.is_main():
            return
        for batch, output in zip(engine.state.batch, engine.state.output):
            spacing_mm = nib.affines.voxel_sizes(np.asarray(batch["hu"].affine))
            original, reconstruction = (voxels(v).numpy() for v in (batch["hu"], output["pred"]))
            page = draw_montage(original, reconstruction, tuple(spacing_mm), title=batch["case"])
            picture = page.pixels(PICTURE_WIDTH).transpose(2, 0, 1)
            self.log.add_image(f"{batch['case']}/montage", picture, self.log.iteration)

    def _scores(self, engine: Engine) -> None:
        for name, value in engine.state.metrics.items():
            self.log.add_scalar(f"validation/{name}", value, self.log.iteration)
        self.log.flush()
        means = engine.state.metrics
        shown = (f"{heading(name)} {show(name, means.get(name))}" for name in ("psnr", "ssim", "mae_hu"))
        say(f"validation: {', '.join(shown)}")


def voxels(volume: torch.Tensor) -> torch.Tensor:
    """[1, X, Y, Z], with or without metadata, anywhere -> [X, Y, Z] plain, on the CPU."""
    plain = volume.as_tensor() if hasattr(volume, "as_tensor") else volume
    return plain[0].detach().cpu()


def peak_memory_gib(device: torch.device) -> float:
    """Peak memory: allocated on a CUDA device, resident of the process elsewhere."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
