"""Reconstruction losses: HU errors written out by hand."""

import pytest
import torch

from ctpa_vqgan.losses import HUL1Loss, WindowedL1Loss


def volume_of(*values, hu_window=None):
    """A volume [1, 1, 1, 1, n]; values are HU brought to [-1, 1] if a window is given."""
    x = torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, 1, -1)
    if hu_window is None:
        return x
    low, high = hu_window
    return (x - low) / (high - low) * 2 - 1


@pytest.mark.parametrize("loss", [HUL1Loss(), WindowedL1Loss(), HUL1Loss((-200, 500)), WindowedL1Loss((-200, 500))])
def test_equal_volumes_cost_nothing(loss):
    x = torch.rand(2, 1, 4, 4, 4) * 2 - 1
    assert loss(x, x.clone()) == 0


def test_the_default_window_gives_plain_l1():
    # |0.5 - 0|, |-1 - 0|, |0 - 0|, |0 - 0.1| -> 1.6 / 4
    value = HUL1Loss()(volume_of(0.5, -1, 0, 0), volume_of(0, 0, 0, 0.1))
    torch.testing.assert_close(value, torch.tensor(0.4))


@pytest.mark.parametrize("hu_window", [(-1000, 1000), (-200, 500), (-1024, 3071)])
def test_an_error_of_30_hu_costs_0_03_whatever_the_window(hu_window):
    value = HUL1Loss(hu_window)(volume_of(130, 70, hu_window=hu_window), volume_of(100, 100, hu_window=hu_window))
    torch.testing.assert_close(value, torch.tensor(0.030))


def test_a_window_shows_the_error_as_a_share_of_its_width():
    # Level 100, width 700: black at -250 HU, white at 450 HU; 70 HU are a tenth of the way.
    loss = WindowedL1Loss(windows={"pe": (100, 700)})
    value = loss(volume_of(170, hu_window=loss.hu_window), volume_of(100, hu_window=loss.hu_window))
    torch.testing.assert_close(value, torch.tensor(0.1))


def test_the_value_is_the_mean_over_the_windows():
    # Contrast (300 HU) predicted as muscle (50 HU), by hand:
    #   pe          (-250..450):   550/700 - 300/700 = 250/700
    #   lung        (-1350..150):  1 (clipped) - 1400/1500 = 100/1500
    #   mediastinum (-160..240):   1 (clipped) - 210/400 = 190/400
    loss = WindowedL1Loss()
    value = loss(volume_of(50, hu_window=loss.hu_window), volume_of(300, hu_window=loss.hu_window))
    torch.testing.assert_close(value, torch.tensor((250 / 700 + 100 / 1500 + 190 / 400) / 3))


def test_a_prediction_beyond_the_window_gets_no_gradient():
    loss = WindowedL1Loss(windows={"mediastinum": (40, 400)})
    prediction = volume_of(-900, 0, 900, hu_window=loss.hu_window).requires_grad_()
    loss(prediction, volume_of(40, 40, 40, hu_window=loss.hu_window)).backward()
    # In the window: 1000 HU per network unit / 400 HU of width / 3 voxels, downhill towards the larger target.
    torch.testing.assert_close(prediction.grad.flatten(), torch.tensor([0, -1000 / 400 / 3, 0]))


@pytest.mark.parametrize("loss", [HUL1Loss, WindowedL1Loss])
def test_a_falling_hu_window_is_refused(loss):
    with pytest.raises(ValueError, match=r"hu_window is \(1000.0, -1000.0\)"):
        loss((1000, -1000))


@pytest.mark.parametrize(
    ("windows", "message"),
    [({}, "windows is empty"), ({"thin": (0, 0)}, "width above 0"), ({"metal": (3000, 500)}, "lies outside hu_window")],
)
def test_a_window_that_shows_nothing_is_refused(windows, message):
    with pytest.raises(ValueError, match=message):
        WindowedL1Loss(windows=windows)
