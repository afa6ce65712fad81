"""Where pictures are cut: planted vessels and bones whose centres are known."""

import numpy as np
import pytest

from ctpa_vqgan.data.phantom import LABELS, make_phantom
from ctpa_vqgan.report.planes import body_centre, cut_around, largest_vessel, plane_image


def chest(size=(80, 70, 60)):
    """Soft tissue with the noise of a scan in air."""
    volume = np.full(size, -1000.0, np.float32)
    volume[5:-5, 5:-5] = 40
    return volume + np.random.default_rng(0).normal(0, 20, size).astype(np.float32)


def ball(volume, centre, radius_mm, spacing_mm):
    away = [(np.arange(side) - c) * mm for side, c, mm in zip(volume.shape, centre, spacing_mm)]
    return sum(a**2 for a in np.meshgrid(*away, indexing="ij", sparse=True)) < radius_mm**2


@pytest.mark.parametrize("spacing_mm", [(2, 2, 2), (0.7, 0.7, 2.5), (1, 1, 0.6)])
def test_the_centre_of_the_vessel_is_found_on_any_grid(spacing_mm):
    size = tuple(round(140 / mm) for mm in spacing_mm)
    volume, centre = chest(size), tuple(round(60 / mm) for mm in spacing_mm)
    vessel = ball(volume, centre, 15, spacing_mm)
    volume[vessel] += 300
    found = largest_vessel(volume, spacing_mm)
    assert np.linalg.norm((np.array(found) - centre) * spacing_mm) < 4.5
    assert vessel[found]


def test_the_widest_of_two_vessels_is_chosen_by_millimetres_and_not_by_voxels():
    spacing_mm = (1, 1, 4)
    volume = chest((90, 80, 30))
    volume[ball(volume, (25, 40, 14), 12, spacing_mm)] = 350
    volume[ball(volume, (65, 40, 14), 18, spacing_mm)] = 350
    volume[20:31, 10:20, :] = 350  # many voxels, but thin
    assert abs(largest_vessel(volume, spacing_mm)[0] - 65) <= 2


def test_a_bone_with_marrow_of_the_same_hu_is_no_vessel():
    volume = chest()
    rng = np.random.default_rng(1)
    bone = ball(volume, (50, 30, 30), 26, (2, 2, 2))
    coarse = rng.normal(250, 90, (40, 35, 30)).repeat(2, 0).repeat(2, 1).repeat(2, 2)  # trabeculae of 4 mm
    volume[bone] = coarse[bone]
    volume[bone & ~ball(volume, (50, 30, 30), 22, (2, 2, 2))] = 900
    assert largest_vessel(volume, (2, 2, 2)) == body_centre(volume)
    volume[ball(volume, (20, 30, 30), 13, (2, 2, 2))] = 320
    assert abs(largest_vessel(volume, (2, 2, 2))[0] - 20) <= 1


def test_without_contrast_the_centre_of_the_body_is_taken():
    assert largest_vessel(chest(), (2, 2, 2)) == body_centre(chest())
    assert largest_vessel(np.full((8, 6, 4), -1000, np.int16), (1, 1, 1)) == (4, 3, 2)


def test_dense_contrast_and_metal_are_no_blood():
    volume = chest()
    volume[ball(volume, (40, 30, 30), 20, (2, 2, 2))] = 1200
    assert largest_vessel(volume, (2, 2, 2)) == body_centre(volume)


def test_in_the_phantom_it_lies_in_the_blood_of_the_heart_or_of_a_great_vessel():
    phantom = make_phantom((96, 96, 72), (3.6, 3.6, 4.6), seed=3)
    point = largest_vessel(phantom.volume, (3.6, 3.6, 4.6))
    assert phantom.labels[point] in [LABELS[name] for name in ("heart_blood", "vessel", "artery")]
    assert point != body_centre(phantom.volume)


@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_cut_is_centred_on_the_voxel_in_every_plane(plane):
    volume, spacing_mm, centre = np.zeros((41, 51, 61)), (1, 2, 0.5), (12, 20, 40)
    volume[centre] = 1
    axis = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    image = plane_image(volume, plane, centre[axis])
    part, (left, right, bottom, top) = cut_around(image, plane, volume.shape, centre, spacing_mm, (14, 10))
    across, up = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[plane]
    assert part.shape == (round(10 / spacing_mm[up]), round(14 / spacing_mm[across]))
    assert part[part.shape[0] // 2, part.shape[1] // 2] == 1
    assert (right - left, top - bottom) == (14, 10)
    # in mm from the lower left corner, where the image has its last column and the axis its last voxel
    assert left <= (volume.shape[across] - 0.5 - centre[across]) * spacing_mm[across] <= right
    assert bottom <= (centre[up] + 0.5) * spacing_mm[up] <= top


def test_a_cut_near_the_border_moves_inwards_and_a_small_image_is_shown_whole():
    image = np.arange(20 * 30).reshape(20, 30)
    part, place = cut_around(image, "axial", (30, 20, 5), (29, 19, 2), (1, 1, 1), (10, 8))
    assert (part == image[:8, :10]).all()  # the largest indices are at the top left
    assert place == (0, 10, 12, 20)
    part, place = cut_around(image, "axial", (30, 20, 5), (15, 10, 2), (1, 1, 1), (100, 100))
    assert part.shape == image.shape
    assert place == (0, 30, 0, 20)
