"""Patches for training: random crops or the inferer's own grid, in an order that depends on the seed alone.

Sample ``n`` of a run (counted over all epochs) is the same patch with the same augmentation for any number of loader
workers and after any restart: volume, position and flips are functions of (seed, n). A volume that breaks in the
middle of a run is replaced by another, by (seed, n) again. The ranks of a training share every batch of that one order.
"""

# X Y Z voxels of a volume in RAS, patches [1, H, W, D]

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import GridPatchDataset
from monai.data.utils import dense_patch_slices
from monai.transforms import Compose, RandSpatialCropSamplesd
from torch.utils.data import Dataset

from ctpa_vqgan import ranks
from ctpa_vqgan.data.cases import Case
from ctpa_vqgan.data.prepared import NAMES_NOTICE, is_prepared, shape_if_prepared
from ctpa_vqgan.data.reader import volume_shape
from ctpa_vqgan.data.sizes import check_size
from ctpa_vqgan.data.transforms import PadWithAird, WindowHUd
from ctpa_vqgan.data.unreadable import Unreadable, case_key, to_text, unreadable
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.ranks import Shard

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
    volume_size: Sequence[int] | None = None,
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
        batch_size: patches per optimizer step, over all ranks.
        seed: of order, positions and augmentation.
        volume_size: X, Y, Z that every volume must have; None for any.

    Raises:
        UserError: if ``sampling`` is neither, or a volume has another size.
    """
    check_sampling(sampling)
    check_sizes(data, volume_size)
    if sampling == "random":
        return RandomPatchDataset(data, loading, transform, patch_size, num_samples, batch_size, seed)
    return GridPatches(data, loading, transform, patch_size, stride, batch_size, seed)


def check_sampling(sampling: str) -> None:
    """Refuse a kind of sampling that there is not.

    Raises:
        UserError: names the knob.
    """
    if sampling not in ("random", "grid"):
        raise UserError(f"patch_sampling: expected 'random' or 'grid', found {sampling!r}")


def check_sizes(cases: Sequence[Case], volume_size: Sequence[int] | None) -> None:
    """Refuse the first volume that has not the size that all must have; one that cannot be read is passed over.

    Raises:
        UserError: names the file, and what makes one of that size of it.
    """
    if volume_size is None:
        return
    sizes, _ = ranks.from_main(lambda: _sizes(cases))
    for case, size in zip(cases, sizes):
        if size is not None:
            check_size(size, volume_size, case_key(case))


@dataclass(frozen=True)
class Batches:
    """Batches of consecutive samples, as a rank sees them: of each batch its own part, a range of sample numbers.

    The last batch may be smaller, and a rank's part of it empty.

    Args:
        samples: of all ranks.
        size: of a batch over all ranks.
        shard: which rank of how many.
    """

    samples: range
    size: int
    shard: Shard

    def __len__(self) -> int:
        return -(-len(self.samples) // self.size)

    def __getitem__(self, number: int) -> range:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self.shard.part(self.samples[number * self.size : (number + 1) * self.size])

    def start_of(self, number: int) -> int:
        """The first sample of a batch, whichever rank has it."""
        return self.samples[number * self.size]

    @property
    def num_samples(self) -> int:
        """Samples of this rank in all of them."""
        return (len(self) - 1) * self.largest + len(self[len(self) - 1])

    @property
    def largest(self) -> int:
        """Samples in this rank's part of a full batch."""
        return len(self.shard.part(range(self.size)))


