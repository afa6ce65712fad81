"""The chains of MONAI transforms between a file and the network."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.data.meta_obj import get_track_meta
from monai.transforms import (
    Compose,
    CopyItemsd,
    EnsureChannelFirstd,
    EnsureTyped,
    Flip,
    LoadImaged,
    MapTransform,
    Randomizable,
    ScaleIntensityRanged,
    SpatialPadd,
)
from monai.utils import convert_to_tensor

from ctpa_vqgan.data.mapped import MappedReader
from ctpa_vqgan.data.reader import AIR_HU
from ctpa_vqgan.data.sizes import check_size
from ctpa_vqgan.errors import BadNumbers

IMAGE = "image"
BLOCK = 2**18  # voxels scaled at a time: their float32 values, 1 MiB, stay in the cache of a core


def load_volume() -> Compose:
    """From ``{"image": path}`` to a volume [1, X, Y, Z] of int16 HU in RAS orientation.

    A prepared volume is mapped, not read: what is cropped from it is all that leaves the disk. Strides are those of
    the file, x fastest.

    Raises:
        BadVolume: for a file that is not a CT volume.
    """
    with without_reader_warnings():
        load = LoadImaged(keys=IMAGE, reader=MappedReader, dtype=None, image_only=True)
    return Compose([load, EnsureChannelFirstd(keys=IMAGE, channel_dim="no_channel")])


@contextlib.contextmanager
def without_reader_warnings() -> Iterator[None]:
    """Without what MONAI says of readers that are not used: it makes all it has, whichever is asked for."""
    logger = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
            yield
    finally:
        logger.setLevel(level)


def window_hu(hu_window: Sequence[float]) -> WindowHUd:
    """HU to [-1, 1], clipped: air below the window (scanner padding of -2048 too) becomes -1."""
    return WindowHUd(IMAGE, hu_window)


class WindowHUd(ScaleIntensityRanged):
    """:class:`monai.transforms.ScaleIntensityRanged` to [-1, 1] with clipping, block by block.

    The values are the same to the last bit, at a tenth of the time: a block stays in the cache through all steps, and
    no further copy of the image is made. Strides keep their order. Always float32.

    Args:
        keys: items to scale.
        hu_window: HU at -1 and 1.
    """

    def __init__(self, keys: KeysCollection, hu_window: Sequence[float]) -> None:
        self.hu_window = low, high = tuple(hu_window)
        super().__init__(keys, a_min=low, a_max=high, b_min=-1.0, b_max=1.0, clip=True)
        # [C, Z, Y, X] float32: where the next image of that size goes, instead of fresh memory; set by a loader process
        self.into: torch.Tensor | None = None

    def __call__(self, data: Mapping) -> dict:
        """Scale each of ``keys``."""
        return {**data, **{key: self._scaled(data[key]) for key in self.key_iterator(data)}}

    def _scaled(self, image: torch.Tensor) -> torch.Tensor:
        image = convert_to_tensor(image, track_meta=get_track_meta())
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        scaled = self._memory(plain)
        slowest = max((axis for axis in range(plain.ndim) if plain.shape[axis] > 1), key=plain.stride, default=0)
        planes = max(1, BLOCK * plain.shape[slowest] // max(1, plain.numel()))
        for source, target in zip(plain.split(planes, slowest), scaled.split(planes, slowest)):
            scale_hu_(target.copy_(source), self.hu_window)
        return MetaTensor(scaled).copy_meta_from(image) if isinstance(image, MetaTensor) else scaled

    def _memory(self, image: torch.Tensor) -> torch.Tensor:
        into, self.into = self.into, None
        if into is not None and into.shape == image.transpose(-3, -1).shape and image.stride(-3) < image.stride(-1):
            return into.transpose(-3, -1)
        return _empty_like(image, image.shape, torch.float32)


def scale_hu_(hu: torch.Tensor, hu_window: Sequence[float]) -> torch.Tensor:
    """HU to [-1, 1] in place, clipped: the steps of MONAI's ``ScaleIntensityRange``, with the same rounding."""
    low, high = hu_window
    return hu.sub_(low).div_(high - low).mul_(2.0).add_(-1.0).clamp_(-1.0, 1.0)


