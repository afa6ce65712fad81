"""Batches of patches: put together by loader processes in memory that they share and use again and again."""

# B patches of a batch, [1, H, W, D] each; in memory D is slowest and H fastest, as in the file

from __future__ import annotations

import functools
import mmap
import multiprocessing
from collections.abc import Iterator, Sequence

import torch
from monai.data import DataLoader, list_data_collate
from torch.utils.data import Sampler

from ctpa_vqgan.data.patches import IMAGE, GridPatches, RandomPatchDataset
from ctpa_vqgan.data.transforms import empty


def patch_loader(dataset: RandomPatchDataset | GridPatches, batch_size: int, num_workers: int = 0) -> DataLoader:
    """Batches ``{"image": [B, 1, H, W, D], "case": [...], "sample": [B], ...}`` in the order of sample numbers.

    ``"unreadable"`` holds texts about files that could not be read, for
    :class:`ctpa_vqgan.handlers.Quarantine`; empty as a rule.
    """
    return PatchLoader(
        dataset,
        batch_size=batch_size,
        num_workers=num_workers,
        sampler=_SampleNumbers(dataset) if isinstance(dataset, RandomPatchDataset) else None,
        collate_fn=collate_patches,
        # a generator of its own: creating an iterator would otherwise draw from the global one
        generator=torch.Generator().manual_seed(dataset.seed),
    )


def collate_patches(samples: Sequence[dict], shared: torch.Tensor | None = None) -> dict:
    """:func:`monai.data.list_data_collate`, but the image keeps the order of the file, x fastest, under its strides.

    A transposition would cost more than all else that is done to a patch; on a GPU it costs nothing.

    Args:
        samples: of the batch.
        shared: memory of several batches; the batch goes to a place in it that follows from its sample number, and
            that place is returned instead of the image, if the patches fit.
    """
    images = [sample[IMAGE].transpose(-3, -1) for sample in samples]
    if any(type(image) is not torch.Tensor for image in images) or not images[0].is_contiguous():
        return list_data_collate(samples)
    others = list_data_collate([{key: value for key, value in sample.items() if key != IMAGE} for sample in samples])
    count, shape, dtype = len(images), images[0].shape, images[0].dtype
    if shared is None:
        return {IMAGE: torch.stack(images, out=empty([count, *shape], dtype)).transpose(-3, -1), **others}
    if shape != shared.shape[2:] or dtype != shared.dtype:
        return list_data_collate(samples)
    place = samples[0]["sample"] // shared.shape[1] % shared.shape[0]
    torch.stack(images, out=shared[place, :count])
    return {IMAGE: (place, count), **others}


class PatchLoader(DataLoader):
    """MONAI's loader, with batches that come from loader processes through one piece of shared memory.

    PyTorch's own way takes fresh memory for each batch, and filling that with zeros and pages takes longer than all
    else that is done to a patch; it also needs a large ``/dev/shm``, which containers lack. Where processes are not
    forked, it is PyTorch's way.
    """

    def __iter__(self) -> Iterator[dict]:
        """One epoch, or what is left of it."""
        self.collate_fn = collate_patches
        if not self.num_workers or multiprocessing.get_start_method() != "fork":
            yield from super().__iter__()
            return
        shared = self._shared_memory()
        self.collate_fn = functools.partial(collate_patches, shared=shared)
        for batch in super().__iter__():
            yield {**batch, IMAGE: _taken(batch[IMAGE], shared)}

    def _shared_memory(self) -> torch.Tensor:
        """A place for every batch that PyTorch asks for in advance, and one for the batch just handed over."""
        places = self.num_workers * self.prefetch_factor + 1
        shape = (places, self.batch_size, 1, *reversed(self.dataset.patch_size))
        memory = mmap.mmap(-1, torch.Size(shape).numel() * torch.float32.itemsize)  # pages come when they are touched
        return torch.frombuffer(memory, dtype=torch.float32).reshape(shape)


def _taken(image: torch.Tensor | Sequence[int], shared: torch.Tensor) -> torch.Tensor:
    """A copy, pinned where there is a GPU: the place will be written anew while the trainer still has the batch."""
    if isinstance(image, torch.Tensor):
        return image
    place, count = image
    source = shared[place, :count]
    pinned = torch.cuda.is_available()
    target = torch.empty(source.shape, pin_memory=True) if pinned else empty(source.shape)
    return target.copy_(source).transpose(-3, -1)


class _SampleNumbers(Sampler):
    def __init__(self, dataset: RandomPatchDataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[int]:
        return iter(self.dataset.coming())

    def __len__(self) -> int:
        return self.dataset.num_patches
