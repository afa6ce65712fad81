"""Exact tiles: the codes and the voxels of the whole volume, tile by tile."""

import pytest
import torch
from monai.data import MetaTensor

from ctpa_vqgan.inferers import ExactTileInferer, TooLargeForOneTile, exact
from ctpa_vqgan.inferers.sliding import pad_to_multiple
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.networks.blocks import UnboundedReceptiveField


def make_network(channels=(4, 6), factor=(4, 4, 4), front_end="space_to_depth", **kwargs):
    torch.manual_seed(0)
    network = VQGAN(channels=channels, factor=factor, front_end=front_end, num_embeddings=64, embedding_dim=4, **kwargs)
    # spread the codes over the latents, so that a small error would choose another one
    with torch.no_grad():
        latents = network.encode(torch.rand(1, 1, 32, 32, 32) * 2 - 1).movedim(1, -1).flatten(0, -2)
        network.quantizer.embedding.copy_(latents[torch.randperm(len(latents))[torch.arange(64) % len(latents)]])
    return network.eval()


def volume_of(*size: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1


@torch.no_grad()
@pytest.mark.parametrize(
    ("architecture", "size", "tile_size"),
    [
        # tiles narrower than the halo, and a remainder along each axis
        ({}, (44, 28, 20), (8, 16, 8)),
        ({"front_end": "haar", "num_res_blocks": (1, 2)}, (40, 20, 20), (16, 12, 8)),
        ({"num_res_blocks": 0}, (36, 20, 12), (4, 4, 4)),
        # sides that are no multiple of the factor are padded first
        ({}, (41, 27, 18), (16, 16, 16)),
        ({"channels": (4, 4, 4), "front_end": "none"}, (32, 10, 9), (8, 8, 8)),
        ({"factor": (4, 4, 2)}, (39, 20, 11), (16, 8, 6)),
        ({"factor": (4, 2, 1), "front_end": "haar"}, (35, 15, 7), (8, 8, 3)),
        ({"factor": (8, 8, 4), "channels": (4, 4, 4)}, (60, 24, 12), (16, 16, 8)),
        ({"factor": (2, 2, 2), "channels": (4,)}, (21, 16, 9), (6, 8, 4)),
        # a tile larger than the volume
        ({}, (20, 20, 20), (64, 64, 64)),
    ],
)
def test_tiles_give_the_codes_and_voxels_of_the_whole(architecture, size, tile_size):
    network, x = make_network(**architecture).double(), volume_of(*size, batch=2)
    whole = pad_to_multiple(x, network.factor, -1.0)
    inferer = ExactTileInferer(tile_size)
    codes = inferer.encode(x, network)
    assert torch.equal(codes, network.index_quantize(whole))
    assert len(codes.unique()) > 8  # the comparison means something
    volume = inferer.decode(codes, network)
    torch.testing.assert_close(volume, network(whole), rtol=0, atol=1e-9)
    cropped = inferer(x, network)
    assert cropped.shape == x.shape
    torch.testing.assert_close(cropped, network(whole)[(..., *(slice(s) for s in size))], rtol=0, atol=1e-9)


@torch.no_grad()
def test_one_latent_less_halo_would_not_do():
    network, x = make_network().double(), volume_of(64, 16, 16)
    halo, whole = network.halo, network.encode(x)
    tile = network.encode(x[..., : 32 + 4 * (halo.encoder[0] - 1), :, :])[..., :8, :, :]
    assert (tile != whole[..., :8, :, :]).any()
    enough = network.encode(x[..., : 32 + 4 * halo.encoder[0], :, :])[..., :8, :, :]
    torch.testing.assert_close(enough, whole[..., :8, :, :], rtol=0, atol=1e-12)


@torch.no_grad()
def test_float32_tiles_are_close_to_the_whole():
    network, x = make_network(), volume_of(44, 28, 20).float()
    inferer = ExactTileInferer((16, 16, 16))
    codes = inferer.encode(x, network)
    assert (codes == network.index_quantize(x)).float().mean() > 0.999
    torch.testing.assert_close(inferer.decode(codes, network), network.decode_samples(codes), rtol=0, atol=1e-5)


def test_another_tile_size_changes_nothing():
    network, x = make_network().double(), volume_of(44, 28, 20)
    small, large = ExactTileInferer((8, 8, 8)), ExactTileInferer((32, 16, 24))
    codes = small.encode(x, network)
    assert torch.equal(codes, large.encode(x, network))
    torch.testing.assert_close(small.decode(codes, network), large.decode(codes, network), rtol=0, atol=1e-9)


def test_a_network_in_training_learns_nothing_from_it():
    network, x = make_network().train(), volume_of(20, 20, 20).float()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    ExactTileInferer((8, 8, 8))(x, network)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_a_meta_tensor_keeps_its_affine_and_its_codes_have_none():
    network = make_network()
    x = MetaTensor(volume_of(21, 20, 20).float(), affine=torch.diag(torch.tensor([0.7, 0.7, 0.6, 1.0])))
    inferer = ExactTileInferer((16, 16, 16))
    y = inferer(x, network)
    assert isinstance(y, MetaTensor)
    assert torch.equal(y.affine, x.affine)
    assert torch.equal(y.as_tensor(), inferer(x.as_tensor(), network))
    assert not isinstance(inferer.encode(x, network), MetaTensor)  # the voxels' affine would be wrong for them


def test_group_norm_is_refused_with_the_way_out():
    network = make_network(channels=(8, 8), norm="group")
    inferer = ExactTileInferer((16, 16, 16))
    for work in (
        lambda: inferer.encode(torch.zeros(1, 1, 32, 32, 32), network),
        lambda: inferer.decode(torch.zeros(1, 8, 8, 8, dtype=torch.int64), network),
    ):
        with pytest.raises(UnboundedReceptiveField, match="use norm='rms' for exact tiles"):
            work()


@torch.no_grad()
@pytest.mark.parametrize("budget", [{"tile_size": (16, 16, 16), "offset": (4, 8, 0)}, {"memory_bytes": 10**9}, {}])
def test_group_norm_gets_the_whole_volume_as_one_tile_where_that_is_allowed(budget):
    network = make_network(channels=(8, 8), norm="group")
    volume = torch.rand(1, 1, 32, 24, 20) * 2 - 1
    inferer = ExactTileInferer(**budget, allow_whole=True)
    codes = inferer.encode(volume, network)
    assert torch.equal(codes, network.index_quantize(volume))
    torch.testing.assert_close(inferer.decode(codes, network), network.decode_samples(codes))


def test_a_whole_volume_too_large_for_one_tile_is_refused_with_the_way_out():
    network = make_network(channels=(8, 8), norm="group")
    volume = torch.zeros(1, 1, 1, 1, 1).expand(1, 1, 1536, 1536, 1536)  # takes no memory
    codes = torch.zeros((), dtype=torch.int16).expand(1, 384, 384, 384)
    with pytest.raises(TooLargeForOneTile, match=r"\(1536, 1536, 1536\) voxels are too many.*by windows"):
        ExactTileInferer(allow_whole=True).encode(volume, network, out=codes)


def test_a_whole_volume_that_memory_has_no_room_for_is_refused_before_it_is_tried(monkeypatch):
    network = make_network(channels=(8, 8), norm="group")
    monkeypatch.setattr(exact, "free_host_bytes", lambda: 2.0**12)
    for work in (
        lambda inferer: inferer.encode(torch.zeros(1, 1, 32, 32, 32), network),
        lambda inferer: inferer.decode(torch.zeros(1, 8, 8, 8, dtype=torch.int64), network),
    ):
        with pytest.raises(
            TooLargeForOneTile, match=r"\(32, 32, 32\) voxels need .* GiB to .*code as one tile.*by windows"
        ):
            work(ExactTileInferer(allow_whole=True))


@pytest.mark.parametrize("tile_size", [(16, 16, 6), (16, 16, 0), (16, 16)])
def test_a_tile_size_that_does_not_fit_the_factor_is_refused(tile_size):
    with pytest.raises(ValueError, match=r"must be 3 multiples of the compression factor \(4, 4, 4\)"):
        ExactTileInferer(tile_size).encode(torch.zeros(1, 1, 32, 32, 32), make_network())


# -- precision ---------------------------------------------------------------------------------------------------------


def tf32_flags() -> list[str]:
    backends = torch.backends
    knobs = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    return [knob.fp32_precision for knob in knobs]


@pytest.mark.parametrize(
    ("precision", "flags"), [("float32", ["ieee"] * 4), ("tf32", ["tf32", *["ieee"] * 3]), ("bf16", ["ieee"] * 4)]
)
def test_flags_are_set_for_a_tile_and_put_back(precision, flags):
    network, before, seen = make_network(), tf32_flags(), []
    handle = network.encoder[0].register_forward_hook(lambda *_: seen.append(tf32_flags()))
    codes = ExactTileInferer((16, 16, 16), precision=precision).encode(volume_of(8, 8, 8).float(), network)
    handle.remove()
    assert seen == [flags]
    assert tf32_flags() == before
    assert codes.shape == (1, 2, 2, 2)


def test_flags_are_put_back_after_an_error_too():
    before = tf32_flags()
    with pytest.raises(RuntimeError):
        ExactTileInferer().encode(torch.zeros(1, 2, 8, 8, 8), make_network())  # a channel too many
    assert tf32_flags() == before


@torch.no_grad()
def test_float32_stays_float32_inside_autocast():
    network, x = make_network(), volume_of(20, 20, 20).float()
    inferer = ExactTileInferer((16, 16, 16))
    codes = inferer.encode(x, network)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(inferer.encode(x, network), codes)
        assert torch.equal(inferer.decode(codes, network), ExactTileInferer((16, 16, 16)).decode(codes, network))


@torch.no_grad()
def test_bf16_is_close_and_not_the_same():
    network, x = make_network(), volume_of(8, 8, 8).float()
    exact, rough = ExactTileInferer(), ExactTileInferer(precision="bf16")
    latents = [torch.empty(1, 4, 2, 2, 2), torch.empty(1, 4, 2, 2, 2)]
    codes = exact.encode(x, network, latents=latents[0])
    rough.encode(x, network, latents=latents[1])
    assert 0 < (latents[0] - latents[1]).abs().max() < 0.05
    decoded, roughly = exact.decode(codes, network), rough.decode(codes, network)
    assert roughly.dtype == torch.float32
    assert 0 < (decoded - roughly).abs().max() < 0.1


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="precision must be one of float32, bf16, tf32, found 'fp16'"):
        ExactTileInferer(precision="fp16")


def test_the_bar_tells_the_precision(capsys):
    ExactTileInferer((16, 16, 16), progress=True).encode(volume_of(8, 8, 8).float(), make_network())
    assert "encode, float32" in capsys.readouterr().err


@pytest.mark.parametrize("offset", [(4, 2, 0), (4, 4), (-4, 0, 0)])
def test_an_offset_that_does_not_fit_the_factor_is_refused(offset):
    with pytest.raises(ValueError, match=r"offset .* must be 3 multiples of the compression factor \(4, 4, 4\)"):
        ExactTileInferer((16, 16, 16), offset=offset).encode(torch.zeros(1, 1, 32, 32, 32), make_network())
