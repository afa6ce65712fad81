"""Balls and rods under a known blur."""

import math

import numpy as np
import pytest

from ctpa_vqgan.metrics.surfaces import Cylinder, Sphere
from ctpa_vqgan.quality_phantom.render import blur_mm, phantom_shape, render, slots


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 0.7), (0.5, 0.6, 0.8), (0.7, 0.7, 2.5)])
@pytest.mark.parametrize("offset", [0.0, 0.13, 0.31])
def test_a_ball_keeps_its_volume_wherever_it_lies_between_the_voxels(spacing, offset):
    shape = [round(20 / mm) for mm in spacing]
    ball = Sphere(tuple(10 + offset * mm for mm in spacing), 3.0)
    volume = render(shape, ball, spacing).sum() * math.prod(spacing)
    assert volume == pytest.approx(4 / 3 * math.pi * 27, rel=2e-3)


@pytest.mark.parametrize("radius", [1.0, 5.0])
def test_a_rod_keeps_its_cross_section(radius):
    rod = Cylinder((10.1, 9.8, 0.0), (0, 0, 1), radius)
    area = render((29, 29, 3), rod, (0.7, 0.7, 0.7)).sum((0, 1)) * 0.49
    np.testing.assert_allclose(area, math.pi * radius**2, rtol=2e-3)


def test_a_ball_is_the_convolution_of_a_ball_with_a_gaussian():
    ball = Sphere((7.0, 7.0, 7.0), 3.0)
    found = render((21, 1, 1), Sphere((7.0, 0, 0), 3.0), (0.7, 0.7, 0.7))[:, 0, 0]
    fine = np.arange(-7, 7, 0.1) + 0.05
    x, y, z = np.meshgrid(fine, fine, fine, indexing="ij", sparse=True)
    inside = ((x**2 + y**2 + z**2) < ball.radius_mm**2).astype(np.float32)
    line = (inside * np.exp(-(y**2 + z**2) / 0.72)).sum((1, 2)) * 0.01 / (math.pi * 0.72)  # at y = z = 0
    kernel = np.exp(-((np.arange(21)[:, None] * 0.7 - 7 - fine) ** 2) / 0.72) * 0.1 / math.sqrt(math.pi * 0.72)
    np.testing.assert_allclose(found, kernel @ line, atol=2e-3)


def test_thick_slices_are_the_mean_of_thin_ones():
    ball = Sphere((8.0, 8.0, 8.0), 4.0)
    thin = render((24, 24, 40), Sphere((8.0, 8.0, 8.0 + 1.05), 4.0), (0.7, 0.7, 0.7))
    thick = render((24, 24, 10), ball, (0.7, 0.7, 2.8))
    np.testing.assert_allclose(thick, thin.reshape(24, 24, 10, 4).mean(-1), atol=1e-9)


def test_a_coarse_grid_is_blurred_more():
    assert blur_mm((0.7, 0.7, 2.5)) == 0.6
    assert blur_mm((2.0, 1.5, 1.0)) == pytest.approx(1.1)


@pytest.mark.parametrize("spacing", [(0.7, 0.7, 0.7), (0.33, 0.5, 1.25), (1.5, 1.5, 1.5), (0.98, 0.98, 5.0)])
def test_sides_are_multiples_of_16_and_hold_whole_slots(spacing):
    shape = phantom_shape(spacing)
    assert all(side % 16 == 0 for side in shape) and all(side % 12 == 0 for side in shape[:2])
    assert all(side * mm >= 66 for side, mm in zip(shape[:2], spacing)) and shape[2] * spacing[2] >= 33


def test_slots_are_views_that_cover_the_volume_once():
    volume = np.zeros((12, 24, 2))
    for slot in slots(volume, 3):
        slot += 1
    assert (volume == 1).all()
