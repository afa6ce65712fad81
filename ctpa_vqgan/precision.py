"""Arithmetic that a result may depend on: which one to use, chosen for a while and put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

PRECISIONS = ("auto", "bf16", "float32")  # of training and of blended windows
CODE_PRECISIONS = ("float32", "bf16", "tf32")  # of exact tiles


def uses_bf16(device: torch.device | str, precision: str) -> bool:
    """Whether to autocast to bf16; ``"auto"`` does where a CUDA device computes in it natively."""
    if precision != "auto":
        return precision == "bf16"
    return torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@contextlib.contextmanager
def full_precision(convolutions: str = "ieee") -> Iterator[None]:
    """No TensorFloat-32 and no hidden bfloat16 in float32 arithmetic while this lasts.

    PyTorch lets cuDNN round the inputs of float32 convolutions to 10 bits by default: enough to change codes.

    Args:
        convolutions: ``"ieee"``, or ``"tf32"`` for those of CUDA alone; matrix products (the search for the nearest
            code is one) stay exact.
    """
    backends = torch.backends
    chosen = {
        backends.cudnn.conv: convolutions,
        backends.cuda.matmul: "ieee",
        backends.mkldnn.conv: "ieee",
        backends.mkldnn.matmul: "ieee",
    }
    before = {knob: knob.fp32_precision for knob in chosen}
    try:
        for knob, value in chosen.items():
            knob.fp32_precision = value
        yield
    finally:
        for knob, value in before.items():
            knob.fp32_precision = value


@contextlib.contextmanager
def numerics(precision: str, device_type: str) -> Iterator[None]:
    """Run in one of ``CODE_PRECISIONS``, whatever autocast or flags are set outside; float64 stays float64."""
    with (
        full_precision("tf32" if precision == "tf32" else "ieee"),
        torch.autocast(device_type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        yield


def float32_or_better(tensor: torch.Tensor) -> torch.Tensor:
    """float64 as it is, anything else as float32: what quantizers and losses compute in, under autocast too."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
