"""Import the VQ-GAN of TATS, medicaldiffusion and X-ray2CTPA: its weights in our own network, to the same numbers.

It is an ordinary :class:`~ctpa_vqgan.networks.VQGAN`: group norm, no front end, the encoder's residual blocks behind
each halving, a decoder wider and deeper than the encoder. TATS: Ge et al. 2022, arXiv 2204.03638; medicaldiffusion:
Khader et al. 2023, Scientific Reports 13:7303.
"""

# n width of the first level, L halvings; kernels [out, in, z, y, x] in the file, and in its slices [out, in, y, x]

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.networks.baseline_keys import (
    CRITICS,
    FIRST_LAYER,
    STATISTICS_OF_BATCHES,
    check_keys,
    critic_names,
    generator_names,
    unwrapped,
)
from ctpa_vqgan.networks.discriminators import PatchDiscriminators
from ctpa_vqgan.networks.lightning import read_checkpoint
from ctpa_vqgan.networks.vqgan import VQGAN, checked_factor

AXES = ("xyz", "zyx")
NUM_GROUPS = 32  # the baseline's code has it so, and does not look at its setting of that name
NUM_STEPS = 10_000  # that its codes have behind them: more than their averages need to forget the start
DROPPED = "perceptual_model."  # VGG16 and LPIPS, which every checkpoint carries
MOST_CHANNELS = 512  # of a layer of its discriminators
NORMS = {"group": "group", "fixed_batch": "batch"}  # ours, and the baseline's setting


class Baseline(NamedTuple):
    """An imported checkpoint."""

    network: VQGAN  # in evaluation mode
    discriminators: PatchDiscriminators | None  # where the file has any
    settings: dict[str, Any]  # of the file, as plain values: sections model and dataset; empty for a state_dict
    assumptions: list[str]  # what the file does not tell, and what was taken instead


def load_baseline(
    path: str | Path, axes: str = "xyz", factor: Sequence[int] | None = None, num_groups: int | None = None
) -> VQGAN:
    """The baseline's generator, in evaluation mode.

    Args:
        path: a Lightning checkpoint, a state_dict, or a diffusion of medicaldiffusion's with the VQ-GAN in it; nothing
            in the file is run.
        axes: order of the axes of the arrays that the network will see. ``"xyz"``, as everywhere here, permutes the
            baseline's kernels; ``"zyx"`` leaves them, for arrays in the baseline's own order. Nothing is mirrored.
        factor: voxels per code and axis, in the order of ``axes``, where the file does not tell; by default every axis
            has that of the deepest one.
        num_groups: groups of the norm; by default 32, as in the baseline's code.

    Raises:
        UserError: the file is refused (see :func:`ctpa_vqgan.networks.lightning.read_checkpoint`), keys are unknown,
            missing or misshapen, or it has a setting that this network has not.

    Example:
        >>> network = load_baseline("last.ckpt")  # doctest: +SKIP
        >>> codes = network.index_quantize(volume)  # doctest: +SKIP
    """
    return read_baseline(path, axes, factor, num_groups).network