class _Patches:
    """What both kinds of patches share: the order of an epoch, volumes, and cases that cannot be read.

    ``batch_size`` (over all ranks) and ``shard`` are those of the loader. ``unreadable`` maps files that were found bad
    in this process to what is wrong with them: they are not tried again.
    """

    start: int = 0
    batch_size: int
    shard: Shard = Shard()
    reading: torch.Tensor | None = None  # [] int64: the case that a loader process is at, where the main one sees it
    shared: torch.Tensor | None = None  # [places, B, 1, D, W, H]: where a loader process puts its patches, if set

    def __init__(
        self,
        cases: Sequence[Case],
        loading: Callable,
        transform: Callable,
        seed: int,
        volumes_in_memory: int,
        counts: Sequence[int],
    ) -> None:
        self.cases, self.loading, self.seed, self.volumes_in_memory = cases, loading, seed, volumes_in_memory
        self.raw = np.array([not is_prepared(case[IMAGE]) for case in cases], dtype=bool)
        self.volumes = _RecentVolumes(loading, volumes_in_memory)
        self.unreadable: dict[str, Unreadable] = {}
        # what makes float32 of a patch, if it can be told where to
        steps = Compose(transform).flatten().transforms
        self.scaler = next((step for step in reversed(steps) if isinstance(step, WindowHUd)), None)
        # every patch of an epoch: its case, and its number among those of the case; loader processes have copies, so
        # the type is no larger than it must be
        counts = np.asarray(counts, dtype=np.int64)
        largest = max(len(counts), int(counts.max(initial=0)))
        self.pairs = np.empty((int(counts.sum()), 2), np.int32 if largest < 2**31 else np.int64)
        self.pairs[:, 0] = np.repeat(np.arange(len(counts)), counts)
        self.pairs[:, 1] = np.arange(len(self.pairs)) - np.repeat(counts.cumsum() - counts, counts)
        self._order: tuple[int, np.ndarray] | None = None

    @property
    def num_patches(self) -> int:
        """Patches per epoch."""
        return len(self.pairs)

    def start_at(self, sample: int) -> None:
        """Let the next epoch's iteration begin at this sample number (of the whole run)."""
        self.start = sample

    def start_at_batch(self, epoch: int, number: int) -> None:
        """The same by epoch and batch, both from 0."""
        self.start_at(epoch * self.num_patches + min(number * self.batch_size, self.num_patches))

    def coming(self) -> Batches:
        """Batches from ``start`` to the end of its epoch."""
        samples = range(self.start, (self.start // self.num_patches + 1) * self.num_patches)
        return Batches(samples, self.batch_size, self.shard)

    def cases_at(self, samples: range) -> list[Case]:
        """Where these samples of one epoch are to come from, each case once; a broken one is replaced later."""
        epoch, first = divmod(samples.start, self.num_patches)
        numbers = self.epoch_order(epoch)[first : first + len(samples), 0]
        return [self.cases[number] for number in dict.fromkeys(numbers.tolist())]

    def num_batches(self, batch_size: int) -> int:
        """Batches per epoch; the last may be smaller."""
        return -(-self.num_patches // batch_size)

    def notice(self) -> str:
        """What the user should know of files that are not prepared; empty if there are none."""
        if not self.raw.any():
            return ""
        return (
            f"{self.raw.sum()} of {len(self.raw)} training files are not prepared: slower, as the whole file is read "
            f"for every few patches (`python -m ctpa_vqgan prepare` makes them fast); {NAMES_NOTICE}"
        )

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Case and number of each patch, in the order of this epoch.

        Patches of prepared volumes lie anywhere. Raw volumes come ``volumes_in_memory`` at a time, mixed among
        themselves, so that each is loaded once per epoch and worker.
        """
        if self._order is None or self._order[0] != epoch:
            rng = self._rng(0, epoch)
            is_raw = self.raw[self.pairs[:, 0]]
            volumes = rng.permutation(np.flatnonzero(self.raw))
            # sorted by group once: looking for the patches of each group would take as long for every one of them
            group_of = np.zeros(len(self.raw), dtype=np.int64)
            group_of[volumes] = np.arange(len(volumes)) // self.volumes_in_memory
            groups = group_of[self.pairs[is_raw, 0]]
            grouped = self.pairs[is_raw][np.argsort(groups, kind="stable")]
            loaded = [rng.permutation(group) for group in np.split(grouped, np.bincount(groups).cumsum()[:-1])]
            order = np.empty_like(self.pairs)
            places = rng.permutation(is_raw)
            order[places] = np.concatenate(loaded)
            order[~places] = rng.permutation(self.pairs[~is_raw])
            self._order = epoch, order
        return self._order[1]

    def _rng(self, *words: int) -> np.random.RandomState:
        return np.random.RandomState(np.random.SeedSequence([self.seed, *words]).generate_state(4))

    def place(self, sample: int) -> torch.Tensor | None:
        """The sample's place in the memory that loader processes share."""
        if self.shared is None:
            return None
        batches = self.coming()
        number = (sample - self.start) // self.batch_size
        return self.shared[number % len(self.shared), sample - batches[number].start]

    def _scale_in_place(self, sample: int) -> None:
        """Let the transform write the sample's patch to where the batch will be, if there is such a place."""
        if self.scaler is not None:
            self.scaler.into = self.place(sample)

    def _sample(self, patch: torch.Tensor, case: int, sample: int, where: Sequence[slice], told: str) -> dict:
        """What the loader gets; ``where`` the patch lies in its volume, before padding and flips."""
        position = torch.tensor([axis.start for axis in where])
        return {
            IMAGE: patch,
            "case": self.cases[case]["case"],
            "sample": sample,
            "position": position,
            "unreadable": told,
        }

    def _volume(self, case: int) -> dict:
        """A raw volume from memory or its file; a prepared one mapped anew, which costs less than keeping it."""
        if self.reading is not None:
            self.reading.fill_(case)
        return (
            dict(self.volumes[self.cases[case]]) if self.raw[case] else self.loading({IMAGE: self.cases[case][IMAGE]})
        )

    def _first_readable(self, sample: int, case: int) -> tuple[int, int, dict, str]:
        """The case, or a replacement drawn by the sample's number if it cannot be read.

        Which one does not depend on what this process knows: a case known to be bad is passed over as one that fails.

        Returns:
            Number of the attempt (0: the case itself), case, volume, and text about what could not be read.
        """
        found = []
        for attempt, candidate in enumerate(self._candidates(sample, case)):
            path = case_key(self.cases[candidate])
            if path in self.unreadable:
                continue
            try:
                return attempt, candidate, self._volume(candidate), to_text(found)
            except Exception as error:
                if (reason := unreadable(error, path)) is None:
                    raise
                self.unreadable[path] = reason
                found.append(reason)
        raise UserError(f"{self.unreadable[case_key(self.cases[case])].message}; no other training case is left")

    def _candidates(self, sample: int, case: int) -> Iterator[int]:
        yield case
        others = np.flatnonzero(np.bincount(self.pairs[:, 0]))
        yield from (int(other) for other in self._rng(2, sample).permutation(others[others != case]))


class RandomPatchDataset(_Patches, Dataset):
    """Random crops by MONAI's ``RandSpatialCropSamplesd``; indexed by sample number.

    Prepared volumes are mapped for each patch, in an order over the whole data set. Raw ones come in random order,
    ``volumes_in_memory`` of them mixed at a time, so that a batch holds different patients while each file is read once
    per epoch and worker. Arguments as for :func:`patch_dataset`.
    """

    def __init__(
        self,
        data: Sequence[Case],
        loading: Callable,
        transform: Callable,
        patch_size: Sequence[int],
        num_samples: int,
        batch_size: int = 4,
        seed: int = 0,
        volumes_in_memory: int = 4,
    ) -> None:
        cases, self.patch_size, self.batch_size = list(data), tuple(patch_size), batch_size
        super().__init__(cases, loading, transform, seed, volumes_in_memory, [num_samples] * len(cases))
        self.crop = RandSpatialCropSamplesd(keys=IMAGE, roi_size=patch_size, num_samples=1, random_size=False)
        self.chain = Compose([self.crop, PadWithAird(keys=IMAGE, spatial_size=patch_size), transform])

    def __len__(self) -> int:
        return self.num_patches

    def __getitem__(self, sample: int) -> dict:
        epoch, position = divmod(sample, self.num_patches)
        case = int(self.epoch_order(epoch)[position, 0])
        attempt, case, volume, told = self._first_readable(sample, case)
        self.chain.set_random_state(state=self._rng(1, sample, attempt))
        self._scale_in_place(sample)
        patch = self.chain(volume)[0][IMAGE]
        if self.shared is None and patch.untyped_storage().nbytes() > patch.nbytes:
            patch = patch.clone()  # a view would keep its volume alive
        return self._sample(patch, case, sample, self.crop.cropper.cropper._slices, told)


class GridPatches(_Patches, GridPatchDataset):
    """The windows of the sliding-window inferer, in shuffled order, by MONAI's ``GridPatchDataset``.

    The source hands out blocks of a rank's windows of one batch; MONAI deals blocks to workers in turn, which keeps the
    stream the same for any number of them. A case whose size cannot be read has no windows. Arguments as for
    :func:`patch_dataset`.
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
        cases, self.patch_size, self.batch_size = list(data), tuple(patch_size), batch_size
        self.padding = PadWithAird(keys=IMAGE, spatial_size=patch_size)
        sizes, bad = ranks.from_main(lambda: _sizes(cases))  # many files to open, and all ranks need the same
        windows_of = functools.cache(lambda size: grid_windows(size, patch_size, stride))  # one list for equal volumes
        self.windows = [windows_of(size) if size else [] for size in sizes]
        counts = [len(windows) for windows in self.windows]
        _Patches.__init__(self, cases, loading, transform, seed, volumes_in_memory, counts)
        self.unreadable.update(bad)
        if not self.num_patches:
            raise UserError(f"{next(iter(bad.values())).message}; no other training case is left")
        GridPatchDataset.__init__(
            self, data=_Blocks(self), patch_iter=self._crop, transform=transform, with_coordinates=False
        )

    def _crop(self, block: Sequence[tuple[int, int, int]]) -> Iterator[tuple[dict, tuple]]:
        for sample, planned, window in block:
            attempt, case, volume, told = self._first_readable(sample, planned)
            if attempt:
                window = self._rng(3, sample, attempt).randint(len(self.windows[case]))
            where = self.windows[case][window]
            # the transform runs when this generator is asked for the next patch, so its draws belong to this sample
            self.patch_transform.set_random_state(state=self._rng(1, sample, attempt))
            self._scale_in_place(sample)
            patch = self.padding({IMAGE: volume[IMAGE][(slice(None), *where)]})
            yield self._sample(patch[IMAGE], case, sample, where, told), where


def _sizes(cases: Sequence[Case]) -> tuple[list[tuple[int, ...] | None], dict[str, Unreadable]]:
    """Size of every volume, None for those that cannot be read; and what is wrong with these."""
    sizes, bad = [], {}
    for case in cases:
        image, path = case[IMAGE], case_key(case)
        try:
            sizes.append(shape_if_prepared(image) or volume_shape(image))
        except Exception as error:
            if (reason := unreadable(error, path)) is None:
                raise
            sizes.append(None)
            bad[path] = reason
    return sizes, bad


class _Blocks:
    """Blocks of (sample, case, window) for one epoch, read anew at every iteration."""

    __slots__ = ("dataset",)  # no __dict__: MONAI's loader walks those to seed transforms, and would walk in a circle

    def __init__(self, dataset: GridPatches) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        dataset = self.dataset
        for samples in filter(len, dataset.coming()):
            epoch, first = divmod(samples.start, dataset.num_patches)
            pairs = dataset.epoch_order(epoch)[first : first + len(samples)].tolist()
            yield [(sample, *pair) for sample, pair in zip(samples, pairs)]


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
