"""The keys of the baseline's state_dict, and what they are called in our networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.networks.discriminators import PatchDiscriminators

FIRST_LAYER = "encoder.conv_first.conv.weight"
STATISTICS_OF_BATCHES = "encoder.final_block.0.running_mean"  # there if the generator was trained with batch norm
CRITICS = {"volume": "video_discriminator", "slices": "image_discriminator"}
PARAMETERS = ("weight", "bias")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
UNUSED = "codebook.z_avg"  # sums, which overflow in float16 trainings while the codes stay sound
LISTED = 12  # keys of a kind that a message names


def unwrapped(state: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """The keys of the VQ-GAN alone, and the prefix that they had: ``module.``, ``vqgan.`` in a diffusion, or none.

    Where several networks are in there, the one with the shortest prefix is taken.
    """
    prefixes = [key.removesuffix(FIRST_LAYER) for key in state if key.endswith(f".{FIRST_LAYER}") or key == FIRST_LAYER]
    prefix = min(prefixes, key=len, default="")
    return {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}, prefix


def generator_names(num_steps: int, norm: str) -> Iterator[tuple[str, str]]:
    """(their key, ours) of everything in encoder and decoder, and of the codes."""
    for theirs, ours in _generator_layers(num_steps):
        has_statistics = norm == "fixed_batch" and ours.endswith((".activation.0", "decoder.1.0"))
        for name in (*PARAMETERS, *STATISTICS) if has_statistics else PARAMETERS:
            yield f"{theirs}.{name}", f"{ours}.{name}"
    yield "codebook.embeddings", "quantizer.embedding"
    yield "codebook.N", "quantizer.ema_count"
    yield "codebook.z_avg", "quantizer.ema_sum"


def _generator_layers(num_steps: int) -> Iterator[tuple[str, str]]:
    """The same of layers; ours count along two sequences."""
    yield "encoder.conv_first.conv", "encoder.0"
    for step in range(num_steps):
        yield f"encoder.conv_blocks.{step}.down.conv", f"encoder.{1 + 2 * step}"
        yield from _block_layers(f"encoder.conv_blocks.{step}.res", f"encoder.{2 + 2 * step}")
    yield "encoder.final_block.0", f"encoder.{1 + 2 * num_steps}.activation.0"
    yield "pre_vq_conv.conv", f"encoder.{1 + 2 * num_steps}"
    yield "post_vq_conv.conv", "decoder.0"
    yield "decoder.final_block.0", "decoder.1.0"
    for step in range(num_steps):
        yield f"decoder.conv_blocks.{step}.up.convt", f"decoder.{2 + 3 * step}"
        yield from _block_layers(f"decoder.conv_blocks.{step}.res1", f"decoder.{3 + 3 * step}")
        yield from _block_layers(f"decoder.conv_blocks.{step}.res2", f"decoder.{4 + 3 * step}")
    yield "decoder.conv_last.conv", f"decoder.{2 + 3 * num_steps}"


def _block_layers(theirs: str, ours: str) -> Iterator[tuple[str, str]]:
    for half in (0, 1):
        yield f"{theirs}.norm{half + 1}", f"{ours}.body.{half}.activation.0"
        yield f"{theirs}.conv{half + 1}.conv", f"{ours}.body.{half}"


def critic_names(critics: PatchDiscriminators | None) -> Iterator[tuple[str, str]]:
    """(their key, ours) of everything in the discriminators."""
    for view, name in CRITICS.items():
        for number, (layer, _) in enumerate((getattr(critics, view, None) or torch.nn.Module()).named_children()):
            yield from ((f"{name}.model{number}.0.{one}", f"{view}.{layer}.conv.{one}") for one in PARAMETERS)
            if layer.isdecimal():
                named = ((f"model{number}.1.{one}", f"{layer}.adn.N.{one}") for one in (*PARAMETERS, *STATISTICS))
                yield from ((f"{name}.{theirs}", f"{view}.{ours}") for theirs, ours in named)


def check_keys(state: Mapping[str, Any], targets: Mapping[str, tuple[torch.nn.Module, str]], path: str | Path) -> None:
    """Refuse keys that are unknown, missing or misshapen, or hold numbers that are not finite, and say which.

    Args:
        state: what the file holds.
        targets: by their key the network that takes it, and our key.
        path: of the file.

    Raises:
        UserError: names the keys.
    """
    misshapen, broken = [], []
    for theirs, (owner, ours) in targets.items():
        found, expected = state.get(theirs), tuple(owner.state_dict()[ours].shape)
        shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        if theirs in state and shape != expected:
            misshapen.append(f"{theirs} (expected {expected}, found {shape})")
        elif theirs in state and theirs != UNUSED and not torch.isfinite(found).all():
            broken.append(theirs)
    kinds = {
        "unknown": sorted(state.keys() - targets.keys()),
        "missing": [theirs for theirs in targets if theirs not in state],
        "misshapen": misshapen,
    }
    if any(kinds.values()):
        told = "; ".join(f"{kind}: {_listed(keys)}" for kind, keys in kinds.items() if keys)
        raise UserError(f"{path}: expected the keys of the baseline's VQ-GAN and no others, found {told}")
    if broken:
        raise UserError(
            f"{path}: expected finite numbers, found others in {_listed(broken)}: its training broke down; take an "
            "earlier checkpoint"
        )


def _listed(keys: Sequence[str]) -> str:
    more = len(keys) - LISTED
    return ", ".join(keys[:LISTED]) + (f" and {more} more" if more > 0 else "")
