"""MTF of known blurs, noise power of known noise, and the HU scale of known inserts."""

import math

import numpy as np
import pytest
import torch

from ctpa_vqgan.metrics.sharpness import (
    Cylinder,
    EdgeSpread,
    Plane,
    Sphere,
    edge_mtf,
    edge_spread,
    hu_linearity,
    insert_means,
    line_spread,
    noise_power,
    noise_power_ratio,
    radial_noise_power,
)

SPACING = (0.7, 0.7, 1.5)
erf = np.vectorize(math.erf)


def cdf(x):
    """Of the normal distribution."""
    return 0.5 + 0.5 * erf(x / 2**0.5)


def gaussian_mtf50(sigma_mm):
    return math.sqrt(math.log(4)) / (2 * math.pi * sigma_mm)


def grid(shape, spacing=SPACING):
    return np.meshgrid(*(np.arange(n) * step for n, step in zip(shape, spacing)), indexing="ij", sparse=True)


def blurred_ball(shape, ball, sigma_mm, contrast):
    """The exact convolution of a ball with a three-dimensional Gaussian, sampled at the voxels' centres."""
    x, y, z = grid(shape)
    d = ball.distance_mm(x, y, z)
    r = np.maximum(d + ball.radius_mm, 1e-6)
    a, b = d / sigma_mm, (r + ball.radius_mm) / sigma_mm
    table = np.linspace(-9, 200, 200001)
    step = np.interp(-a, table, cdf(table)) - np.interp(-b, table, cdf(table))
    bells = (np.exp(-(a**2) / 2) - np.exp(-(b**2) / 2)) / (2 * math.pi) ** 0.5
    return 40 + contrast * (step - sigma_mm / r * bells)


