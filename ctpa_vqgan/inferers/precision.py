"""Arithmetic that a result may depend on, chosen for a while and put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

PRECISIONS = ("float32", "bf16", "tf32")


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
    """Run a network in one of ``PRECISIONS``, whatever autocast or flags are set outside; float64 stays float64."""
    with (
        full_precision("tf32" if precision == "tf32" else "ieee"),
        torch.autocast(device_type, torch.bfloat16, enabled=precision == "bf16"),
    ):
        yield
