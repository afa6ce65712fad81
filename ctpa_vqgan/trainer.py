"""Train a VQ-GAN patch by patch as a MONAI engine: one iteration is one optimizer step of both networks."""

# B batch (patches per optimizer step), C channels, H W D voxels

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Trainer, default_metric_cmp_fn, default_prepare_batch
from monai.engines.utils import IterationEvents
from monai.engines.workflow import Workflow
from monai.inferers import Inferer, SimpleInferer
from monai.utils.enums import CommonKeys as Keys
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ctpa_vqgan import ranks
from ctpa_vqgan.data.reader import AIR_HU
from ctpa_vqgan.errors import BadNumbers, UserError
from ctpa_vqgan.events import TrainerEvents
from ctpa_vqgan.losses import (
    WeightedLosses,
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    ramp,
)
from ctpa_vqgan.metrics import CodeCounter, body_tokens
from ctpa_vqgan.out_of_memory import is_out_of_memory, release_memory
from ctpa_vqgan.parallel import StepGradients
from ctpa_vqgan.precision import PRECISIONS, uses_bf16
from ctpa_vqgan.progress import say

GAN_TERMS = ("adversarial", "feature_matching")

logger = logging.getLogger(__name__)


def weight_ema(network: nn.Module, decay: float = 0.999) -> AveragedModel:
    """Moving average of a network's weights; buffers (the codebook among them) are copied, not averaged.

    The decay grows as min(decay, (1 + n) / (10 + n)) with the number of updates n, so that a short run is not scored
    on its initial weights.
    """

    def average(averaged: torch.Tensor, current: torch.Tensor, updates: torch.Tensor | int) -> torch.Tensor:
        n = int(updates)
        return averaged.lerp(current, 1 - min(decay, (1 + n) / (10 + n)))

    return AveragedModel(network, avg_fn=average).eval()


def _compile_as_one(module: nn.Module) -> None:
    """:meth:`torch.nn.Module.compile`, for which a ``Sequential`` is many graphs: its own code lies in torch.nn.

    As there, state_dict, pickle and copies know nothing of it.
    """

    def call(x: torch.Tensor) -> torch.Tensor:
        return module._call_impl(x)

    module._compiled_call_impl = torch.compile(call, dynamic=False)


