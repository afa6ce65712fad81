"""Random networks, volumes and tiles give what the whole gives; what others do does not. Short form of a benchmark."""

import itertools

import numpy as np
import pytest
import torch
from exact_tiling import ForcedHalo, compare, deviation, random_campaign, random_case, whole

from ctpa_vqgan.inferers import ExactTileInferer, VQGANInferer
from ctpa_vqgan.networks import VQGAN


def test_in_float64_any_tiles_of_any_network_give_the_same_codes_and_voxels():
    found = random_campaign(itertools.count(), voxels=1e4, dtype=torch.float64, num_codes=2500, num_cases=4)
    assert found["different"] == 0
    assert found["max_hu"] < 1e-6


def test_in_float32_codes_differ_at_most_where_two_are_equally_near():
    found = random_campaign(itertools.count(100), voxels=5e4, dtype=torch.float32, num_codes=1e4, num_cases=2)
    assert found["different"] <= found["codes"] * 1e-4
    assert found["gap"] < 1e-5
    assert found["max_hu"] < 0.02


@pytest.mark.parametrize("seed", [0, 5, 11])
def test_another_offset_changes_nothing(seed):
    network, volume, tiles = random_case(np.random.default_rng(seed), voxels=8e3)
    network, volume = network.double(), volume.double()
    shifted = ExactTileInferer(tiles.tile_size, offset=[o + f for o, f in zip(tiles.offset, network.factor)])
    codes = tiles.encode(volume, network)
    assert torch.equal(codes, shifted.encode(volume, network))
    torch.testing.assert_close(tiles.decode(codes, network), shifted.decode(codes, network), rtol=0, atol=1e-9)


@pytest.fixture(scope="module")
def volume():
    return torch.rand(1, 1, 64, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1


def network_of(kind, **kwargs):
    torch.manual_seed(0)
    network = kind(channels=(8, 8), num_embeddings=64, embedding_dim=4, **kwargs).eval()
    with torch.no_grad():
        latents = network.encode(torch.rand(1, 1, 16, 16, 16) * 2 - 1)
        network.quantizer.embedding.copy_(latents[0].flatten(1).T)
    return network


def test_group_norm_fails_the_same_test_with_any_halo(volume):
    tiles = ExactTileInferer((32, 32, 32))
    exact, group = network_of(VQGAN), network_of(ForcedHalo, norm="group")
    found = compare(exact, volume, tiles, whole(exact, volume))
    assert (found["different"], found["max_hu"] < 0.02) == (0, True)
    found = compare(group, volume, tiles, whole(group, volume))
    assert found["different"] > 0.001 * found["codes"]
    assert found["gap"] > 1e-3
    assert found["max_hu"] > 0.5


@torch.no_grad()
def test_gaussian_windows_fail_the_same_test(volume):
    network = network_of(VQGAN)
    _, _, expected = whole(network, volume)
    assert deviation(ExactTileInferer((32, 32, 32))(volume, network), expected)["max_hu"] < 0.02
    assert deviation(VQGANInferer((32, 32, 32))(volume, network), expected)["max_hu"] > 10
