"""Emboli in vessels under known networks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ctpa_vqgan.quality_phantom.emboli import measure_emboli
from ctpa_vqgan.quality_phantom.feed import Feed

SPACING = (0.7, 0.7, 0.7)


def pooled(volume):
    """Blocks of 4 x 4 x 4 voxels, each its own mean: what a clot loses depends on where it lies."""
    return F.interpolate(F.avg_pool3d(volume[None, None], 4), scale_factor=4)[0, 0]


def test_a_gaussian_blur_leaves_the_analytic_contrast_of_each_size(blurred, matched_gain):
    assert [clot["diameter_mm"] for clot in blurred["emboli"]] == [2, 3, 4, 6, 8]
    for clot in blurred["emboli"]:
        assert clot["recovery"] == pytest.approx(matched_gain(clot["diameter_mm"], 3), rel=0.01)
        assert clot["recovery_sd"] < 1e-3 and clot["count"] >= 4


def test_a_network_on_a_grid_treats_small_clots_by_their_place():
    found = measure_emboli(Feed(pooled), SPACING, np.random.default_rng(0), 1)
    recovery, scatter = ([clot[key] for clot in found] for key in ("recovery", "recovery_sd"))
    assert recovery == sorted(recovery) and recovery[0] < 0.4 and recovery[-1] > 0.8
    assert scatter[0] > 0.03 and scatter[0] / recovery[0] > 3 * scatter[-1] / recovery[-1]


def test_a_network_that_fills_clots_with_blood_recovers_nothing():
    def heal(volume):
        return torch.where(volume > -100, volume.clamp(min=350), volume)

    clots = measure_emboli(Feed(heal), SPACING, np.random.default_rng(0), 1)
    assert all(abs(clot["recovery"]) < 0.1 for clot in clots)


def test_clots_lie_within_their_vessels():
    volumes = []

    def reconstruct(volume):
        volumes.append(volume)
        return volume

    measure_emboli(Feed(reconstruct), SPACING, np.random.default_rng(0), 1)
    without, with_clots = volumes
    clot = (without - with_clots).numpy()
    assert clot.max() == pytest.approx(290, abs=1) and clot.min() > -0.01
    assert without.numpy()[clot > 145].min() > 100  # half blood at least, noise and all, where it is half clot


def test_more_volumes_are_more_clots():
    once, twice = (measure_emboli(Feed(lambda v: v), (1.4, 1.4, 3.0), np.random.default_rng(0), n) for n in (1, 2))
    assert [clot["count"] for clot in once] == [8, 8, 8, 8, 4]
    assert [clot["count"] for clot in twice] == [16, 16, 16, 16, 8]
