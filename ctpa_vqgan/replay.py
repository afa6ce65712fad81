"""Do a training step again whose numbers were not finite, and say where the first of them comes from."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.handlers import Checkpoints
from ctpa_vqgan.sealed import load_sealed
from ctpa_vqgan.trainer import VQGANTrainer


def replay(trainer: VQGANTrainer, checkpoints: Checkpoints, path: str | None) -> dict[str, float]:
    """Bring a run to the step of a dump, do that step, and print its terms.

    Nothing is trained and no file is written: the step ends before weights would change.

    Args:
        trainer: as for the run that left the dump, with the same knobs.
        checkpoints: of that trainer.
        path: ``bad_step_<iteration>.pt``, see :class:`~ctpa_vqgan.handlers.BadSteps`.

    Returns:
        Terms of the loss and gradient norms by name.

    Raises:
        UserError: if there is no such dump, or it is of another run.
    """
    if path is None:
        raise UserError("replay_path: expected the bad_step_*.pt of a run; give it with --dump")
    content = load_sealed(path)
    if "batch" not in content:
        raise UserError(f"{path}: expected a dump of a step, found none: it holds no batch")
    checkpoints.restore(trainer, content, Path(path))
    trainer.network.train()
    origins: list[str] = []
    parts = {"network": trainer.network, "discriminator": trainer.discriminator}
    with _watched({name: part for name, part in parts.items() if part is not None}, origins):
        sums = trainer.try_step(content["batch"])
    print(_told(trainer, content["batch"], sums, origins))
    return sums


@contextmanager
def _watched(parts: dict[str, nn.Module], origins: list[str]) -> Iterator[None]:
    """Note modules whose output is not finite though their input is."""
    handles = []
    for part, whole in parts.items():
        for name, module in whole.named_modules():
            label = f"{part}.{name}".rstrip(".")

            def hook(_: nn.Module, inputs: Any, output: Any, label: str = label) -> None:
                if _finite(inputs) and not _finite(output):
                    origins.append(label)

            handles.append(module.register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _finite(values: Any) -> bool:
    tensors = [v for v in (values if isinstance(values, (tuple, list)) else [values]) if isinstance(v, torch.Tensor)]
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _told(trainer: VQGANTrainer, batch: dict[str, Any], sums: dict[str, float], origins: list[str]) -> str:
    rows = [f"  {name:24} {value:.6g}{'' if math.isfinite(value) else '   <-'}" for name, value in sums.items()]
    weights = [name for name, value in trainer.network.named_parameters() if not _finite(value)]
    buffers = [name for name, value in trainer.network.named_buffers() if not _finite(value)]
    image = batch["image"]
    lines = [f"iteration {trainer.state.iteration} again, {len(image)} patches of {tuple(image.shape[2:])}:", *rows]
    if not _finite(image):
        bad = [n for n, patch in enumerate(image) if not _finite(patch)]
        lines.append(f"the input holds numbers that are not finite: patches {bad} of {list(batch.get('case', ()))}")
    if weights or buffers:
        lines.append(f"the network itself does: {', '.join([*weights, *buffers][:5])}")
    lines.append(
        f"first module with finite input whose output is not: {origins[0]}" if origins else "no module makes one"
    )
    if all(math.isfinite(value) for value in sums.values()):
        lines.append("this time all numbers are finite: the cause lay outside of this step (device, memory, drivers)")
    return "\n".join(lines)
