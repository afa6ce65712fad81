"""The HU scale of inserts."""

import pytest

from ctpa_vqgan.quality_phantom.linearity import INSERTS_HU


def test_a_known_scale_gives_slope_and_intercept(scaled):
    found = scaled["linearity"]
    assert (found["slope"], found["intercept_hu"]) == pytest.approx((0.98, 5), abs=1e-3)
    assert found["max_residual_hu"] < 0.01
    assert found["max_deviation_hu"] == pytest.approx(24, abs=0.05)  # of the insert of -950 HU


def test_the_inserts_are_what_they_are_said_to_be(scaled):
    assert scaled["linearity"]["known_hu"] == pytest.approx(INSERTS_HU, abs=2.5)  # noise of 15 HU, averaged


def test_blur_does_not_reach_the_cores(blurred):
    found = blurred["linearity"]
    assert found["slope"] == pytest.approx(1, abs=2e-4) and found["max_deviation_hu"] < 0.5


def test_one_grey_has_no_slope(grey):
    assert grey["linearity"]["slope"] == pytest.approx(0, abs=1e-9)
    assert grey["linearity"]["intercept_hu"] == pytest.approx(40)
