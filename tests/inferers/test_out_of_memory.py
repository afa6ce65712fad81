"""Whole volumes come out the same when memory runs out on the way."""

import logging

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.inferers import ExactTileInferer, VQGANInferer, exact, sliding
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.progress import progress_bar

MESSAGE = "CUDA out of memory. Tried to allocate 2.00 GiB.\nand so on"
WINDOW = (16, 16, 8)


def volume_of(*size: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Bounded(nn.Module):
    """A network that has memory for so many windows, from a certain call on."""

    factor = (4, 4, 4)

    def __init__(self, most, error=torch.OutOfMemoryError, after=0):
        super().__init__()
        self.most, self.error, self.after, self.batches = most, error, after, []

    def forward(self, x):
        self.batches.append(len(x))
        if len(self.batches) > self.after and len(x) > self.most:
            raise self.error(MESSAGE if self.error is torch.OutOfMemoryError else "can't allocate memory")
        return x.sin()


@pytest.fixture
def bars(monkeypatch):
    """The bars that were shown, as [total, done at the end]."""
    shown = []

    def watched(total, *args, **kwargs):
        bar = progress_bar(total, *args, **kwargs | {"show": False})
        shown.append([total, 0])
        monkeypatch.setattr(bar, "update", lambda n=1: shown[-1].__setitem__(1, shown[-1][1] + n))
        return bar

    monkeypatch.setattr(sliding, "progress_bar", watched)
    monkeypatch.setattr(exact, "progress_bar", watched)
    return shown


# -- windows -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, MemoryError, RuntimeError])
@pytest.mark.parametrize("after", [0, 3])
def test_the_batch_of_windows_halves_until_it_fits_and_the_result_is_the_same(error, after, caplog):
    x = volume_of(40, 30, 20, batch=2)
    expected = VQGANInferer(WINDOW)(x, Bounded(99))
    inferer, network = VQGANInferer(WINDOW, sw_batch_size=8), Bounded(2, error, after)
    with caplog.at_level(logging.WARNING):
        result = inferer(x, network)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    assert inferer.sw_batch_size == 2
    texts = [record.getMessage() for record in caplog.records]
    assert [f"sw_batch_size is now {size}" in text for size, text in zip((4, 2), texts)] == [True, True]
    assert len(texts) == 2
    assert all("\n" not in text for text in texts)


def test_a_trained_network_gives_the_same_reconstruction(caplog):
    torch.manual_seed(0)
    network, x = VQGAN(channels=(4, 8), num_embeddings=16, embedding_dim=4).eval(), volume_of(40, 33, 17)
    with torch.no_grad():
        expected = VQGANInferer(WINDOW, sw_batch_size=1)(x, network)
        whole, most = network.autoencode, 2

        def bounded(images):
            if len(images) > most:
                raise torch.OutOfMemoryError(MESSAGE)
            return whole(images)

        network.autoencode = bounded
        torch.testing.assert_close(VQGANInferer(WINDOW, sw_batch_size=6)(x, network), expected, rtol=0, atol=1e-5)


def test_later_volumes_begin_with_what_worked():
    inferer, network = VQGANInferer(WINDOW, sw_batch_size=8), Bounded(2)
    inferer(volume_of(40, 30, 20), network)
    network.batches.clear()
    inferer(volume_of(33, 30, 20), network)
    assert max(network.batches) == 2


def test_at_one_window_stitching_moves_to_the_cpu_for_good(monkeypatch, caplog):
    devices, stitch = [], sliding.sliding_window_inference

    def small_gpu(*args, device, **kwargs):
        devices.append(device)
        if device != "cpu":
            raise torch.OutOfMemoryError(MESSAGE)
        return stitch(*args, device=device, **kwargs)

    monkeypatch.setattr(sliding, "sliding_window_inference", small_gpu)
    x, inferer = volume_of(40, 30, 20), VQGANInferer(WINDOW, sw_batch_size=2, device="cuda")
    with caplog.at_level(logging.WARNING):
        result = inferer(x, Bounded(99))
    torch.testing.assert_close(result, x.sin(), rtol=0, atol=1e-5)
    inferer(x, Bounded(99))
    assert devices == ["cuda", "cuda", "cpu", "cpu"]
    assert "stitched on the CPU" in caplog.records[-1].getMessage()


def test_grown_windows_shrink_first_to_those_that_were_set(monkeypatch, caplog):
    torch.manual_seed(0)
    network, x = VQGAN(channels=(4, 8), num_embeddings=16, embedding_dim=4).eval(), volume_of(40, 33, 17)
    whole = network.autoencode

    def bounded(images):
        if images[0].numel() > 16 * 16 * 8:
            raise torch.OutOfMemoryError(MESSAGE)
        return whole(images)

    with torch.no_grad():
        expected = VQGANInferer(WINDOW, sw_batch_size=2)(x, network)
        network.autoencode = bounded
        inferer = VQGANInferer(WINDOW, sw_batch_size=2, memory_bytes=2**30)
        with caplog.at_level(logging.WARNING):
            torch.testing.assert_close(inferer(x, network), expected, rtol=0, atol=1e-5)
    assert inferer.sw_batch_size == 2
    assert "windows are now (16, 16, 8)" in caplog.records[-1].getMessage()


def test_when_nothing_is_left_to_lower_the_user_is_told_what_to_set():
    with pytest.raises(UserError) as error:
        VQGANInferer(WINDOW, sw_batch_size=4)(volume_of(40, 30, 20), Bounded(0))
    for word in ("(16, 16, 8)", "patch_size", "memory_gb", "sw_device"):
        assert word in str(error.value)
    assert "\n" not in str(error.value)


def test_another_error_stays_what_it_is():
    network = Bounded(0, error=lambda text: RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        VQGANInferer(WINDOW, sw_batch_size=4)(volume_of(40, 30, 20), network)
    assert network.batches == [4]


def test_the_bar_begins_again_and_ends_full(bars):
    VQGANInferer(WINDOW, sw_batch_size=4, progress=True)(volume_of(40, 30, 20), Bounded(2, after=2))
    assert bars[0] == [27, 8]
    assert bars[-1] == [27, 27]


# -- exact tiles -------------------------------------------------------------------------------------------------------


@pytest.fixture
def network():
    torch.manual_seed(0)
    return VQGAN(channels=(4, 8), num_embeddings=64, embedding_dim=4).double().eval()


def limit(monkeypatch, network, name, most, after=0):
    """Let a part of the network run out of memory for tiles of more than so many places, from a certain call on."""
    whole, calls = getattr(network, name), []

    def bounded(x):
        if isinstance(x, FakeTensor):  # the budget's count
            return whole(x)
        calls.append(tuple(x.shape[-3:]))
        if len(calls) > after and x[0].numel() > most:
            raise torch.OutOfMemoryError(MESSAGE)
        return whole(x)

    monkeypatch.setattr(network, name, bounded)
    return calls


@pytest.mark.parametrize("after", [0, 5])
@pytest.mark.parametrize("offset", [(0, 0, 0), (8, 4, 12)])
def test_codes_are_the_same_with_smaller_tiles(network, monkeypatch, caplog, offset, after):
    x = volume_of(60, 50, 39, batch=2).double()
    expected = ExactTileInferer(tile_size=(48, 48, 48)).encode(x, network)
    calls = limit(monkeypatch, network, "encode", 105_000, after)
    tiles = ExactTileInferer(tile_size=(48, 32, 32), offset=offset)
    latents = np.zeros((2, 4, 15, 13, 10))
    with caplog.at_level(logging.WARNING):
        codes = tiles.encode(x, network, latents=latents)
    assert torch.equal(codes, expected)
    assert torch.equal(network.quantizer.quantize(torch.from_numpy(latents)), expected)
    assert "tiles are now (24, 32, 32) voxels, not (48, 32, 32)" in caplog.records[0].getMessage()
    count = len(caplog.records)
    calls.clear()
    tiles.encode(x, network)
    assert len(caplog.records) == count, "later volumes keep the smaller core"


def test_a_file_that_was_half_written_is_written_again(network, monkeypatch, tmp_path):
    codes = ExactTileInferer().encode(volume_of(60, 50, 39).double(), network)
    expected = ExactTileInferer().decode(codes, network, out=torch.zeros(1, 1, 60, 50, 39, dtype=torch.float64))
    out = np.lib.format.open_memmap(tmp_path / "out.npy", "w+", np.float64, (1, 1, 60, 50, 39))
    calls = limit(monkeypatch, network, "decode_samples", 1600, after=3)
    tiles = ExactTileInferer(tile_size=(24, 24, 24))
    tiles.decode(codes, network, out=out)
    assert max(calls) > max(calls[-18:]), "it began with larger tiles"
    torch.testing.assert_close(torch.from_numpy(out), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(tiles.decode(codes, network)[..., :60, :50, :39], expected, rtol=0, atol=1e-12)


def test_tiles_of_a_budget_shrink_too(network, monkeypatch):
    x = volume_of(60, 50, 39).double()
    expected = ExactTileInferer().encode(x, network)
    limit(monkeypatch, network, "encode", 90_000)
    assert torch.equal(ExactTileInferer(memory_bytes=2**30).encode(x, network), expected)


def test_a_core_does_not_shrink_below_its_halo(network, monkeypatch):
    calls = limit(monkeypatch, network, "encode", 0)
    with pytest.raises(UserError) as error:
        ExactTileInferer(tile_size=(32, 32, 32)).encode(volume_of(60, 50, 39).double(), network)
    for word in ("memory_gb", "tile_size", "device"):
        assert word in str(error.value)
    # from 8 latent positions to no less than half the halo, axis by axis
    assert 3 <= len(calls) <= 10


def test_the_bar_of_tiles_begins_again_with_the_volumes_that_are_left(network, monkeypatch, bars):
    limit(monkeypatch, network, "encode", 40 * 40 * 40, after=3)
    ExactTileInferer(tile_size=(48, 48, 48), progress=True).encode(volume_of(48, 48, 48, batch=5).double(), network)
    assert bars[0] == [5, 3]
    assert bars[-1][0] == bars[-1][1] > 2
