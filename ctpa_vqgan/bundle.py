"""What the bundle's configs call: settings derived from knobs, checks of what the user gave, one-line errors."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ctpa_vqgan.data import Case, validation_cases
from ctpa_vqgan.errors import UserError, user_error
from ctpa_vqgan.handlers import load_weights
from ctpa_vqgan.losses import LPIPS
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.provenance import facts

__all__ = [
    "autocasts",
    "begin",
    "check_knobs",
    "default_stride",
    "facts",
    "first_cases",
    "load_weights",
    "lpips",
    "overlap",
    "start_from",
]

logger = logging.getLogger(__name__)


def begin(seed: int) -> None:
    """First step of every workflow: seed what draws, and end on a user's error with one line instead of a traceback."""
    sys.excepthook = _one_line
    torch.manual_seed(seed)
    # patches have one size: let cuDNN look for its fastest kernels once
    torch.backends.cudnn.benchmark = True


def _one_line(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    cause = user_error(error)
    if cause is None:
        sys.__excepthook__(kind, error, trace)
    else:
        print(f"error: {cause}", file=sys.stderr)


def default_stride(patch_size: Sequence[int], factor: Sequence[int]) -> list[int]:
    """Three quarters of the patch in whole codes: 192x192x96 for 256x256x128, an overlap of 25 %."""
    pairs = zip(_triple("patch_size", patch_size), _triple("factor", factor))
    return [max(side * 3 // 4 // f, 1) * f for side, f in pairs]


def overlap(patch_size: Sequence[int], stride: Sequence[int]) -> list[float]:
    """Overlap per axis for which MONAI's inferer steps by ``stride``.

    MONAI computes the step as int(patch * (1 - overlap)); half a voxel in hand keeps rounding from making it shorter.
    """
    return [max(0.0, 1 - (step + 0.5) / side) for side, step in zip(patch_size, stride)]


def autocasts(device: torch.device | str, precision: str) -> bool:
    """Whether an evaluator computes in bf16: MONAI's evaluator does so on CUDA only."""
    return torch.device(device).type == "cuda" and precision in ("auto", "bf16")


def first_cases(source: str, val_fraction: float, number: int) -> list[Case]:
    """The validation cases that are reconstructed while training: the first ``number`` of them."""
    return validation_cases(source, val_fraction)[:number]


def lpips(path: str | None, device: torch.device | str) -> LPIPS | None:
    """The LPIPS term, if the user has its weights.

    Raises:
        UserError: if there is no such file.
    """
    if path is None:
        return None
    if not Path(path).is_file():
        raise UserError(
            f"lpips_path: expected a file of VGG16 and LPIPS weights, found none at {path}; see docs of LPIPS"
        )
    return LPIPS(path).to(device)


def start_from(network: VQGAN, path: str | None) -> None:
    """Begin training from inference weights (fine-tuning); a checkpoint of the run itself overrides them."""
    if path is not None:
        load_weights(network, path)
        logger.info("starting from the weights in %s", path)


def check_knobs(
    device: torch.device | str,
    patch_size: Sequence[int],
    stride: Sequence[int],
    factor: Sequence[int],
    hu_window: Sequence[float],
    **counts: int,
) -> None:
    """Refuse settings that cannot work, before any data is read.

    Raises:
        UserError: names the knob, what was expected and what was found.
    """
    for name, value in counts.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"{name}: expected a whole number of at least 1, found {value!r}")
    patch_size, stride = _triple("patch_size", patch_size), _triple("stride", stride)
    for name, sides in (("patch_size", patch_size), ("stride", stride)):
        if any(side % f for side, f in zip(sides, factor)):
            nearest = [max(f, round(side / f) * f) for side, f in zip(sides, factor)]
            raise UserError(f"{name}: expected multiples of the factor {tuple(factor)}, found {sides}; try {nearest}")
    if any(step > side for step, side in zip(stride, patch_size)):
        raise UserError(f"stride: expected at most patch_size {patch_size}, found {stride}; voxels would be skipped")
    numbers = isinstance(hu_window, (list, tuple)) and all(isinstance(v, (int, float)) for v in hu_window)
    if not numbers or len(hu_window) != 2 or hu_window[0] >= hu_window[1]:
        raise UserError(f"hu_window: expected [low, high] in HU with low < high, found {hu_window!r}")
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UserError(f"device: expected cpu, cuda or cuda:<number>, found {device!r}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device: {device} was asked for, but PyTorch finds no CUDA GPU; use --device cpu")
    if kind == "cuda" and (torch.device(device).index or 0) >= (number := torch.cuda.device_count()):
        raise UserError(f"device: {device} was asked for, but there are {number} CUDA GPUs; use cuda:0 to {number - 1}")


def _triple(name: str, value: Any) -> list[int]:
    whole = isinstance(value, (list, tuple)) and all(isinstance(v, int) and v > 0 for v in value)
    if not whole or len(value) != 3:
        raise UserError(f"{name}: expected three positive whole numbers such as [256, 256, 128], found {value!r}")
    return list(value)
