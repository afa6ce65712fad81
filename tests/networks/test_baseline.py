"""Checkpoints of the baseline give its numbers here, and what they do not tell is assumed aloud."""

import argparse
from pathlib import Path

import baseline_state as peer
import pytest
import torch

from ctpa_vqgan.inferers import ExactTileInferer
from ctpa_vqgan.networks import baseline
from ctpa_vqgan.networks.baseline import load_baseline, read_baseline

ORACLE = Path(__file__).parents[3] / "shared/data/peer_oracle_factor2"
FACTORS = [(2, 2, 2), (4, 4, 4), (8, 8, 8), (2, 4, 4), (1, 4, 4), (8, 4, 2)]  # z, y, x
TURNED = (0, 1, 4, 3, 2)  # [B, C, z, y, x] to [B, C, x, y, z] and back


def load(path, downsample, axes="zyx"):
    return load_baseline(path, axes, downsample if axes == "zyx" else downsample[::-1], num_groups=peer.GROUPS)


def volume(dtype=torch.float64):
    return torch.rand(1, 1, 8, 16, 24, dtype=dtype, generator=torch.Generator().manual_seed(1)) * 2 - 1


# -- its numbers -------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.skipif(not ORACLE.is_dir(), reason="tensors of the baseline itself are not part of the repository")
@pytest.mark.parametrize("axes", ["zyx", "xyz"])
def test_the_baselines_own_tensors_come_out_again(axes):
    def told(name):
        return torch.load(ORACLE / f"{name}.pt", weights_only=True)

    def turned(array):
        return array if axes == "zyx" else array.permute(TURNED)

    network, latents = load_baseline(ORACLE / "state_dict.pt", axes), told("latents")
    found = network.autoencode(turned(told("input")))
    torch.testing.assert_close(turned(found.latents), latents["z"], rtol=0, atol=1e-5)
    assert torch.equal(turned(found.codes[None])[0], latents["indices"])
    torch.testing.assert_close(turned(found.reconstruction), told("output"), rtol=0, atol=1e-5)
    torch.testing.assert_close(0.25 * found.commitment, latents["commitment"], rtol=0, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=["64", "32"])
@pytest.mark.parametrize("downsample", FACTORS, ids=str)
def test_every_factor_gives_what_the_layers_one_by_one_do(downsample, dtype, tolerance, tmp_path):
    state, x = peer.make_state(downsample), volume(dtype)
    path = peer.write(tmp_path, state)
    state = {key: value.to(dtype) for key, value in state.items()}
    latents = peer.encode(state, x, downsample)
    codes = peer.codes(state, latents)
    output = peer.decode(state, codes, downsample)
    assert len(codes.unique()) > 3, "a test of one code would be none"
    for axes, back in (("zyx", (0, 1, 2, 3, 4)), ("xyz", TURNED)):
        found = load(path, downsample, axes).to(dtype).autoencode(x.permute(back))
        # float32 sums in another order differ by what the numbers' size makes of its last digits
        close(found.latents.permute(back), latents, tolerance)
        assert torch.equal(found.codes[:, None].permute(back)[:, 0], codes)
        close(found.reconstruction.permute(back), output, tolerance)


def close(found, expected, tolerance):
    """Within ``tolerance`` of the largest of the expected numbers."""
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * expected.abs().max().item())


@torch.no_grad()
def test_axes_are_told_apart(tmp_path):
    path, x = peer.write(tmp_path, peer.make_state()), volume(torch.float32)
    plain, turned = (load(path, (4, 4, 4), axes) for axes in ("zyx", "xyz"))
    assert (turned(x) - plain(x)).abs().max() > 0.1, "kernels that are alike along all axes would show nothing"


@torch.no_grad()
def test_batch_norm_keeps_its_statistics_and_leaves_tiles_equal_to_the_whole(tmp_path):
    state, x = peer.make_state(batch_norm=True), volume()
    found = read_baseline(peer.write(tmp_path, state), "zyx", (4, 4, 4))
    state = {key: value.double() for key, value in state.items()}
    codes = peer.codes(state, peer.encode(state, x, (4, 4, 4)))
    network = found.network.double().train()
    close(network(x), peer.decode(state, codes, (4, 4, 4)), 1e-13)
    assert torch.equal(network.encoder[-1].activation[0].running_mean, state["encoder.final_block.0.running_mean"])
    assert torch.equal(ExactTileInferer((4, 8, 8)).encode(x, network.eval()), codes)
    assert "norm: batch norm, whose statistics stay as the file has them" in " ".join(found.assumptions)
    with pytest.raises(ValueError, match="num_groups: expected none, as the file has batch norm, found 4"):
        load_baseline(tmp_path / "peer.ckpt", num_groups=4)


