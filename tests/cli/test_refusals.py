"""What the front door refuses before MONAI sees it: misspelt keys, wrong kinds, and configs that would run code."""

import os

import pytest
import yaml

from ctpa_vqgan import networks
from ctpa_vqgan.__main__ import main
from ctpa_vqgan.cli import workflows
from ctpa_vqgan.cli.code import NETWORKS, refuse_code
from ctpa_vqgan.cli.knobs import checked, known_knobs
from ctpa_vqgan.errors import UserError

CONFIGS = workflows.find_bundle() / "configs"


@pytest.fixture
def passed_on(monkeypatch):
    """What MONAI would be told, without running it."""
    calls = []
    monkeypatch.setattr(workflows, "_run", lambda *args: calls.append(args))
    return calls


@pytest.fixture
def refusal(passed_on, capsys, tmp_path):
    """Gives settings to a training on data that is not there; its one line of refusal."""

    def refused(text, option="--overlay", *more, command="train"):
        if option == "--overlay":
            (tmp_path / "my.yaml").write_text(text)
        value = tmp_path / "my.yaml" if option == "--overlay" else text
        assert main([command, "--data", "nowhere", option, str(value), *more]) == 1
        assert not passed_on, "MONAI was started"
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("error: ").replace(str(tmp_path / "my.yaml"), "my.yaml")

    return refused


# -- keys --------------------------------------------------------------------------------------------------------------

TYPOS = [
    ("max_epoch", "max_epochs", "3"),
    ("maxepochs", "max_epochs", "3"),
    ("Max_Epochs", "max_epochs", "3"),
    ("patchsize", "patch_size", "[64, 64, 32]"),
    ("patch_sizes", "patch_size", "[64, 64, 32]"),
    ("strides", "stride", "[48, 48, 24]"),
    ("chanels", "channels", "[8, 16]"),
    ("num_embedding", "num_embeddings", "512"),
    ("embeding_dim", "embedding_dim", "4"),
    ("batchsize", "batch_size", "2"),
    ("microbatch_size", "micro_batch_size", "1"),
    ("g_learning_rates", "g_learning_rate", "1e-4"),
    ("g_learnig_rate", "g_learning_rate", "1e-4"),
    ("hu_windows", "hu_window", "[-1000, 1000]"),
    ("quantiser", "quantizer", "fsq"),
    ("normalise_codes", "normalize_codes", "true"),
    ("presicion", "precision", "bf16"),
    ("num_worker", "num_workers", "0"),
    ("checkpoint", "checkpointing", "true"),
    ("device_", "device", "cpu"),
    ("loss_weights::perceptal", "loss_weights::perceptual", "0.1"),
    ("loss_weight::l1", "loss_weights", "0.1"),
    ("network_def::quantizer::decays", "network_def::quantizer::decay", "0.9"),
    ("network_def::chanels", "network_def::channels", "[8, 16]"),
    ("train::dataset::num_sample", "train::dataset::num_samples", "3"),
    ("train::trainer::max_epoch", "train::trainer::max_epochs", "3"),
    ("trainer::handlers", "train", "[]"),
]


@pytest.mark.parametrize(("typo", "meant", "value"), TYPOS)
def test_a_typo_is_refused_with_file_key_and_the_nearest_knob(refusal, typo, meant, value):
    told = f"the bundle has no knob {typo}; did you mean {meant}?"
    assert refusal(f"{typo}={value}", "--set") == f"--set: {told}"
    assert refusal(f"seed: 1\n{typo}: {value}\n") == f"my.yaml: {told}"


def test_there_are_as_many_typos_as_promised():
    assert len(TYPOS) >= 25


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("loss_weights: {l1: 1.0, comitment: 0.25}", "loss_weights::comitment; did you mean loss_weights::commitment?"),
        ("network_def: {_target_: ctpa_vqgan.networks.VQGAN, chanels: [8]}", "did you mean network_def::channels?"),
        ("train: {dataset: {_target_: ctpa_vqgan.data.patch_dataset, sead: 1}}", "did you mean train::dataset::seed?"),
        ("train::handlers::99::folder: x", "the bundle has no knob train::handlers::99::folder"),
        ("network_def#chanels: [8]", "the bundle has no knob network_def#chanels"),
        ("++seed: 1", "the bundle has no knob ++seed; did you mean seed?"),
        ("1: 2", "the bundle has no knob 1"),
    ],
)
def test_a_typo_inside_a_mapping_is_refused_too(refusal, text, told):
    assert told in refusal(text)


def test_an_argument_that_a_component_has_but_the_config_does_not_name_is_taken(passed_on):
    assert main(["train", "--set", "network_def::num_groups=4"]) == 0


