"""Distributions of the error of two volumes by group of voxels: exact percentiles without keeping the errors."""

# G groups, N voxels of one slab

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

Z_95 = 1.96  # SDs on either side of the mean that hold 95 % of a normal distribution
TAILS = (1, 39)  # the 2.5 and 97.5 percentiles in 40ths, so that ranks are whole numbers
SIGN = 2**31
HALF = 2**16  # values of the upper or the lower half of a float32


class ErrorSummary(NamedTuple):
    """The signed error, reconstruction - original in HU, of ``num_voxels`` voxels; all NaN where these are 0.

    ``low_95_hu`` and ``high_95_hu`` are the 2.5 and 97.5 percentiles of the error, between two voxels linear as in
    ``numpy.percentile``; ``loa_low_hu`` and ``loa_high_hu`` the limits of agreement, bias -+ 1.96 SD (Bland and
    Altman, Lancet 1986), which agree with the percentiles where errors are normally distributed. ``sd_hu`` is the
    sample's SD, NaN for a single voxel. ``psnr`` in dB is ``inf`` where nothing differs.
    """

    num_voxels: int
    bias_hu: float
    mae_hu: float
    rmse_hu: float
    sd_hu: float
    low_95_hu: float
    high_95_hu: float
    loa_low_hu: float
    loa_high_hu: float
    psnr: float


class Errors:
    """Distribution of the error of two volumes clipped to ``low``..``high``, by group.

    Args:
        low: lowest HU.
        high: highest HU.
        peak: of the PSNR, in HU.
        num_groups: G.
        whole: whether all HU are whole numbers.
    """

    def __init__(self, low: float, high: float, peak: float, num_groups: int, whole: bool) -> None:
        self.low, self.high, self.peak, self.num_groups = low, high, peak, num_groups
        self.whole = whole and float(low).is_integer() and float(high).is_integer() and high - low < HALF
        self.num_bins = int(2 * (high - low)) + 1 if self.whole else HALF
        self.counts = np.zeros((num_groups, self.num_bins), np.int64)
        self.sums = np.zeros((3, num_groups))  # of error, absolute and squared error
        self.wanted: dict[tuple[tuple[int, ...], int], np.ndarray] = {}  # lower halves by (groups, upper half)

    def _error(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x.clamp(self.low, self.high).sub_(y.clamp(self.low, self.high))

    def add(self, x: torch.Tensor, y: torch.Tensor, group: torch.Tensor) -> None:
        """Count the errors of one slab [N]; whole numbers by value, fractions by their upper half."""
        error = self._error(x, y)
        bins = error.to(torch.int32) if self.whole else _ordered(error) >> 16
        bins.add_(self.num_bins // 2).add_(group, alpha=self.num_bins)
        self.counts += torch.bincount(bins, minlength=self.counts.size).view(self.counts.shape).numpy()
        if not self.whole:
            error = error.double()
            for total, weights in zip(self.sums, (error, error.abs(), error.square())):
                total += torch.bincount(group, weights, minlength=self.num_groups).numpy()

    def find_ranks(self, rows: Sequence[slice]) -> None:
        """Note in ``wanted`` which lower halves the percentiles of these rows of groups need."""
        if self.whole:
            values = np.arange(self.num_bins) - self.num_bins // 2
            self.sums = np.stack([self.counts @ weights for weights in (values, abs(values), values**2)])
            return
        for row in rows:
            counts = self.counts[row].sum(0)
            for rank in {rank for lower, upper, _ in _ranks(counts.sum()) for rank in (lower, upper)}:
                upper_half, _ = _locate(counts, rank)
                self.wanted[self._groups(row), upper_half] = np.zeros(HALF, np.int64)

    def refine(self, x: torch.Tensor, y: torch.Tensor, group: torch.Tensor) -> None:
        """Count lower halves, of one slab [N], in the intervals where percentiles lie."""
        keys = _ordered(self._error(x, y))
        uppers = (keys >> 16).add_(HALF // 2)
        needed = torch.zeros(HALF, dtype=torch.bool)
        needed[[upper for _, upper in self.wanted]] = True
        chosen = needed[uppers].nonzero()[:, 0]
        uppers, lowers, group = uppers[chosen], keys[chosen] & (HALF - 1), group[chosen]
        for (groups, upper), counts in self.wanted.items():
            member = torch.zeros(self.num_groups, dtype=torch.bool)
            member[list(groups)] = True
            counts += torch.bincount(lowers[(uppers == upper) & member[group]], minlength=HALF).numpy()

    def summary(self, row: slice) -> ErrorSummary:
        """What the errors of a row of groups amount to."""
        counts = self.counts[row].sum(0)
        num = int(counts.sum())
        if not num:
            return ErrorSummary(0, *[math.nan] * (len(ErrorSummary._fields) - 1))
        total, absolute, squared = (float(sums[row].sum()) for sums in self.sums)
        bias, mse = total / num, squared / num
        sd = math.sqrt(max(squared - total * bias, 0) / (num - 1)) if num > 1 else math.nan
        low, high = (
            (1 - share) * self._value(row, counts, lower) + share * self._value(row, counts, upper)
            for lower, upper, share in _ranks(num)
        )
        return ErrorSummary(
            num_voxels=num,
            bias_hu=bias,
            mae_hu=absolute / num,
            rmse_hu=math.sqrt(mse),
            sd_hu=sd,
            low_95_hu=low,
            high_95_hu=high,
            loa_low_hu=bias - Z_95 * sd,
            loa_high_hu=bias + Z_95 * sd,
            psnr=10 * math.log10(self.peak**2 / mse) if mse else math.inf,
        )

    def _groups(self, row: slice) -> tuple[int, ...]:
        return tuple(range(self.num_groups)[row])

    def _value(self, row: slice, counts: np.ndarray, rank: int) -> float:
        """The error that ``rank`` errors of a row come before."""
        place, within = _locate(counts, rank)
        if self.whole:
            return float(place - self.num_bins // 2)
        lower_half, _ = _locate(self.wanted[self._groups(row), place], within)
        key = torch.tensor([place * HALF + lower_half - SIGN], dtype=torch.int64).to(torch.int32)
        return _mirrored(key).view(torch.float32).item()


def _mirrored(bits: torch.Tensor) -> torch.Tensor:
    """Turn int32 bits of float32 into a key in their order, and back: of negative ones all bits but the sign flip."""
    return bits ^ ((bits >> 31) & (SIGN - 1))


def _ordered(error: torch.Tensor) -> torch.Tensor:
    """int32 keys in the order of float32 errors."""
    return _mirrored(error.view(torch.int32))


def _ranks(num: int) -> Iterator[tuple[int, int, float]]:
    """For each tail of ``num`` errors: the ranks on either side of it, and how far it is between them (0 to 1)."""
    for fortieths in TAILS if num else ():
        rank, rest = divmod((int(num) - 1) * fortieths, 40)
        yield rank, rank + (rest > 0), rest / 40


def _locate(counts: np.ndarray, rank: int) -> tuple[int, int]:
    """In which bin the error with ``rank`` errors before it lies, and how many of this bin come before it."""
    cumulated = np.cumsum(counts)
    place = int(np.searchsorted(cumulated, rank, side="right"))
    return place, rank - int(cumulated[place] - counts[place])
