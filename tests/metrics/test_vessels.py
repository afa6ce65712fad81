"""Vessels that lack a known part."""

import math

import numpy as np
import pytest
from small_thorax import BLOOD, LUNG, SPACING_MM, VESSELS, thorax, tube

from ctpa_vqgan.metrics.cells import in_cells
from ctpa_vqgan.metrics.lungs import find_lungs
from ctpa_vqgan.metrics.vessels import cldice, dice, find_vessels

ORIGINAL = thorax()
LUNGS = find_lungs(ORIGINAL, in_cells(ORIGINAL, SPACING_MM))


def vessels_of(volume):
    return find_vessels("volume", volume, LUNGS, SPACING_MM)


def without(mask):
    return np.where(mask, LUNG, ORIGINAL)


def test_the_mask_is_the_tubes_and_the_skeleton_their_axes():
    found = vessels_of(ORIGINAL)
    tubes = sum(tube(centre) for centre in VESSELS).astype(bool)
    assert np.array_equal(found.mask, tubes[LUNGS.box])
    assert found.ml == pytest.approx(tubes.sum() / 1000)
    x, y, _ = (LUNGS.box[axis].start + places for axis, places in enumerate(np.nonzero(found.skeleton)))
    assert all(any(abs(a - u) <= 1 and abs(b - v) <= 1 for u, v in VESSELS) for a, b in zip(x, y))
    assert 4 * 28 <= len(x) <= 4 * 36  # 36 slices each, a little shorter at the ends


def test_missing_parts_lower_dice_by_what_is_missing():
    missing = tube(VESSELS[0], slice(12, 30))
    kept = sum(tube(centre).sum() for centre in VESSELS) - missing.sum()
    expected = 2 * kept / (2 * kept + missing.sum())
    assert dice(vessels_of(without(missing)), vessels_of(ORIGINAL)) == pytest.approx(expected)


def test_cldice_counts_length_where_dice_counts_volume():
    original = vessels_of(ORIGINAL)
    lost = vessels_of(without(tube(VESSELS[0])))  # one of four equal tubes
    assert cldice(lost, original) == pytest.approx(2 * 0.75 / 1.75, abs=0.01)
    assert cldice(lost, original) == cldice(original, lost)
    thin = without(sum(tube(c) ^ tube(c, radius=2) for c in VESSELS).astype(bool))  # less than half the volume
    assert dice(vessels_of(thin), original) < 0.7
    assert cldice(vessels_of(thin), original) == 1


def test_specks_are_no_vessels():
    volume = thorax(vessels=())
    volume[35:38, 50:53, 20:23] = 300  # 27 mm3
    assert not vessels_of(volume).mask.any()
    volume[35:38, 50:53, 20:24] = 300  # 36 mm3
    assert vessels_of(volume).mask.sum() == 36


def test_lost_vessels_score_zero_and_hardly_any_in_the_original_nan():
    none, some = vessels_of(thorax(vessels=())), vessels_of(ORIGINAL)
    assert dice(none, some) == cldice(none, some) == 0
    stub = vessels_of(np.where(tube(VESSELS[0], slice(12, 30)), BLOOD, thorax(vessels=())))
    assert 0 < stub.ml < 1
    assert all(math.isnan(score(some, few)) for score in (dice, cldice) for few in (none, stub))
