"""Where tiles lie: cores cover the grid once, and halos end at the border."""

import itertools

import pytest
import torch

from ctpa_vqgan.inferers import latent_grid
from ctpa_vqgan.inferers.tiles import grid_tiles, in_voxels, length


@pytest.mark.parametrize("offset", [(0, 0, 0), (1, 2, 0), (7, 4, 9)])
@pytest.mark.parametrize("grid", [(7, 5, 3), (1, 1, 1), (4, 8, 12)])
def test_cores_cover_every_position_once(grid, offset):
    covered = torch.zeros(grid)
    for tile in grid_tiles(grid, core=(4, 3, 3), halo=(2, 1, 0), offset=offset):
        covered[tile.core] += 1
    assert (covered == 1).all()


def test_a_core_lies_within_its_halo_where_it_lies_in_the_volume():
    positions = torch.arange(7 * 5 * 3).reshape(7, 5, 3)
    for tile in grid_tiles((7, 5, 3), core=(4, 3, 3), halo=(2, 1, 4), offset=(1, 2, 0)):
        assert torch.equal(positions[tile.around][tile.inside], positions[tile.core])


def test_a_halo_is_cut_off_at_the_border_only():
    (first, second), halo = grid_tiles((8, 1, 1), core=(4, 1, 1), halo=(3, 3, 3)), 3
    assert (first.around[0], second.around[0]) == (slice(0, 4 + halo), slice(4 - halo, 8))


def test_an_offset_puts_a_smaller_core_first():
    cores = [tile.core[0] for tile in grid_tiles((10, 1, 1), (4, 1, 1), (0, 0, 0), offset=(5, 0, 0))]
    assert [(c.start, c.stop) for c in cores] == [(0, 1), (1, 5), (5, 9), (9, 10)]


def test_voxels_end_with_the_volume():
    (*_, last) = grid_tiles(latent_grid((9, 4, 4), (4, 4, 4)), (2, 1, 1), (0, 0, 0))
    assert length(in_voxels(last.core, (4, 4, 4))) == (4, 4, 4)
    assert length(in_voxels(last.core, (4, 4, 4), (9, 4, 4))) == (1, 4, 4)


def test_the_last_axis_is_the_fastest():
    cores = [tuple(s.start for s in tile.core) for tile in grid_tiles((2, 2, 2), (1, 1, 1), (0, 0, 0))]
    assert cores == list(itertools.product((0, 1), repeat=3))
