"""Edges under a blur whose MTF is known."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ctpa_vqgan.quality_phantom.edges import CONTRASTS, NUM_VOLUMES, measure_edges
from ctpa_vqgan.quality_phantom.feed import Feed

SPACING = (0.7, 0.7, 0.7)
EXPECTED = 0.6 / math.hypot(0.6, 0.5)  # a gaussian of 0.6 mm, blurred by one of 0.5 mm


def test_a_gaussian_blur_has_the_analytic_mtf50_ratio_at_every_contrast(blurred):
    assert {(edge["shape"], edge["contrast_hu"]) for edge in blurred["edges"]} == {
        (shape, contrast) for shape in ("ball", "rod") for contrast in CONTRASTS
    }
    for edge in blurred["edges"]:
        assert edge["original_mtf50_per_mm"] == pytest.approx(math.sqrt(math.log(4)) / (2 * math.pi * 0.6), rel=0.01)
        assert edge["mtf50_ratio"] == pytest.approx(EXPECTED, rel=0.005)


def test_the_curves_are_those_of_the_gaussians(blurred):
    for edge in blurred["edges"]:
        frequency = np.array(edge["frequency_per_mm"])
        expected = np.exp(-2 * (math.pi * 0.6 * frequency) ** 2)
        np.testing.assert_allclose(edge["original"], expected, atol=0.01)
        expected *= np.exp(-2 * (math.pi * 0.5 * frequency) ** 2)
        np.testing.assert_allclose(edge["reconstruction"], expected, atol=0.01)


def edges_after(change, seed=0):
    """Edges on noisy soft tissue, after a network that is a function of NumPy arrays."""
    feed = Feed(lambda volume: torch.from_numpy(change(volume.numpy())))
    noise = np.random.default_rng(seed).normal(50, 15, (2, 96, 96, 48))
    backgrounds = [feed(gaussian_filter(part, 0.5)) for part in noise]
    return measure_edges(feed, backgrounds, 50, SPACING, np.random.default_rng(seed))


def test_a_network_that_blurs_only_faint_edges_is_found_out():
    def change(volume):
        return np.where(abs(volume - 50) < 80, gaussian_filter(volume, 0.5 / 0.7, truncate=6), volume)

    ratios = {(edge["shape"], edge["contrast_hu"]): edge["mtf50_ratio"] for edge in edges_after(change)}
    for shape in ("ball", "rod"):
        assert ratios[shape, 50] == pytest.approx(EXPECTED, rel=0.05)
        assert ratios[shape, -900] > 0.9


def test_the_error_of_the_ratio_covers_the_truth_in_noise_of_the_networks_own():
    rng = np.random.default_rng(5)
    found = edges_after(lambda volume: volume + rng.normal(0, 3, volume.shape).astype(np.float32))
    off = [(edge["mtf50_ratio"] - 1) / edge["mtf50_ratio_error"] for edge in found if edge["contrast_hu"] == 50]
    assert max(map(abs, off)) < 4 and all(0 < edge["mtf50_ratio_error"] < 0.2 for edge in found)


def test_where_no_edge_is_left_there_is_no_mtf(grey):
    for edge in grey["edges"]:
        assert math.isnan(edge["mtf50_ratio"]) and math.isnan(edge["mtf50_per_mm"])
        assert np.isnan(edge["reconstruction"]).all() and len(edge["original"]) == len(edge["frequency_per_mm"])


def test_the_copies_fill_their_volumes():
    assert 2 * sum(CONTRASTS.values()) == NUM_VOLUMES * 4
