"""The chains of MONAI transforms between a file and the network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.config import KeysCollection
from monai.transforms import (
    Compose,
    CopyItemsd,
    EnsureChannelFirstd,
    EnsureTyped,
    LoadImaged,
    MapTransform,
    RandFlipd,
    ScaleIntensityRanged,
)

from ctpa_vqgan.data.reader import CTReader

IMAGE = "image"


def load_volume() -> Compose:
    """From ``{"image": path}`` to a volume [1, X, Y, Z] of int16 HU in RAS orientation.

    Raises:
        BadVolume: for a file that is not a CT volume.
    """
    return Compose(
        [
            LoadImaged(keys=IMAGE, reader=CTReader, dtype=None, image_only=True),
            EnsureChannelFirstd(keys=IMAGE, channel_dim="no_channel"),
        ]
    )


def window_hu(hu_window: Sequence[float]) -> ScaleIntensityRanged:
    """HU to [-1, 1], clipped: air below the window (scanner padding of -2048 too) becomes -1."""
    low, high = hu_window
    return ScaleIntensityRanged(keys=IMAGE, a_min=low, a_max=high, b_min=-1.0, b_max=1.0, clip=True)


def prepare_patch(hu_window: Sequence[float], flips: bool = True) -> Compose:
    """From an int16 patch to a plain float32 tensor in [-1, 1], flipped along each axis with probability one half."""
    return Compose(
        [
            window_hu(hu_window),
            *[RandFlipd(keys=IMAGE, prob=0.5, spatial_axis=axis) for axis in range(3 if flips else 0)],
            EnsureTyped(keys=IMAGE, dtype=torch.float32, track_meta=False),
        ]
    )


def prepare_volume(hu_window: Sequence[float]) -> Compose:
    """From ``{"image": path}`` to a whole volume: ``image`` [1, X, Y, Z] in [-1, 1], and ``hu``, the same in HU."""
    return Compose([load_volume(), CopyItemsd(keys=IMAGE, names="hu"), window_hu(hu_window)])


class ToHUd(MapTransform):
    """:func:`to_hu` on dictionary items, for the postprocessing of an evaluator."""

    def __init__(self, keys: KeysCollection, hu_window: Sequence[float]) -> None:
        super().__init__(keys)
        self.hu_window = tuple(hu_window)

    def __call__(self, data: dict) -> dict:
        """Convert each of ``keys``."""
        return {**data, **{key: to_hu(data[key], self.hu_window) for key in self.key_iterator(data)}}


def to_hu(values: torch.Tensor, hu_window: Sequence[float]) -> torch.Tensor:
    """The network's scale back to int16 HU, clipped to the window."""
    low, high = hu_window
    scaled = (values.float().clamp(-1, 1) + 1) * ((high - low) / 2) + low
    return scaled.round().to(torch.int16)