@torch.no_grad()
@pytest.mark.parametrize(("axes", "most"), [("zyx", 512), ("xyz", 512), ("xyz", 8)])
def test_discriminators_give_the_baselines_features_and_logits(axes, most, tmp_path, monkeypatch):
    monkeypatch.setattr(baseline, "MOST_CHANNELS", most)
    state, x = peer.make_state(critics=True, perceptual=True, most_channels=most), volume(torch.float32)
    critics = read_baseline(peer.write(tmp_path, state), axes, num_groups=peer.GROUPS).discriminators.eval()
    back = TURNED if axes == "xyz" else (0, 1, 2, 3, 4)
    for found, expected in zip(critics.volume(x.permute(back)), peer.judge(state, "video_discriminator", x)):
        torch.testing.assert_close(found.permute(back), expected)
    frame, back = x[:, :, 3], (0, 1, 3, 2) if axes == "xyz" else (0, 1, 2, 3)
    for found, expected in zip(critics.slices(frame.permute(back)), peer.judge(state, "image_discriminator", frame)):
        torch.testing.assert_close(found.permute(back), expected)


def test_one_discriminator_may_be_there_alone(tmp_path):
    state = peer.make_state(critics=True)
    state = {key: value for key, value in state.items() if not key.startswith("image_discriminator")}
    critics = read_baseline(peer.write(tmp_path, state), num_groups=peer.GROUPS).discriminators
    assert critics.volume is not None and critics.slices is None


def test_training_goes_on_from_the_codes(tmp_path):
    # the baseline's resume puts random latents in the place of its codes
    state = peer.make_state()
    network = load(peer.write(tmp_path, state), (4, 4, 4)).train()
    network(volume(torch.float32))
    network.quantizer.step()
    moved = (network.quantizer.embedding - state["codebook.embeddings"]).norm(dim=1)
    kept = moved < 0.2
    assert kept.float().mean() > 0.5, "codes follow by a hundredth of the way; only dead ones are placed anew"


@torch.no_grad()
def test_the_config_builds_the_imported_network_again(tmp_path):
    from monai.bundle import ConfigParser

    network = load(peer.write(tmp_path, peer.make_state((8, 4, 2))), (8, 4, 2))
    again = ConfigParser({"network_def": network.config}).get_parsed_content("network_def").eval()
    again.load_state_dict(network.state_dict())
    x = volume(torch.float32)
    assert torch.equal(again(x), network(x))


# -- what the file tells, and what it does not -------------------------------------------------------------------------


def test_settings_tell_mixed_factors(tmp_path):
    settings = {"cfg": {"model": {"downsample": [2, 4, 4], "padding_type": "replicate"}, "dataset": {"name": "LIDC"}}}
    found = read_baseline(peer.write(tmp_path, peer.make_state((2, 4, 4)), settings), num_groups=peer.GROUPS)
    assert found.network.factor == (4, 4, 2)
    assert found.settings["dataset"] == {"name": "LIDC"}
    assert found.assumptions == []


def test_the_command_line_that_tats_keeps_tells_too(tmp_path):
    told = argparse.Namespace(downsample=(2, 4, 4), norm_type="group", padding_type="replicate", gpus=8)
    found = read_baseline(peer.write(tmp_path, peer.make_state((2, 4, 4)), {"args": told}), num_groups=peer.GROUPS)
    assert (found.network.factor, found.assumptions) == ((4, 4, 2), [])


def test_what_a_state_dict_does_not_tell_is_assumed_aloud(tmp_path):
    found = read_baseline(peer.write(tmp_path, peer.make_state(width=32)))
    assert (found.network.factor, found.network.config["num_groups"]) == ((4, 4, 4), 32)
    assert [text.split(":")[0] for text in found.assumptions] == ["factor", "groups of the norm", "padding"]


def test_the_setting_of_the_groups_is_not_what_the_baseline_computes(tmp_path):
    settings = {"cfg": {"model": {"num_groups": 8, "downsample": [4, 4, 4], "padding_type": "replicate"}}}
    found = read_baseline(peer.write(tmp_path, peer.make_state(width=16), settings))
    assert found.network.config["num_groups"] == 32
    assert "32 (the file's settings say 8" in found.assumptions[0]
    # 8 channels: not by the baseline's code
    narrow = read_baseline(peer.write(tmp_path, peer.make_state(width=4), settings))
    assert narrow.network.config["num_groups"] == 8


@pytest.mark.parametrize(
    ("settings", "options", "message"),
    [
        ({"norm_type": "batch"}, {}, "norm_type: expected group, found 'batch'"),
        ({"padding_type": "reflect"}, {}, "padding_type: expected replicate, found 'reflect'"),
        ({"downsample": [4, 4, 4]}, {"factor": (4, 4, 2)}, r"expected \(4, 4, 4\) by the file's settings"),
        ({}, {"factor": (8, 4, 4)}, r"expected 4 on at least one axis.*\(2 halvings\), found \(8, 4, 4\) in xyz"),
        ({}, {"factor": (3, 4, 4)}, "factor must be three powers of two"),
        ({}, {"num_groups": 3}, r"expected a divisor of the widths \[8, 16\], found 3"),
        ({}, {"num_groups": None}, r"expected a divisor of the widths \[8, 16\], found 32.*--num-groups"),
        ({}, {"axes": "xzy"}, "axes: expected one of xyz, zyx, found 'xzy'"),
    ],
)
def test_settings_that_this_network_has_not_are_refused(settings, options, message, tmp_path):
    path = peer.write(tmp_path, peer.make_state(), {"cfg": {"model": settings}})
    with pytest.raises(ValueError, match=message):
        load_baseline(path, **{"num_groups": peer.GROUPS, **options})