def read_baseline(
    path: str | Path, axes: str = "xyz", factor: Sequence[int] | None = None, num_groups: int | None = None
) -> Baseline:
    """Everything that a checkpoint of the baseline holds; see :func:`load_baseline`."""
    if axes not in AXES:
        raise UserError(f"axes: expected one of {', '.join(AXES)}, found {axes!r}")
    state, config = read_checkpoint(path)
    whole, assumptions = len(state), []
    state, prefix = unwrapped(state)
    if others := whole - len(state):
        assumptions.append(f"weights: those below {prefix!r}; the rest ({others} keys) is around the VQ-GAN")
    state = {key: value for key, value in state.items() if not key.startswith(DROPPED)}
    settings, model = _settings(config)
    size, norm = _Size.of(state, path), "fixed_batch" if STATISTICS_OF_BATCHES in state else "group"
    for name, value in {"norm_type": NORMS[norm], "padding_type": "replicate"}.items():
        if model.get(name, value) != value:
            raise UserError(
                f"{path}: {name}: expected {value}, found {model[name]!r}; this network has no other, and "
                "would not give its numbers"
            )
    network = VQGAN(
        in_channels=size.in_channels,
        channels=size.channels,
        decoder_channels=size.decoder_channels,
        num_res_blocks=([0] + [1] * size.num_steps, [2] * size.num_steps + [0]),
        factor=_factor(size.num_steps, model.get("downsample"), axes, factor, path, assumptions),
        front_end="none",
        norm=norm,
        num_groups=_num_groups(size, norm, model.get("num_groups"), num_groups, path, assumptions),
        num_embeddings=size.num_embeddings,
        embedding_dim=size.embedding_dim,
        decoder_kernel=1,
        decoder_activation="first",
        unstrided_kernel=4,
        upsampling="eager",
    )
    if "padding_type" not in model:
        assumptions.append("padding: replicate, as the baseline has it by default")
    critics = _critics(state, size.in_channels, path)
    targets = {theirs: (network, ours) for theirs, ours in generator_names(size.num_steps, norm)}
    targets |= {theirs: (critics, ours) for theirs, ours in critic_names(critics)}
    check_keys(state, targets, path)
    for module in filter(None, (network, critics)):
        own = {ours: _turned(state[theirs], axes) for theirs, (owner, ours) in targets.items() if owner is module}
        module.load_state_dict(module.state_dict() | own)
    _take_codebook(network, state, assumptions)
    return Baseline(network.eval(), critics, settings, assumptions)


