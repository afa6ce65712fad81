"""A coarser grid lies in the same box of the world. What becomes of the values: tests/rivals/test_resampled.py."""

import numpy as np
import pytest
import torch

from ctpa_vqgan.data.resampled import shrink, shrunk_affine

AFFINE = np.array([[0.0, -0.7, 0.0, 31.0], [0.8, 0.0, 0.0, -45.0], [0.0, 0.0, 2.5, 7.0], [0.0, 0.0, 0.0, 1.0]])
SHAPE, SIZE = (96, 70, 40), (24, 35, 16)


def places(affine, shape):
    """Position of every voxel in mm: [X, Y, Z, 3]."""
    indices = np.stack([*np.meshgrid(*map(np.arange, shape), indexing="ij"), np.ones(shape)], axis=-1)
    return (indices @ affine.T)[..., :3]


def test_both_grids_have_their_borders_at_the_same_places():
    coarse = shrunk_affine(AFFINE, SHAPE, SIZE)
    for border, other in (([-0.5] * 3, [-0.5] * 3), ([s - 0.5 for s in SHAPE], [s - 0.5 for s in SIZE])):
        np.testing.assert_allclose(AFFINE @ [*border, 1], coarse @ [*other, 1])


def test_what_rises_through_the_world_has_the_value_of_each_place_on_both_grids():
    rise = np.array([3.0, -2.0, 1.5])
    small = shrink((places(AFFINE, SHAPE) @ rise).astype(np.float32), SIZE, hu_range=None).numpy()
    expected = places(shrunk_affine(AFFINE, SHAPE, SIZE), SIZE) @ rise
    inside = (slice(2, -2),) * 3  # at the border there is no neighbour to weigh
    assert np.abs(small - expected)[inside].max() <= 0.6, "whole HU, and a kernel of few taps"


def test_the_own_grid_keeps_its_affine():
    np.testing.assert_array_equal(shrunk_affine(AFFINE, SHAPE, SHAPE), AFFINE)


@pytest.mark.parametrize(("hu_range", "kept"), [(None, 3000), ((-1000, 1000), 1000)])
def test_metal_stays_metal_unless_it_is_to_be_clipped(hu_range, kept):
    assert (shrink(torch.full((8, 8, 8), 3000.0), (4, 4, 4), hu_range) == kept).all()
