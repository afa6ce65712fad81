"""Patches for training: random crops or the inferer's own grid, in an order that depends on the seed alone.

Sample ``n`` of a run (counted over all epochs) is the same patch with the same augmentation for any number of loader
workers and after any restart: volume, position and flips are functions of (seed, n).
"""

# X Y Z voxels of a volume in RAS, patches [1, H, W, D]

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence

import numpy as np
import torch
from monai.data import DataLoader, GridPatchDataset, list_data_collate
from monai.data.utils import dense_patch_slices
from monai.transforms import Compose, RandSpatialCropSamplesd, SpatialPadd
from torch.utils.data import Dataset, Sampler

from ctpa_vqgan.data.cases import Case
from ctpa_vqgan.data.reader import AIR_HU, volume_shape
from ctpa_vqgan.errors import UserError

IMAGE = "image"


def patch_dataset(
    data: Sequence[Case],
    loading: Callable,
    transform: Callable,
    patch_size: Sequence[int],
    stride: Sequence[int],
    sampling: str = "random",
    num_samples: int = 54,
    batch_size: int = 4,
    seed: int = 0,
) -> RandomPatchDataset | GridPatches:
    """The training set of the bundle.

    Args:
        data: cases with a path under ``"image"``.
        loading: transform from a case to a volume [1, X, Y, Z] in HU.
        transform: transform of a patch: HU window, flips.
        patch_size: voxels per axis. Smaller volumes are padded with air.
        stride: step of the grid, in voxels.
        sampling: ``"random"``: ``num_samples`` crops per volume and epoch at uniformly drawn positions;
            ``"grid"``: every window that the sliding-window inferer visits, once per epoch.
        num_samples: see ``sampling``; of no meaning for the grid.
        batch_size: patches per optimizer step; keeps the patches of a grid step together in one worker.
        seed: of order, positions and augmentation.

    Raises:
        UserError: if ``sampling`` is neither.
    """
    if sampling == "random":
        return RandomPatchDataset(data, loading, transform, patch_size, num_samples, seed)
    if sampling == "grid":
        return GridPatches(data, loading, transform, patch_size, stride, batch_size, seed)
    raise UserError(f"patch_sampling: expected 'random' or 'grid', found {sampling!r}")


