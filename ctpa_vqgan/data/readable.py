"""Go through whole volumes one after the other, and on past those that cannot be read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from ctpa_vqgan.data.cases import Case
from ctpa_vqgan.errors import user_error
from ctpa_vqgan.progress import say


class ReadableCases(IterableDataset):
    """Cases in their order; one that is refused is named, noted in ``refused``, and passed over.

    For evaluation and inference, where a damaged file must not cost all others. It notes in this process, so it needs
    a loader without processes of its own.

    Args:
        data: cases of :func:`ctpa_vqgan.data.find_cases`.
        transform: reads a case.
        is_done: whether a case needs no reading, as an earlier run has finished it.
    """

    def __init__(
        self,
        data: Sequence[Case],
        transform: Callable[[Case], dict[str, Any]],
        is_done: Callable[[Case], bool] = lambda case: False,
    ) -> None:
        self.data, self.transform, self.is_done = list(data), transform, is_done
        self.refused: dict[str, str] = {}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if get_worker_info() is not None:
            raise ValueError("ReadableCases notes what it refuses in this process: load it with num_workers=0")
        self.refused = {}
        for case in self.data:
            if self.is_done(case):
                continue
            try:
                item = self.transform(case)
            except Exception as error:
                cause = user_error(error)
                if cause is None:
                    raise
                self.refused[case["case"]] = str(cause)
                if len(self.data) > 1:  # the error of a single volume is that of the run
                    say(f"left out: {cause}", every_rank=True)
            else:
                yield item
