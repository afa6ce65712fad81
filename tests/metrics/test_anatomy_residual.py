"""Residuals made of anatomy, of edges and of noise."""

import math

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from small_thorax import SPACING_MM, thorax

from ctpa_vqgan.metrics.cells import in_cells, spread
from ctpa_vqgan.metrics.residual import Residual

ORIGINAL = thorax()[:139, :, :59]  # cells of 2 x 2 x 2 do not divide it
CELLS = in_cells(ORIGINAL, SPACING_MM)
RESIDUAL = Residual(ORIGINAL, CELLS)


def in_voxels(marks):
    return spread(marks, CELLS.cell, CELLS.shape)


@pytest.mark.parametrize(("k", "r"), [(0.1, 1), (-0.1, -1)])
def test_a_residual_that_is_anatomy_correlates_fully(k, r):
    # darker than -1000 HU would be clipped, so the thorax is put where there is room
    original = ORIGINAL.astype(np.float32) * 0.3 + 300
    residual = Residual(original, in_cells(original, SPACING_MM))
    found = residual.compare(original + k * in_voxels(residual.anatomy))
    assert found.anatomy_r == pytest.approx(r, abs=1e-4)


def test_a_residual_of_pure_noise_does_not_correlate():
    noise = np.random.default_rng(0).normal(0, 20, ORIGINAL.shape)
    original = ORIGINAL * 0.3 + 300  # nothing is clipped
    found = Residual(original, in_cells(original, SPACING_MM)).compare(original + noise)
    assert abs(found.anatomy_r) < 0.01 and abs(found.gradient_r) < 0.01


def test_errors_as_large_as_the_slope_correlate_with_it_whatever_their_sign():
    sign = np.random.default_rng(0).choice([-1, 1], ORIGINAL.shape)
    original = ORIGINAL * 0.3 + 300
    residual = Residual(original, in_cells(original, SPACING_MM))
    found = residual.compare(original + 0.5 * sign * in_voxels(residual.slope))
    assert found.gradient_r == pytest.approx(1, abs=1e-4)
    assert abs(found.anatomy_r) < 0.02


def test_blur_shows_as_anatomy_that_is_missing():
    found = RESIDUAL.compare(gaussian_filter(ORIGINAL.astype(np.float32), 1))
    assert found.anatomy_r < -0.2 and found.gradient_r > 0.4


def test_voxel_by_voxel_it_is_the_correlation_of_numpy():
    noise = np.random.default_rng(0).normal(0, 30, ORIGINAL.shape).astype(np.float32)
    reconstruction = gaussian_filter(ORIGINAL.astype(np.float32), 0.7) + noise
    body = in_voxels(RESIDUAL.body)
    error = (reconstruction.clip(-1000, 1000) - ORIGINAL)[body]
    found = RESIDUAL.compare(reconstruction)
    assert found.anatomy_r == pytest.approx(np.corrcoef(error, in_voxels(RESIDUAL.anatomy)[body])[0, 1], abs=1e-5)
    assert found.gradient_r == pytest.approx(np.corrcoef(abs(error), in_voxels(RESIDUAL.slope)[body])[0, 1], abs=1e-5)


def test_nothing_to_correlate_is_nan():
    for volume in (ORIGINAL, np.full((8, 8, 8), 40), np.full((8, 8, 8), -1000), np.zeros((1, 1, 1))):
        cells = in_cells(volume, SPACING_MM)
        assert all(math.isnan(value) for value in Residual(volume, cells).compare(volume))
