"""Noise power of known noise."""

import math

import numpy as np
import pytest
from small_volumes import nan_volume, noise

from ctpa_vqgan.metrics.noise_power import noise_power, radial_noise_power

SPACING = (0.7, 0.7, 1.5)


def smoothed(rois, transfer):
    return np.fft.ifft2(np.fft.fft2(rois, axes=(0, 1)) * transfer[..., None], axes=(0, 1)).real


@pytest.mark.parametrize(("shape", "degree"), [((64, 64, 70), 2), ((48, 64, 40), 1), ((33, 40, 60), 0)])
def test_white_noise_has_a_flat_spectrum_of_known_level_that_integrates_to_its_variance(shape, degree):
    found = noise_power(300 + noise(shape, 12), SPACING, degree)
    assert found.variance_hu2 == pytest.approx(144, rel=0.02)
    rings = radial_noise_power(found)
    np.testing.assert_allclose(rings.nps[3:], 144 * 0.7 * 0.7, rtol=0.1)
    assert np.mean(rings.nps[3:]) == pytest.approx(144 * 0.49, rel=0.02)


def test_the_integral_is_exactly_the_variance_of_what_the_detrending_leaves():
    rois = noise((20, 24, 5), 10) + 7000
    cell = 1 / (20 * 0.7 * 24 * 0.7)
    found = noise_power(rois, SPACING, degree=0)
    variance = np.var(rois.astype(np.float32).astype(np.float64), axis=(0, 1)).mean()
    assert found.nps.sum() * cell == pytest.approx(variance, rel=1e-9) == found.variance_hu2


def test_a_bowl_in_the_background_is_not_noise():
    rois = noise((64, 64, 40), 5)
    x, y = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(-1, 1, 64), indexing="ij")
    bowl = (100 + 30 * x - 20 * y + 40 * (x**2 + x * y))[..., None]
    assert noise_power(rois + bowl, SPACING).variance_hu2 == pytest.approx(
        noise_power(rois, SPACING).variance_hu2, rel=1e-4
    )
    assert noise_power(rois + bowl, SPACING, degree=0).variance_hu2 > 200


def test_filtered_noise_has_the_spectrum_of_the_filter():
    f = np.fft.fftfreq(64, 0.7)
    radius = np.hypot(f[:, None], f)
    transfer = np.exp(-2 * (math.pi * 0.5 * radius) ** 2)
    found = radial_noise_power(noise_power(smoothed(noise((64, 64, 200), 20), transfer), SPACING))
    r = found.frequency_per_mm
    expected = 400 * 0.49 * np.exp(-4 * (math.pi * 0.5 * r) ** 2)
    np.testing.assert_allclose(found.nps[3:], expected[3:], rtol=0.06)
    kept = (radius > 0) & (radius <= 0.5 / 0.7)
    centroid = (radius * transfer**2)[kept].sum() / (transfer**2)[kept].sum()
    assert found.mean_frequency_per_mm == pytest.approx(centroid, rel=0.02)


def test_a_single_wave_is_the_peak_frequency_and_has_half_its_amplitude_squared():
    x = np.arange(50) * 0.5
    rois = np.broadcast_to((6 * np.cos(2 * np.pi * 0.4 * x))[:, None, None], (50, 50, 3))
    found = noise_power(rois, (0.5, 0.5), degree=0)
    assert found.variance_hu2 == pytest.approx(18)
    assert found.x_per_mm[found.nps.max(1).argmax()] == pytest.approx(0.4)
    assert radial_noise_power(found).peak_frequency_per_mm == pytest.approx(0.4, abs=0.02)


def test_pixels_of_unequal_sides_have_the_level_and_the_axes_of_their_own():
    found = noise_power(noise((32, 64, 80), 12), (1.0, 0.4))
    assert np.median(found.nps) == pytest.approx(144 * 0.4, rel=0.03)
    assert abs(found.x_per_mm).max() == 0.5 and abs(found.y_per_mm).max() == 1.25
    rings = radial_noise_power(noise_power(noise((16, 128, 2), 12), (1.0, 0.4))).frequency_per_mm
    assert len(rings) == 8 and rings[-1] <= 0.5  # steps of 1 / 16 mm, the coarser axis, up to its Nyquist frequency


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noise_power(nan_volume(), SPACING), "NaN"),
        (lambda: noise_power(np.zeros((4, 20, 3)), SPACING), "8 x 8"),
        (lambda: noise_power(np.zeros((20, 20, 3)), SPACING, degree=3), "degree"),
        (lambda: radial_noise_power(noise_power(np.zeros((20, 20, 3)), SPACING)), "zero at all"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
