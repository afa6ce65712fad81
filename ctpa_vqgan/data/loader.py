"""Batches of patches: put together by loader processes in memory that they share and use again and again."""

# B patches of a batch, [1, H, W, D] each; in memory D is slowest and H fastest, as in the file

from __future__ import annotations

import functools
import mmap
import multiprocessing
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from monai.data import DataLoader, list_data_collate
from torch.utils.data import Sampler

from ctpa_vqgan.data.patches import IMAGE, GridPatches, RandomPatchDataset
from ctpa_vqgan.data.transforms import empty


def patch_loader(
    dataset: RandomPatchDataset | GridPatches, batch_size: int, num_workers: int = 0, page_locked: bool = False
) -> DataLoader:
    """Batches ``{"image": [B, 1, H, W, D], "case": [...], "sample": [B], ...}`` in the order of sample numbers.

    ``"unreadable"`` holds texts about files that could not be read, for
    :class:`ctpa_vqgan.handlers.Quarantine`; empty as a rule.

    Args:
        dataset: where patches come from.
        batch_size: patches per batch.
        num_workers: loader processes; 0 loads in this one.
        page_locked: put images into page-locked memory, from which a CUDA device copies while the CPU goes on; for no
            other device.
    """
    return PatchLoader(
        dataset,
        page_locked,
        batch_size=batch_size,
        num_workers=num_workers,
        sampler=_SampleNumbers(dataset) if isinstance(dataset, RandomPatchDataset) else None,
        collate_fn=collate_patches,
        # a generator of its own: creating an iterator would otherwise draw from the global one
        generator=torch.Generator().manual_seed(dataset.seed),
    )


def collate_patches(samples: Sequence[dict]) -> dict:
    """:func:`monai.data.list_data_collate`, but the image keeps the order of the file, x fastest, under its strides.

    A transposition would cost more than all else that is done to a patch; on a GPU it costs nothing.
    """
    images = [sample[IMAGE].transpose(-3, -1) for sample in samples]
    if any(type(image) is not torch.Tensor for image in images) or not images[0].is_contiguous():
        return list_data_collate(samples)
    batch = torch.stack(images, out=empty([len(images), *images[0].shape], images[0].dtype))
    return {**_without_image(samples), IMAGE: batch.transpose(-3, -1)}


def _collate_shared(samples: Sequence[dict], dataset: RandomPatchDataset | GridPatches) -> dict:
    """In a loader process: patches go to their places in shared memory, where most were made; samples tell which."""
    places = [dataset.place(sample["sample"]).transpose(-3, -1) for sample in samples]
    if any(
        sample[IMAGE].shape != place.shape or sample[IMAGE].dtype != place.dtype
        for sample, place in zip(samples, places)
    ):
        return list_data_collate(samples)
    for sample, place in zip(samples, places):
        if sample[IMAGE].data_ptr() != place.data_ptr():
            place.copy_(sample[IMAGE])
    return _without_image(samples)


def _without_image(samples: Sequence[dict]) -> dict:
    return list_data_collate([{key: value for key, value in sample.items() if key != IMAGE} for sample in samples])


class PatchLoader(DataLoader):
    """MONAI's loader, with batches that come from loader processes through one piece of shared memory.

    PyTorch's own way takes fresh memory for each batch, and filling that with zeros and pages takes longer than all
    else that is done to a patch; it also needs a large ``/dev/shm``, which containers lack. Where processes are not
    forked, it is PyTorch's way.

    Args:
        dataset: where patches come from.
        page_locked: see :func:`patch_loader`. PyTorch's ``pin_memory`` would copy every batch once more, in a thread.
        kwargs: those of MONAI's loader.
    """

    def __init__(self, dataset: RandomPatchDataset | GridPatches, page_locked: bool = False, **kwargs: Any) -> None:
        super().__init__(dataset, **kwargs)
        self.page_locked = page_locked

    def __iter__(self) -> Iterator[dict]:
        """One epoch, or what is left of it."""
        self.collate_fn = collate_patches
        if not self.num_workers or multiprocessing.get_start_method() != "fork":
            for batch in super().__iter__():
                yield {**batch, IMAGE: batch[IMAGE].pin_memory()} if self.page_locked else batch
            return
        shared, start = self._shared_memory(), self.dataset.start
        self.dataset.shared = shared  # what is set now, the processes to be forked have
        self.collate_fn = functools.partial(_collate_shared, dataset=self.dataset)
        batches = super().__iter__()
        self.dataset.shared = None
        for number, batch in enumerate(batches):
            count = len(batch["sample"])
            assert IMAGE in batch or batch["sample"][0] == start + number * self.batch_size
            if IMAGE not in batch:
                batch[IMAGE] = _taken(shared[number % len(shared), :count], self.page_locked)
            elif self.page_locked:
                batch[IMAGE] = batch[IMAGE].pin_memory()
            yield batch

    def _shared_memory(self) -> torch.Tensor:
        """A place for every batch that PyTorch asks for in advance, and one for the batch just handed over."""
        places = self.num_workers * self.prefetch_factor + 1
        shape = (places, self.batch_size, 1, *reversed(self.dataset.patch_size))
        memory = mmap.mmap(-1, torch.Size(shape).numel() * torch.float32.itemsize)  # pages come when they are touched
        return torch.frombuffer(memory, dtype=torch.float32).reshape(shape)


def _taken(source: torch.Tensor, page_locked: bool) -> torch.Tensor:
    """A copy: the place will be written anew while the trainer still has the batch."""
    target = torch.empty(source.shape, pin_memory=True) if page_locked else empty(source.shape)
    return target.copy_(source).transpose(-3, -1)


class _SampleNumbers(Sampler):
    def __init__(self, dataset: RandomPatchDataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[int]:
        return iter(self.dataset.coming())

    def __len__(self) -> int:
        return self.dataset.num_patches
