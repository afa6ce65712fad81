"""Statistics of a volume against NumPy, and the contrast estimate against volumes whose answer is known."""

import json

import numpy as np
import pytest

from ctpa_vqgan.prepare.statistics import volume_statistics

SPACING = (1.5, 1.5, 1.5)


def noisy(hu, sd, seed=0, shape=(48, 52, 40)):
    return np.full(shape, hu) + np.random.default_rng(seed).normal(0, sd, shape)


def chest(inside_hu, inside_sd, sd=15, slab=slice(10, 38)):
    """Soft tissue with a bar of 42 x 42 x 60 mm of something else."""
    volume = noisy(40, sd)
    volume[slab, 12:40] = noisy(inside_hu, np.hypot(sd, inside_sd), seed=1)[slab, 12:40]
    return volume.round().astype(np.int16)


def test_range_percentiles_and_histogram_are_those_of_numpy():
    voxels = np.random.default_rng(0).integers(-3100, 4000, (31, 37, 29)).astype(np.int16)
    found = volume_statistics(voxels, SPACING)
    assert (found["min"], found["max"]) == (voxels.min(), voxels.max())
    levels = np.percentile(voxels, [0.5, 5, 50, 95, 99.5], method="inverted_cdf")
    assert list(found["percentiles"].values()) == levels.tolist()
    counts, _ = np.histogram(voxels, np.arange(-1024, 3073, 32) - 0.5)
    assert found["histogram"]["counts"] == counts.tolist()
    assert found["histogram"]["under"] == (voxels < -1024).sum()
    assert found["histogram"]["over"] == (voxels >= 3072).sum()


def test_the_extremes_of_int16_are_counted():
    voxels = np.zeros((8, 8, 8), np.int16)
    voxels[0, 0, 0], voxels[1, 0, 0] = -32768, 32767
    found = volume_statistics(voxels, SPACING)
    assert (found["min"], found["max"]) == (-32768, 32767)
    assert (found["histogram"]["under"], found["histogram"]["over"]) == (1, 1)


def test_shares_are_those_of_the_tissues_put_in():
    voxels = np.full((10, 10, 10), -1000, np.int16)
    voxels[:, :, 1:4], voxels[:, :, 4:8], voxels[:, :, 9] = -850, 40, 900
    assert volume_statistics(voxels, SPACING)["shares"] == {
        "air": 0.2,
        "lung": 0.3,
        "soft_tissue": 0.4,
        "bone_or_contrast": 0.1,
    }


@pytest.mark.parametrize(
    "arrange",
    [
        np.asfortranarray,
        lambda v: np.asfortranarray(v[::-1, ::-1])[::-1, ::-1],
        lambda v: np.ascontiguousarray(v.transpose(1, 2, 0)).transpose(2, 0, 1),
    ],
    ids=["Fortran order", "negative strides", "axes turned"],
)
def test_the_layout_in_memory_does_not_matter(arrange):
    voxels = chest(350, 0)
    assert volume_statistics(arrange(voxels), SPACING) == volume_statistics(voxels, SPACING)


@pytest.mark.parametrize("sd", [5, 15, 60])
def test_a_filled_vessel_is_contrast_of_its_level_and_nearly_its_volume(sd):
    found = volume_statistics(chest(350, 0, sd), SPACING)
    assert found["contrast"]
    assert found["contrast_hu"] == pytest.approx(350, abs=0.3 * sd + 5)
    # the blocks across its walls do not count
    assert 0.4 < found["contrast_ml"] / (28 * 28 * 40 * 1.5**3 / 1000) <= 1


@pytest.mark.parametrize(
    "voxels",
    [
        chest(60, 0),
        chest(130, 0),
        chest(350, 120),
        chest(350, 0, slab=slice(20, 23)),
        chest(1200, 0),
    ],
    ids=["blood without contrast", "liver in venous phase", "bone", "a thin plate", "metal"],
)
def test_what_is_dark_or_uneven_or_thin_or_too_bright_is_no_contrast(voxels):
    found = volume_statistics(voxels, SPACING)
    assert not found["contrast"]
    assert found["contrast_hu"] is None


@pytest.mark.parametrize("spacing", [(0.8, 0.8, 5.0), (3.0, 3.0, 3.0), (0.8, 2.5, 0.8)])
def test_contrast_is_found_at_other_voxel_sizes(spacing):
    shape = [round(120 / mm) for mm in spacing]
    voxels = np.random.default_rng(0).normal(40, 15, shape)
    voxels[tuple(slice(length // 3, 2 * length // 3) for length in shape)] += 300
    found = volume_statistics(voxels.astype(np.int16), spacing)
    assert found["contrast_hu"] == pytest.approx(340, abs=15)


def test_the_phantom_is_a_contrast_scan(phantom):
    found = volume_statistics(phantom.volume, (7.5, 7.5, 9.0))
    assert found["contrast"]
    assert 180 < found["contrast_hu"] < 400


def test_a_volume_thinner_than_a_block_has_statistics():
    assert volume_statistics(np.zeros((32, 32, 2), np.int16), (0.5, 0.5, 0.3))["contrast_ml"] == 0


def test_statistics_survive_strict_json(phantom):
    found = volume_statistics(phantom.volume, (7.5, 7.5, 9.0))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
