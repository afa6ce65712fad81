"""Cells of 2 mm against numpy, at sizes that do not divide."""

import numpy as np
import pytest
import torch

from ctpa_vqgan.metrics.cells import in_cells, spread


@pytest.mark.parametrize("shape", [(12, 9, 6), (13, 10, 71), (1, 1, 1), (5, 2, 1)])
def test_every_cell_is_the_mean_of_its_voxels(shape):
    volume = np.random.default_rng(0).integers(-900, 900, shape).astype(np.int16)
    cells = in_cells(torch.from_numpy(volume), (0.7, 1.0, 0.6))
    assert cells.cell == (3, 2, 3) and cells.spacing_mm == pytest.approx((2.1, 2.0, 1.8))
    assert cells.num_voxels.sum() == volume.size
    for x, y, z in np.ndindex(cells.means.shape):
        own = volume[3 * x : 3 * x + 3, 2 * y : 2 * y + 2, 3 * z : 3 * z + 3]
        assert cells.means[x, y, z] == pytest.approx(own.mean(), abs=1e-3)
        assert cells.num_voxels[x, y, z] == own.size


def test_every_voxel_gets_what_its_cell_has():
    marks = np.arange(2 * 3 * 2).reshape(2, 3, 2)
    voxels = spread(marks, (3, 2, 4), (5, 6, 7))
    assert voxels.shape == (5, 6, 7)
    assert all(voxels[x, y, z] == marks[x // 3, y // 2, z // 4] for x, y, z in np.ndindex(5, 6, 7))


def test_padding_of_the_scanner_counts_as_air():
    assert in_cells(np.full((4, 4, 4), -3024, np.int16), (1, 1, 1)).means.tolist() == [[[-1000] * 2] * 2] * 2