# -- values ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("max_epochs: many", "max_epochs expects a whole number such as 30, found 'many'"),
        ("progress: maybe", "progress expects true or false such as True, found 'maybe'"),
        ("patch_size: [64, 64, wide]", "patch_size[2] expects a whole number such as 256, found 'wide'"),
        ("channels: [[8], 16]", "channels[0] expects a whole number such as 64, found [8]"),
        ("loss_weights: {l1: much}", "loss_weights::l1 expects a number such as 1.0, found 'much'"),
        ("dataset_dir: $HOME/ct", "dataset_dir: expected plain data, found an expression that is not the bundle's own"),
        ("seed: 2030-02-31", "not YAML (day is out of range for month"),
        ("seed: 1\nseed: 2", "not YAML (the key seed stands twice, line 2)"),
        ("loss_weights: {l1: 1, 'l1': 2}", "not YAML (the key l1 stands twice, line 1)"),
        ("channels: &a [8, 16]\nnum_res_blocks: *a", "not YAML (write out *a, line 2)"),
        ("seed: !!python/object/apply:os.mkdir [gotcha]", "not YAML (could not determine a constructor for the tag"),
        ("seed: " + "[" * 5000, "not YAML (maximum recursion depth exceeded"),
        ("seed: 1\n---\nseed: 2", "not YAML (but found another document, line 2)"),
        ("\0", "not YAML"),
    ],
)
def test_a_value_that_does_not_fit_is_refused(refusal, text, told):
    assert told in refusal(text)
    assert not os.path.exists("gotcha")


def test_a_file_that_is_no_text_is_refused(passed_on, capsys, tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"seed: \xff\xfe")
    assert main(["train", "--overlay", str(tmp_path / "a.yaml")]) == 1
    assert f"error: {tmp_path / 'a.yaml'}: expected a text file" in capsys.readouterr().err


def test_a_file_that_monai_would_not_read_is_refused(passed_on, capsys, tmp_path):
    (tmp_path / "a.txt").write_text("seed: 1\n")
    assert main(["train", "--overlay", str(tmp_path / "a.txt")]) == 1
    assert "expected a name that ends in .yaml, .yml, .json" in capsys.readouterr().err


def test_numbers_that_yaml_takes_for_text_become_numbers_inside_lists_and_mappings_too(passed_on, tmp_path):
    (tmp_path / "a.yaml").write_text("hu_window: [-1e3, 1e3]\nloss_weights: {l1: 1e-1, lpips: 0.0}\n")
    (tmp_path / "b.yaml").write_text("+loss_weights: {perceptual: 2e-1}\n")
    assert main(["train", "--overlay", str(tmp_path / "a.yaml"), "--overlay", str(tmp_path / "b.yaml")]) == 0
    overrides = passed_on[0][-1]
    assert overrides["hu_window"] == [-1000.0, 1000.0]
    assert (overrides["loss_weights::l1"], overrides["loss_weights::perceptual"]) == (0.1, 0.2)
    assert "loss_weights" not in overrides, "MONAI reads the rest from the files"


def test_a_knob_is_set_back_to_nothing(passed_on):
    """MONAI leaves out an override that is None; an expression for it stays."""
    assert main(["inference", "--set", "memory_gb=null"]) == 0
    assert passed_on[0][-1]["memory_gb"] == "$None"


# -- code --------------------------------------------------------------------------------------------------------------

CODE = [
    "device: $__import__('os').mkdir('gotcha')",
    "imports: [$import os]",
    "+imports: [$import os]",
    "run: [$print(1)]",
    "initialize: ['$bundle.begin(@seed)', '$bundle.begin( @seed)']",  # the first alone is the bundle's own
    "loss_weights: {l1: $1 + 1}",
    "loss_weights::l1: $1 + 1",
    "channels: [8, $16]",
    "dataset_dir: '%my.yaml::run'",
    "init_path: '%evil.json::x'",
    "network_def: {_target_: os.mkdir, path: gotcha}",
    "network_def::_target_: os.mkdir",
    "network_def: {_target_: ctpa_vqgan.networks.vqgan.torch.hub.load}",
    "network_def: {_target_: ctpa_vqgan.networks.VQGAN, quantizer: {_target_: os.mkdir, path: gotcha}}",
    "network_def: {_target_: ctpa_vqgan.networks.VQGAN, _mode_: debug}",
    "network_def::_mode_: debug",
    "network_def::_requires_: $print(1)",
    "network_def::quantizer::_target_: os.mkdir",
    "g_optimizer::_target_: os.mkdir",
    "train: {trainer: {_target_: os.mkdir, path: gotcha}}",
    "train::trainer::_target_: os.mkdir",
    "train::handlers: [{_target_: os.mkdir, path: gotcha}]",
    "+train::handlers: [{_target_: os.mkdir, path: gotcha}]",
    "init_path: {_target_: os.mkdir, path: gotcha}",
    "memory_gb: [[{_target_: os.mkdir, path: gotcha}]]",
    "network_def: {_target_: ctpa_vqgan.networks.VQGAN, spatial_dims: {_target_: os.mkdir, path: gotcha}}",
    '{"device": "\\u0024import os"}',
]


