"""Noise of a known spectrum, and what known networks leave of it."""

import math

import numpy as np
import pytest
import torch

from ctpa_vqgan.quality_phantom import measure_phantoms
from ctpa_vqgan.quality_phantom.feed import Seen
from ctpa_vqgan.quality_phantom.noise import ct_noise, measure_noise, noise_spectrum

SPACING = (0.7, 0.7, 0.7)
KEPT = 0.36 / (0.36 + 0.25)  # f exp(-(2 pi s f)^2) in the plane, exp(-(2 pi s z)^2) along z: the integral goes as s^-4


def test_the_noise_has_its_standard_deviation_and_no_mean():
    noise = ct_noise((96, 96, 48), SPACING, 20, np.random.default_rng(0))
    assert noise.std() == pytest.approx(20, rel=0.01)
    assert abs(noise.mean()) < 1e-9


def test_the_noise_is_band_limited_and_has_its_peak_where_the_kernel_puts_it():
    noise = ct_noise((96, 96, 48), SPACING, 20, np.random.default_rng(0))
    entry = measure_noise([Seen(noise, noise)], 0, 20, SPACING)
    frequency, nps = np.array(entry["frequency_per_mm"]), np.array(entry["original"])
    assert frequency[nps.argmax()] == pytest.approx(1 / (math.sqrt(8) * math.pi * 0.6), abs=0.04)
    assert nps[-1] < 0.02 * nps.max() and nps[0] < 0.5 * nps.max()


def test_the_spectrum_holds_for_voxels_of_unequal_sides():
    spectrum = noise_spectrum((48, 32, 16), (0.5, 0.8, 2.5))
    assert spectrum.mean() == pytest.approx(1)
    f = np.fft.fftfreq(48, 0.5)
    slope = spectrum[1:24, 0, 0] / (f[1:24] * np.exp(-((2 * math.pi * 0.6 * f[1:24]) ** 2)))
    np.testing.assert_allclose(slope, slope[0])


def test_a_gaussian_blur_leaves_the_analytic_share_of_the_noise_power(blurred):
    for entry in blurred["noise"]:
        assert entry["nps_ratio"] == pytest.approx(KEPT**2, rel=0.02)
        assert entry["sd_ratio"] == pytest.approx(KEPT, rel=0.01)
        assert entry["mean_frequency_ratio"] == pytest.approx(math.sqrt(KEPT), rel=0.03)


def test_added_white_noise_adds_its_variance():
    source = torch.Generator().manual_seed(1)
    found = measure_phantoms(lambda volume: volume + 10 * torch.randn(volume.shape, generator=source))
    assert [(entry["background_hu"], entry["sd_hu"]) for entry in found["noise"]] == [(50, 15), (50, 30), (350, 25)]
    for entry in found["noise"]:
        assert entry["nps_ratio"] == pytest.approx(1 + 100 / entry["sd_hu"] ** 2, rel=0.02)
        assert entry["mean_frequency_ratio"] > 1.02
    # and the objects are where they were, to what the noise allows
    assert [clot["recovery"] for clot in found["emboli"]] == pytest.approx([1] * 5, abs=0.03)


def test_a_scale_of_hu_scales_the_noise(scaled):
    for entry in scaled["noise"]:
        assert entry["sd_ratio"] == pytest.approx(0.98, rel=1e-4)
        assert entry["mean_frequency_ratio"] == pytest.approx(1, rel=1e-4)


def test_a_network_that_takes_all_noise_leaves_no_frequency(grey):
    for entry in grey["noise"]:
        assert entry["nps_ratio"] == pytest.approx(0, abs=1e-9) and math.isnan(entry["mean_frequency_ratio"])
        assert entry["reconstruction"] == [0] * len(entry["original"])