class VQGANTrainer(Trainer):
    """MONAI trainer with two optimizers, one generator pass per patch, gradient accumulation and weight EMA.

    A batch holds the patches of one optimizer step; it is cut into micro-batches that fit the device. The codebook
    stands still meanwhile, and its statistics act once per step, so ``micro_batch_size`` changes memory, not results.
    Until ``adversarial_start`` no discriminator work is done at all. Of MONAI's iteration events it fires
    ``BACKWARD_COMPLETED`` and ``MODEL_COMPLETED``, once per step, besides :class:`~ctpa_vqgan.events.TrainerEvents`.

    An iteration whose losses, gradient norms or codebook statistics are not finite changes nothing: neither weights nor
    optimizers, schedules, averages or codebook; ``skipped_steps`` counts them. One that runs out of memory is done
    again from its start with micro-batches of half the size, which stay.

    Where a process group was made before (``torch.distributed``, with gloo for the CPU besides), its ranks train
    together: each gets its patches of every batch, and weights, codebook, averages and what is logged are the same on
    all of them, and the same as those of one rank with all the patches but for rounding.

    ``engine.state.output`` after each iteration has ``"image"``, ``"pred"`` and ``"loss"`` (weighted total), decollated
    as MONAI's engines do it. ``engine.terms`` holds the same total and every term by name, unweighted, with gradient
    norms; ``engine.codes`` counts the codes of the epoch (:class:`~ctpa_vqgan.metrics.CodeCounter`).

    Args:
        device: to train on.
        max_epochs: number of epochs.
        train_data_loader: batches with the patches under ``"image"``, on the network's scale.
        network: a :class:`~ctpa_vqgan.networks.VQGAN`.
        losses: reconstruction terms with their weights; weighs commitment, adversarial and feature matching too.
        g_optimizer: of the network.
        discriminator: optional; a :class:`~ctpa_vqgan.networks.PatchDiscriminators`.
        d_optimizer: of the discriminator.
        g_scheduler: learning-rate scheduler of the network, stepped once per iteration.
        d_scheduler: the same of the discriminator, stepped from ``adversarial_start`` on.
        ema: from :func:`weight_ema`, updated after each step.
        micro_batch_size: patches per forward pass.
        adversarial_start: iteration at which the discriminator joins.
        adversarial_ramp: iterations over which its weight grows to full.
        max_grad_norm: gradients of each network are clipped to this norm.
        max_bad_steps: so many skipped steps in a row end the run.
        precision: ``"bf16"`` autocast, ``"float32"``, or ``"auto"``: bf16 where a CUDA device has it, float32
            elsewhere.
        compile: let ``torch.compile`` make encoder and decoder faster, once for the one shape of the patches; where it
            cannot, a line says so and training goes on without. The network's state_dict and copies stay plain.
        hu_window: HU at -1 and 1, to tell body tokens from air.
        inferer: how the network is called with a micro-batch; a plain call by default.

    The other arguments are those of :class:`monai.engines.SupervisedTrainer`.

    Raises:
        ValueError: if ``precision`` is unknown, sizes are not positive, or one of discriminator and optimizer is
            missing.
        BadNumbers: when run, after ``max_bad_steps`` skipped steps in a row.
        UserError: when run, if memory does not suffice for a single patch.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: Iterable,
        network: nn.Module,
        losses: WeightedLosses,
        g_optimizer: torch.optim.Optimizer,
        discriminator: nn.Module | None = None,
        d_optimizer: torch.optim.Optimizer | None = None,
        g_scheduler: Any = None,
        d_scheduler: Any = None,
        ema: AveragedModel | None = None,
        micro_batch_size: int = 1,
        adversarial_start: int = 0,
        adversarial_ramp: int = 0,
        max_grad_norm: float = 1.0,
        max_bad_steps: int = 10,
        precision: str = "auto",
        compile: bool = False,
        hu_window: Sequence[float] = (-1000.0, 1000.0),
        inferer: Inferer | None = None,
        epoch_length: int | None = None,
        non_blocking: bool = True,
        prepare_batch: Callable = default_prepare_batch,
        postprocessing: Callable | None = None,
        key_train_metric: dict | None = None,
        additional_metrics: dict | None = None,
        metric_cmp_fn: Callable = default_metric_cmp_fn,
        train_handlers: Sequence | None = None,
        decollate: bool = True,
    ) -> None:
        if precision not in PRECISIONS:
            raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, found {precision!r}")
        if micro_batch_size < 1:
            raise ValueError(f"micro_batch_size must be positive, found {micro_batch_size}")
        if (discriminator is None) != (d_optimizer is None):
            raise ValueError("discriminator and d_optimizer belong together: give both or neither")
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            non_blocking=non_blocking,
            prepare_batch=prepare_batch,
            postprocessing=postprocessing,
            key_metric=key_train_metric,
            additional_metrics=additional_metrics,
            metric_cmp_fn=metric_cmp_fn,
            handlers=train_handlers,
            decollate=decollate,
            event_names=[TrainerEvents],
        )
        self.network, self.discriminator, self.losses, self.ema = network, discriminator, losses, ema
        self.g_optimizer, self.g_scheduler = g_optimizer, g_scheduler
        self.d_optimizer, self.d_scheduler = d_optimizer, d_scheduler
        self.micro_batch_size, self.max_grad_norm, self.hu_window = micro_batch_size, max_grad_norm, tuple(hu_window)
        self.adversarial_start, self.adversarial_ramp = adversarial_start, adversarial_ramp
        self.max_bad_steps, self.skipped_steps, self.bad_in_a_row = max_bad_steps, 0, 0
        self._size_that_fits: int | None = None  # set when memory ran out with micro_batch_size
        self.bf16 = uses_bf16(self.state.device, precision)
        self._to_compile = compile
        self.inferer = inferer or SimpleInferer()
        self._g_gradients = StepGradients(network)
        self._d_gradients = None if discriminator is None else StepGradients(discriminator)
        self.codes = CodeCounter(network.num_embeddings)
        self.terms: dict[str, float] = {}
        self.patches_per_second = 0.0
        #: whether the last epoch's validation, export and the like are still to be done
        self.epoch_end_due = False
        self.add_event_handler(Events.EPOCH_STARTED, self._begin_epoch)

    def run(self) -> None:
        """Train to the last epoch, from wherever a handler of ``RESUMING`` puts the trainer."""
        total = self.state.max_epochs * (self.state.epoch_length or 0) or math.inf
        try:
            self.fire_event(TrainerEvents.RESUMING)
            if self.state.iteration >= total and not self.epoch_end_due:
                say(f"this run was finished at iteration {self.state.iteration}; raise max_epochs to go on")
                self.fire_event(TrainerEvents.NOTHING_LEFT)
                return
            self.fire_event(TrainerEvents.RESUMED)
            if self.epoch_end_due:
                self.fire_event(Events.EPOCH_COMPLETED)
                self.epoch_end_due = False
            if self.state.iteration < total:
                Workflow.run(self)  # not Trainer.run: it makes a gradient scaler, which bf16 does not need
                self.epoch_end_due = False
            else:  # ignite would begin anew
                self.fire_event(Events.COMPLETED)
        finally:
            self.fire_event(TrainerEvents.ENDED)

    def state_dict(self) -> dict[str, Any]:
        """Where the run is; networks, optimizers and the like have state of their own."""
        return {
            "iteration": self.state.iteration,
            "epoch_length": self.state.epoch_length,
            "epoch_end_due": self.epoch_end_due,
            "micro_batch_size": self._size_that_fits,
            "skipped_steps": self.skipped_steps,
            "bad_in_a_row": self.bad_in_a_row,
            "terms": dict(self.terms),
            "codes": self.codes.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let :meth:`run` go on from there, in the middle of an epoch too."""
        self.state.iteration = state_dict["iteration"]
        self.state.epoch = self.state.iteration // self.state.epoch_length
        self.epoch_end_due = state_dict["epoch_end_due"]
        if (size := state_dict["micro_batch_size"]) is not None:
            self._size_that_fits, self.micro_batch_size = size, min(self.micro_batch_size, size)
        self.skipped_steps, self.bad_in_a_row = state_dict["skipped_steps"], state_dict["bad_in_a_row"]
        self.terms = dict(state_dict["terms"])
        self.codes.load_state_dict(state_dict["codes"])

    # -- one iteration -------------------------------------------------------------------------------------------

    def _begin_epoch(self) -> None:
        self.epoch_end_due = False
        if not self.state.epoch_length or self.state.iteration % self.state.epoch_length == 0:
            self.codes.reset()  # else a resumed run goes on counting
        self._clock = time.perf_counter()  # the speed counts waiting for data, not validation
        dataset = getattr(self.data_loader, "dataset", None)
        if hasattr(dataset, "start_at_batch"):
            epoch = self.state.epoch - 1
            dataset.start_at_batch(epoch, self.state.iteration - epoch * self.state.epoch_length)

    def try_step(self, batchdata: dict[str, Any]) -> dict[str, float]:
        """What an iteration with this batch gives: terms and gradient norms by name. Only gradients are touched."""
        images, weight = self._images(batchdata), self._adversarial_weight()
        kept = [buffer.clone() for buffer in self.network.quantizer.buffers()]
        totals, _, _ = self._gradients(images, weight, kept, self._sizes(images))
        sums = self._sums(totals, weight)
        self._put_back(kept)
        return sums

    def _sizes(self, images: torch.Tensor) -> list[int]:
        """How many patches of this step each rank has."""
        sizes = ranks.gather_numbers(len(images))[0]
        self.network.quantizer.begin_step(patches_before=sum(sizes[: ranks.Shard.of_group().index]))
        return sizes

    def _images(self, batchdata: dict[str, Any]) -> torch.Tensor:
        batch = self.prepare_batch(batchdata, self.state.device, self.non_blocking, **self.to_kwargs)
        images = batch[0] if isinstance(batch, (tuple, list)) else batch
        return images.as_tensor() if hasattr(images, "as_tensor") else images

    def _iteration(self, engine: VQGANTrainer, batchdata: dict[str, Any]) -> dict[str, Any]:
        """One optimizer step of both networks on the patches of ``batchdata``."""
        if batchdata is None:
            raise ValueError("the data loader gave no batch")
        images, weight = self._images(batchdata), self._adversarial_weight()
        self.network.train()
        if weight:
            self.discriminator.train()
        if self._to_compile and len(images):
            self._compile(images[: self.micro_batch_size])

        kept, sizes = [buffer.clone() for buffer in self.network.quantizer.buffers()], self._sizes(images)
        totals, reconstruction, seen = self._gradients(images, weight, kept, sizes)
        engine.state.output = {Keys.IMAGE: images, Keys.PRED: reconstruction}
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        sums = self._sums(totals, weight)
        engine.state.output[Keys.LOSS] = sums["loss"]
        bad = [name for name, value in sums.items() if not math.isfinite(value)]
        if bad:
            self._put_back(kept)
            self._skip(bad, batchdata)
        else:
            del sums["codebook"]
            self._apply(sums, seen, bool(weight))
        began, self._clock = self._clock, time.perf_counter()
        self.patches_per_second = sum(sizes) / (self._clock - began)
        length = self.state.epoch_length  # None in the first epoch of data that do not tell
        self.epoch_end_due = bool(length) and self.state.iteration % length == 0
        if len(images):
            engine.fire_event(IterationEvents.MODEL_COMPLETED)
        else:  # what decollating would make of it, if MONAI could decollate nothing
            engine.state.batch, engine.state.output = [], []
        return engine.state.output

    def _sums(self, totals: dict[str, torch.Tensor], weight: float) -> dict[str, float]:
        """Clip gradients, and bring all values to the CPU; ``"codebook"`` is 0 if the quantizer's state is finite."""
        values = {**totals, "codebook": _zero_if_finite(self.network.quantizer.buffers())}
        summed = ranks.add(torch.stack([value.double().to(self.state.device) for value in values.values()]))
        norms = {"generator_grad_norm": self._clip(self.network)}
        if weight:
            norms["discriminator_grad_norm"] = self._clip(self.discriminator)
        # one transfer for all of them: the CPU waits for the GPU at each
        everything = torch.stack([*summed, *(norm.double() for norm in norms.values())])
        return dict(zip([*values, *norms], everything.tolist()))

    def _gradients(
        self, images: torch.Tensor, weight: float, kept: list[torch.Tensor], sizes: Sequence[int]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, list]:
        """:meth:`_accumulate` on all ranks; when memory runs out on one, all begin again with smaller micro-batches."""
        while True:
            try:
                done = self._accumulate(images, weight, sum(sizes))
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                done = None
            # here the error is gone, and what it held on to
            if not ranks.anywhere(done is None):
                break
            done = None
            self._put_back(kept)
            self._zero_grad()
            release_memory()
            size = min(self.micro_batch_size, max(sizes))
            if size == 1:
                raise UserError(
                    f"iteration {self.state.iteration}: memory ran out with a single patch of "
                    f"{tuple(images.shape[2:])}; lower patch_size or channels, set checkpointing=true, or "
                    "precision=bf16 where it is not"
                )
            self.micro_batch_size = self._size_that_fits = size // 2
            say(
                f"iteration {self.state.iteration}: memory ran out with micro_batch_size={size}; going on with "
                f"{self.micro_batch_size}, still {sum(sizes)} patches a step"
            )
        self._g_gradients.sum()
        if weight:
            self._d_gradients.sum()
        totals, reconstruction, seen = done
        if 0 in sizes:  # a rank without patches does not know which values there are
            names = ranks.gather(list(totals))[0]
            totals = {name: totals.get(name, torch.zeros(())) for name in names}
        return totals, reconstruction, seen

    def _accumulate(
        self, images: torch.Tensor, weight: float, step_size: int
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]]:
        """Gradients of this rank's patches: unweighted values by name, the reconstruction, and codes with their bodies.

        All are weighed by the share of a patch in the whole step.
        """
        self._zero_grad()
        totals: dict[str, torch.Tensor] = {}
        reconstructions, seen = [images[:0]], []
        for micro in images.split(self.micro_batch_size) if len(images) else ():
            share = len(micro) / step_size
            reconstruction, codes, values = self._generator_pass(micro, weight, share)
            if weight:
                values |= self._discriminator_pass(micro, reconstruction, share)
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value.double() * share
            reconstructions.append(reconstruction)
            seen.append((codes, self._body(micro)))
        return totals, torch.cat(reconstructions), seen

    def _apply(self, sums: dict[str, float], seen: Sequence, adversarial: bool) -> None:
        """Let the gradients, and what the codebook collected, act."""
        self._step(self.g_optimizer, self.g_scheduler)
        if adversarial:
            self._step(self.d_optimizer, self.d_scheduler)
        self.network.quantizer.step()
        if self.ema is not None:
            self.ema.update_parameters(self.network)
        counted = CodeCounter(self.network.num_embeddings)
        for codes, body in seen:
            counted.update(codes, body)
        self.codes.merge(counted.add_over_ranks())
        self.terms, self.bad_in_a_row = sums, 0

    def _skip(self, bad: Sequence[str], batchdata: dict[str, Any]) -> None:
        """Count and tell of a step whose numbers are not finite; nothing of it stays."""
        self.skipped_steps, self.bad_in_a_row = self.skipped_steps + 1, self.bad_in_a_row + 1
        told = (
            f"iteration {self.state.iteration}: {', '.join(bad)} is not finite, step skipped ({self.skipped_steps} in "
            f"all, {self.bad_in_a_row} in a row); {'; '.join(filter(None, ranks.gather(_patches_of(batchdata))))}"
        )
        say(told)
        self.fire_event(TrainerEvents.STEP_SKIPPED)
        if self.bad_in_a_row >= self.max_bad_steps:
            raise BadNumbers(f"{told}; lower g_learning_rate, or train with precision=float32")

    def _put_back(self, kept: Sequence[torch.Tensor]) -> None:
        """Let the quantizer forget what it saw in this iteration."""
        with torch.no_grad():
            for buffer, value in zip(self.network.quantizer.buffers(), kept):
                buffer.copy_(value)

    def _zero_grad(self) -> None:
        self._g_gradients.clear()
        if self._d_gradients is not None:
            self._d_gradients.clear()

    def _compile(self, micro: torch.Tensor) -> None:
        """Compile encoder and decoder in place; a trial pass shows whether that works here. Leaves no gradient."""
        self._to_compile = False
        parts = (self.network.encoder, self.network.decoder)
        began = time.perf_counter()
        try:
            for part in parts:
                _compile_as_one(part)
            with self._autocast():
                latents = self.network.encode(micro)
                reconstruction = self.network.decode(latents.to(micro.dtype))
            weights = [weight for part in parts for weight in part.parameters()]
            torch.autograd.grad(reconstruction.sum(), weights)
        except Exception as error:  # of a compiler, a driver or a library: of any class
            for part in parts:
                part._compiled_call_impl = None
            reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
            logger.warning("torch.compile failed here (%s); training goes on without it", reason[:300])
        else:
            logger.info("compiled encoder and decoder in %.0f s", time.perf_counter() - began)

    def _adversarial_weight(self) -> float:
        """The ramp's weight; 0 while the discriminator has nothing to do."""
        if self.discriminator is None or not any(self.losses.weights.get(term) for term in GAN_TERMS):
            return 0.0
        return ramp(self.state.iteration - 1, self.adversarial_start, self.adversarial_ramp)

    def _generator_pass(
        self, micro: torch.Tensor, weight: float, share: float
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        """Forward and backward of the generator: detached reconstruction, codes, and unweighted values by name."""
        with self._autocast():
            result = self.inferer(micro, self.network.autoencode)
            values = self.losses(result.reconstruction, micro)
            values["commitment"] = result.commitment
            if weight:
                values |= self._gan_values(micro, result.reconstruction)
        total = self.losses.total(values, dict.fromkeys(GAN_TERMS, weight) if weight else None)
        (total * share).backward()
        self._g_gradients.collect()
        values = {name: value.detach() for name, value in values.items()} | {"loss": total.detach()}
        return result.reconstruction.detach(), result.codes, values

    def _body(self, images: torch.Tensor) -> torch.Tensor:
        """Which tokens lie in the body; what the HU window clipped from below counts as air."""
        low, high = self.hu_window
        volume_hu = (images + 1) * ((high - low) / 2) + low
        return body_tokens(volume_hu.masked_fill(images <= -1, AIR_HU), self.network.factor)

    def _gan_values(self, micro: torch.Tensor, reconstruction: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the discriminator, held still, says of the reconstruction."""
        self.discriminator.requires_grad_(False)
        try:
            fake = self.discriminator(reconstruction, offset=self.state.iteration)
            values = {"adversarial": hinge_generator_loss(fake.logits)}
            if self.losses.weights.get("feature_matching"):
                with torch.no_grad():
                    real = self.discriminator(micro, offset=self.state.iteration)
                values["feature_matching"] = feature_matching_loss(real.features, fake.features)
        finally:  # memory may run out in there
            self.discriminator.requires_grad_(True)
        return values

    def _discriminator_pass(self, micro: torch.Tensor, reconstruction: torch.Tensor, share: float) -> dict:
        with self._autocast():
            real = self.discriminator(micro, offset=self.state.iteration)
            fake = self.discriminator(reconstruction, offset=self.state.iteration)
            loss = hinge_discriminator_loss(real.logits, fake.logits)
        (loss * share).backward()
        self._d_gradients.collect()
        return {"discriminator": loss.detach()}

    def _clip(self, module: nn.Module) -> torch.Tensor:
        """Clip the gradient, and tell its norm before that."""
        return torch.nn.utils.clip_grad_norm_(module.parameters(), self.max_grad_norm)

    def _step(self, optimizer: torch.optim.Optimizer, scheduler: Any) -> None:
        optimizer.step()
        if scheduler is not None:
            scheduler.step()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.state.device.type, dtype=torch.bfloat16, enabled=self.bf16)


def _zero_if_finite(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """0, or NaN if one of them holds a number that is not finite."""
    sums = [tensor.sum().double() for tensor in tensors if tensor.is_floating_point()]
    return torch.stack(sums).sum() * 0 if sums else torch.zeros(())


def _patches_of(batchdata: dict[str, Any]) -> str:
    """Which patches a batch holds, by case and position of the first voxel."""
    cases, positions = batchdata.get("case", ()), batchdata.get("position")
    if not len(cases):
        return ""
    if positions is None:
        return f"cases {', '.join(map(str, cases))}"
    return ", ".join(f"{case} at {tuple(place.tolist())}" for case, place in zip(cases, positions))
