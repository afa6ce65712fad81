"""PSNR, SSIM and MAE against hand-made errors and against MONAI."""

import math

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.metrics import PSNRMetric, SSIMMetric, regression

from ctpa_vqgan.metrics import volume_fidelity, volume_ssim
from ctpa_vqgan.metrics.body import body_voxels
from ctpa_vqgan.metrics.ssim import ssim_map

SIZES = [(11, 11, 11), (23, 17, 45), (13, 40, 31)]


def random_pair(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    original = torch.rand(size, generator=generator) * 2000 - 1000
    return original + 100 * torch.randn(size, generator=generator), original


def ct_like_pair(size, seed=0):
    """A body of 40 HU with a contrast vessel and a lung in exact air: flat regions, steps, a little noise."""
    generator = torch.Generator().manual_seed(seed)
    original = torch.full(size, -1000.0)
    original[2:-2, 3:-1] = 40
    original[4:8, 4:9] = 350
    original[-6:-3, 5:9] = -850
    inside = original > -1000
    return original + inside * 12 * torch.randn(size, generator=generator), original


def monai_ssim(reconstruction, original):
    pair = (volume.clamp(-1000, 1000)[None, None] for volume in (reconstruction, original))
    return SSIMMetric(spatial_dims=3, data_range=2000.0)(*pair).item()


@pytest.mark.parametrize("offset", [1, 20, 200])
def test_a_constant_offset_is_the_mae_and_gives_the_psnr_of_the_textbook(offset):
    original = np.random.default_rng(0).integers(-700, 700, (12, 13, 14)).astype(np.int16)
    found = volume_fidelity(original + np.int16(offset), original)
    assert found["mae_hu"] == pytest.approx(offset) == found["rmse_hu"]
    assert found["psnr"] == pytest.approx(20 * math.log10(2000 / offset))


def test_a_volume_compared_with_itself_is_perfect():
    original = random_pair((12, 13, 50))[1]
    assert volume_fidelity(original, original) == {
        "psnr": math.inf,
        "ssim": 1.0,
        "body_ssim": 1.0,
        "mae_hu": 0.0,
        "rmse_hu": 0.0,
        "clipped_share": 0.0,
    }


def test_what_lies_outside_the_range_is_clipped_in_both_and_counted_in_the_original():
    original = np.zeros((11, 11, 20), np.int16)
    original[..., :5] = -2048  # scanner padding
    original[..., -1] = 3000  # metal
    reconstruction = original.clip(-1000, 1000)
    reconstruction[..., 8] = 1500  # counts as an error of 1000
    found = volume_fidelity(reconstruction, original)
    assert found["clipped_share"] == pytest.approx(6 / 20)
    assert found["mae_hu"] == pytest.approx(1000 / 20)


@pytest.mark.parametrize("size", SIZES)
def test_psnr_and_ssim_equal_monai_on_random_volumes(size):
    reconstruction, original = random_pair(size)
    found = volume_fidelity(reconstruction, original)
    clipped = (volume.clamp(-1000, 1000)[None, None] for volume in (reconstruction, original))
    assert found["psnr"] == pytest.approx(PSNRMetric(max_val=2000)(*clipped).item(), abs=1e-4)
    assert found["ssim"] == pytest.approx(monai_ssim(reconstruction, original), abs=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_ssim_equals_monai_in_float64_on_ct_like_volumes(size, monkeypatch):
    """In float32 MONAI itself is up to 1e-4 off where air is flat: it subtracts squares of 1000 HU from each other."""
    monkeypatch.setattr(regression, "convert_data_type", lambda volume, **_: (volume.double(),))
    reconstruction, original = ct_like_pair(size)
    assert volume_ssim(reconstruction, original).whole == pytest.approx(monai_ssim(reconstruction, original), abs=1e-5)


@pytest.mark.parametrize("pair", [random_pair, ct_like_pair])
@pytest.mark.parametrize("depth", [31, 32, 42, 43, 75])
def test_slabs_give_the_value_of_the_whole(pair, depth):
    reconstruction, original = pair((14, 12, depth))
    scaled = (volume.clamp(-1000, 1000).double() / 2000 for volume in (reconstruction, original))
    assert volume_ssim(reconstruction, original).whole == pytest.approx(ssim_map(*scaled).mean().item(), abs=1e-6)


@pytest.mark.parametrize("depth", [31, 42, 43, 75])
def test_ssim_of_the_body_is_that_of_its_windows(depth):
    reconstruction, original = random_pair((24, 12, depth))
    original[:9], original[9:, :, 30:37] = -1000, -1000
    reconstruction[:9] = -1000
    scaled = (volume.clamp(-1000, 1000).double() / 2000 for volume in (reconstruction, original))
    body = body_voxels(original.float())[5:-5, 5:-5, 5:-5]
    found = volume_ssim(reconstruction, original)
    assert found.body == pytest.approx(ssim_map(*scaled)[body].mean().item(), abs=1e-6)
    assert abs(found.body - found.whole) > 0.005


def test_without_a_body_there_is_no_ssim_of_it():
    air = torch.full((12, 12, 12), -1000.0)
    assert volume_ssim(air, air).whole == 1
    assert math.isnan(volume_ssim(air, air).body)


def test_every_kind_of_volume_gives_the_same_numbers_and_is_left_alone():
    reconstruction, original = (volume.round() for volume in random_pair((12, 13, 40)))
    before = original.clone()
    expected = volume_fidelity(reconstruction, original)
    assert torch.equal(original, before)
    short = [volume.numpy().astype(np.int16) for volume in (reconstruction, original)]
    assert volume_fidelity(*short) == expected
    assert volume_fidelity(*(np.asfortranarray(volume).astype(">i2") for volume in short)) == expected
    assert volume_fidelity(*(np.ascontiguousarray(volume[::-1])[::-1] for volume in short)) == expected
    assert volume_fidelity(MetaTensor(reconstruction), MetaTensor(original)) == expected


def test_a_volume_too_thin_for_the_window_has_no_ssim_but_all_the_rest():
    found = volume_fidelity(torch.full((32, 32, 10), 20.0), torch.zeros(32, 32, 10))
    assert math.isnan(found["ssim"])
    assert found["psnr"] == pytest.approx(40)


def test_what_cannot_be_compared_is_refused_with_the_way_out():
    volume = torch.zeros(12, 12, 12)
    with pytest.raises(ValueError, match="one grid"):
        volume_fidelity(volume, volume[:-1])
    with pytest.raises(ValueError, match="take out batch and channel"):
        volume_fidelity(volume[None], volume[None])
    broken = volume.clone()
    broken[3, 4, 5] = torch.nan
    with pytest.raises(ValueError, match="reconstruction has 1 voxels"):
        volume_fidelity(broken, volume)
    with pytest.raises(ValueError, match="original has 1 voxels"):
        volume_fidelity(volume, broken)
    with pytest.raises(ValueError, match="hu_range"):
        volume_fidelity(volume, volume, hu_range=(1000, -1000))
