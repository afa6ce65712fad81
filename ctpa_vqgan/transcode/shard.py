"""Share cases among the processes of one job."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

T = TypeVar("T")


class Shard(NamedTuple):
    """Part ``index`` of ``count``."""

    index: int = 0
    count: int = 1

    @classmethod
    def of_this_process(cls) -> Shard:
        """By torchrun's ``RANK`` and ``WORLD_SIZE``; the whole where they are not set."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))

    def take(self, items: Sequence[T]) -> list[T]:
        """Every ``count``-th item."""
        return list(items[self.index :: self.count])

    def file_name(self, stem: str) -> str:
        """``stem.json``, or one of its own for each process."""
        return f"{stem}.json" if self.count == 1 else f"{stem}_{self.index}_of_{self.count}.json"
