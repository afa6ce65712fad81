"""``import-checkpoint``: a checkpoint of the baseline becomes a folder that every workflow takes."""

import pytest
import torch
import yaml
from baseline_state import make_state

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.cli import workflows
from ctpa_vqgan.cli.import_checkpoint import import_checkpoint
from ctpa_vqgan.cli.knobs import checked, known_knobs
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.handlers import load_weights
from ctpa_vqgan.networks import VQGAN, PatchDiscriminators
from ctpa_vqgan.networks.baseline import read_baseline
from ctpa_vqgan.sealed import load_sealed

CONFIGS = workflows.find_bundle() / "configs"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A small one of mixed factors, with discriminators."""
    path, state = tmp_path_factory.mktemp("peer") / "peer.ckpt", make_state((2, 4, 4), critics=True)
    torch.save({"state_dict": state, "hyper_parameters": {"cfg": {"model": {"downsample": [2, 4, 4]}}}}, path)
    return path


@pytest.fixture(scope="module")
def imported(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("imported")
    import_checkpoint(checkpoint, folder, num_groups=4, hu_window=(-500, 500), patch_size=(32, 32, 16))
    return folder


@pytest.mark.parametrize("name", ["train", "evaluate", "inference", "encode", "decode"])
def test_every_workflow_knows_what_the_overlay_says(imported, name):
    known = known_knobs([CONFIGS / config for config in workflows.WORKFLOWS[name].configs])
    overlay = yaml.safe_load((imported / "model.yaml").read_text())
    assert checked(overlay, known, "model.yaml") == overlay
    assert overlay["factor"] == overlay["network_def"]["factor"] == [4, 4, 2]
    assert (overlay["hu_window"], overlay["patch_size"]) == ([-500, 500], [32, 32, 16])
    assert "stride" not in overlay  # it follows from patch_size, also from another one


@torch.no_grad()
def test_the_overlay_builds_the_network_that_the_weights_fit(imported, checkpoint):
    from monai.bundle import ConfigParser

    overlay = yaml.safe_load((imported / "model.yaml").read_text())
    network = ConfigParser(overlay).get_parsed_content("network_def").eval()
    assert isinstance(network, VQGAN)
    load_weights(network, imported / "model.pt")
    x = torch.rand(1, 1, 16, 16, 8)
    assert torch.equal(network(x), read_baseline(checkpoint, num_groups=4).network(x))


def test_the_discriminators_come_with_an_overlay_for_training(imported):
    overlay = yaml.safe_load((imported / "discriminators.yaml").read_text())
    known = known_knobs([CONFIGS / "train.yaml"])
    assert checked(overlay, known, "discriminators.yaml") == overlay
    own = {key.split("::")[1]: value for key, value in overlay.items() if key.startswith("discriminator_def::")}
    critics = PatchDiscriminators(overlay["discriminator_channels"], overlay["discriminator_layers"], **own)
    critics.load_state_dict(load_sealed(overlay["discriminator_init_path"]))
    assert critics.volume is not None and critics.slices is not None


@pytest.fixture
def run(checkpoint, tmp_path):
    return lambda *arguments: main(
        ["import-checkpoint", str(checkpoint), "--output", str(tmp_path / "out"), *arguments]
    )


def test_what_could_not_be_known_is_printed_with_what_was_assumed(run, tmp_path, capsys):
    assert run("--num-groups", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[1].strip() for line in lines if line.startswith("assumed")] == [
        "padding",
        "orientation",
        "hu_window",
        "patch_size",
    ]
    assert lines[0] == str(tmp_path / "out/discriminators.pt")
    assert lines[-1].startswith("next: python -m ctpa_vqgan evaluate --checkpoint ")


def test_weights_that_are_there_stay(run, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model.pt").write_text("trained for weeks")
    assert run("--num-groups", "4") == 1
    assert "expected a folder without weights, found model.pt; choose another --output" in capsys.readouterr().err
    assert (tmp_path / "out/model.pt").read_text() == "trained for weeks"


@pytest.mark.parametrize("failure", [KeyboardInterrupt(), UserError("no space left")])
def test_an_import_that_fails_in_the_middle_can_be_repeated(run, tmp_path, capsys, monkeypatch, failure):
    def fail(path, content):
        raise failure

    with monkeypatch.context() as broken:
        broken.setattr("ctpa_vqgan.handlers.export.write_whole", fail)  # model.yaml, which comes last
        assert run("--num-groups", "4") != 0
    assert list((tmp_path / "out").iterdir()) == []
    assert run("--num-groups", "4") == 0


def test_a_network_of_colours_is_refused_for_ct(tmp_path, capsys):
    state = make_state()
    for key, axis in (("encoder.conv_first.conv.weight", 1), ("decoder.conv_last.conv.weight", 0)):
        state[key] = state[key].repeat_interleave(3, axis)
    state["decoder.conv_last.conv.bias"] = torch.zeros(3)
    torch.save(state, tmp_path / "video.ckpt")
    arguments = [str(tmp_path / "video.ckpt"), "--output", str(tmp_path / "out"), "--num-groups", "4"]
    assert main(["import-checkpoint", *arguments]) == 1
    assert "expected a network of 1 channel, as CT has, found 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "num_groups: expected a divisor of the widths [8, 16], found 32"),
        (("--num-groups", "4", "--hu-window", "500", "-500"), "--hu-window: expected LOW HIGH in HU with LOW < HIGH"),
        (("--num-groups", "4", "--hu-window", "nan", "5"), "--hu-window: expected LOW HIGH in HU"),
        (
            ("--num-groups", "4", "--patch-size", "32", "30", "16"),
            "--patch-size: expected multiples of the factor (4, 4, 2)",
        ),
        (("--num-groups", "4", "--factor", "4", "4", "4"), "factor: expected (4, 4, 2) by the file's settings"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_and_leaves_nothing(run, tmp_path, capsys, arguments, message):
    assert run(*arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()
