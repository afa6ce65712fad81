"""The gradient loss: finite differences counted by hand."""

import pytest
import torch
from monai.losses import JukeboxLoss

from ctpa_vqgan.losses import GradientLoss


def ramp_along_h(side=4):
    """Values 0, 1, 2, ... along H, constant along W and D."""
    return torch.arange(side, dtype=torch.float32).reshape(1, 1, side, 1, 1).expand(1, 1, side, side, side)


@pytest.mark.parametrize("loss", [GradientLoss(), GradientLoss(num_scales=1), JukeboxLoss(spatial_dims=3)])
def test_a_perceptual_term_is_a_scalar_that_is_zero_for_equal_volumes(loss):
    x, y = torch.rand(2, 2, 1, 8, 8, 8)
    assert loss(x, x.clone()) == 0
    assert loss(x, y).shape == ()
    assert loss(x, y) > 0


def test_a_ramp_against_nothing_by_hand():
    # Full size: differences 1 along H, 0 along W and D. Halved: 0.5, 2.5 along H, difference 2. Halved again: one
    # voxel, no difference at all, so that scale does not count. Mean of (1, 0, 0, 2, 0, 0).
    x = ramp_along_h()
    torch.testing.assert_close(GradientLoss(num_scales=3)(x, torch.zeros_like(x)), torch.tensor(0.5))


def test_all_three_axes_count_alike():
    x = ramp_along_h()
    values = [GradientLoss()(x.transpose(2, axis), torch.zeros_like(x)) for axis in (2, 3, 4)]
    torch.testing.assert_close(torch.stack(values), torch.full((3,), 0.5))


def test_a_constant_offset_costs_nothing():
    x = ramp_along_h()
    assert GradientLoss()(x + 0.25, x) == 0


def test_an_odd_side_loses_its_last_plane_when_halved():
    # Sides 5: full size 1 along H; halved 4 of 5 planes: 0.5, 2.5. The same numbers as for side 4.
    x = ramp_along_h(side=5)
    torch.testing.assert_close(GradientLoss(num_scales=2)(x, torch.zeros_like(x)), torch.tensor(0.5))


def test_a_side_of_one_is_left_out():
    # A single slice: H and W count, D has no differences. Scale 1: (1, 0), scale 2: (2, 0).
    x = ramp_along_h()[..., :1]
    torch.testing.assert_close(GradientLoss()(x, torch.zeros_like(x)), torch.tensor(0.75))


def test_a_single_voxel_costs_nothing_and_still_has_a_gradient():
    x = torch.ones(1, 1, 1, 1, 1, requires_grad=True)
    value = GradientLoss()(x, torch.zeros(1, 1, 1, 1, 1))
    value.backward()
    assert value == 0
    assert x.grad == 0


def test_each_edge_voxel_is_pulled_towards_its_neighbour():
    # |b - a| over one difference per axis pair: d/da = -1, d/db = +1.
    x = torch.tensor([0.0, 1.0]).reshape(1, 1, 2, 1, 1).requires_grad_()
    GradientLoss(num_scales=1)(x, torch.zeros(1, 1, 2, 1, 1)).backward()
    assert x.grad.flatten().tolist() == [-1.0, 1.0]


def test_no_scale_at_all_is_refused():
    with pytest.raises(ValueError, match="num_scales is 0"):
        GradientLoss(num_scales=0)
