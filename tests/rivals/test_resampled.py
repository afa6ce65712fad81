import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ctpa_vqgan.rivals import enlarge, shrink, size_at_rate


def test_a_ramp_survives_the_way_down_and_up():
    ramp = torch.arange(96.0)[:, None, None] * 8 - 400 + torch.arange(70.0) * 4 + torch.zeros(96, 24, 70)
    back = enlarge(shrink(ramp, (24, 24, 35)), ramp.shape)
    inside = (slice(8, -8), slice(None), slice(4, -4))  # at the border there is no neighbour to weigh
    assert (back - ramp)[inside].abs().max() <= 1


def test_what_is_too_fine_for_the_coarse_grid_becomes_its_mean():
    stripes = np.full((40, 40, 40), 100, np.int16)
    stripes[::2] = -100
    assert abs(shrink(stripes, (10, 40, 40))[1:-1]).max() <= 1


def test_the_own_grid_leaves_a_volume_as_it_is(scan):
    assert torch.equal(shrink(scan, scan.shape), torch.from_numpy(scan).clamp(-1000, 1000))


def test_enlarging_is_trilinear_interpolation(scan):
    small = torch.from_numpy(scan).float().clamp(-1000, 1000)
    large = F.interpolate(small[None, None], (60, 50, 77), mode="trilinear", align_corners=False)[0, 0]
    assert (enlarge(small, (60, 50, 77)) - large).abs().max() <= 0.501


def test_slabs_do_not_show():
    volume = torch.randn(20, 18, 75, generator=torch.Generator().manual_seed(0)) * 100
    halves = [shrink(volume[..., part], (10, 9, n)) for part, n in ((slice(0, 16), 16), (slice(16, 75), 59))]
    assert torch.equal(shrink(volume, (10, 9, 75)), torch.cat(halves, dim=2))


def test_scanner_padding_is_air():
    volume = np.full((8, 8, 8), -1000, np.int16)
    volume[:4] = -3024
    assert (shrink(volume, (2, 2, 2)) == -1000).all()


@pytest.mark.parametrize("resample, size", [(shrink, (5, 4, 4)), (shrink, (0, 4, 4)), (enlarge, (3, 4, 4))])
def test_a_grid_on_the_wrong_side_is_refused(resample, size):
    with pytest.raises(ValueError, match=r"size must be three sides .* \(4, 4, 4\)"):
        resample(torch.zeros(4, 4, 4), size)


def test_the_grid_of_a_rate_costs_that_rate():
    shape = (512, 512, 604)
    assert size_at_rate(shape, 12 / 64) == (128, 128, 151)
    assert np.prod(size_at_rate(shape, 0.203)) * 12 / np.prod(shape) == pytest.approx(0.203, rel=0.02)
    assert size_at_rate(shape, 20.0) == shape
