"""Volumes stream: memory maps in and out, HU at both ends, and nothing is copied as a whole."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ctpa_vqgan.data import to_hu, window_hu
from ctpa_vqgan.inferers import ExactTileInferer, latent_grid
from ctpa_vqgan.networks import VQGAN

SIZE = (30, 21, 18)  # no multiples of 4
WINDOW = (-1000, 1000)
TILES = ExactTileInferer((16, 8, 8))
hu_after = partial(to_hu, hu_window=WINDOW)


def hu_before(tile: torch.Tensor) -> torch.Tensor:
    return window_hu(WINDOW)({"image": tile})["image"]


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = VQGAN(channels=(4, 6), num_embeddings=300, embedding_dim=4).double().eval()
    noise = torch.rand(1, 1, 32, 32, 20, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        network.quantizer.embedding.copy_(network.encode(noise)[0].flatten(1).T[:300])
    return network


@pytest.fixture(scope="module")
def hu():
    """[1, 1, H, W, D] int16, scanner padding included."""
    return np.random.default_rng(0).integers(-1200, 1200, (1, 1, *SIZE)).astype(np.int16)


@pytest.fixture(scope="module")
def codes(network, hu):
    return TILES.encode(torch.from_numpy(hu), network, before=hu_before)


def mapped(path, like: np.ndarray, order: str = "C", mode: str = "r") -> np.memmap:
    np.memmap(path, like.dtype, "w+", shape=like.shape, order=order)[:] = like
    return np.memmap(path, like.dtype, mode, shape=like.shape, order=order)


def test_hu_are_scaled_tile_by_tile_and_padded_with_air(network, hu, codes):
    scaled = hu_before(torch.from_numpy(hu)).double()
    padded = F.pad(scaled, (0, 2, 0, 3, 0, 2), value=-1.0)
    assert torch.equal(codes, network.index_quantize(padded))
    assert len(codes.unique()) > 50


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_read_only_memory_map_gives_the_same_codes_in_any_order(network, hu, codes, tmp_path, order, recwarn):
    source = mapped(tmp_path / "hu", hu, order)
    assert torch.equal(TILES.encode(source, network, before=hu_before), codes)
    assert not [w for w in recwarn if "not writable" in str(w.message)]


def test_a_step_that_works_in_place_leaves_the_volume_alone(network, hu):
    before = hu.copy()
    TILES.encode(hu, network, before=lambda tile: tile.div_(2, rounding_mode="floor").clamp(-1, 1))
    np.testing.assert_array_equal(hu, before)


def test_a_tile_is_all_that_is_ever_read(network, hu):
    seen = []
    TILES.encode(hu, network, before=lambda tile: seen.append(tuple(tile.shape)) or hu_before(tile))
    widest = [t + 2 * h * f for t, h, f in zip(TILES.tile_size, network.halo.encoder, network.factor)]
    assert all(side <= most for shape in seen for side, most in zip(shape[2:], widest))
    assert {shape[:2] for shape in seen} == {(1, 1)}


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.int64])
def test_codes_go_to_a_memory_map(network, hu, codes, tmp_path, dtype):
    out = np.memmap(tmp_path / "codes", dtype, "w+", shape=(1, *latent_grid(SIZE, network.factor)))
    assert TILES.encode(hu, network, out=out, before=hu_before) is out
    np.testing.assert_array_equal(out, codes.numpy())
    assert torch.equal(TILES.decode(out, network), TILES.decode(codes, network))


def test_decoded_hu_go_to_a_memory_map_of_the_original_size(network, hu, codes, tmp_path):
    out = mapped(tmp_path / "decoded", hu, "F", "r+")
    assert TILES.decode(codes, network, out=out, after=hu_after) is out
    expected = hu_after(network.decode_samples(codes))[..., : SIZE[0], : SIZE[1], : SIZE[2]]
    np.testing.assert_array_equal(out, expected.numpy())
    again = np.memmap(tmp_path / "decoded", np.int16, "r", shape=hu.shape, order="F")
    np.testing.assert_array_equal(again, out)


def test_encode_then_decode_is_what_a_call_does(network, hu, codes):
    called = TILES(torch.from_numpy(hu), network, before=hu_before, after=hu_after)
    assert (called.dtype, tuple(called.shape)) == (torch.int16, hu.shape)
    out = torch.empty(hu.shape, dtype=torch.int16)
    assert torch.equal(TILES.decode(codes, network, out=out, after=hu_after), called)


def test_continuous_latents_come_along_when_they_are_wanted(network, hu, codes):
    latents = torch.empty(1, 4, *codes.shape[1:], dtype=torch.float64)
    assert torch.equal(TILES.encode(hu, network, before=hu_before, latents=latents), codes)
    # quantized core by core or all at once
    assert torch.equal(network.quantizer.quantize(latents), codes)


def test_volumes_of_a_batch_are_encoded_one_by_one(network, hu, codes):
    both = np.concatenate([hu, hu[:, :, ::-1]])
    found = TILES.encode(torch.from_numpy(both), network, before=hu_before)
    assert torch.equal(found[:1], codes)
    assert torch.equal(found[1:], TILES.encode(torch.from_numpy(both[1:]), network, before=hu_before))


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_integers_without_a_scale_are_refused(network, hu, codes):
    with pytest.raises(ValueError, match=r"inputs are torch.int16; give before="):
        TILES.encode(hu, network)
    with pytest.raises(ValueError, match=r"out holds torch.int16 .* give after="):
        TILES.decode(codes, network, out=np.zeros_like(hu))


@pytest.mark.parametrize(
    ("out", "message"),
    [
        (np.zeros((1, 8, 6, 4), np.int64), r"out must have the shape \(1, 8, 6, 5\), found \(1, 8, 6, 4\)"),
        (np.zeros((1, 8, 6, 5), np.uint8), "out must hold integers up to 299, found torch.uint8"),
        (np.zeros((1, 8, 6, 5), np.float32), "out must hold integers up to 299, found torch.float32"),
        (np.broadcast_to(np.int64(0), (1, 8, 6, 5)), "out is read-only; open a memory map with mode='r\\+'"),
    ],
)
def test_a_place_for_codes_that_does_not_fit_is_refused(network, hu, out, message):
    with pytest.raises(ValueError, match=message):
        TILES.encode(hu, network, out=out, before=hu_before)


@pytest.mark.parametrize("size", [(28, 21, 18), (33, 21, 18), (30, 21, 21)])
def test_a_place_for_voxels_of_other_codes_is_refused(network, codes, size):
    with pytest.raises(ValueError, match=r"out must have \(H, W, D\) of \(32, 24, 20\) or less by under \(4, 4, 4\)"):
        TILES.decode(codes, network, out=torch.empty(1, 1, *size))


def test_codes_of_another_network_are_refused(network, codes):
    with pytest.raises(ValueError, match="codes must be 0 to 299 for this network, found 300 to 300"):
        TILES.decode(torch.full_like(codes, 300), network)
    with pytest.raises(ValueError, match=r"codes must be integers \[B, h, w, d\], found torch.float32"):
        TILES.decode(codes.float(), network)


def test_what_is_no_volume_or_no_tokenizer_is_refused(network):
    with pytest.raises(ValueError, match=r"inputs must be volumes \[B, C, H, W, D\], found shape \(1, 8, 8, 8\)"):
        TILES.encode(torch.zeros(1, 8, 8, 8), network)
    with pytest.raises(ValueError, match="found Identity; VQGANInferer blends windows of any network"):
        TILES.encode(torch.zeros(1, 1, 8, 8, 8), torch.nn.Identity())
