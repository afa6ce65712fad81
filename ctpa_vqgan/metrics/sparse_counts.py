"""Counts of codes that are far too many for a table: only those that occurred are kept."""

# M codes that occurred

from __future__ import annotations

import torch

SETTLE = 2**20  # entries that may wait before they are sorted in


class SparseCounts:
    """How often codes occur, in 24 bytes per code that did, in two rows (all tokens, body tokens).

    Entries wait until there are as many as codes known, then all are sorted at once: a long epoch stays fast.

    Args:
        codes: to begin with, [M] int64, ascending.
        counts: of these, [2, M] int64.
    """

    def __init__(self, codes: torch.Tensor | None = None, counts: torch.Tensor | None = None) -> None:
        self._codes = torch.zeros(0, dtype=torch.int64) if codes is None else codes
        self._counts = torch.zeros(2, 0, dtype=torch.int64) if counts is None else counts
        self._waiting: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._num_waiting = 0

    @property
    def codes(self) -> torch.Tensor:
        """Codes that occurred, [M] int64, ascending."""
        self._settle()
        return self._codes

    @property
    def counts(self) -> torch.Tensor:
        """How often each of them did, [2, M] int64."""
        self._settle()
        return self._counts

    def add(self, row: int, codes: torch.Tensor) -> None:
        """Count codes, integers of any shape on any device, in one row."""
        codes, counts = torch.unique(codes.detach().flatten().to(torch.int64), return_counts=True)
        both = torch.zeros(2, len(codes), dtype=torch.int64)
        both[row] = counts.cpu()
        self._add(codes.cpu(), both)

    def merge(self, other: SparseCounts) -> None:
        """Add the counts of another one."""
        self._add(other.codes, other.counts)

    def _add(self, codes: torch.Tensor, counts: torch.Tensor) -> None:
        self._waiting.append((codes, counts))
        self._num_waiting += len(codes)
        if self._num_waiting > max(SETTLE, len(self._codes)):
            self._settle()

    def _settle(self) -> None:
        if not self._waiting:
            return
        codes, counts = zip((self._codes, self._counts), *self._waiting)
        self._codes, place = torch.unique(torch.cat(codes), return_inverse=True)
        self._counts = torch.zeros(2, len(self._codes), dtype=torch.int64)
        self._counts.index_add_(1, place, torch.cat(counts, dim=1))
        self._waiting, self._num_waiting = [], 0