def test_a_knob_of_the_network_beside_weights_that_tell_theirs_is_refused(passed_on, capsys, tmp_path):
    """It would do nothing: the ``network_def`` of ``model.yaml`` refers to no knob."""
    network = networks.VQGAN(channels=(4, 8), num_embeddings=16)
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({"network_def": network.config, "factor": [4, 4, 4]}))
    (tmp_path / "model.pt").touch()
    weights = ["train", "--set", f"init_path={tmp_path / 'model.pt'}"]
    assert main([*weights, "--set", "num_embeddings=128"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --set num_embeddings=128: expected no other network than that of ")
    assert not passed_on
    overlay = tmp_path / "small.yaml"
    overlay.write_text("channels: [8, 16]\nnum_embeddings: 16\nmax_epochs: 2\n")
    assert main([*weights, "--overlay", str(overlay), "--set", "channels=[4,8]"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("without effect: channels"), "and not those that are as the network has them"


@pytest.mark.parametrize("text", CODE)
def test_code_in_an_overlay_is_refused(refusal, text):
    told = refusal(text)
    assert told.startswith("my.yaml: ")
    assert "expected plain data, found" in told and "can run any code" in told
    assert not os.path.exists("gotcha")


@pytest.mark.parametrize("text", CODE)
def test_code_beside_the_weights_is_refused_even_with_trust_in_overlays(passed_on, capsys, tmp_path, text):
    (tmp_path / "model.yaml").write_text(text)
    (tmp_path / "model.pt").touch()
    assert main(["evaluate", "--checkpoint", str(tmp_path / "model.pt"), "--trust"]) == 1
    assert main(["train", "--set", f"init_path={tmp_path / 'model.pt'}", "--trust"]) == 1
    for line in capsys.readouterr().err.splitlines():
        assert line.startswith(f"error: {tmp_path / 'model.yaml'}: ")
    assert not passed_on


@pytest.mark.parametrize(
    "text", [f"{text.split(': ', 1)[0]}={text.split(': ', 1)[1]}" for text in CODE if text[0] not in "+{"]
)
def test_code_in_a_setting_is_refused_with_trust_too(refusal, text):
    assert "expected plain data, found" in refusal(text, "--set", "--trust")


@pytest.mark.parametrize("option", ["--data", "--output", "--checkpoint", "--bundle"])
@pytest.mark.parametrize("value", ["$__import__('os').mkdir('gotcha')", "@trainer", "%evil.yaml::run"])
def test_a_path_that_monai_would_run_is_refused(passed_on, capsys, option, value):
    assert main(["inference", f"{option}={value}"]) == 1
    assert capsys.readouterr().err == (
        f"error: {option} {value}: expected a path, found code by its first letter; write ./ before it\n"
    )
    assert not passed_on


@pytest.mark.parametrize("text", CODE[:-1])
def test_an_overlay_may_hold_code_if_it_is_trusted(passed_on, tmp_path, text):
    if any(name in text for name in ("hub.load", "spatial_dims", "{trainer", "quantizer: {")):
        return  # arguments of a component are compared with what it takes
    (tmp_path / "my.yaml").write_text(text)
    assert main(["train", "--overlay", str(tmp_path / "my.yaml"), "--trust"]) == 0
    assert len(passed_on) == 1


def test_trust_does_not_excuse_a_typo(refusal):
    assert "did you mean train::handlers?" in refusal("+train::handler: []", "--overlay", "--trust")


def test_a_reference_leads_to_a_key_of_the_bundle(refusal, passed_on, tmp_path):
    for nowhere in ("@nowhere", "@train::nowhere", "@", "@::seed", "@seed "):
        assert "init_path: expected a reference to a key of the bundle" in refusal(f"init_path: '{nowhere}'")
    (tmp_path / "my.yaml").write_text("d_learning_rate: '@g_learning_rate'\nstitch_device: '@init_path'\n")
    assert main(["train", "--overlay", str(tmp_path / "my.yaml")]) == 0


@pytest.mark.parametrize("configs", [w.configs for w in workflows.WORKFLOWS.values()])
def test_the_bundles_own_configs_are_all_taken(configs):
    known = known_knobs([CONFIGS / name for name in configs])
    for key, value in known.items():
        refuse_code(key, value, known, "itself")


def test_the_networks_that_a_description_may_name_are_those_that_describe_themselves():
    public = {f"ctpa_vqgan.networks.{name}" for name in networks.__all__}
    assert public >= NETWORKS
    known = known_knobs([CONFIGS / "inference.yaml"])
    for kind in ("vq", "fsq", "residual"):
        levels = [8, 8, 8, 4, 4]
        options = {"num_embeddings": 64, "embedding_dim": len(levels), "levels": levels, "normalize": False}
        quantizer = networks.make_quantizer(kind, **options, decay=0.9, init_steps=1)
        config = yaml.safe_load(yaml.safe_dump(_plain(networks.VQGAN(channels=(4, 8), quantizer=quantizer).config)))
        assert checked({"network_def": config}, known, "model.yaml")["network_def"] is config


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def test_a_refusal_is_one_line_that_does_nothing_to_a_terminal(refusal):
    assert "\\x1b[2J\\nerror" in refusal("\x1b[2J\nerror=1", "--set")
    with pytest.raises(UserError, match="expected plain data"):
        refuse_code("a", "$1\n2", {"a": 1}, "x")