def empty(shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """:func:`torch.empty` by numpy, which asks the system for huge pages: filling fresh memory is waiting for pages."""
    return torch.from_numpy(np.empty(shape, torch.empty(0, dtype=dtype).numpy().dtype))


def _empty_like(image: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Of this shape, with strides in the order of those of ``image``."""
    order = sorted(range(image.ndim), key=image.stride, reverse=True)
    memory = empty([shape[axis] for axis in order], dtype)
    return memory.permute([order.index(axis) for axis in range(image.ndim)])


class PadWithAird(SpatialPadd):
    """:class:`monai.transforms.SpatialPadd` at the end of each axis, with air, which keeps the order of strides.

    After the crop: volumes thinner than a patch are common, and need not be read whole for that.

    Args:
        keys: items to pad, [C, X, Y, Z] in HU.
        spatial_size: smallest size.
    """

    def __init__(self, keys: KeysCollection, spatial_size: Sequence[int]) -> None:
        super().__init__(keys, spatial_size, method="end", mode="constant", constant_values=AIR_HU)
        self.spatial_size = tuple(spatial_size)

    def __call__(self, data: Mapping, lazy: bool | None = None) -> dict:
        """Pad each of ``keys``."""
        return {**data, **{key: self._padded(data[key]) for key in self.key_iterator(data)}}

    def _padded(self, image: torch.Tensor) -> torch.Tensor:
        sides = image.shape[1:]
        shape = (image.shape[0], *map(max, sides, self.spatial_size))
        if shape == tuple(image.shape):
            return image
        plain = image.as_tensor() if isinstance(image, MetaTensor) else image
        padded = _empty_like(plain, shape, plain.dtype).fill_(AIR_HU)
        padded[:, : sides[0], : sides[1], : sides[2]] = plain
        return MetaTensor(padded).copy_meta_from(image) if isinstance(image, MetaTensor) else padded


class RandFlipsd(Randomizable, MapTransform):
    """Flip along each spatial axis with the same probability, all drawn axes in one pass.

    Three of MONAI's ``RandFlipd`` do the same in up to three.

    Args:
        keys: items to flip, [C, X, Y, Z].
        prob: of a flip, for each axis.
    """

    def __init__(self, keys: KeysCollection, prob: float = 0.5) -> None:
        super().__init__(keys)
        self.prob, self.axes = prob, []

    def randomize(self, data: Any = None) -> None:
        """Draw the axes."""
        self.axes = [axis for axis in range(3) if self.R.random_sample() < self.prob]

    def __call__(self, data: Mapping) -> dict:
        """Flip each of ``keys`` alike."""
        self.randomize()
        if not self.axes:
            return dict(data)
        flip = Flip(spatial_axis=self.axes)
        return {**data, **{key: flip(data[key]) for key in self.key_iterator(data)}}


def prepare_patch(hu_window: Sequence[float], flips: bool = True) -> Compose:
    """From an int16 patch to a plain float32 tensor in [-1, 1], flipped along each axis with probability one half.

    Flips come first: on int16 they move half the bytes.
    """
    return Compose(
        [
            *([RandFlipsd(keys=IMAGE)] if flips else []),
            window_hu(hu_window),
            EnsureTyped(keys=IMAGE, dtype=torch.float32, track_meta=False),
        ]
    )


def prepare_volume(hu_window: Sequence[float], volume_size: Sequence[int] | None = None) -> Compose:
    """From ``{"image": path}`` to a whole volume: ``image`` [1, X, Y, Z] in [-1, 1], and ``hu``, the same in HU.

    Args:
        hu_window: HU at -1 and 1.
        volume_size: X, Y, Z that a volume must have; None for any.

    Raises:
        UserError: when called, for a volume of another size.
    """
    steps = [load_volume(), CopyItemsd(keys=IMAGE, names="hu"), window_hu(hu_window)]
    return Compose(steps if volume_size is None else [steps[0], OfSized(IMAGE, volume_size), *steps[1:]])


class OfSized(MapTransform):
    """Let volumes [1, X, Y, Z] of one size pass, and refuse all others; see :func:`ctpa_vqgan.data.sizes.check_size`.

    Args:
        keys: items to look at, as loaded: their metadata name the file.
        volume_size: X, Y, Z.
    """

    def __init__(self, keys: KeysCollection, volume_size: Sequence[int]) -> None:
        super().__init__(keys)
        self.volume_size = tuple(volume_size)

    def __call__(self, data: Mapping) -> dict:
        """Check each of ``keys``."""
        for key in self.key_iterator(data):
            check_size(data[key].shape[1:], self.volume_size, str(data[key].meta["filename_or_obj"]))
        return dict(data)


class ToHUd(MapTransform):
    """:func:`finite_to_hu` on dictionary items, for the postprocessing of an evaluator."""

    def __init__(self, keys: KeysCollection, hu_window: Sequence[float]) -> None:
        super().__init__(keys)
        self.hu_window = tuple(hu_window)

    def __call__(self, data: dict) -> dict:
        """Convert each of ``keys``."""
        return {**data, **{key: finite_to_hu(data[key], self.hu_window) for key in self.key_iterator(data)}}


def finite_to_hu(values: torch.Tensor, hu_window: Sequence[float]) -> torch.Tensor:
    """:func:`to_hu` of what a network gave, which may be no number at all.

    Raises:
        BadNumbers: if a value is NaN or infinite.
    """
    if bad := values.numel() - int(values.isfinite().sum()):
        raise BadNumbers(
            f"the network gave {bad} of {values.numel()} voxels that are NaN or infinite; its weights are damaged or "
            "diverged, or bf16 is too coarse for them: try precision=float32"
        )
    return to_hu(values, hu_window)


def to_hu(values: torch.Tensor, hu_window: Sequence[float]) -> torch.Tensor:
    """The network's scale back to int16 HU, clipped to the window."""
    low, high = hu_window
    scaled = (values.float().clamp(-1, 1) + 1) * ((high - low) / 2) + low
    return scaled.round().to(torch.int16)
