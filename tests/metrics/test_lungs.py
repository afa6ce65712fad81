"""Lungs of a thorax whose lungs are known, and shares of light voxels that were put there."""

import math

import numpy as np
import pytest
from small_thorax import AIR, BODY, LUNG, SPACING_MM, lungs, oval, thorax, tube

from ctpa_vqgan.metrics.cells import in_cells
from ctpa_vqgan.metrics.lungs import find_lungs, lung_density


def found_in(volume, spacing_mm=SPACING_MM):
    return find_lungs(volume, in_cells(volume, spacing_mm))


def whole(mask, found, shape):
    full = np.zeros(shape, bool)
    full[found.box] = mask
    return full


def in_every_fourth_voxel(shape):
    x, y, z = np.indices(shape)
    return (x + 2 * y + 3 * z) % 4 == 0


def test_the_lungs_are_found_with_the_vessels_inside():
    volume = thorax()
    found = found_in(volume)
    air = whole(found.air, found, volume.shape)
    missed = (volume == LUNG) & ~air
    assert not (air & (volume != LUNG)).any()
    assert missed.sum() < 0.03 * air.sum()  # voxels that share their cell with the wall
    assert found.ml == pytest.approx(air.sum() / 1000)
    inside = whole(found.inside, found, volume.shape)
    assert inside[tube((35, 40)) | tube((105, 70))].all()
    assert not (inside & ~lungs()).any()


def test_gas_in_the_stomach_and_foam_in_the_table_are_no_lung():
    volume = thorax()
    expected = found_in(volume).ml
    volume[oval((70, 55), (6, 18))] = -1000
    volume[20:120, 0:2] = -50  # a shell that touches the back, and its foam
    volume[20:120, 8:9] = -50
    volume[20:120, 2:8] = -900
    volume[20:22, 0:9] = volume[118:120, 0:9] = -50
    assert found_in(volume).ml == pytest.approx(expected, rel=0.01)


def test_air_that_reaches_the_border_of_the_slices_is_no_lung():
    assert found_in(thorax()[40:]).ml == pytest.approx(found_in(thorax()).ml / 2, rel=0.05)  # cuts one lung open
    assert found_in(thorax()[30:110, 50:]) is None


@pytest.mark.parametrize("volume", [np.full((40, 40, 9), BODY), np.full((40, 40, 9), AIR), np.full((1, 1, 1), LUNG)])
def test_without_lungs_there_is_no_density(volume):
    assert found_in(volume) is None
    assert all(math.isnan(value) for value in lung_density("volume", volume, None))


def test_the_share_of_emphysema_is_the_one_that_was_planted():
    volume = thorax(vessels=())
    every_fourth = in_every_fourth_voxel(volume.shape)
    volume[lungs() & every_fourth] = -970
    density = lung_density("original", volume, found_in(volume))
    assert density.laa950_percent == pytest.approx(25, abs=0.2)
    assert density.perc15_hu == -970


def test_a_reconstruction_is_measured_in_the_lungs_of_the_original():
    original = thorax(vessels=())
    found = found_in(original)
    mended = original.copy()
    mended[lungs()] = -300  # no lungs of its own
    assert lung_density("reconstruction", mended, found) == (0, -300)


def test_lungs_of_coarse_voxels_are_found_too():
    volume = thorax()[::2, ::2, ::5]
    assert found_in(volume, (2, 2, 5)).ml == pytest.approx(found_in(thorax()).ml, rel=0.1)
