"""bf16 where it is right, float32 where it is not, and windows as large as memory allows."""

import re

import pytest
import torch
from monai.bundle import ConfigParser
from the_bundle import CONFIGS, QUICK, ROOT, run

from ctpa_vqgan import bundle
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.networks import VQGAN

pytestmark = pytest.mark.usefixtures("python_as_it_was")


@pytest.fixture
def broken_in_bf16(monkeypatch):
    """A machine on which part of every bf16 encoding is zero."""
    encode = VQGAN.encode

    def wrong(self, images):
        latents = encode(self, images)
        if torch.is_autocast_enabled("cpu"):
            latents[..., :4, :4, :4] = 0
        return latents

    monkeypatch.setattr(VQGAN, "encode", wrong)


@pytest.mark.parametrize("command", ["train", "evaluate", "inference", "encode", "decode"])
def test_a_machine_that_computes_wrongly_in_bf16_is_refused_before_work_begins(
    broken_in_bf16, trained, phantom_folder, tiny, tmp_path, capsys, command, monkeypatch
):
    if command in ("evaluate", "inference"):  # as on a GPU: MONAI's evaluator has bf16 nowhere else
        monkeypatch.setattr(bundle, "autocasts", lambda device, precision: precision == "bf16")
    knob = "code_precision" if command in ("encode", "decode") else "precision"
    settings = ["--set", f"{knob}=bf16", "--set", "progress=false", "--overlay", ROOT / "configs/smoke.yaml"]
    settings += ["--overlay", tiny] if command == "train" else ["--checkpoint", trained / "model.pt"]
    settings += ["--set", "tile_size=[32,32,32]"] if knob == "code_precision" else []
    assert run(command, "--data", phantom_folder, "--output", tmp_path / "out", *settings) == 1
    *notes, line = capsys.readouterr().err.strip().splitlines()
    assert all("without effect: " in note for note in notes), "smoke.yaml is for another network than these weights'"
    assert re.match(r"error: bf16 self-test on cpu, \d x \(.*\) voxels: latents .*: failed, .* set precision to", line)
    assert not (tmp_path / "out").exists()


def test_windows_on_a_cpu_say_that_they_are_computed_in_float32(broken_in_bf16, caplog):
    network = VQGAN(channels=(4, 8))  # of which no self-test is computed, as it would fail
    assert bundle.window_precision(network, (32, 32, 16), "cpu", "bf16", 1) == "float32"
    assert "bf16 is for CUDA where nothing is trained; computing in float32 on cpu" in caplog.text


def test_auto_goes_on_in_float32_on_a_machine_that_computes_wrongly_in_bf16(broken_in_bf16, monkeypatch, caplog):
    monkeypatch.setattr("ctpa_vqgan.inferers.bf16_check.uses_bf16", lambda device, precision: True)  # as on a GPU
    parser = ConfigParser()
    parser.read_config([str(CONFIGS / "train.yaml"), str(ROOT / "configs/smoke.yaml")])
    parser.update({"device": "cpu", "channels": [4, 8], "patch_size": [32, 32, 16]})
    parser.get_parsed_content("imports")
    assert parser.get_parsed_content("trusted_precision") == "float32"
    assert "computing in float32 instead" in caplog.text


def test_bf16_trains_and_encodes_where_it_is_healthy(trained, phantom_folder, tiny, tmp_path, capsys):
    settings = ["--data", phantom_folder, "--set", "progress=false"]
    overlays = ["--overlay", ROOT / "configs/smoke.yaml", "--overlay", tiny, "--set", "max_epochs=1"]
    assert run("train", *settings, *overlays, "--output", tmp_path / "run", "--set", "precision=bf16") == 0
    codes = ["--set", "code_precision=bf16", "--set", "tile_size=[32,32,32]"]
    codes += ["--checkpoint", trained / "model.pt", "--output", tmp_path / "codes"]
    assert run("encode", *settings, *codes) == 0
    printed = capsys.readouterr()
    lines = [line for line in (printed.out + printed.err).splitlines() if "bf16 self-test on cpu, " in line]
    assert len(lines) == 2, lines
    assert all(line.endswith(": ok") for line in lines)


def test_memory_gb_makes_windows_and_tiles_larger(trained, phantom_folder, tmp_path, capsys):
    data = phantom_folder / "phantom_00.nii.gz"
    arguments = ["--data", data, "--checkpoint", trained / "model.pt", "--set", "progress=false"]
    arguments += ["--set", "memory_gb=2"]
    assert run("evaluate", *arguments, *QUICK, "--output", tmp_path / "evaluate") == 0
    printed = capsys.readouterr()
    assert "windows of (48, 44, 40) voxels for a volume of (48, 44, 40)" in printed.out + printed.err
    report = (tmp_path / "evaluate/report.md").read_text()
    assert re.search(r"memory_gb\W+2", report), report
    assert run("encode", *arguments, "--output", tmp_path / "codes") == 0
    assert (tmp_path / "codes/phantom_00.npz").is_file()
    capsys.readouterr()
    assert run("encode", *arguments, "--set", "tile_size=[32,32,32]", "--output", tmp_path / "both") == 1
    assert "give tile_size or memory_bytes, not both" in capsys.readouterr().err


def test_a_budget_and_bf16_codes_do_not_go_together():
    with pytest.raises(UserError, match="code_precision: bf16 needs a tile_size that can be tried first"):
        bundle.tile_precision(VQGAN(channels=(4, 8)), None, "cpu", "bf16", 4.0)
