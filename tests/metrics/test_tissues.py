"""Errors by tissue and by window, against numpy on the whole volume and against answers known in advance."""

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from ctpa_vqgan.metrics.codebook import body_tokens
from ctpa_vqgan.metrics.fidelity import volume_fidelity
from ctpa_vqgan.metrics.tissues import DISPLAY_WINDOWS, TISSUES_HU, tissue_fidelity

TISSUE_HU = {"air": -1000, "lung": -850, "fat": -100, "soft_tissue": 50, "contrast_blood": 350, "bone": 900}


def ct_like_pair(size, seed=0):
    """Blocks of every tissue and of what lies between, with padding and metal; int16, errors larger where brighter."""
    rng = np.random.default_rng(seed)
    levels = np.array([-3024, -1024, -1000, -850, -300, -100, 50, 165, 350, 900, 3000])
    blocks = rng.choice(levels, [-(-side // 5) for side in size])
    original = blocks.repeat(5, 0).repeat(5, 1).repeat(5, 2)[tuple(slice(side) for side in size)]
    original = original + rng.normal(0, 15, size).round()
    error = rng.normal(2, 10 + 0.02 * abs(original), size).round()
    return (original + error).astype(np.int16), original.astype(np.int16)


def expected_summary(x, y, peak):
    """The same ten numbers from the voxels themselves, in float64."""
    error = x.astype(np.float64) - y.astype(np.float64)
    if not error.size:
        return (0, *[math.nan] * 9)
    bias, rmse, sd = error.mean(), math.sqrt((error**2).mean()), error.std(ddof=1)
    low, high = np.percentile(error, [2.5, 97.5])
    agreement = (bias - 1.96 * sd, bias + 1.96 * sd)
    return (error.size, bias, abs(error).mean(), rmse, sd, low, high, *agreement, 20 * math.log10(peak / rmse))


def body_mask(original):
    """Voxels of 4 x 4 x 4 cells whose mean exceeds -950 HU, said without the module: NaN pads, nanmean ignores it."""
    sides = [-(-side // 4) for side in original.shape]
    padded = np.full([4 * side for side in sides], np.nan)
    padded[tuple(map(slice, original.shape))] = original.clip(-1000)
    means = np.nanmean(padded.reshape(sides[0], 4, sides[1], 4, sides[2], 4), axis=(1, 3, 5))
    mask = (means > -950).repeat(4, 0).repeat(4, 1).repeat(4, 2)
    return mask[tuple(map(slice, original.shape))]


def assert_equals_the_whole_volume(found, x, y, tissue_masks):
    body = body_mask(y)
    a, b = x.clip(-1000, 1000), y.clip(-1000, 1000)
    assert tuple(found.regions["whole"]) == pytest.approx(expected_summary(a, b, 2000), rel=1e-6, abs=1e-6)
    assert tuple(found.regions["body"]) == pytest.approx(expected_summary(a[body], b[body], 2000), rel=1e-6, abs=1e-6)
    assert list(found.tissues) == list(tissue_masks)
    for name, mask in tissue_masks.items():
        expected = expected_summary(a[mask], b[mask], 2000)
        assert tuple(found.tissues[name]) == pytest.approx(expected, rel=1e-6, abs=1e-6, nan_ok=True), name
    for name, (level, width) in DISPLAY_WINDOWS.items():
        shown = max(level - width / 2, -1000), min(level + width / 2, 1000)
        u, v = x.clip(*shown), y.clip(*shown)
        assert tuple(found.windows[name]) == pytest.approx(expected_summary(u, v, width), rel=1e-6, abs=1e-6), name
        expected = expected_summary(u[body], v[body], width)
        assert tuple(found.body_windows[name]) == pytest.approx(expected, rel=1e-6, abs=1e-6), name


def masks_by_hu(original):
    return {name: (original >= low) & (original < high) for name, (low, high) in TISSUES_HU.items()}


@pytest.mark.parametrize("size", [(33, 30, 75), (32, 17, 32), (9, 7, 33), (40, 21, 3)])
def test_slabs_of_whole_numbers_give_the_values_of_the_whole_volume(size):
    reconstruction, original = ct_like_pair(size)
    found = tissue_fidelity(reconstruction, original)
    assert_equals_the_whole_volume(found, reconstruction, original, masks_by_hu(original))


@pytest.mark.parametrize("size", [(33, 30, 75), (9, 7, 33)])
def test_slabs_of_fractions_give_the_values_of_the_whole_volume(size):
    reconstruction, original = ct_like_pair(size)
    noise = np.random.default_rng(1).normal(0, 3, size)
    reconstruction = (reconstruction + noise).astype(np.float32)
    found = tissue_fidelity(reconstruction, original)
    assert_equals_the_whole_volume(found, reconstruction.astype(np.float64), original, masks_by_hu(original))


def test_percentiles_of_fractions_are_errors_that_occur_however_small_or_equal_they_are():
    """41 voxels: the percentiles are the second and the last but one error, with no voxel beside to be mean with."""
    errors = np.linspace(-3e-3, 2e-3, 41).astype(np.float32)
    errors[5:20] = 0
    found = tissue_fidelity(errors.reshape(1, 1, 41), np.zeros((1, 1, 41), np.float32)).tissues["soft_tissue"]
    ordered = np.sort(errors)
    assert (found.low_95_hu, found.high_95_hu) == (ordered[1], ordered[-2])


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_errors_planted_in_each_tissue_are_found_there_and_nowhere_else(dtype):
    planted = {"air": 0, "lung": 7, "fat": -3, "soft_tissue": 12, "contrast_blood": -40, "bone": 25}
    original = np.stack([np.full((8, 8), TISSUE_HU[name]) for name in planted], axis=-1).astype(dtype)
    reconstruction = original + np.array(list(planted.values()), dtype)
    found = tissue_fidelity(reconstruction, original)
    for name, error in planted.items():
        summary = found.tissues[name]
        assert summary[:4] == (64, error, abs(error), abs(error))
        assert summary.sd_hu == 0 and summary.low_95_hu == summary.high_95_hu == error
        assert summary.psnr == (pytest.approx(20 * math.log10(2000 / abs(error))) if error else math.inf)


def test_normal_errors_have_limits_of_1_96_sd_by_percentile_and_by_bland_and_altman():
    error = torch.randn(100, 100, 40, generator=torch.Generator().manual_seed(0)) * 20 + 5
    found = tissue_fidelity(error + 50, torch.full_like(error, 50)).tissues["soft_tissue"]
    assert found.low_95_hu == pytest.approx(5 - 1.96 * 20, abs=0.3) == found.loa_low_hu
    assert found.high_95_hu == pytest.approx(5 + 1.96 * 20, abs=0.3) == found.loa_high_hu


def test_a_skewed_error_has_percentiles_that_the_limits_of_agreement_miss():
    error = np.zeros((10, 10, 10), np.int16)
    error.flat[:30] = 100  # 3 % of the voxels
    found = tissue_fidelity(error, np.zeros_like(error)).regions["whole"]
    assert (found.low_95_hu, found.high_95_hu) == (0, 100)
    assert found.loa_low_hu == pytest.approx(3 - 1.96 * math.sqrt((30 * 97**2 + 970 * 9) / 999))


def test_the_whole_volume_agrees_with_volume_fidelity():
    reconstruction, original = ct_like_pair((20, 21, 40))
    whole = tissue_fidelity(reconstruction, original).regions["whole"]
    fidelity = volume_fidelity(reconstruction, original)
    assert (whole.psnr, whole.mae_hu, whole.rmse_hu) == pytest.approx(
        [fidelity[name] for name in ("psnr", "mae_hu", "rmse_hu")]
    )


def test_the_body_is_that_of_the_tokens():
    _, original = ct_like_pair((32, 16, 72))
    body = body_tokens(original, 4)
    assert 0 < body.float().mean() < 1
    assert tissue_fidelity(original, original).regions["body"].num_voxels == int(body.sum()) * 64


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_padding_of_any_value_is_air_of_minus_1000_in_both(dtype):
    original = np.full((8, 8, 8), -3024, dtype)
    original[..., 4:] = -2048
    found = tissue_fidelity(np.full_like(original, -1024), original)
    assert found.tissues["air"][:4] == (512, 0, 0, 0)
    assert found.windows["lung"].mae_hu == 0
    assert found.regions["body"].num_voxels == 0


def test_a_tissue_without_voxels_has_count_0_and_nan():
    found = tissue_fidelity(np.full((8, 8, 8), 50, np.int16), np.full((8, 8, 8), 50, np.int16))
    assert found.tissues["bone"].num_voxels == 0
    assert all(math.isnan(value) for value in found.tissues["bone"][1:])
    single = tissue_fidelity(np.full((1, 1, 1), 53, np.int16), np.full((1, 1, 1), 50, np.int16)).regions["whole"]
    assert single[:4] == (1, 3, 3, 3) and math.isnan(single.sd_hu) and single.low_95_hu == single.high_95_hu == 3


def test_a_value_on_a_border_belongs_to_the_upper_tissue_and_one_in_a_gap_to_none():
    for tissue, (low, _) in TISSUES_HU.items():
        if low > -math.inf:
            volume = np.full((4, 4, 4), low, np.float32)
            assert tissue_fidelity(volume, volume).tissues[tissue].num_voxels == 64
    for gap in (-500, -191, 150, 179.5):
        volume = np.full((4, 4, 4), gap, np.float32)
        assert sum(summary.num_voxels for summary in tissue_fidelity(volume, volume).tissues.values()) == 0


@pytest.mark.parametrize("fractions", [0, 0.25])
def test_a_label_map_takes_the_place_of_hu(fractions):
    reconstruction, original = ct_like_pair((20, 18, 40))
    reconstruction = reconstruction + fractions
    labels = np.random.default_rng(2).integers(0, 9, original.shape).astype(np.uint8)
    values = {"artery": 7, "lobes": [2, 3, 5], "absent": 200, "none": []}
    found = tissue_fidelity(reconstruction, original, labels, values)
    masks = {name: np.isin(labels, members) for name, members in values.items()}
    assert_equals_the_whole_volume(found, reconstruction, original, masks)


def test_a_label_map_is_free_of_the_bias_that_choosing_by_noisy_hu_brings():
    """A perfect denoiser of 140 HU +- 15: below 150 HU are voxels whose noise has the mean of a cut normal, -6.41."""
    noise = torch.randn(100, 100, 40, generator=torch.Generator().manual_seed(0)) * 15
    pair = torch.full_like(noise, 140), 140 + noise
    normal = NormalDist()
    assert tissue_fidelity(*pair).tissues["soft_tissue"].bias_hu == pytest.approx(
        15 * normal.pdf(2 / 3) / normal.cdf(2 / 3), abs=0.1
    )
    labelled = tissue_fidelity(*pair, labels=torch.ones_like(noise), label_values={"muscle": 1})
    assert labelled.tissues["muscle"].bias_hu == pytest.approx(0, abs=0.1)


def test_a_window_hides_what_its_screen_hides():
    original = np.full((4, 4, 4), 500, np.int16)  # white in the mediastinal window (240) and in PE (450)
    found = tissue_fidelity(original - 100, original)
    assert found.windows["mediastinum"].psnr == math.inf
    assert found.windows["pe"].mae_hu == 50
    assert found.windows["pe"].psnr == pytest.approx(20 * math.log10(700 / 50))
    assert found.windows["bone"].mae_hu == 100


def test_every_kind_of_volume_gives_the_same_numbers_and_is_left_alone(tmp_path):
    short = ct_like_pair((12, 13, 40))
    expected = tissue_fidelity(*short)
    tensors = [torch.from_numpy(volume.astype(np.float32)) for volume in short]
    before = tensors[1].clone()

    def flat(found):
        return [value for part in found for summary in part.values() for value in summary]

    assert flat(tissue_fidelity(*tensors)) == pytest.approx(flat(expected), nan_ok=True, rel=1e-12, abs=1e-12)
    assert torch.equal(tensors[1], before)
    np.save(tmp_path / "original.npy", short[1])
    mapped = np.load(tmp_path / "original.npy", mmap_mode="r")
    assert tissue_fidelity(short[0], mapped) == expected
    assert tissue_fidelity(*(np.asfortranarray(volume).astype(">i2") for volume in short)) == expected
    assert tissue_fidelity(*(MetaTensor(torch.from_numpy(volume)) for volume in short)) == expected


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_never_more_than_a_slab_is_read_at_once(dtype):
    class OnlySlabs:
        shape = (8, 8, 100)

        def __getitem__(self, key):
            depth = np.zeros(self.shape)[key].shape[-1]
            assert depth <= 32
            return np.full((8, 8, depth), 50, dtype)

    assert tissue_fidelity(OnlySlabs(), OnlySlabs()).tissues["soft_tissue"].num_voxels == 6400


def test_what_cannot_be_compared_is_refused_with_the_way_out():
    volume = torch.zeros(8, 8, 8)
    with pytest.raises(ValueError, match="one grid"):
        tissue_fidelity(volume, volume[:-1])
    broken = volume.clone()
    broken[3, 4, 5] = torch.nan
    with pytest.raises(ValueError, match="reconstruction has 1 voxels"):
        tissue_fidelity(broken, volume)
    with pytest.raises(ValueError, match="hu_range"):
        tissue_fidelity(volume, volume, hu_range=(1000, -1000))
    with pytest.raises(ValueError, match=r"window narrow .* shows nothing"):
        tissue_fidelity(volume, volume, windows={"narrow": (2000, 400)})
    with pytest.raises(ValueError, match="a and b overlap from 10 on"):
        tissue_fidelity(volume, volume, tissues={"b": (10, 30), "a": (0, 20)})
    with pytest.raises(ValueError, match="range of a"):
        tissue_fidelity(volume, volume, tissues={"a": (20, 0)})
    with pytest.raises(ValueError, match="nearest neighbours"):
        tissue_fidelity(volume, volume, labels=volume + 0.5, label_values={"a": 1})
    with pytest.raises(ValueError, match="nearest neighbours"):
        tissue_fidelity(volume, volume, labels=volume[1:], label_values={"a": 1})
    with pytest.raises(ValueError, match="go together"):
        tissue_fidelity(volume, volume, labels=volume)
    with pytest.raises(ValueError, match="a and b overlap from 1 on"):
        tissue_fidelity(volume, volume, labels=volume, label_values={"a": 1, "b": [1, 2]})
