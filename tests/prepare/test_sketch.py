"""Sketches find what shares voxels, wherever it lies, and nothing else."""

import numpy as np
import pytest

from ctpa_vqgan.data.phantom import make_phantom
from ctpa_vqgan.prepare import sketch as module
from ctpa_vqgan.prepare.sketch import SIZE, find_pairs, shared_fraction, sketch


def tissue(seed=0, shape=(72, 70, 68)):
    """Noise about water: content everywhere."""
    return np.random.default_rng(seed).normal(20, 60, shape).round().astype(np.int16)


@pytest.fixture(scope="module")
def whole():
    return tissue()


def test_the_layout_in_memory_does_not_matter(whole):
    expected = sketch(whole)
    assert len(expected) == SIZE
    assert sketch(np.asfortranarray(whole)) == expected
    assert sketch(np.ascontiguousarray(whole[::-1, ::-1])[::-1, ::-1]) == expected
    assert sketch(np.ascontiguousarray(whole.transpose(1, 2, 0)).transpose(2, 0, 1)) == expected


def test_the_size_of_the_pieces_in_which_it_is_read_does_not_matter(whole, monkeypatch):
    expected = sketch(whole)
    monkeypatch.setattr(module, "_SLAB_VOXELS", 3 * whole[0].size)
    assert sketch(whole) == expected


def test_padding_and_what_it_is_made_of_do_not_matter(whole):
    expected = sketch(whole)
    for padding in (-1000, -1024, -3024):
        assert sketch(np.pad(whole, ((9, 0), (4, 7), (1, 3)), constant_values=padding)) == expected


@pytest.mark.parametrize("crop", [np.s_[:40], np.s_[5:61, 11:, 3:67], np.s_[:, :, 50:]])
def test_a_crop_at_any_place_is_shared_as_a_whole(whole, crop):
    assert shared_fraction(sketch(whole), sketch(whole[crop])) == 1


def test_the_share_of_overlapping_crops_is_estimated(whole):
    # 24 of 48 slices, less one on either side whose neighbours are cut off
    found = shared_fraction(sketch(whole[:48]), sketch(whole[24:]))
    assert found == pytest.approx(22 / 46, abs=0.08)


def test_a_crop_of_a_phantom_is_found(phantom):
    volume = phantom.volume
    assert find_pairs({"a": sketch(volume[:30]), "b": sketch(volume[10:, 5:])})[0][:2] == ("a", "b")


def test_different_patients_share_nothing(phantom):
    others = [make_phantom((48, 48, 40), (7.5, 7.5, 9.0), seed=seed, noise_hu=0).volume for seed in (1, 2)]
    sketches = {str(i): sketch(volume) for i, volume in enumerate([phantom.volume, *others])}
    assert min(map(len, sketches.values())) > 100
    assert find_pairs(sketches, min_share=0) == []


@pytest.mark.parametrize("hu", [-3024, -1024, -1000, 8, 40])
def test_even_regions_and_their_edges_have_no_content(hu):
    voxels = np.full((40, 40, 40), hu, np.int16)
    voxels[10:20, 5:30, 8:25] = 72
    assert sketch(voxels) == []


def test_air_has_no_content():
    assert sketch(tissue() - np.int16(1020)) == []


def test_an_even_volume_and_a_slice_have_a_sketch_too():
    assert len(sketch(tissue() // 2 * 2)) == SIZE
    assert sketch(tissue(shape=(40, 40, 1))) == []
    assert shared_fraction([], []) == 0


def test_numbers_survive_json_readers_that_know_doubles_only(whole):
    numbers = sketch(whole)
    assert all(type(number) is int and int(float(number)) == number for number in numbers)
    assert numbers == sorted(set(numbers))


def test_pairs_come_with_the_largest_share_first(whole):
    other = tissue(1)
    sketches = {"a": whole[:48], "none": other, "b": whole[24:], "c": whole[30:]}
    pairs = find_pairs({case: sketch(voxels) for case, voxels in sketches.items()})
    assert [pair[:2] for pair in pairs] == [("b", "c"), ("a", "b"), ("a", "c")]
    assert pairs[0][2] == 1


def test_many_copies_are_all_found_without_comparing_all_with_all(whole, monkeypatch):
    compared = []
    share = shared_fraction
    monkeypatch.setattr(module, "shared_fraction", lambda a, b: compared.append(1) or share(a, b))
    numbers = sketch(whole)
    pairs = find_pairs({f"case {i}": numbers for i in range(100)})
    assert {case for pair in pairs for case in pair[:2]} == {f"case {i}" for i in range(100)}
    assert len(compared) < 200


def test_unrelated_volumes_are_never_compared(monkeypatch):
    monkeypatch.delattr(module, "shared_fraction")
    random = np.random.default_rng(0)
    assert find_pairs({str(i): sorted(random.integers(0, 1 << 48, 50).tolist()) for i in range(200)}) == []
    assert find_pairs({}) == []
