"""MTF of known blurs."""

import math

import numpy as np
import pytest
import torch
from small_volumes import nan_volume, noise

from ctpa_vqgan.metrics.edges import EdgeSpread, edge_mtf, edge_spread, line_spread
from ctpa_vqgan.metrics.surfaces import Cylinder, Plane, Sphere

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


def test_a_flat_edge_along_the_grid_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match="tilt a flat edge"):
        edge_spread(np.zeros((20, 20, 20)), Plane((7.0, 0, 0), (1, 0, 0)), SPACING, reach_mm=4)


def test_a_volume_without_the_edge_is_refused():
    edge = edge_spread(np.full((64, 64, 2), 40.0), blurred_rod(0.8, 100)[1], SPACING, reach_mm=6)
    with pytest.raises(ValueError, match="no step"):
        edge_mtf(edge)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: edge_spread(nan_volume(), Sphere((7, 7, 18), 4), SPACING, 2), "NaN"),
        (lambda: edge_spread(np.zeros((9, 9)), Sphere((7, 7, 7), 4), SPACING, 3), r"\[X, Y, Z\]"),
        (lambda: edge_spread(np.zeros((9, 9, 9)), Sphere((7, 7, 7), 4), (0.7, 0, 1), 3), "spacing_mm must be 3"),
        (lambda: edge_spread(np.zeros((9, 9, 9)), Sphere((7, 7, 7), 4), SPACING, 3, bin_mm=2), "narrower"),
        (lambda: edge_spread(np.zeros((9, 9, 9)), Plane((7, 7, 7), (0, 0, 0)), SPACING, 3), "normal must be"),
        (lambda: edge_mtf(EdgeSpread(np.arange(8.0), np.arange(8.0), np.zeros(8)), 0.6), "max_frequency_per_mm"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()
