"""HU to the network's scale and back."""

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ScaleIntensityRanged, SpatialPadd

from ctpa_vqgan.data import ToHUd, load_volume, prepare_patch, prepare_volume, to_hu, window_hu
from ctpa_vqgan.data.transforms import PadWithAird

WINDOW = (-1000.0, 1000.0)


def ramp_of(low, high):
    return torch.arange(low, high, dtype=torch.int16).reshape(1, 1, 1, -1)


def scaled(hu, window=WINDOW):
    return window_hu(window)({"image": hu})["image"]


def test_the_ends_of_the_window_are_minus_one_and_one():
    values = scaled(torch.tensor([-1000, 0, 1000], dtype=torch.int16).reshape(1, 3, 1, 1)).flatten()
    assert values.tolist() == [-1.0, 0.0, 1.0]


def test_what_lies_outside_the_window_is_clipped():
    values = scaled(torch.tensor([-3024, -2048, 1001, 3071], dtype=torch.int16).reshape(1, 4, 1, 1)).flatten()
    assert values.tolist() == [-1.0, -1.0, 1.0, 1.0]


@pytest.mark.parametrize("window", [(-1000.0, 1000.0), (-1024.0, 3071.0), (-150.0, 250.0), (-1000.5, 333.3)])
def test_values_are_those_of_monai_to_the_last_bit(window):
    every = ramp_of(-(2**15), 2**15)
    stock = ScaleIntensityRanged("image", *window, -1.0, 1.0, clip=True)
    assert isinstance(window_hu(window), ScaleIntensityRanged)
    assert torch.equal(scaled(every, window).as_subclass(torch.Tensor), stock({"image": every})["image"].as_tensor())


@pytest.mark.parametrize("block", [1, 7, 50, 2**18])
def test_blocks_and_strides_change_no_value(block, monkeypatch):
    monkeypatch.setattr("ctpa_vqgan.data.transforms.BLOCK", block)
    hu = torch.randint(-1100, 1100, (1, 4, 5, 7), dtype=torch.int16)
    expected = scaled(hu.clone()).as_subclass(torch.Tensor)
    for order in [(0, 3, 2, 1), (0, 2, 1, 3), (0, 1, 2, 3)]:
        back = [order.index(axis) for axis in range(4)]
        turned = hu.permute(order).contiguous().permute(back)
        values = scaled(turned)
        assert torch.equal(values.as_subclass(torch.Tensor), expected)
        assert values.stride()[1:] == turned.stride()[1:], "the order in memory stays"
        crop = scaled(turned[:, 1:3, 2:5, 1:6])
        assert torch.equal(crop.as_subclass(torch.Tensor), expected[:, 1:3, 2:5, 1:6])
        assert crop.untyped_storage().nbytes() == crop.nbytes


def test_scaling_leaves_the_volume_and_its_metadata_as_they_are():
    hu = MetaTensor(ramp_of(-1000, 1001), affine=torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0])))
    before = hu.clone()
    values = scaled(hu)
    assert torch.equal(hu, before)
    assert isinstance(values, MetaTensor)
    assert torch.equal(values.affine, hu.affine)


@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (1, 6, 4, 5), (1, 6, 7, 8)])
def test_padding_is_monais_but_for_the_order_in_memory(shape):
    hu = torch.randint(-1100, 1100, shape[::-1], dtype=torch.int16).permute(3, 2, 1, 0)
    stock = SpatialPadd("image", (5, 6, 7), method="end", mode="constant", constant_values=-1000)
    padded = PadWithAird("image", (5, 6, 7))({"image": hu})["image"]
    assert torch.equal(padded, stock({"image": hu})["image"].as_tensor())
    assert isinstance(PadWithAird("image", (5, 6, 7)), SpatialPadd)
    assert padded.stride()[1] == 1
    with_meta = PadWithAird("image", (5, 6, 7))({"image": MetaTensor(hu, meta={"note": "kept"})})["image"]
    assert with_meta.meta["note"] == "kept"


