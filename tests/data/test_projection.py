"""X-rays of a CT: what a ray through known matter measures, and which way up the picture is."""

import tracemalloc

import numpy as np
import pytest
import torch

from ctpa_vqgan.data.phantom import LABELS
from ctpa_vqgan.data.projection import MU_WATER_PER_MM, project_xray, xray_along_grid

SPACING_MM = (0.5, 2.0, 3.0)


def air(*size: int) -> np.ndarray:
    return np.full(size, -1000, dtype=np.int16)


@pytest.mark.parametrize(("direction", "axis"), [("ap", 1), ("lateral", 0)])
def test_a_slab_of_water_attenuates_by_mu_times_its_thickness(direction, axis):
    volume = air(30, 20, 40)
    np.moveaxis(volume, axis, 0)[5:12] = 0  # 7 voxels of water
    expected = MU_WATER_PER_MM * 7 * SPACING_MM[axis]
    np.testing.assert_allclose(project_xray(volume, SPACING_MM, direction), expected, rtol=1e-6)
    share = project_xray(volume, SPACING_MM, direction, intensity=True)
    np.testing.assert_allclose(share, np.exp(-expected), rtol=1e-6)


def test_attenuation_adds_up_along_a_ray():
    volume = air(1, 4, 1)
    volume[0, :, 0] = (-1000, -500, 0, 1000)  # 0, half, one and two times that of water
    np.testing.assert_allclose(project_xray(volume, (1, 1, 1), mu_water_per_mm=0.1), 0.35, rtol=1e-6)


@pytest.mark.parametrize("hu", [-1000, -1024, -2048])
def test_air_and_scanner_padding_let_everything_through(hu):
    volume = np.full((4, 5, 6), hu, dtype=np.int16)
    assert not project_xray(volume, SPACING_MM).any()
    assert (project_xray(volume, SPACING_MM, intensity=True) == 1).all()


def test_a_finer_grid_gives_the_same_image_of_the_same_body():
    volume = np.random.default_rng(0).integers(-1000, 2000, (6, 8, 5)).astype(np.int16)
    image = project_xray(volume, (1, 2, 1))
    np.testing.assert_allclose(project_xray(volume.repeat(2, axis=1), (1, 1, 1)), image, rtol=1e-6)


def test_the_head_is_up_and_the_patients_right_on_the_left():
    volume = air(10, 4, 20)
    volume[9, :, 19] = 1000  # the rightmost, topmost column of voxels
    image = project_xray(volume, (1, 1, 1), "ap")
    assert image.shape == (20, 10)
    assert np.argwhere(image).tolist() == [[0, 0]]


def test_the_lateral_image_faces_left():
    volume = air(10, 4, 20)
    volume[:, 3, 0] = 1000  # the front at the feet
    image = project_xray(volume, (1, 1, 1), "lateral")
    assert image.shape == (20, 4)
    assert np.argwhere(image).tolist() == [[19, 0]]


def test_a_chest_looks_like_one(phantom):
    """Lungs are darker than the mediastinum between them; the heart lies to the patient's left."""
    image = project_xray(phantom.volume, (7.5, 7.5, 9.0))
    heart = np.isin(phantom.labels, [LABELS["heart_blood"], LABELS["heart_wall"]])
    x = (heart.sum(axis=(1, 2)) * np.arange(48)).sum() / heart.sum()
    assert x < 23.5  # RAS: small x is left
    middle, lungs = image[20, 20:28].mean(), np.concatenate([image[20, 8:16], image[20, 32:40]]).mean()
    assert middle > 1.2 * lungs
    assert 1 < image.max() < 15  # exp(-15) of the rays would make no image


@pytest.mark.parametrize("direction", ["ap", "lateral"])
def test_along_the_grid_a_pixel_is_the_ray_through_its_voxels(direction):
    volume = np.random.default_rng(0).integers(-1000, 2000, (6, 8, 35)).astype(np.int16)
    rays = volume.astype(float).sum(axis=1 if direction == "ap" else 0) + 1000 * (8 if direction == "ap" else 6)
    image = project_xray(volume, (1, 1, 1), direction, mu_water_per_mm=1.0)
    np.testing.assert_allclose(xray_along_grid(image), rays / 1000, rtol=1e-6)


def test_normalized_images_span_0_to_1_and_a_constant_one_is_0():
    volume = np.random.default_rng(0).integers(-1000, 2000, (6, 8, 5)).astype(np.int16)
    image = project_xray(volume, (1, 1, 1), normalize=True)
    assert (image.min(), image.max()) == (0, 1)
    assert not project_xray(np.zeros((3, 3, 3), np.int16), (1, 1, 1), normalize=True).any()


def test_type_and_strides_do_not_matter():
    volume = np.random.default_rng(0).integers(-1000, 2000, (6, 8, 35)).astype(np.int16)
    image = project_xray(volume, SPACING_MM)
    for other in (np.asfortranarray(volume), volume.astype(np.float32), torch.from_numpy(volume)):
        assert np.array_equal(project_xray(other, SPACING_MM), image)


def test_no_copy_of_the_volume_is_made():
    volume = np.asfortranarray(np.zeros((128, 128, 256), np.int16))
    tracemalloc.start()
    project_xray(volume, SPACING_MM)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < volume.nbytes / 4


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"direction": "pa"}, "direction must be one of ap, lateral, found 'pa'"),
        ({"volume": np.zeros((1, 3, 3, 3))}, r"volume must be \[X, Y, Z\] in HU, found shape \(1, 3, 3, 3\)"),
        ({"spacing_mm": (1, 0, 1)}, r"spacing_mm must be three positive numbers, found \(1, 0, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        project_xray(**{"volume": np.zeros((3, 3, 3)), "spacing_mm": (1, 1, 1), **kwargs})