def patch_loader(dataset: RandomPatchDataset | GridPatches, batch_size: int, num_workers: int = 0) -> DataLoader:
    """Batches ``{"image": [B, 1, H, W, D], "case": [...], "sample": [B]}`` in the order of sample numbers."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        sampler=_SampleNumbers(dataset) if isinstance(dataset, RandomPatchDataset) else None,
        collate_fn=list_data_collate,
        pin_memory=torch.cuda.is_available(),
        # a generator of its own: creating an iterator would otherwise draw from the global one
        generator=torch.Generator().manual_seed(dataset.seed),
    )


class _Epochs:
    """Shared by both kinds of patches: which sample comes first in the coming epoch."""

    num_patches: int
    seed: int
    start: int = 0

    def start_at(self, sample: int) -> None:
        """Let the next epoch's iteration begin at this sample number (of the whole run)."""
        self.start = sample

    def coming(self) -> range:
        """Sample numbers from ``start`` to the end of its epoch."""
        return range(self.start, (self.start // self.num_patches + 1) * self.num_patches)

    def num_batches(self, batch_size: int) -> int:
        """Batches per epoch; the last may be smaller."""
        return -(-self.num_patches // batch_size)

    def _rng(self, *words: int) -> np.random.RandomState:
        return np.random.RandomState(np.random.SeedSequence([self.seed, *words]).generate_state(4))


class _SampleNumbers(Sampler):
    def __init__(self, dataset: RandomPatchDataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[int]:
        return iter(self.dataset.coming())

    def __len__(self) -> int:
        return self.dataset.num_patches


class RandomPatchDataset(_Epochs, Dataset):
    """Random crops by MONAI's ``RandSpatialCropSamplesd``; indexed by sample number.

    Within an epoch volumes come in random order, ``volumes_in_memory`` of them mixed at a time, so that a batch holds
    different patients while each file is read once per epoch and worker. Arguments as for :func:`patch_dataset`.
    """

    def __init__(
        self,
        data: Sequence[Case],
        loading: Callable,
        transform: Callable,
        patch_size: Sequence[int],
        num_samples: int,
        seed: int = 0,
        volumes_in_memory: int = 4,
    ) -> None:
        self.data, self.seed, self.num_samples = list(data), seed, num_samples
        self.volumes_in_memory = volumes_in_memory
        self.num_patches = len(self.data) * num_samples
        self.volumes = _RecentVolumes(loading, volumes_in_memory)
        self.chain = Compose(
            [
                _air_padding(patch_size),
                RandSpatialCropSamplesd(keys=IMAGE, roi_size=patch_size, num_samples=1, random_size=False),
                transform,
            ]
        )
        self._order: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self.num_patches

    def __getitem__(self, sample: int) -> dict:
        epoch, position = divmod(sample, self.num_patches)
        case = self.data[self._epoch_order(epoch)[position]]
        self.chain.set_random_state(state=self._rng(1, sample))
        patch = self.chain(dict(self.volumes[case]))[0]
        return {IMAGE: patch[IMAGE].clone(), "case": case["case"], "sample": sample}

    def _epoch_order(self, epoch: int) -> np.ndarray:
        """Which volume each position of the epoch takes."""
        if self._order is None or self._order[0] != epoch:
            rng = self._rng(0, epoch)
            volumes = rng.permutation(len(self.data))
            groups = np.array_split(volumes, range(self.volumes_in_memory, len(volumes), self.volumes_in_memory))
            order = np.concatenate([rng.permutation(np.repeat(group, self.num_samples)) for group in groups])
            self._order = epoch, order
        return self._order[1]


class GridPatches(_Epochs, GridPatchDataset):
    """The windows of the sliding-window inferer, in shuffled order, by MONAI's ``GridPatchDataset``.

    The source hands out blocks of ``batch_size`` windows; MONAI deals blocks to workers in turn, which keeps the
    stream the same for any number of them. Arguments as for :func:`patch_dataset`.
    """

    def __init__(
        self,
        data: Sequence[Case],
        loading: Callable,
        transform: Callable,
        patch_size: Sequence[int],
        stride: Sequence[int],
        batch_size: int,
        seed: int = 0,
        volumes_in_memory: int = 4,
    ) -> None:
        self.cases, self.seed, self.batch_size, self.volumes_in_memory = list(data), seed, batch_size, volumes_in_memory
        self.volumes = _RecentVolumes(loading, volumes_in_memory)
        self.padding = _air_padding(patch_size)
        self.windows = [grid_windows(volume_shape(case[IMAGE]), patch_size, stride) for case in self.cases]
        self.num_patches = sum(len(windows) for windows in self.windows)
        super().__init__(data=_Blocks(self), patch_iter=self._crop, transform=transform, with_coordinates=False)

    def epoch_order(self, epoch: int) -> list[tuple[int, int]]:
        """(volume, window) at each position of the epoch."""
        rng = self._rng(0, epoch)
        volumes = rng.permutation(len(self.cases))
        order = []
        for first in range(0, len(volumes), self.volumes_in_memory):
            group = volumes[first : first + self.volumes_in_memory]
            pairs = [(int(v), w) for v in group for w in range(len(self.windows[v]))]
            order += [pairs[i] for i in rng.permutation(len(pairs))]
        return order

    def _crop(self, block: Sequence[tuple[int, int, int]]) -> Iterator[tuple[dict, tuple]]:
        for sample, volume, window in block:
            case, where = self.cases[volume], self.windows[volume][window]
            image = self.padding(dict(self.volumes[case]))[IMAGE]
            # the transform runs when this generator is asked for the next patch, so its draws belong to this sample
            self.patch_transform.set_random_state(state=self._rng(1, sample))
            yield {IMAGE: image[(slice(None), *where)].clone(), "case": case["case"], "sample": sample}, where


class _Blocks:
    """Blocks of (sample, volume, window) for one epoch, read anew at every iteration."""

    __slots__ = ("dataset",)  # no __dict__: MONAI's loader walks those to seed transforms, and would walk in a circle

    def __init__(self, dataset: GridPatches) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        dataset = self.dataset
        samples = dataset.coming()
        epoch, first = divmod(samples.start, dataset.num_patches)
        pairs = dataset.epoch_order(epoch)[first:]
        triples = [(sample, *pair) for sample, pair in zip(samples, pairs)]
        for begin in range(0, len(triples), dataset.batch_size):
            yield triples[begin : begin + dataset.batch_size]


class _RecentVolumes(Mapping):
    """Loaded volumes, the most recent ones kept."""

    def __init__(self, loading: Callable, capacity: int) -> None:
        self.loading, self.capacity = loading, capacity
        self.kept: OrderedDict[Hashable, dict] = OrderedDict()

    def __getitem__(self, case: Case) -> dict:
        key = case[IMAGE]
        if key not in self.kept:
            while len(self.kept) >= self.capacity:
                self.kept.popitem(last=False)
            self.kept[key] = self.loading({IMAGE: key})
        self.kept.move_to_end(key)
        return self.kept[key]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self.kept)

    def __len__(self) -> int:
        return len(self.kept)


def grid_windows(size: Sequence[int], patch_size: Sequence[int], stride: Sequence[int]) -> list[tuple[slice, ...]]:
    """Windows of MONAI's sliding-window inference; 54 for 512x512x604 with 256x256x128 and 192x192x96.

    The last window of an axis is shifted back to end at the border; a side below the patch counts as padded to it.
    """
    padded = [max(s, p) for s, p in zip(size, patch_size)]
    return dense_patch_slices(padded, patch_size, stride)


def _air_padding(patch_size: Sequence[int]) -> SpatialPadd:
    return SpatialPadd(keys=IMAGE, spatial_size=patch_size, method="end", mode="constant", constant_values=AIR_HU)
