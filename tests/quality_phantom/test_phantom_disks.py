"""Low-contrast disks under a blur."""

import math

import numpy as np
import pytest
from scipy.special import j1


def noise_after(diameter_mm, blur_mm):
    """Variance of what a matched filter sees of the phantoms' noise in slices of 2.8 mm (no filter if 0 mm wide)."""
    f = np.linspace(1e-4, 4, 40001)
    x = math.pi * diameter_mm * f
    filtered = (j1(x) / x) ** 2 * np.exp(-((2 * math.pi * 0.6 * f) ** 2)) if diameter_mm else 1
    squared = (2 * math.pi) ** 2 * (0.36 + blur_mm**2)
    in_plane = (filtered * f * np.exp(-squared * f**2) * f).sum()
    return in_plane * (np.sinc(2.8 * f) ** 2 * np.exp(-squared * f**2)).sum()


def test_a_gaussian_blur_leaves_the_analytic_contrast(blurred, matched_gain):
    for disk in blurred["disks"]:
        assert disk["recovery"] == pytest.approx(matched_gain(disk["diameter_mm"], 2), rel=0.005)
        assert disk["recovery_error"] < 1e-3


def test_a_gaussian_blur_has_the_analytic_detectability(blurred, matched_gain):
    for disk in blurred["disks"]:
        diameter = disk["diameter_mm"]
        fewer = math.sqrt(noise_after(diameter, 0.5) / noise_after(diameter, 0))
        assert disk["dprime_ratio"] == pytest.approx(matched_gain(diameter, 2) / fewer, rel=0.05)  # of 96 looks
        assert disk["dprime"] / disk["original_dprime"] == pytest.approx(disk["dprime_ratio"])


def test_a_gaussian_blur_raises_cnr_as_it_lowers_noise(blurred, matched_gain):
    less = math.sqrt(noise_after(0, 0.5) / noise_after(0, 0))
    for disk in blurred["disks"]:
        expected = matched_gain(disk["diameter_mm"], 2) / less
        assert disk["cnr"] / disk["original_cnr"] == pytest.approx(expected, rel=0.02)


def test_the_disks_are_hard_to_see_as_mita_meant_them(blurred):
    assert all(1 < disk["original_dprime"] < 4 for disk in blurred["disks"])
    noise = [disk["contrast_hu"] / disk["original_cnr"] for disk in blurred["disks"]]
    assert noise == pytest.approx([noise[0]] * 4) and 8 < noise[0] < 15  # 15 HU, four slices together


def test_a_scale_of_hu_loses_contrast_and_no_detectability(scaled):
    for disk in scaled["disks"]:
        assert disk["recovery"] == pytest.approx(0.98, abs=1e-3)
        assert disk["dprime_ratio"] == pytest.approx(1, abs=1e-3)


def test_one_grey_shows_no_disk(grey):
    for disk in grey["disks"]:
        assert disk["recovery"] == pytest.approx(0, abs=1e-6) and math.isnan(disk["dprime"])