def blurred_rod(sigma_mm, contrast, spacing=0.7, side=64, radius_mm=14.0, fine=8):
    """A disk drawn eight times finer, blurred there by a two-dimensional Gaussian, and sampled."""
    center = (side // 2 + 0.3) * spacing
    axis = np.arange(side * fine) * spacing / fine
    d = np.hypot(axis[:, None] - center, axis[None, :] - center) - radius_mm
    disk = np.clip(0.5 - d * fine / spacing, 0, 1)
    f = np.fft.fftfreq(side * fine, spacing / fine)
    transfer = np.exp(-2 * (math.pi * sigma_mm) ** 2 * (f[:, None] ** 2 + f[None, :] ** 2))
    image = np.fft.ifft2(np.fft.fft2(disk) * transfer).real[::fine, ::fine]
    return 40 + contrast * image, Cylinder((center, center, 0.0), (0, 0, 2.0), radius_mm)


def noise(shape, sd, seed=0):
    return np.random.default_rng(seed).normal(0, sd, shape)


def smoothed(rois, transfer):
    return np.fft.ifft2(np.fft.fft2(rois, axes=(0, 1)) * transfer[..., None], axes=(0, 1)).real


@pytest.mark.parametrize("sigma", [0.6, 1.0])
@pytest.mark.parametrize("contrast", [-1000, -100, 14, 300])
def test_a_rod_under_a_gaussian_blur_has_the_mtf50_of_the_gaussian(sigma, contrast):
    image, rod = blurred_rod(sigma, contrast)
    found = edge_mtf(edge_spread(np.repeat(image[..., None], 2, -1), rod, SPACING, reach_mm=6))
    assert found.mtf50_per_mm == pytest.approx(gaussian_mtf50(sigma), rel=0.01)
    assert found.contrast_hu == pytest.approx(-contrast, rel=0.01)


@pytest.mark.parametrize(("contrast", "noise_hu"), [(-1000, 20), (200, 10), (50, 5)])
def test_noise_moves_the_mtf50_of_a_rod_by_less_than_2_percent(contrast, noise_hu):
    image, rod = blurred_rod(0.8, contrast)
    volume = image[..., None] + noise((64, 64, 100), noise_hu)
    found = edge_mtf(edge_spread(volume, rod, SPACING, reach_mm=6))
    assert found.mtf50_per_mm == pytest.approx(gaussian_mtf50(0.8), rel=0.02)


def test_the_error_of_the_mtf50_is_the_scatter_over_repeated_noise():
    image, rod = blurred_rod(0.8, 30)
    runs = [
        edge_mtf(edge_spread(image[..., None] + noise((64, 64, 16), 10, seed), rod, SPACING, reach_mm=5, bin_mm=0.14))
        for seed in range(24)
    ]
    scatter = np.std([run.mtf50_per_mm for run in runs], ddof=1)
    assert np.mean([run.mtf50_error_per_mm for run in runs]) == pytest.approx(scatter, rel=0.4)
    assert runs[0].error[0] == pytest.approx(0, abs=1e-9)  # the MTF is 1 there by definition


@pytest.mark.parametrize("contrast", [-800, 50])
def test_a_ball_in_voxels_of_unequal_sides_has_the_mtf_of_the_gaussian_at_every_frequency(contrast):
    ball = Sphere((22.3, 22.1, 22.4), 14.0)
    volume = blurred_ball((64, 64, 30), ball, 1.0, contrast)
    found = edge_mtf(edge_spread(torch.from_numpy(volume), ball, SPACING, reach_mm=6), max_frequency_per_mm=0.4)
    assert found.mtf50_per_mm == pytest.approx(gaussian_mtf50(1.0), rel=0.01)
    expected = np.exp(-2 * (math.pi * found.frequency_per_mm) ** 2)
    np.testing.assert_allclose(found.mtf, expected, atol=0.01)


def test_a_slanted_edge_under_a_gaussian_blur_has_the_mtf50_of_the_gaussian():
    edge = Plane((15.0, 0.0, 0.0), (1.0, 0.05, 0.03))
    volume = 100 * cdf(edge.distance_mm(*grid((44, 40, 12))) / 0.7)
    found = edge_mtf(edge_spread(volume, edge, SPACING, reach_mm=6))
    assert found.mtf50_per_mm == pytest.approx(gaussian_mtf50(0.7), rel=0.01)


@pytest.mark.parametrize("width", [1.4, 2.1])
def test_a_slanted_edge_under_a_box_blur_has_the_mtf_of_the_box(width):
    edge = Plane((15.0, 0.0, 0.0), (1.0, 0.05, 0.03))
    volume = 500 * np.clip(edge.distance_mm(*grid((44, 40, 12))) / width + 0.5, 0, 1) + noise((44, 40, 12), 5)
    found = edge_mtf(edge_spread(volume, edge, SPACING, reach_mm=6), max_frequency_per_mm=1 / width)
    assert found.mtf50_per_mm == pytest.approx(0.60335 / width, rel=0.02)  # sin(pi x) / (pi x) = 0.5 at x = 0.60335
    assert found.mtf[-1] < 0.02


def test_spacing_scales_the_mtf50():
    image, rod = blurred_rod(0.8, 100)
    twice = Cylinder(tuple(2 * p for p in rod.point_mm), rod.direction, 2 * rod.radius_mm)
    volume = np.repeat(image[..., None], 2, -1)
    one = edge_mtf(edge_spread(volume, rod, SPACING, reach_mm=6))
    other = edge_mtf(edge_spread(volume, twice, [2 * s for s in SPACING], reach_mm=12))
    assert other.mtf50_per_mm == pytest.approx(one.mtf50_per_mm / 2)


def test_wide_bins_cost_no_sharpness():
    image, rod = blurred_rod(0.8, 100)
    volume = np.repeat(image[..., None], 2, -1)
    fine, wide = (edge_mtf(edge_spread(volume, rod, SPACING, reach_mm=6, bin_mm=b)) for b in (0.1, 0.4))
    assert wide.mtf50_per_mm == pytest.approx(fine.mtf50_per_mm, rel=0.005)


def test_a_ball_through_three_slabs_is_one_ball():
    spacing = (0.7, 0.7, 0.5)
    ball = Sphere((10.1, 10.2, 24.0), 10.0)  # slices 28 to 68, over the borders at 32 and 64
    volume = cdf(-ball.distance_mm(*grid((30, 30, 90), spacing)) / 0.8)
    found = edge_spread(volume, ball, spacing, reach_mm=5)
    np.testing.assert_allclose(found.hu, cdf(-found.distance_mm / 0.8), atol=0.005)


def test_the_line_spread_is_the_slope_of_the_edge():
    line = line_spread(EdgeSpread(np.array([-1.5, -0.5, 0.5, 1.5]), np.array([0.0, 0, 10, 10]), np.zeros(4)))
    assert line.distance_mm.tolist() == [-1, 0, 1]
    assert line.hu_per_mm.tolist() == [0, 10, 0]


def test_a_blur_too_weak_to_halve_the_modulation_has_no_mtf50():
    x = np.arange(-3.95, 4, 0.1)
    found = edge_mtf(EdgeSpread(x, 100 * cdf(x / 0.5), np.zeros(80)), max_frequency_per_mm=0.2)
    assert math.isnan(found.mtf50_per_mm) and found.mtf[-1] == pytest.approx(
        math.exp(-2 * (math.pi * 0.1) ** 2), rel=0.01
    )


def test_distances_are_those_of_the_geometry_book():
    point = np.array(3.0), np.array(4.0), np.array(12.0)
    assert Sphere((0, 0, 0), 10).distance_mm(*point) == pytest.approx(3)
    assert Cylinder((0, 0, 99), (0, 0, -7), 4).distance_mm(*point) == pytest.approx(1)
    assert Cylinder((0, 0, 0), (3, 4, 12), 4).distance_mm(*point) == pytest.approx(-4, abs=1e-6)
    assert Plane((0, 0, 2), (0, 0, 5)).distance_mm(*point) == pytest.approx(10)


def test_a_flat_edge_along_the_grid_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="tilt a flat edge"):
        edge_spread(np.zeros((20, 20, 20)), Plane((7.0, 0, 0), (1, 0, 0)), SPACING, reach_mm=4)


