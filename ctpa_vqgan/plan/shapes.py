"""Run code on tensors that know their shape and nothing else, also where it looks at numbers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


@contextlib.contextmanager
def shapes_only() -> Iterator[FakeTensorMode]:
    """Tensors made in here have no values; where a number is asked for, it is 1 or true.

    Results whose size depends on numbers are as large as they can be, but for ``nonzero``, which finds one place.
    """
    with FakeTensorMode(allow_non_fake_inputs=True) as mode, _Guesses():
        yield mode


def to_shapes(module: nn.Module, mode: FakeTensorMode) -> nn.Module:
    """Take the values from a module's parameters and buffers, in place."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = mode.from_tensor(tensor)
    return module


class _Guesses(TorchDispatchMode):
    """Answer what cannot be known without values."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is aten._local_scalar_dense.default:
            dtype = args[0].dtype
            return True if dtype == torch.bool else 1.0 if dtype.is_floating_point else 1
        if func is aten.bincount.default:
            least = kwargs.get("minlength", args[2] if len(args) > 2 else 0)
            return args[0].new_zeros(max(least, 1))
        if func is aten.nonzero.default:
            return args[0].new_zeros((1, args[0].ndim), dtype=torch.int64)
        if func is aten._unique2.default:
            flat = args[0].flatten()
            return flat.clone(), torch.zeros_like(args[0], dtype=torch.int64), torch.zeros_like(flat, dtype=torch.int64)
        if func is aten.index.Tensor and len(args[1]) == 1 and args[1][0].dtype == torch.bool:
            return args[0].flatten(0, args[1][0].ndim - 1).clone()
        return func(*args, **kwargs)
