"""Checkpoints of others are read without running anything that they hold."""

import pickle
import sys
import types
from pathlib import Path

import baseline_state as peer
import pytest
import torch

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.networks.baseline import load_baseline
from ctpa_vqgan.networks.lightning import read_checkpoint


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {}, {"encoder.weight": torch.zeros(1)}, {1: 2}])
def test_a_file_of_something_else_is_refused_in_one_line(content, tmp_path):
    torch.save(content, tmp_path / "peer.ckpt")
    with pytest.raises(UserError, match=r"peer\.ckpt: expected a (Lightning checkpoint|VQ-GAN of TATS)"):
        load_baseline(tmp_path / "peer.ckpt")


def test_absent_and_damaged_files_are_refused_in_one_line(tmp_path):
    path = tmp_path / "peer.ckpt"
    for absent, found in ((path, "nothing"), (tmp_path, "a folder")):
        with pytest.raises(UserError, match=f"expected a checkpoint file, found {found}"):
            load_baseline(absent)
    peer.write(tmp_path, peer.make_state())
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
    path = peer.write(tmp_path, peer.make_state((2, 4, 4)), {"cfg": omegaconf(settings)})
    with monkeypatch.context() as without:
        for module in [name for name in sys.modules if name.startswith("omegaconf")]:
            without.delitem(sys.modules, module)
        assert read_checkpoint(path).config == {"cfg": settings}
        assert load_baseline(path, num_groups=peer.GROUPS).factor == (4, 4, 2)
        assert not any(name.startswith("omegaconf") for name in sys.modules)


def test_settings_that_hold_themselves_do_not_go_on_for_ever(omegaconf, tmp_path):
    tree = omegaconf({"model": {}})
    tree._content["model"] = tree
    path = peer.write(tmp_path, peer.make_state(), {"cfg": tree})
    assert read_checkpoint(path).config == {"cfg": {"model": None}}
