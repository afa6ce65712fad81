"""What the configs say: knobs, the blocks that they share, overlays."""

import re

import pytest
import yaml
from monai.bundle import ConfigParser
from the_bundle import CONFIGS, ROOT, config, knob_lines

from ctpa_vqgan import bundle
from ctpa_vqgan.cli.knobs import checked, known_knobs

OVERLAYS = sorted((ROOT / "configs").glob("*.yaml"))
SHARED = ("network_def", "network", "preprocessing", "postprocessing", "inferer", "checks")
# what a run may change when it goes on: where things lie, how it is watched, what only stops it, and how validation
# fits the device
FREE_KNOBS = {"bundle_root", "dataset_dir", "input", "output_dir", "ckpt_path", "device", "num_workers"}
FREE_KNOBS |= {"max_epochs", "max_bad_share", "max_bad_steps", "sw_batch_size", "stitch_device", "memory_gb"}
FREE_KNOBS |= {"loader_timeout", "shard"}
FREE_KNOBS |= {"val_interval", "num_val_cases", "save_interval", "save_minutes", "keep_last", "keep_best"}
FREE_KNOBS |= {"log_interval", "progress", "allow_changed", "replay_path"}


def test_training_and_inference_have_the_same_knobs_with_the_same_comments():
    assert knob_lines("train.yaml") == knob_lines("inference.yaml")


@pytest.mark.parametrize("block", SHARED)
def test_training_and_inference_share_a_block(block):
    assert config("train.yaml")[block] == config("inference.yaml")[block]


def test_every_knob_has_a_comment():
    knobs = re.split(r"\n(?=[a-z])", knob_lines("train.yaml"))[1:]
    assert len(knobs) == len(yaml.safe_load(knob_lines("train.yaml")))
    assert [knob for knob in knobs if " # " not in knob] == []


def test_every_other_knob_is_one_that_a_resumed_run_must_share():
    handlers = config("train.yaml")["train"]["handlers"]
    (checkpoints,) = [handler for handler in handlers if handler["_target_"].endswith("Checkpoints")]
    shared = {name: value for name, value in checkpoints["knobs"].items() if name != "training_cases"}
    assert shared == {name: f"@{name}" for name in shared}
    assert set(yaml.safe_load(knob_lines("train.yaml"))) == FREE_KNOBS | shared.keys()
    assert not FREE_KNOBS & shared.keys()


def test_evaluation_replaces_what_would_train():
    assert {"run", "initialize", "evaluate"} <= set(config("evaluate.yaml"))
    assert not any("train::" in str(step) for step in config("evaluate.yaml")["run"])


@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_is_a_few_commented_knobs(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= 25
    assert lines[0].startswith("# ")
    assert not any("::" in line or "_target_" in line for line in lines)


@pytest.mark.parametrize("base", ["train.yaml", "inference.yaml"])
@pytest.mark.parametrize("path", OVERLAYS, ids=lambda path: path.stem)
def test_an_overlay_merges_after_training_and_inference(path, base):
    knobs = yaml.safe_load(knob_lines(base))
    overlay = yaml.safe_load(path.read_text())
    assert checked(overlay, knobs, path.name) == overlay
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / base), str(path)])
    parser["device"] = "cpu"
    parser.get_parsed_content("imports")
    parser.get_parsed_content("checks")
    network = parser.get_parsed_content("network_def")
    assert (network.config["norm"], network.config["num_groups"]) == (
        overlay.get("norm", knobs["norm"]),
        overlay.get("num_groups", knobs["num_groups"]),
    )
    assert network.num_embeddings == overlay.get("num_embeddings", knobs["num_embeddings"])
    assert parser.get_parsed_content("inferer").roi_size == tuple(overlay.get("patch_size", knobs["patch_size"]))


def test_the_defaults_are_the_full_resolution_recipe():
    knobs = config("train.yaml")
    assert knobs["patch_size"] == [256, 256, 128]
    assert bundle.default_stride(knobs["patch_size"], knobs["factor"]) == [192, 192, 96]
    assert (knobs["batch_size"], knobs["micro_batch_size"], knobs["max_epochs"]) == (4, 1, 30)
    assert (knobs["num_samples"], knobs["blend_mode"], knobs["patch_sampling"]) == (54, "gaussian", "random")
    parser = ConfigParser(config("train.yaml"))
    parser["imports"] = ["$import ctpa_vqgan.bundle as bundle"]
    parser.get_parsed_content("imports")
    parameters = parser.get_parsed_content("network_def").parameters()
    assert 2e6 <= sum(parameter.numel() for parameter in parameters) <= 4e6


def test_a_stride_belongs_to_the_weights_only_where_it_was_chosen():
    assert bundle.chosen_stride([192, 192, 96], [256, 256, 128], [4, 4, 4]) is None
    assert bundle.chosen_stride([128, 128, 96], [256, 256, 128], [4, 4, 4]) == [128, 128, 96]


@pytest.mark.parametrize(("patch", "stride"), [(256, 192), (128, 96), (64, 64), (44, 32), (100, 76), (48, 36), (12, 4)])
def test_monai_steps_by_the_stride(patch, stride):
    (share,) = bundle.overlap([patch], [stride])
    assert 0 <= share < 1
    assert (int(patch * (1 - share)) if patch != stride else patch) == stride


def test_every_knob_is_known_by_name():
    """Names that other work relies on."""
    names = (
        "bundle_root dataset_dir output_dir device max_epochs patch_size stride blend_mode patch_sampling num_samples"
    )
    names += " batch_size micro_batch_size sw_batch_size val_fraction num_workers hu_window network_def init_path"
    for base in ("train.yaml", "inference.yaml"):
        assert set(names.split()) | {"input", "ckpt_path"} <= set(known_knobs([CONFIGS / base]))
