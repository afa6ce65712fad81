"""Tell that memory ran out, on any device, and give back what can be given."""

from __future__ import annotations

import gc

import torch

# how PyTorch's CPU allocator says it, in a plain RuntimeError
_ON_CPU = ("can't allocate memory", "not enough memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this error says that a device, or the system, has no memory left."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ON_CPU)


def release_memory() -> None:
    """Let go of what nothing refers to any more, in Python and in the CUDA allocator.

    Call it outside of the ``except`` block: inside, the traceback holds on to the tensors of the failed work.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
