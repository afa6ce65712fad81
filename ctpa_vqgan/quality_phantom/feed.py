"""Hand phantoms to the network and take back what it makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.metrics.slabs import read_slab


class Seen(NamedTuple):
    """One phantom before and after the network, both [X, Y, Z], HU, float32."""

    before: np.ndarray
    after: np.ndarray

    def __sub__(self, other: Seen) -> Seen:
        """What is there more than in a phantom with the same noise: the objects, free of the noise that both share."""
        return Seen(self.before - other.before, self.after - other.after)


class Feed:
    """The way of a phantom through the network.

    Args:
        reconstruct: maps a float32 tensor [X, Y, Z] in HU to its reconstruction.
        progress: bar of :func:`ctpa_vqgan.progress.progress_bar`, moved by a step for each phantom.
    """

    def __init__(self, reconstruct: Callable[[torch.Tensor], Any], progress: Any = None) -> None:
        self.reconstruct, self.progress = reconstruct, progress

    def __call__(self, phantom: np.ndarray) -> Seen:
        """The phantom in float32 and what came back.

        Raises:
            UserError: if what came back has another shape, or voxels that are not finite.
        """
        before = phantom.astype(np.float32)
        after = self.reconstruct(torch.tensor(before))
        if tuple(after.shape) != before.shape:
            raise UserError(
                f"reconstruct gave back {tuple(after.shape)} for a phantom of {before.shape}; "
                "it must map [X, Y, Z] in HU to the same shape: take out batch and channel, crop off padding"
            )
        after = read_slab(after, 0, before.shape[2], "cpu").numpy()
        bad = after.size - int(np.isfinite(after).sum())
        if bad:
            raise UserError(
                f"reconstruct made {bad} of {after.size} voxels of a phantom NaN or infinite; "
                "look for diverged weights, or a half precision that the network does not stand"
            )
        if self.progress is not None:
            self.progress.update(1)
        return Seen(before, after)