def _settings(config: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """All settings of a file, and those of the model: a section of OmegaConf's, TATS' command line as a whole."""
    settings = next((config[name] for name in ("cfg", "args") if name in config), config)
    settings = settings if isinstance(settings, dict) else {}
    model = settings.get("model", settings)
    return settings, model if isinstance(model, dict) else {}


class _Size(NamedTuple):
    """What the shapes of the weights tell."""

    in_channels: int
    width: int  # n
    num_steps: int  # L
    num_embeddings: int
    embedding_dim: int

    @classmethod
    def of(cls, state: Mapping[str, Any], path: str | Path) -> _Size:
        """Read it off three keys; UserError if one is not there or has not its number of axes."""
        telling = {
            FIRST_LAYER: 5,
            "codebook.embeddings": 2,
            "encoder.conv_blocks.0.down.conv.weight": 5,
        }
        for key, axes in telling.items():
            if getattr(state.get(key), "ndim", None) != axes:
                raise UserError(
                    f"{path}: expected a VQ-GAN of TATS, medicaldiffusion or X-ray2CTPA, found no {key} of {axes} axes "
                    f"among {len(state)} keys; give the checkpoint of its first stage"
                )
        first, codes, _ = (state[key].shape for key in telling)
        steps = next(i for i in range(len(state)) if f"encoder.conv_blocks.{i}.down.conv.weight" not in state)
        return cls(first[1], first[0], steps, *codes)

    @property
    def channels(self) -> list[int]:
        """Widths of the encoder, the finest first."""
        return [self.width * 2**level for level in range(self.num_steps + 1)]

    @property
    def decoder_channels(self) -> list[int]:
        """Widths of the decoder: each level but the coarsest is as wide as the encoder's next one."""
        return [*self.channels[1:], self.channels[-1]]


def _factor(
    num_steps: int, downsample: Any, axes: str, given: Sequence[int] | None, path: str | Path, assumptions: list[str]
) -> tuple[int, ...]:
    """Voxels per code in the order of ``axes``: as the file says, or as given, or equal on all axes."""
    deepest, told = 2**num_steps, None
    if isinstance(downsample, list) and len(downsample) == 3 and all(isinstance(d, int) and d > 0 for d in downsample):
        told = tuple(2 ** int(math.log2(d)) for d in downsample)  # a 3 is a 2 to the baseline
        told = told[::-1] if axes == "xyz" else told
    factor = checked_factor(given or told or (deepest,) * 3)
    if max(factor) != deepest or (told and told != factor):
        expected = f"{told} by the file's settings" if told else f"{deepest} on at least one axis and no more on others"
        raise UserError(f"{path}: factor: expected {expected} ({num_steps} halvings), found {factor} in {axes}")
    if not (given or told):
        assumptions.append(f"factor: {deepest} on every axis; where axes differ, give all three (--factor X Y Z)")
    return factor


def _num_groups(
    size: _Size, norm: str, setting: Any, given: int | None, path: str | Path, assumptions: list[str]
) -> int:
    """Groups of the norm: those given, the 32 of the baseline's code, or those of its settings where 32 do not fit."""
    if norm != "group":
        if given:
            raise UserError(f"{path}: num_groups: expected none, as the file has batch norm, found {given}")
        assumptions.append("norm: batch norm, whose statistics stay as the file has them, in training too")
        return NUM_GROUPS
    widths = size.channels[1:]
    fitting = [number for number in (given, NUM_GROUPS, setting) if isinstance(number, int) and number > 0]
    number = given or next((n for n in fitting if not any(width % n for width in widths)), None)
    if number is None or any(width % number for width in widths):
        raise UserError(
            f"{path}: num_groups: expected a divisor of the widths {widths}, found {given or NUM_GROUPS}; give that of "
            "your code (--num-groups)"
        )
    if not given:
        differs = setting not in (None, number)
        told = f" (the file's settings say {setting}, which the baseline's code does not read)" if differs else ""
        assumptions.append(f"groups of the norm: {number}{told}; if your code has others, give them (--num-groups)")
    return number


def _critics(state: Mapping[str, Any], in_channels: int, path: str | Path) -> PatchDiscriminators | None:
    """Discriminators, without their weights, as far as the file has them."""
    first = {view: state.get(f"{name}.model0.0.weight") for view, name in CRITICS.items()}
    widths = {weight.shape[0] for weight in first.values() if isinstance(weight, torch.Tensor) and weight.ndim}
    if len(widths) != 1:
        return None  # if others of their keys are there, they are unknown ones
    named = [name for view, name in CRITICS.items() if first[view] is not None]
    layers = next(i for i in range(len(state)) if f"{named[0]}.model{i}.0.weight" not in state)
    if layers < 3:
        raise UserError(f"{path}: {named[0]}: expected at least 3 layers, found {layers}; the file is not whole")
    return PatchDiscriminators(
        channels=widths.pop(),
        num_layers=layers - 2,
        in_channels=in_channels,
        volume=first["volume"] is not None,
        slices=first["slices"] is not None,
        norm="batch",
        padding=2,
        bias=True,
        max_channels=MOST_CHANNELS,
    )


def _turned(weight: torch.Tensor, axes: str) -> torch.Tensor:
    """A kernel [out, in, z, y, x] as [out, in, x, y, z], one of slices [out, in, y, x] as [out, in, x, y]."""
    if axes == "zyx" or weight.ndim < 4:
        return weight
    return weight.permute(0, 1, *reversed(range(2, weight.ndim)))


def _take_codebook(network: VQGAN, state: Mapping[str, torch.Tensor], assumptions: list[str]) -> None:
    """Make the codes known for trained ones, so that training goes on from them."""
    quantizer = network.quantizer
    quantizer.initialized.fill_(True)
    quantizer.num_steps.fill_(NUM_STEPS)
    # the baseline's own sums are stale where it had just placed a code anew, and would draw it back
    quantizer.ema_sum.copy_(quantizer.embedding * quantizer.ema_count[:, None])
    if not state["codebook.N"].any():
        assumptions.append("codebook: trained, though its counts are all zero, as before the first step of a training")
