"""Noise that was put there, at places that must be found."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ctpa_vqgan.metrics.texture import Texture, even_squares

SPACING_MM = (0.8, 0.8, 2.5)
RNG = np.random.default_rng(0)
NOISE = RNG.normal(0, 20, (96, 80, 6)).astype(np.float32)


def test_noise_of_half_the_size_has_a_quarter_of_the_power():
    found = Texture(50 + NOISE, SPACING_MM).compare(50 + NOISE / 2)
    assert found["num_regions"] > 50
    assert found["sd_ratio"] == pytest.approx(0.5, rel=1e-4)
    assert found["nps_ratio"] == pytest.approx(0.25, rel=1e-4)
    assert found["mean_frequency_ratio"] == pytest.approx(1, rel=1e-4)
    assert found["reconstruction"] == pytest.approx([power / 4 for power in found["original"]], rel=1e-4)
    assert np.mean(found["original"][2:]) == pytest.approx(20**2 * 0.8**2, rel=0.03)  # white: s^2 a b, trends taken out
    assert len(found["frequency_per_mm"]) == len(found["original"])


def test_smoothed_noise_is_coarser():
    found = Texture(50 + NOISE, SPACING_MM).compare(50 + gaussian_filter(NOISE, (1, 1, 0)))
    assert found["mean_frequency_ratio"] < 0.6
    assert found["reconstruction"][-1] < 0.05 * found["reconstruction"][0]


def test_squares_keep_off_edges_vessels_and_slopes():
    volume = 50 + NOISE
    volume[:48] = -100 + NOISE[:48]  # fat: not the tissue looked for
    volume[70:76, 30:36] += 150
    squares = even_squares(volume, SPACING_MM)
    assert len(squares.corners) > 10
    for x, y, _ in squares.corners:
        assert x >= 48
        assert not (x < 76 and x + squares.side[0] > 70 and y < 36 and y + squares.side[1] > 30)
    bent = 50 + NOISE + 60 * np.cos(np.arange(96) / 96 * 8 * np.pi)[:, None, None].astype(np.float32)
    assert not len(even_squares(bent, SPACING_MM).corners)


@pytest.mark.parametrize(("num_slices", "slice_mm", "step"), [(34, 0.5, 5), (65, 0.04, 62), (40, 2.5, 1)])
def test_thin_slices_are_looked_at_every_two_and_a_half_mm(num_slices, slice_mm, step):
    volume = 50 + np.random.default_rng(1).normal(0, 20, (48, 48, num_slices))
    assert set(even_squares(volume, (0.8, 0.8, slice_mm)).corners[:, 2]) == set(range(0, num_slices, step))


def test_squares_lie_where_blood_is_as_noisy_as_it_is_bright():
    volume = 50 + NOISE
    volume[48:] = 350 + 1.5 * NOISE[48:]
    corners = even_squares(volume, SPACING_MM).corners
    assert (corners[:, 0] >= 48).any() and (corners[:, 0] + 24 <= 48).any()


def test_places_are_those_of_the_original_whatever_the_reconstruction_holds():
    spoilt = 50 + NOISE
    spoilt[40:44] += 200
    found = Texture(50 + NOISE, SPACING_MM).compare(spoilt)
    assert found["num_regions"] == Texture(50 + NOISE, SPACING_MM).compare(50 + NOISE)["num_regions"]
    assert found["nps_ratio"] > 3


def test_too_few_squares_and_no_noise_give_no_ratio():
    few = Texture(50 + NOISE[:24, :30, :2], SPACING_MM).compare(50 + NOISE[:24, :30, :2])
    assert few["num_regions"] < 16 and math.isnan(few["nps_ratio"]) and few["original"] == []
    flat = Texture(np.zeros(NOISE.shape), SPACING_MM).compare(NOISE)
    assert flat["num_regions"] > 16 and math.isnan(flat["sd_ratio"]) and math.isnan(flat["mean_frequency_ratio"])


def test_a_reconstruction_without_noise_has_a_ratio_of_zero():
    found = Texture(50 + NOISE, SPACING_MM).compare(np.full(NOISE.shape, 50))
    assert found["nps_ratio"] == found["sd_ratio"] == 0 and math.isnan(found["mean_frequency_ratio"])
    assert len(found["reconstruction"]) == len(found["original"])
