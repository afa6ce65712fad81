"""The whole: what stays, what shifts, and volumes that have nothing to measure."""

import json
import math

import numpy as np
import pytest
import torch
from small_thorax import LUNG, SPACING_MM, VESSELS, lungs, thorax, tube

from ctpa_vqgan.metrics.structure import PatientStructure

KEYS = {
    "laa950": {"original_percent", "percent", "shift_pp"},
    "perc15": {"original_hu", "hu", "shift_hu"},
    "vessels": {"dice", "cldice", "original_ml", "ml"},
    "residual": {"anatomy_r", "gradient_r"},
}


def noisy_thorax():
    noise = np.random.default_rng(0).normal(0, 20, thorax().shape)
    return (thorax() + noise).round().astype(np.int16)


def test_identical_volumes_keep_everything():
    original = noisy_thorax()
    found = PatientStructure(original, SPACING_MM).compare(original.copy())
    assert found["lung_ml"] == pytest.approx(lungs().sum() / 1000, rel=0.1)
    assert found["vessels"]["dice"] == found["vessels"]["cldice"] == 1
    assert found["laa950"]["shift_pp"] == found["perc15"]["shift_hu"] == 0
    assert found["noise"]["num_regions"] >= 16
    ratios = (found["noise"][key] for key in ("sd_ratio", "nps_ratio", "mean_frequency_ratio"))
    assert all(ratio == pytest.approx(1) for ratio in ratios)


def test_every_change_shows_in_its_own_number():
    original = noisy_thorax()
    changed = original.copy()
    changed[lungs() & (original < -500)] -= 30
    changed[tube(VESSELS[1])] = LUNG
    found = PatientStructure(original, SPACING_MM).compare(changed)
    assert found["perc15"]["shift_hu"] == pytest.approx(-30, abs=1)
    assert found["laa950"]["shift_pp"] > 0
    assert found["vessels"]["dice"] == pytest.approx(2 * 0.75 / 1.75, abs=0.01)
    assert found["vessels"]["ml"] == pytest.approx(0.75 * found["vessels"]["original_ml"], rel=0.01)
    assert found["noise"]["nps_ratio"] == pytest.approx(1)


def test_tensors_arrays_and_memory_orders_give_the_same_numbers():
    original = noisy_thorax()
    changed = original + 7
    expected = PatientStructure(original, SPACING_MM).compare(changed)
    structure = PatientStructure(torch.from_numpy(original), SPACING_MM)
    assert structure.compare(np.asfortranarray(changed, dtype=np.float32)) == expected
    assert structure.compare(torch.from_numpy(changed).double()) == expected


@pytest.mark.parametrize("shape", [(1, 1, 1), (64, 48, 1), (33, 21, 11), (7, 90, 40), (1, 64, 64)])
@pytest.mark.parametrize("spacing_mm", [(0.7, 0.7, 5.0), (3.0, 3.0, 0.5)])
def test_volumes_of_any_size_are_answered_with_nan_where_there_is_nothing(shape, spacing_mm):
    original = np.random.default_rng(0).normal(40, 20, shape)
    found = PatientStructure(original, spacing_mm).compare(original + 1)
    assert math.isnan(found["lung_ml"]) and all(math.isnan(found["vessels"][key]) for key in KEYS["vessels"])
    assert math.isnan(found["laa950"]["shift_pp"]) and math.isnan(found["perc15"]["shift_hu"])


@pytest.mark.parametrize("slices", [slice(30, 31), slice(20, 31)])
def test_a_few_slices_of_thick_lung_are_measured(slices):
    original = noisy_thorax()[:, :, slices]
    found = PatientStructure(original, (1.0, 1.0, 15.0)).compare(original)
    assert found["lung_ml"] > 30
    assert found["vessels"]["dice"] == found["vessels"]["cldice"] == 1


def test_the_answer_goes_into_json_with_all_its_keys():
    original = noisy_thorax()
    found = PatientStructure(original, SPACING_MM).compare(original)
    assert set(found) == {"lung_ml", "noise", *KEYS}
    assert all(set(found[name]) == keys for name, keys in KEYS.items())
    assert json.loads(json.dumps(found))["lung_ml"] == found["lung_ml"]


def test_what_is_not_finite_or_on_another_grid_is_refused():
    original = thorax()
    structure = PatientStructure(original, SPACING_MM)
    damaged = original.astype(np.float32)
    damaged[3, 4, 5] = np.nan
    with pytest.raises(ValueError, match=r"^reconstruction has 1 voxels that are NaN or infinite in slices"):
        structure.compare(damaged)
    with pytest.raises(ValueError, match=r"^original has 1 voxels"):
        PatientStructure(damaged, SPACING_MM)
    with pytest.raises(ValueError, match="must lie on one grid"):
        structure.compare(original[1:])
    with pytest.raises(ValueError, match=r"^spacing_mm must be 3 lengths"):
        PatientStructure(original, (1, 1, 0))