def test_a_volume_without_the_edge_is_refused():
    edge = edge_spread(np.full((64, 64, 2), 40.0), blurred_rod(0.8, 100)[1], SPACING, reach_mm=6)
    with pytest.raises(ValueError, match="no step"):
        edge_mtf(edge)


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


def test_the_ratio_by_band_is_the_square_of_what_the_filter_passes():
    f = np.fft.fftfreq(40, 0.7)
    radius = np.hypot(f[:, None], f)
    original = noise((40, 40, 20), 15)
    passed = smoothed(original, np.where(radius < 0.2, 1.0, np.where(radius < 0.4, 2 / 3, 0.1)))
    spectra = [noise_power(rois, SPACING, degree=0) for rois in (passed, original)]
    np.testing.assert_allclose(noise_power_ratio(*spectra, (0, 0.2, 0.4, 0.7)), [1, 4 / 9, 0.01], rtol=1e-4)


def test_a_band_holds_its_lower_edge_only():
    x = np.arange(50)[:, None, None] * 0.5 * np.ones((1, 50, 3))
    low, high = 6 * np.cos(2 * np.pi * 0.2 * x), 4 * np.cos(2 * np.pi * 0.4 * x)
    spectra = [noise_power(rois, (0.5, 0.5), degree=0) for rois in (low + high / 2, low + high)]
    np.testing.assert_allclose(noise_power_ratio(*spectra, (0.2, 0.4, 0.6)), [1, 0.25], rtol=1e-6)


def test_inserts_give_slope_intercept_and_the_worst_insert():
    known = [-1000, -100, 0, 120, 900]
    labels = np.repeat(np.arange(6), 40)[None, None] * np.ones((4, 4, 1), np.int64)
    volume = np.array([555, *(0.98 * hu + 5 for hu in known)])[labels]
    means = insert_means(volume, labels)
    assert list(means) == [1, 2, 3, 4, 5]
    found = hu_linearity(list(means.values()), known)
    assert found == pytest.approx((0.98, 5, 0, 25), abs=1e-3)
    bent = hu_linearity([-1000, 0, 1006], [-1000, 0, 1000])
    assert bent == pytest.approx((1.003, 2, 2, 6))


def nan_volume():
    volume = np.zeros((20, 20, 20))
    volume[10, 10, 10] = math.nan
    return volume


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: edge_spread(nan_volume(), Sphere((7, 7, 18), 4), SPACING, 2), "NaN"),
        (lambda: edge_spread(np.zeros((9, 9)), Sphere((7, 7, 7), 4), SPACING, 3), r"\[X, Y, Z\]"),
        (lambda: edge_spread(np.zeros((9, 9, 9)), Sphere((7, 7, 7), 4), (0.7, 0, 1), 3), "spacing_mm must be 3"),
        (lambda: edge_spread(np.zeros((9, 9, 9)), Sphere((7, 7, 7), 4), SPACING, 3, bin_mm=2), "narrower"),
        (lambda: edge_spread(np.zeros((9, 9, 9)), Plane((7, 7, 7), (0, 0, 0)), SPACING, 3), "normal must be"),
        (lambda: edge_mtf(EdgeSpread(np.arange(8.0), np.arange(8.0), np.zeros(8)), 0.6), "max_frequency_per_mm"),
        (lambda: noise_power(nan_volume(), SPACING), "NaN"),
        (lambda: noise_power(np.zeros((4, 20, 3)), SPACING), "8 x 8"),
        (lambda: noise_power(np.zeros((20, 20, 3)), SPACING, degree=3), "degree"),
        (lambda: radial_noise_power(noise_power(np.zeros((20, 20, 3)), SPACING)), "zero at all"),
        (
            lambda: noise_power_ratio(*[noise_power(noise((n, 20, 3), 1), SPACING) for n in (20, 22)], (0, 1)),
            "one freq",
        ),
        (lambda: noise_power_ratio(*[noise_power(noise((20, 20, 3), 1), SPACING)] * 2, (0.2, 0.1)), "rising"),
        (lambda: noise_power_ratio(*[noise_power(noise((20, 20, 3), 1), SPACING)] * 2, (0, 0.01)), "no frequency"),
        (lambda: insert_means(nan_volume(), np.ones((20, 20, 20))), r"inserts \[1\] hold NaN"),
        (lambda: insert_means(np.zeros((9, 9, 9)), np.zeros((9, 9, 9))), "no insert"),
        (lambda: insert_means(np.zeros((9, 9, 9)), np.full((9, 9, 9), 0.5)), "whole numbers"),
        (lambda: hu_linearity([1, 2], [0, 0]), "different known"),
        (lambda: hu_linearity([1, math.nan], [0, 1]), "finite"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
