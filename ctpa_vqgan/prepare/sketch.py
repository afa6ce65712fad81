"""Find volumes that share voxels: the same scan given twice, or overlapping crops of one scan.

A sketch is a list of numbers, each the hash of 3 x 3 x 3 neighbouring voxels. Which neighbourhoods are taken is decided
by their content alone, so two volumes that hold the same piece of a scan, at whatever place, choose the same ones
(bottom-k sketch: Broder 1997, On the resemblance and containment of documents). The noise of a CT makes 27 voxels as
good as unique. A scan that was resampled or smoothed is a different one here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ctpa_vqgan.prepare.statistics import memory_order

SIZE = 1024  # numbers of a sketch
HASH_BITS = 48  # every JSON reader keeps integers below 2**53

# An anchor is a voxel whose value is 8 modulo 64: ..., -56, 8, 72, 136, ... An even number, as some scanners store even
# values only.
ANCHOR_MODULUS, ANCHOR_REST = 64, 8
# Air, padding and metal lie outside: programs pad with different values and clip at different ones.
CONTENT_HU = (-900, 2000)
MIN_DISTINCT = 12  # distinct values of the 27: noise has more, an even region or a drawn edge has fewer

MIN_COMMON = 2  # numbers that two volumes must share: any two agree by chance once in 2**48 times
MIN_SHARE = 0.01
_ALL_PAIRS = 16  # volumes with the same number up to which each is paired with each

_OFFSETS = tuple(itertools.product((-1, 0, 1), repeat=3))
# PCG64's raw stream is fixed for all versions of NumPy, so sketches of different days can be compared
_WEIGHTS = np.random.PCG64(0).random_raw(len(_OFFSETS)) | np.uint64(1)
_SLAB_VOXELS = 1 << 22


def sketch(voxels: np.ndarray) -> list[int]:
    """Choose up to 1024 hashes of a volume's content, the smallest of all, in rising order.

    Args:
        voxels: [X, Y, Z], int16, HU, RAS; any strides, a memory map will do: it is read slab by slab. Two volumes must
            have the same orientation to be compared.

    Returns:
        Integers below 2**48; fewer than 1024 if the volume is small or has little content, none if it has no noise.
    """
    axes = memory_order(voxels)
    view = voxels.transpose(axes)
    smallest = np.empty(0, np.uint64)
    for slab in _slabs(view):
        limit = smallest[-1] if len(smallest) == SIZE else np.uint64(1 << HASH_BITS)
        hashes = _hashes(slab, axes, limit)
        smallest = np.unique(np.concatenate([smallest, hashes]))[:SIZE]
    return smallest.tolist()


def _slabs(view: np.ndarray) -> Iterator[np.ndarray]:
    """Copies of the volume piece by piece, each with a slice more on either side for the neighbours."""
    slices = max(1, _SLAB_VOXELS // view[0].size)
    for start in range(1, len(view) - 1, slices):
        stop = min(start + slices, len(view) - 1)
        yield np.ascontiguousarray(view[start - 1 : stop + 1], np.int16)


def _hashes(slab: np.ndarray, axes: Sequence[int], limit: np.uint64) -> np.ndarray:
    """Hashes below a limit of the neighbourhoods with content."""
    steps = np.zeros(3, np.int64)  # from a voxel to the next along X, Y, Z in the flat slab
    steps[list(axes)] = np.array(slab.strides) // slab.itemsize
    anchors = _anchors(slab, axes.index(0))
    flat = slab.reshape(-1)
    low, high = CONTENT_HU
    hashes = np.zeros(len(anchors), np.uint64)
    inside = np.ones(len(anchors), bool)
    for offset, weight in zip(_OFFSETS, _WEIGHTS):
        values = flat[anchors + int(steps @ offset)]
        inside &= (values > low) & (values < high)
        hashes += values.astype(np.uint64) * weight  # wraps around, as hashes do
    hashes = _mix(hashes)
    chosen = inside & (hashes < limit)
    anchors, hashes = anchors[chosen], hashes[chosen]
    around = flat[anchors[:, None] + np.array([int(steps @ offset) for offset in _OFFSETS])]
    around.sort(axis=1)
    return hashes[(np.diff(around, axis=1) != 0).sum(1) + 1 >= MIN_DISTINCT]


def _anchors(slab: np.ndarray, x_axis: int) -> np.ndarray:
    """Flat places of the voxels with the anchors' value and a different neighbour along X, border excluded."""
    inner = (slice(1, -1),) * 3
    beside = tuple(slice(2, None) if axis == x_axis else slice(1, -1) for axis in range(3))
    core, low = slab[inner], CONTENT_HU[0]
    marked = np.zeros(slab.shape, bool)
    marked[inner] = ((core & (ANCHOR_MODULUS - 1)) == ANCHOR_REST) & (core > low) & (core != slab[beside])
    return np.flatnonzero(marked)


def _mix(hashes: np.ndarray) -> np.ndarray:
    """Spread every bit over all bits (the finaliser of SplitMix64), and keep the upper ones."""
    hashes = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    hashes = (hashes ^ (hashes >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (hashes ^ (hashes >> np.uint64(31))) >> np.uint64(64 - HASH_BITS)


def shared_fraction(a: Sequence[int], b: Sequence[int]) -> float:
    """The share of the smaller volume's content that the other one holds too, estimated from their sketches.

    1 for a volume and any crop of it, 0 if fewer than 2 numbers are common.
    """
    # A full sketch knows nothing of the hashes above its last one: compare where both know all.
    limit = min([numbers[-1] for numbers in (a, b) if len(numbers) >= SIZE], default=1 << HASH_BITS)
    a, b = ({number for number in numbers if number <= limit} for numbers in (a, b))
    common = len(a & b)
    return common / min(len(a), len(b)) if common >= MIN_COMMON else 0.0


def find_pairs(sketches: Mapping[str, Sequence[int]], min_share: float = MIN_SHARE) -> list[tuple[str, str, float]]:
    """Pairs of volumes that share at least ``min_share`` of the smaller one, the largest share first.

    Only volumes with a common number are compared, so the work grows with the number of volumes and not with its
    square. Of more than 16 volumes that share the same voxels, each is found with its neighbours in the order given.

    Args:
        sketches: case to :func:`sketch`.
        min_share: between 0 and 1.

    Returns:
        Two cases in the order given and their :func:`shared_fraction`.
    """
    cases = list(sketches)
    pairs = [
        (cases[i], cases[j], shared_fraction(sketches[cases[i]], sketches[cases[j]])) for i, j in _nominated(sketches)
    ]
    return sorted((pair for pair in pairs if pair[2] >= max(min_share, 1e-9)), key=lambda pair: -pair[2])


def _nominated(sketches: Mapping[str, Sequence[int]]) -> list[tuple[int, int]]:
    """Indices of the volumes that have a number in common."""
    numbers = np.concatenate([np.array(numbers, np.int64) for numbers in sketches.values()] or [np.empty(0, np.int64)])
    owners = np.repeat(np.arange(len(sketches)), [len(numbers) for numbers in sketches.values()])
    order = np.argsort(numbers, kind="stable")  # stable: owners of one number stay in their order
    numbers, owners = numbers[order], owners[order]
    bounds = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1))  # where the number changes
    pairs: set[tuple[int, int]] = set()
    for start, stop in itertools.pairwise(bounds.tolist()):
        if stop - start > 1:
            members = owners[start:stop].tolist()
            pairs.update(
                itertools.combinations(members, 2) if stop - start <= _ALL_PAIRS else itertools.pairwise(members)
            )
    return sorted(pairs)
