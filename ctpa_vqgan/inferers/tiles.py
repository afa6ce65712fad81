"""Where tiles lie: cores that cover a latent grid without overlap, each with a halo around it."""

# h w d latent positions, H W D voxels (H = h * factor)

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

Slices = tuple[slice, ...]


class Tile(NamedTuple):
    """One tile, in latent positions."""

    around: Slices  # what is computed: the core and its halo, cut off at the borders of the volume
    inside: Slices  # the core within ``around``
    core: Slices  # the core within the volume


def latent_grid(size: Sequence[int], factor: Sequence[int]) -> tuple[int, ...]:
    """Latent positions (h, w, d) that cover a volume of (H, W, D) voxels.

    >>> latent_grid((512, 512, 603), (4, 4, 4))
    (128, 128, 151)
    """
    return tuple(math.ceil(s / f) for s, f in zip(size, factor))


def grid_tiles(
    grid: Sequence[int], core: Sequence[int], halo: Sequence[int], offset: Sequence[int] = (0, 0, 0)
) -> list[Tile]:
    """Tiles whose cores cover ``grid`` once, the last axis fastest.

    Args:
        grid: latent positions of the volume.
        core: latent positions of a core.
        halo: context on each side of it.
        offset: where the first full core begins along each axis, modulo ``core``; a smaller one lies before it.
    """
    return [_tile(place, grid, halo) for place in itertools.product(*map(_cuts, grid, core, offset))]


def _cuts(grid: int, core: int, offset: int) -> list[tuple[int, int]]:
    """(start, stop) of the cores along one axis.

    >>> _cuts(10, 4, 1)
    [(0, 1), (1, 5), (5, 9), (9, 10)]
    """
    first = offset % core
    edges = [0, *range(first or core, grid, core), grid]
    return list(itertools.pairwise(edges))


def _tile(place: Sequence[tuple[int, int]], grid: Sequence[int], halo: Sequence[int]) -> Tile:
    around = tuple(slice(max(a - h, 0), min(b + h, g)) for (a, b), h, g in zip(place, halo, grid))
    inside = tuple(slice(a - whole.start, b - whole.start) for (a, b), whole in zip(place, around))
    return Tile(around, inside, tuple(slice(a, b) for a, b in place))


def in_voxels(latents: Slices, factor: Sequence[int], size: Sequence[int] | None = None) -> Slices:
    """Slices of latent positions as slices of voxels, cut off at the end of a volume of ``size`` if that is given."""
    ends = [p.stop * f for p, f in zip(latents, factor)]
    ends = [min(end, s) for end, s in zip(ends, size)] if size is not None else ends
    return tuple(slice(p.start * f, end) for p, f, end in zip(latents, factor, ends))


def length(slices: Slices) -> tuple[int, ...]:
    """Number of places along each axis."""
    return tuple(s.stop - s.start for s in slices)
