"""Checkpoints of the baseline give its numbers here, and nothing in them runs."""

import pickle
import sys
import types
from pathlib import Path

import baseline_state as peer
import pytest
import torch

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.networks.baseline import load_baseline, read_baseline
from ctpa_vqgan.networks.lightning import read_checkpoint

ORACLE = Path(__file__).parents[3] / "shared/data/peer_oracle_factor2"
FACTORS = [(2, 2, 2), (4, 4, 4), (8, 8, 8), (2, 4, 4), (1, 4, 4), (8, 4, 2)]  # z, y, x
TURNED = (0, 1, 4, 3, 2)  # [B, C, z, y, x] to [B, C, x, y, z] and back


def write(path, state, settings=None):
    """A state_dict, or a Lightning checkpoint with plain settings."""
    content = state if settings is None else {"state_dict": state, "hyper_parameters": settings, "global_step": 40}
    torch.save(content, path / "peer.ckpt")
    return path / "peer.ckpt"


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
@pytest.mark.parametrize("downsample", FACTORS, ids=str)
def test_every_factor_gives_what_the_layers_one_by_one_do(downsample, tmp_path):
    state, x = peer.make_state(downsample), volume()
    network = load(write(tmp_path, state), downsample).double()
    state = {key: value.double() for key, value in state.items()}
    latents = peer.encode(state, x, downsample)
    codes = peer.codes(state, latents)
    assert len(codes.unique()) > 3, "a test of one code would be none"
    found = network.autoencode(x)
    torch.testing.assert_close(found.latents, latents, rtol=0, atol=1e-12)
    assert torch.equal(found.codes, codes)
    torch.testing.assert_close(found.reconstruction, peer.decode(state, codes, downsample), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("downsample", [(4, 4, 4), (8, 4, 2)], ids=str)
def test_the_network_for_x_y_z_is_the_one_for_z_y_x_with_axes_turned(downsample, tmp_path):
    path, x = write(tmp_path, peer.make_state(downsample)), volume()
    plain, turned = (load(path, downsample, axes).double() for axes in ("zyx", "xyz"))
    assert turned.factor == plain.factor[::-1]
    torch.testing.assert_close(turned(x.permute(TURNED)).permute(TURNED), plain(x), rtol=0, atol=1e-12)
    assert (turned(x) - plain(x)).abs().max() > 0.1, "kernels that are alike along all axes would show nothing"


@torch.no_grad()
@pytest.mark.parametrize("axes", ["zyx", "xyz"])
def test_discriminators_give_the_baselines_features_and_logits(axes, tmp_path):
    state, x = peer.make_state(critics=True, perceptual=True), volume(torch.float32)
    critics = read_baseline(write(tmp_path, state), axes, num_groups=peer.GROUPS).discriminators.eval()
    back = TURNED if axes == "xyz" else (0, 1, 2, 3, 4)
    for found, expected in zip(critics.volume(x.permute(back)), peer.judge(state, "video_discriminator", x)):
        torch.testing.assert_close(found.permute(back), expected)
    frame, back = x[:, :, 3], (0, 1, 3, 2) if axes == "xyz" else (0, 1, 2, 3)
    for found, expected in zip(critics.slices(frame.permute(back)), peer.judge(state, "image_discriminator", frame)):
        torch.testing.assert_close(found.permute(back), expected)


def test_one_discriminator_may_be_there_alone(tmp_path):
    state = peer.make_state(critics=True)
    state = {key: value for key, value in state.items() if not key.startswith("image_discriminator")}
    critics = read_baseline(write(tmp_path, state), num_groups=peer.GROUPS).discriminators
    assert critics.volume is not None and critics.slices is None


def test_training_goes_on_from_the_codes(tmp_path):
    # the baseline's resume puts random latents in the place of its codes
    state = peer.make_state()
    network = load(write(tmp_path, state), (4, 4, 4)).train()
    network(volume(torch.float32))
    network.quantizer.step()
    moved = (network.quantizer.embedding - state["codebook.embeddings"]).norm(dim=1)
    kept = moved < 0.2
    assert kept.float().mean() > 0.5, "codes follow by a hundredth of the way; only dead ones are placed anew"


@torch.no_grad()
def test_the_config_builds_the_imported_network_again(tmp_path):
    from monai.bundle import ConfigParser

    network = load(write(tmp_path, peer.make_state((8, 4, 2))), (8, 4, 2))
    again = ConfigParser({"network_def": network.config}).get_parsed_content("network_def").eval()
    again.load_state_dict(network.state_dict())
    x = volume(torch.float32)
    assert torch.equal(again(x), network(x))


# -- what the file tells, and what it does not -------------------------------------------------------------------------


def test_settings_tell_mixed_factors(tmp_path):
    settings = {"cfg": {"model": {"downsample": [2, 4, 4], "padding_type": "replicate"}, "dataset": {"name": "LIDC"}}}
    found = read_baseline(write(tmp_path, peer.make_state((2, 4, 4)), settings), num_groups=peer.GROUPS)
    assert found.network.factor == (4, 4, 2)
    assert found.settings["dataset"] == {"name": "LIDC"}
    assert found.assumptions == []


def test_what_a_state_dict_does_not_tell_is_assumed_aloud(tmp_path):
    found = read_baseline(write(tmp_path, peer.make_state(width=32)))
    assert (found.network.factor, found.network.config["num_groups"]) == ((4, 4, 4), 32)
    assert [text.split(":")[0] for text in found.assumptions] == ["factor", "groups of the norm", "padding"]


def test_the_setting_of_the_groups_is_not_what_the_baseline_computes(tmp_path):
    settings = {"cfg": {"model": {"num_groups": 8, "downsample": [4, 4, 4], "padding_type": "replicate"}}}
    found = read_baseline(write(tmp_path, peer.make_state(width=16), settings))
    assert found.network.config["num_groups"] == 32
    assert "32 (the file's settings say 8" in found.assumptions[0]
    narrow = read_baseline(
        write(tmp_path, peer.make_state(width=4), settings)
    )  # 8 channels: not by the baseline's code
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
    path = write(tmp_path, peer.make_state(), {"cfg": {"model": settings}})
    with pytest.raises(ValueError, match=message):
        load_baseline(path, **{"num_groups": peer.GROUPS, **options})


# -- refusals ----------------------------------------------------------------------------------------------------------


def test_unknown_missing_and_misshapen_keys_are_listed_together(tmp_path):
    state = peer.make_state()
    state["decoder.attention.weight"] = torch.zeros(3)
    del state["post_vq_conv.conv.bias"]
    state["codebook.N"] = torch.zeros(3)
    state["pre_vq_conv.conv.bias"] = 5
    with pytest.raises(UserError) as caught:
        load(write(tmp_path, state), (4, 4, 4))
    told = str(caught.value)
    assert "\n" not in told
    assert "unknown: decoder.attention.weight; missing: post_vq_conv.conv.bias; misshapen: " in told
    assert "pre_vq_conv.conv.bias (expected (3,), found int)" in told
    assert "codebook.N (expected (32,), found (3,))" in told


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {}, {"encoder.weight": torch.zeros(1)}, {1: 2}])
def test_a_file_of_something_else_is_refused_in_one_line(content, tmp_path):
    torch.save(content, tmp_path / "peer.ckpt")
    with pytest.raises(UserError, match=r"peer\.ckpt: expected a (Lightning checkpoint|VQ-GAN of TATS)"):
        load_baseline(tmp_path / "peer.ckpt")


