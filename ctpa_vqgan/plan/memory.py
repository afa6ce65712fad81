"""Memory of a training step: the real trainer on tensors without values, every one followed until it is freed."""

# B batch, C channels, H W D voxels

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from monai.bundle import ConfigParser
from torch import nn

from ctpa_vqgan.inferers.memory import LiveBytes
from ctpa_vqgan.plan.shapes import shapes_only, to_shapes
from ctpa_vqgan.trainer import VQGANTrainer

SILENT = logging.getLogger(f"{__name__}.silent")  # ignite logs each exception that it passes on
SILENT.disabled = True
MODULES = ("network", "discriminator", "losses", "ema")
CUDA_CHUNK = 2**26  # elements of the block in which VectorQuantizer searches on CUDA
# What a device needs above the tensors: gaps in PyTorch's allocator; CUDA's context and the kernels of its libraries.
GAPS, CONTEXT = 1.1, 3 * 2**28


class StepMemory(NamedTuple):
    """Bytes of one training step; the peak counts all of it."""

    weights: int  # of network and discriminators, with their buffers
    gradients: int
    optimizer: int
    ema: int
    activations: int  # saved for the backward pass of the network with one micro-batch
    peak: int  # most at once, with a batch and its reconstruction
    ranks: int = 0  # what working with others adds: DistributedDataParallel's buckets, and what is gathered; by formula

    @property
    def device_bytes(self) -> int:
        """What a CUDA device needs for it: with :data:`GAPS` of the allocator and :data:`CONTEXT`; assumed."""
        return math.ceil(self.peak * GAPS + CONTEXT)


class Parts(NamedTuple):
    """What a config makes for the trainer."""

    network: nn.Module
    discriminator: nn.Module
    losses: nn.Module
    ema: nn.Module
    g_optimizer: torch.optim.Optimizer
    d_optimizer: torch.optim.Optimizer


def make_parts(parser: ConfigParser, change: Callable[[nn.Module], Any] = lambda module: module) -> Parts:
    """The parts of a training, as the config makes them.

    Args:
        parser: of train.yaml with its overlays; what it has built before is used again.
        change: called on every module before optimizers are made.
    """
    modules = [parser.get_parsed_content(name) for name in MODULES]
    for module in modules:
        change(module)
        for quantizer in module.modules():
            if isinstance(started := getattr(quantizer, "initialized", None), torch.Tensor):
                started.fill_(True)  # the first steps, before there is a codebook, take less
    return Parts(*modules, *(parser.get_parsed_content(name) for name in ("g_optimizer", "d_optimizer")))


def make_trainer(
    parts: Parts, batches: Any, parser: ConfigParser, device: Any, precision: str, discriminators: bool
) -> VQGANTrainer:
    """The trainer for so many batches, with the discriminators at work or not."""
    trainer = VQGANTrainer(
        device=device,
        max_epochs=1,
        epoch_length=len(batches),
        train_data_loader=batches,
        network=parts.network,
        losses=parts.losses,
        g_optimizer=parts.g_optimizer,
        discriminator=parts.discriminator,
        d_optimizer=parts.d_optimizer,
        ema=parts.ema,
        micro_batch_size=parser["micro_batch_size"],
        adversarial_start=0 if discriminators else 2**62,
        max_grad_norm=parser["max_grad_norm"],
        precision=precision,
        hu_window=parser["hu_window"],
        decollate=False,
    )
    trainer.logger = SILENT
    return trainer


class RandomBatches:
    """Batches of noise, made when they are asked for, and none kept.

    Args:
        number: of batches.
        shape: [B, C, H, W, D].
        device: where they are made.
    """

    def __init__(self, number: int, shape: tuple[int, ...], device: Any = "cpu") -> None:
        self.number, self.shape, self.device = number, shape, device

    def __len__(self) -> int:
        return self.number

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        for _ in range(self.number):
            yield {"image": torch.rand(self.shape, device=self.device) * 2 - 1}


def step_memory(parser: ConfigParser, device_type: str, precision: str, discriminators: bool) -> StepMemory:
    """Count a training step without computing it.

    Tensors lie on the CPU without values; what differs on CUDA is counted as there: the blocks of the search for codes
    and the room that convolutions take. Backward convolutions may take more, which is not counted.

    Args:
        parser: of train.yaml with overlays, its ``device`` the CPU.
        device_type: ``"cuda"`` or ``"cpu"``, what will train.
        precision: ``"bf16"`` or ``"float32"``.
        discriminators: whether they are at work.
    """
    batch_size, micro = parser["batch_size"], parser["micro_batch_size"]
    counted = min(batch_size, 2 * micro)
    for name in MODULES:  # their weights need values to begin with
        parser.get_parsed_content(name)
    with shapes_only() as mode, LiveBytes(device_type) as live:

        def change(module: nn.Module) -> None:
            to_shapes(module, mode)
            for tensor in (*module.parameters(), *module.buffers()):
                tensor.detach()  # an operation, by which ``live`` learns of it
            for part in module.modules():
                if device_type == "cuda" and getattr(part, "chunk_elements", 0) is None:
                    part.chunk_elements = CUDA_CHUNK

        parts = make_parts(parser, change)
        _prime(parts.g_optimizer)
        if discriminators:
            _prime(parts.d_optimizer)
        image = (parts.network.in_channels, *parser["patch_size"])
        trainer = make_trainer(parts, RandomBatches(1, (counted, *image)), parser, "cpu", precision, discriminators)
        live.peak = live.now
        saved = _Saved(parts)
        with saved:
            trainer.run()
        patch = 4 * math.prod(image)
        weights, learnt = _bytes(parts.network, parts.discriminator), _bytes(parts.network, grown=True)
        learnt += _bytes(parts.discriminator, grown=True) if discriminators else 0
        optimizer = sum(
            _size(value)
            for part in (parts.g_optimizer, parts.d_optimizer)
            for state in part.state.values()
            for value in state.values()
        )
        held = 2 * patch * (batch_size - counted)  # of the rest of the batch: image and reconstruction
        return StepMemory(
            weights=weights,
            gradients=learnt,
            optimizer=optimizer,
            ema=_bytes(parts.ema),
            activations=saved.bytes,
            peak=live.peak + held,
        )


class _Saved(torch.autograd.graph.saved_tensors_hooks):
    """What autograd has saved when the first losses are added up, weights apart."""

    def __init__(self, parts: Parts) -> None:
        self.bytes: int | None = None
        weights = {_key(tensor) for module in parts[:2] for tensor in module.state_dict().values()}
        sizes: dict[int, int] = {}
        total = parts.losses.total

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            if self.bytes is None and _key(tensor) not in weights:
                sizes[_key(tensor)] = tensor.untyped_storage().nbytes()
            return tensor

        def note(*args: Any) -> torch.Tensor:
            self.bytes = sum(sizes.values()) if self.bytes is None else self.bytes
            return total(*args)

        parts.losses.total = note
        super().__init__(keep, lambda tensor: tensor)


def _key(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _prime(optimizer: torch.optim.Optimizer) -> None:
    """Let an optimizer make its state."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def _bytes(*modules: nn.Module, grown: bool = False) -> int:
    """Of parameters and buffers, or of the gradients that parameters grow."""
    tensors = [p for m in modules for p in m.parameters() if p.requires_grad or not grown]
    tensors += [] if grown else [b for m in modules for b in m.buffers()]
    return sum(map(_size, tensors))


def _size(tensor: Any) -> int:
    return tensor.numel() * tensor.element_size() if isinstance(tensor, torch.Tensor) else 0