def test_scanner_padding_comes_back_as_air():
    assert to_hu(scaled(torch.full((1, 2, 2, 2), -2048, dtype=torch.int16)), WINDOW).unique().tolist() == [-1000]


@pytest.mark.parametrize("window", [(-1000.0, 1000.0), (-1024.0, 3071.0), (-150.0, 250.0)])
def test_every_hu_in_the_window_comes_back_as_it_was(window):
    low, high = map(int, window)
    hu = ramp_of(low, high + 1)
    back = to_hu(scaled(hu, window), window)
    assert back.dtype == torch.int16
    assert torch.equal(back.as_subclass(torch.Tensor), hu)


def test_what_a_network_overshoots_stays_in_the_window():
    assert to_hu(torch.tensor([-1.5, 1.5, 0.0003]), WINDOW).tolist() == [-1000, 1000, 0]


def test_half_precision_is_widened_before_it_is_scaled():
    value = torch.tensor([0.5], dtype=torch.bfloat16)
    assert to_hu(value, WINDOW).tolist() == [500]


def test_the_postprocessing_converts_its_keys_alone():
    item = ToHUd(keys="pred", hu_window=WINDOW)({"pred": torch.zeros(1, 2, 2, 2), "image": torch.ones(1, 2, 2, 2)})
    assert item["pred"].dtype == torch.int16
    assert item["image"].dtype == torch.float32


def test_a_patch_is_flipped_along_every_axis_and_nothing_else_happens_to_it():
    patch = torch.arange(-500, -500 + 2 * 3 * 4, dtype=torch.int16).reshape(1, 2, 3, 4)
    transform = prepare_patch(WINDOW)
    expected = {}
    for axes in [(), (1,), (2,), (3,), (1, 2), (1, 3), (2, 3), (1, 2, 3)]:
        expected[tuple((patch.flip(axes) / 1000.0).flatten().tolist())] = axes
    seen = set()
    for seed in range(60):
        transform.set_random_state(seed)
        values = transform({"image": patch})["image"]
        key = min(expected, key=lambda other: float((torch.tensor(other) - values.flatten()).abs().max()))
        torch.testing.assert_close(values.flatten(), torch.tensor(key))
        seen.add(expected[key])
    assert len(seen) == 8


def test_flips_keep_the_order_in_memory():
    patch = torch.arange(24, dtype=torch.int16).reshape(1, 4, 3, 2).permute(0, 3, 2, 1)
    transform = prepare_patch(WINDOW)
    for seed in range(8):
        transform.set_random_state(seed)
        assert transform({"image": patch})["image"].stride()[1:] == patch.stride()[1:]


def test_without_flips_a_patch_stays_as_it_is():
    patch = ramp_of(-1000, 1001)
    for _ in range(5):
        values = prepare_patch(WINDOW, flips=False)({"image": patch})["image"]
        torch.testing.assert_close(values, patch / 1000.0)


def test_a_patch_is_a_plain_float32_tensor():
    values = prepare_patch(WINDOW)({"image": ramp_of(-1000, 1001)})["image"]
    assert type(values) is torch.Tensor
    assert values.dtype == torch.float32


def test_a_volume_is_int16_with_a_channel(phantom_folder):
    volume = load_volume()({"image": str(phantom_folder / "phantom_00.nii.gz")})["image"]
    assert volume.shape == (1, 48, 44, 40)
    assert volume.dtype == torch.int16


def test_a_whole_volume_keeps_its_hu_beside_the_networks_input(phantom_folder):
    path = phantom_folder / "phantom_00.nii.gz"
    item = prepare_volume(WINDOW)({"image": str(path)})
    assert item["hu"].dtype == torch.int16
    np.testing.assert_array_equal(
        np.asarray(item["hu"])[0], np.asarray(nib.as_closest_canonical(nib.load(path)).dataobj)
    )
    torch.testing.assert_close(item["image"].as_tensor(), item["hu"].as_tensor().clamp(-1000, 1000) / 1000.0)
    assert "original_affine" in item["hu"].meta