def test_absent_and_damaged_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "peer.ckpt"
    with pytest.raises(UserError, match="no such checkpoint"):
        load_baseline(path)
    write(tmp_path, peer.make_state())
    for content in (path.read_bytes()[:5000], b"no checkpoint", b""):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"peer\.ckpt: damaged, or no file of torch\.save"):
            load_baseline(path)


class Touch:
    """Makes a file when it is unpickled in the ordinary way."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("where", ["hyper_parameters", "state_dict", "callbacks"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_hostile_checkpoint_runs_nothing(where, zipped, tmp_path):
    trap, path = tmp_path / "sprung", tmp_path / "peer.ckpt"
    content = {"state_dict": peer.make_state(), where: {"cfg": Touch(trap)}}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError) as caught:
        load_baseline(path)
    assert not trap.exists()
    assert "\n" not in str(caught.value)
    torch.load(path, weights_only=False)
    assert trap.exists(), "the trap is a trap"


def test_a_hostile_checkpoint_is_told_by_what_it_would_call(tmp_path):
    torch.save({"state_dict": {}, "hyper_parameters": Touch(tmp_path / "sprung")}, tmp_path / "peer.ckpt")
    with pytest.raises(UserError, match=r"found .*pathlib.*which could run code"):
        load_baseline(tmp_path / "peer.ckpt")


def test_a_plain_pickle_runs_nothing(tmp_path):
    (tmp_path / "peer.ckpt").write_bytes(pickle.dumps(Touch(tmp_path / "sprung"), protocol=2))
    with pytest.raises(UserError, match="damaged"):
        load_baseline(tmp_path / "peer.ckpt")
    assert not (tmp_path / "sprung").exists()


# -- the pickled tree of settings --------------------------------------------------------------------------------------


@pytest.fixture
def omegaconf(monkeypatch):
    """Classes that pickle under OmegaConf's names, and would tell if they came to life again; gone after writing."""
    made = {}

    def kind(module, name):
        def alive(self, state):
            raise AssertionError(f"{name} came to life")

        made[name] = type(name, (), {"__module__": module, "__setstate__": alive})
        home = sys.modules.get(module) or types.ModuleType(module)
        setattr(home, name, made[name])
        monkeypatch.setitem(sys.modules, module, home)

    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    for place in ("dictconfig.DictConfig", "listconfig.ListConfig", "nodes.AnyNode", "base.ContainerMetadata"):
        kind(f"omegaconf.{place.split('.')[0]}", place.split(".")[1])

    def tree(value, parent=None):
        name = {dict: "DictConfig", list: "ListConfig"}.get(type(value), "AnyNode")
        node = made[name].__new__(made[name])
        content = value
        if isinstance(value, dict):
            content = {key: tree(entry, node) for key, entry in value.items()}
        elif isinstance(value, list):
            content = [tree(entry, node) for entry in value]
        metadata = made["ContainerMetadata"].__new__(made["ContainerMetadata"])
        metadata.__dict__ |= {"object_type": dict, "key_type": int}
        node.__dict__ |= {
            "_metadata": metadata,
            "_parent": parent,
            "_content" if name != "AnyNode" else "_val": content,
        }
        return node

    return tree


def test_the_settings_of_lightning_are_read_without_omegaconf(omegaconf, tmp_path, monkeypatch):
    settings = {
        "model": {"downsample": [2, 4, 4], "lr": 3e-4, "i3d_feat": False, "resume": None},
        "dataset": {"name": "X"},
    }
    path = write(tmp_path, peer.make_state((2, 4, 4)), {"cfg": omegaconf(settings)})
    with monkeypatch.context() as without:
        for module in [name for name in sys.modules if name.startswith("omegaconf")]:
            without.delitem(sys.modules, module)
        assert read_checkpoint(path).config == {"cfg": settings}
        assert load_baseline(path, num_groups=peer.GROUPS).factor == (4, 4, 2)
        assert not any(name.startswith("omegaconf") for name in sys.modules)


def test_settings_that_hold_themselves_do_not_go_on_for_ever(omegaconf, tmp_path):
    tree = omegaconf({"model": {}})
    tree._content["model"] = tree
    path = write(tmp_path, peer.make_state(), {"cfg": tree})
    assert read_checkpoint(path).config == {"cfg": {"model": None}}
