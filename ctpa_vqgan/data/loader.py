"""Batches of patches: put together by loader processes in memory that they share and use again and again."""

# B patches of a batch, [1, H, W, D] each; in memory D is slowest and H fastest, as in the file

from __future__ import annotations

import functools
import itertools
import mmap
import multiprocessing
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader, list_data_collate
from torch.utils.data import Sampler

from ctpa_vqgan.data.patches import IMAGE, Batches, GridPatches, RandomPatchDataset
from ctpa_vqgan.data.processes import (
    POLL_SECONDS,
    LoaderProcesses,
    ProcessDied,
    begin,
    collate_and_rest,
    reading_board,
    reported_by_no_signal,
)
from ctpa_vqgan.data.transforms import empty
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.progress import say
from ctpa_vqgan.ranks import Shard

MAX_DEATHS = 3  # in a row, without a batch in between


def patch_loader(
    dataset: RandomPatchDataset | GridPatches,
    batch_size: int,
    num_workers: int = 0,
    page_locked: bool = False,
    timeout: float = 0,
    shard: Shard | None = None,
) -> DataLoader:
    """Batches ``{"image": [B, 1, H, W, D], "case": [...], "sample": [B], ...}`` in the order of sample numbers.

    Ranks that train together get their parts of the same batches, in as many iterations each; at the end of an epoch a
    part may be empty.

    ``"position"`` [B, 3], int64, is the first voxel (x, y, z) of each patch in its volume in RAS orientation, before
    padding and flips. ``"unreadable"`` holds texts about files that could not be read, for
    :class:`ctpa_vqgan.handlers.Quarantine`; empty as a rule.

    Args:
        dataset: where patches come from.
        batch_size: patches per batch, over all ranks.
        num_workers: loader processes of this rank; 0 loads in this one.
        page_locked: put images into page-locked memory, from which a CUDA device copies while the CPU goes on; for no
            other device.
        timeout: seconds after which a batch that does not come ends the run, with the files that loader processes hang
            at; 0 waits for ever. Of no meaning without loader processes: one that hangs cannot end itself.
        shard: which rank this is; by PyTorch's process group if None.

    Raises:
        UserError: if ``timeout`` is negative, or there are more ranks than patches in a batch.
    """
    dataset.batch_size, dataset.shard = batch_size, shard or Shard.of_group()
    if batch_size < dataset.shard.count:
        raise UserError(
            f"batch_size: expected at least a patch for each of {dataset.shard.count} processes that train together, "
            f"found {batch_size}; raise it, or start fewer"
        )
    return PatchLoader(
        dataset,
        page_locked,
        timeout,
        batch_size=dataset.coming().largest,
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
    small = _without_image(samples)
    # as plain bytes: a tensor would be fetched from the process that made it, which may be gone by then
    return {key: value.numpy() if isinstance(value, torch.Tensor) else value for key, value in small.items()}


def _without_image(samples: Sequence[dict]) -> dict:
    return list_data_collate([{key: value for key, value in sample.items() if key != IMAGE} for sample in samples])


class PatchLoader(DataLoader):
    """MONAI's loader, with batches that come from loader processes through one piece of shared memory.

    PyTorch's own way takes fresh memory for each batch, and filling that with zeros and pages takes longer than all
    else that is done to a patch; it also needs a large ``/dev/shm``, which containers lack. Where processes are not
    forked, it is PyTorch's way.

    When a loader process dies, all are replaced and go on with the first batch that was not handed over: as samples are
    functions of their numbers, nothing else changes.

    Args:
        dataset: where patches come from.
        page_locked: see :func:`patch_loader`. PyTorch's ``pin_memory`` would copy every batch once more, in a thread.
        timeout: see :func:`patch_loader`.
        kwargs: those of MONAI's loader.

    Attributes:
        restarts: how often processes were replaced so far.

    Raises:
        UserError: if ``timeout`` is negative. From the iterator: if no batch comes in time, or if processes die again
            and again without a batch in between.
    """

    def __init__(
        self,
        dataset: RandomPatchDataset | GridPatches,
        page_locked: bool = False,
        timeout: float = 0,
        **kwargs: Any,
    ) -> None:
        if not timeout >= 0:
            raise UserError(f"loader_timeout: expected seconds, or 0 to wait for ever, found {timeout}")
        super().__init__(dataset, timeout=POLL_SECONDS if kwargs.get("num_workers") else 0, **kwargs)
        self.page_locked, self.longest_wait, self.restarts = page_locked, timeout, 0

    def __iter__(self) -> Iterator[dict]:
        """One epoch, or what is left of it."""
        batches = self.dataset.coming()
        # only the last can have nothing for this rank
        numbers = range(len(batches) - (not batches[len(batches) - 1]))
        if self.num_workers:
            yield from self._from_processes(batches, numbers)
        else:
            self.collate_fn = collate_patches
            for batch in super().__iter__():
                yield self._page_locked(batch)
        if len(numbers) < len(batches):
            yield self._no_patches()

    def _from_processes(self, batches: Batches, numbers: range) -> Iterator[dict]:
        """The batches of these numbers."""
        deaths = 0
        while numbers:
            processes, shared = self._start_processes(batches.start_of(numbers.start))
            place = 0
            try:
                while numbers:
                    batch = processes.next_batch(self.longest_wait)
                    assert batch["sample"][0] == batches[numbers.start].start
                    batch = self._page_locked(batch) if IMAGE in batch else self._filled(batch, shared[place])
                    numbers, place, deaths = numbers[1:], (place + 1) % len(shared), 0
                    yield batch
            except ProcessDied as died:
                deaths, self.restarts = deaths + 1, self.restarts + 1
                samples = batches[numbers.start]
                self._refuse_too_many(deaths, died, samples)
                say(
                    f"{died}; new ones go on with sample {samples.start} (restart {self.restarts})",
                    every_rank=True,
                )
            finally:
                processes.stop()

    def _start_processes(self, start: int) -> tuple[LoaderProcesses, torch.Tensor]:
        """Processes that begin with this sample, and the memory that they put images in; empty for PyTorch's way."""
        forked = multiprocessing.get_start_method() == "fork"
        shared, board = self._shared_memory() if forked else torch.empty(1, 0), reading_board(self.num_workers)
        collate = functools.partial(_collate_shared, dataset=self.dataset) if forked else collate_patches
        self.collate_fn = functools.partial(collate_and_rest, collate=collate)
        self.worker_init_fn = functools.partial(begin, board=board)
        before = self.dataset.start
        self.dataset.epoch_order(start // self.dataset.num_patches)  # made here, forked processes share it
        # what is set now, the processes to be made have
        self.dataset.start, self.dataset.shared = start, shared if forked else None
        try:
            with reported_by_no_signal():
                batches = super().__iter__()
        finally:
            self.dataset.start, self.dataset.shared = before, None
        return LoaderProcesses(batches, board, self.dataset.cases), shared

    def _refuse_too_many(self, deaths: int, died: ProcessDied, samples: range) -> None:
        if deaths == MAX_DEATHS:
            cases = ", ".join(case["case"] for case in self.dataset.cases_at(samples))
            raise UserError(
                f"num_workers: expected loader processes that live, found deaths {deaths} times in a row before the "
                f"batch of {cases} came: {died}; {died.way_out}"
            ) from None

    def _page_locked(self, batch: dict) -> dict:
        return {**batch, IMAGE: batch[IMAGE].pin_memory()} if self.page_locked else batch

    def _no_patches(self) -> dict:
        """A batch of which all patches are other ranks'."""
        image = torch.empty(0, 1, *self.dataset.patch_size)
        numbers = {"sample": torch.empty(0, dtype=torch.int64), "position": torch.empty(0, 3, dtype=torch.int64)}
        return {IMAGE: image, "case": [], "unreadable": [], **numbers}

    def _filled(self, small: dict, place: torch.Tensor) -> dict:
        """The batch whose image lies in shared memory."""
        image = _taken(place[: len(small["sample"])], self.page_locked)
        return {**{key: _tensor_or_list(value) for key, value in small.items()}, IMAGE: image}

    def _shared_memory(self) -> torch.Tensor:
        """A place for every batch that PyTorch asks for in advance, and one for the batch just handed over."""
        places = self.num_workers * self.prefetch_factor + 1
        shape = (places, self.batch_size, 1, *reversed(self.dataset.patch_size))
        memory = mmap.mmap(-1, torch.Size(shape).numel() * torch.float32.itemsize)  # pages come when they are touched
        return torch.frombuffer(memory, dtype=torch.float32).reshape(shape)


def _tensor_or_list(value: np.ndarray | list) -> torch.Tensor | list:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value


def _taken(source: torch.Tensor, page_locked: bool) -> torch.Tensor:
    """A copy: the place will be written anew while the trainer still has the batch."""
    target = torch.empty(source.shape, pin_memory=True) if page_locked else empty(source.shape)
    return target.copy_(source).transpose(-3, -1)


class _SampleNumbers(Sampler):
    def __init__(self, dataset: RandomPatchDataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[int]:
        return itertools.chain.from_iterable(self.dataset.coming())

    def __len__(self) -> int:
        return self.dataset.coming().num_samples
