"""The real bundle with a small overlay, from files to weights to reconstructions, and all that it refuses."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow

from ctpa_vqgan import bundle
from ctpa_vqgan.__main__ import main
from ctpa_vqgan.cli.knobs import checked, known_knobs
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.sealed import load_sealed

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "bundles/ctpa_vqgan/configs"
OVERLAYS = sorted((ROOT / "configs").glob("*.yaml"))
REAL_CT = ROOT.parent / "shared/data/TS-pulmonary_ct_cropped.nii.gz"
SHARED = ("network_def", "network", "preprocessing", "postprocessing", "inferer", "checks")
TINY = """# Seconds on one core.
patch_size: [32, 32, 16]
num_samples: 3
channels: [4, 8]
num_embeddings: 16
codebook_init_steps: 1
max_epochs: 2
val_interval: 1
batch_size: 2
micro_batch_size: 2
adversarial_start: 3
discriminator_channels: 4
discriminator_layers: 1
progress: false
log_interval: 1
"""

# without the parts of an evaluation that take minutes
QUICK = [f"--set={knob}" for knob in ("compared_cases=0", "shift_cases=0", "phantoms=false", "pictured_cases=1")]

pytestmark = pytest.mark.usefixtures("python_as_it_was")


def run(*arguments):
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("overlay") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def trained(phantom_folder, tiny, tmp_path_factory):
    """The output of a training run."""
    output = tmp_path_factory.mktemp("runs") / "first"
    overlays = ["--overlay", ROOT / "configs/smoke.yaml", "--overlay", tiny]
    assert run("train", "--data", phantom_folder, "--output", output, *overlays) == 0
    return output


# -- the workflows -----------------------------------------------------------------------------------------------------


def test_training_leaves_all_that_a_run_writes_below_its_folder(trained):
    left = {"model.pt", "model.pt.sha256", "model.yaml", "checkpoints", "tensorboard"}
    assert {path.name for path in trained.iterdir()} == left
    # two of three phantoms, three patches each, two patches a step, two epochs
    assert [path.name for path in sorted((trained / "checkpoints").iterdir())] == [
        "checkpoint_000000003.pt",
        "checkpoint_000000003.pt.sha256",
        "checkpoint_000000006.pt",
        "checkpoint_000000006.pt.sha256",
    ]


def test_neither_training_nor_validation_draws_from_the_global_generator(trained):
    """A validation that is interrupted and done again would leave another state."""
    first, last = (load_sealed(path)["random"] for path in sorted((trained / "checkpoints").glob("*.pt")))
    assert len(first) == len(last) >= 1
    assert all(map(torch.equal, first, last))


def test_tensorboard_shows_losses_codebook_and_pictures(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(trained / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    tags = events.Tags()
    expected = {"loss/total", "loss/l1", "loss/perceptual", "loss/commitment", "loss/adversarial", "loss/discriminator"}
    expected |= {"gradient/generator_grad_norm", "learning_rate/generator", "learning_rate/discriminator"}
    expected |= {"codebook/usage", "codebook/perplexity", "codebook/body_usage", "codebook/body_perplexity"}
    expected |= {"speed/patches_per_second", "memory/peak_GiB", "validation/psnr", "validation/ssim"}
    assert expected <= set(tags["scalars"])
    assert [event.step for event in events.Scalars("loss/l1")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in events.Scalars("loss/adversarial")] == [5, 6], (
        "the iteration after the start's ramp"
    )
    assert [event.step for event in events.Scalars("validation/psnr")] == [3, 6], "at the iterations of epoch 1 and 2"
    (picture,) = tags["images"]
    assert picture.endswith("/montage")
    shown = events.Images(picture)
    assert [event.step for event in shown] == [3, 6], "of every validation"
    assert len({(event.width, event.height) for event in shown}) == 1, "and epochs compare"


def test_the_weights_build_and_load_by_what_lies_beside_them(trained):
    parser = ConfigParser(yaml.safe_load((trained / "model.yaml").read_text()))
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(trained / "model.pt", weights_only=True), strict=True)
    assert bool(network.quantizer.initialized)
    assert set(parser.get()) == {"network_def", "factor", "hu_window", "patch_size"}, "and no stride but a chosen one"


def test_a_finished_run_started_again_says_so_and_changes_no_file(trained, phantom_folder, tiny, capsys):
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    overlays = ["--overlay", ROOT / "configs/smoke.yaml", "--overlay", tiny]
    assert run("train", "--data", phantom_folder, "--output", trained, *overlays) == 0
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before
    told = capsys.readouterr().err
    assert "resumed at iteration 6 of 6 from checkpoint_000000006.pt" in told
    assert "this run was finished at iteration 6; raise max_epochs to go on" in told


def test_a_run_that_goes_on_may_change_how_long_and_how_it_is_watched_and_nothing_else(
    trained, phantom_folder, tiny, tmp_path, capsys
):
    folder = tmp_path / "again"
    shutil.copytree(trained, folder)
    overlays = ["--overlay", ROOT / "configs/smoke.yaml", "--overlay", tiny]
    command = ["train", "--data", phantom_folder, "--output", folder, *overlays]
    assert run(*command, "--set", "max_grad_norm=2.0", "--set", "channels=[4,4]") == 1
    told = capsys.readouterr().err
    assert "channels=[4, 8], now [4, 4]; " in told and "max_grad_norm=1.0, now 2.0; restore that" in told
    settings = ["max_epochs=3", "num_workers=1", "log_interval=2", "val_interval=3", "keep_last=1", "keep_best=0"]
    assert run(*command, *[word for setting in settings for word in ("--set", setting)]) == 0
    assert "resumed at iteration 6 of 9" in capsys.readouterr().err
    assert [path.name for path in (folder / "checkpoints").glob("*.pt")] == ["checkpoint_000000009.pt"]


# what a run may change when it goes on: where things lie, how it is watched, what only stops it, and how validation
# fits the device
FREE_KNOBS = {"bundle_root", "dataset_dir", "input", "output_dir", "ckpt_path", "device", "num_workers"}
FREE_KNOBS |= {"max_epochs", "max_bad_share", "max_bad_steps", "sw_batch_size", "stitch_device", "memory_gb"}
FREE_KNOBS |= {"loader_timeout", "shard"}
FREE_KNOBS |= {"val_interval", "num_val_cases", "save_interval", "save_minutes", "keep_last", "keep_best"}
FREE_KNOBS |= {"log_interval", "progress", "allow_changed", "replay_path"}


def test_every_other_knob_is_one_that_a_resumed_run_must_share():
    handlers = config("train.yaml")["train"]["handlers"]
    (checkpoints,) = [handler for handler in handlers if handler["_target_"].endswith("Checkpoints")]
    shared = {name: value for name, value in checkpoints["knobs"].items() if name != "training_cases"}
    assert shared == {name: f"@{name}" for name in shared}
    assert set(yaml.safe_load(knob_lines("train.yaml"))) == FREE_KNOBS | shared.keys()
    assert not FREE_KNOBS & shared.keys()


@pytest.mark.parametrize("settings", [[], ["patch_sampling=grid"]])
def test_deterministic_training_runs_where_pytorch_refuses_what_is_not(phantom_folder, tiny, tmp_path, settings):
    """On a CPU too PyTorch raises at an operation that it knows to differ from run to run."""
    words = ["deterministic=true", "max_epochs=1", *settings]
    overlays = ["--overlay", ROOT / "configs/smoke.yaml", "--overlay", tiny]
    try:
        settings = [word for setting in words for word in ("--set", setting)]
        assert run("train", "--data", phantom_folder, "--output", tmp_path, *overlays, *settings) == 0
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)


def test_fine_tuning_starts_from_given_weights(trained, phantom_folder, tiny, tmp_path):
    settings = ["--set", f"init_path={trained / 'model.pt'}", "--set", "g_learning_rate=0.0", "--set", "max_epochs=1"]
    settings += ["--set", "patch_sampling=grid", "--set", "num_workers=1"]
    overlays = ["--overlay", ROOT / "configs/smoke.yaml", "--overlay", tiny]
    assert run("train", "--data", phantom_folder, "--output", tmp_path / "second", *overlays, *settings) == 0
    first, second = (torch.load(f / "model.pt", weights_only=True) for f in (trained, tmp_path / "second"))
    for key in first:
        if "quantizer" not in key:
            torch.testing.assert_close(first[key], second[key], rtol=1e-4, atol=1e-5, msg=key)


def assert_reconstructed(source, result):
    source, result = nib.load(source), nib.load(result)
    assert result.shape == source.shape
    assert result.get_data_dtype() == np.int16
    np.testing.assert_allclose(result.affine, source.affine, atol=1e-4)
    voxels = np.asarray(result.dataobj)
    assert -1000 <= voxels.min() <= voxels.max() <= 1000


def test_evaluation_scores_every_volume_and_writes_a_report(trained, phantom_folder, tmp_path):
    checkpoint = trained / "model.pt"
    weights = checkpoint.read_bytes()
    arguments = ["--data", phantom_folder, "--output", tmp_path, "--checkpoint", checkpoint, "--set", "progress=false"]
    assert run("evaluate", *arguments, "--set", "compared_cases=0", "--set", "phantoms=false") == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"metrics.json", "per_case.csv", "report.html", "report.md", "montage.png", "tissues.png"} <= names
    assert "checkpoints" not in names and "tensorboard" not in names, "nothing trains"
    assert checkpoint.read_bytes() == weights
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert [case["case"] for case in metrics["cases"]] == ["phantom_00", "phantom_01", "phantom_02"]
    for key in ("psnr", "ssim", "mae_hu", "bits_per_voxel", "usage", "perplexity", "decoded_psnr"):
        assert np.isfinite(metrics["mean"][key])
    assert metrics["cases"][0]["bits_per_voxel"] == pytest.approx(4 / 64)  # 16 codes, 4 x 4 x 4 voxels each
    for case in metrics["cases"]:
        name = case["case"]
        assert_reconstructed(phantom_folder / f"{name}.nii.gz", tmp_path / f"{name}_reconstruction.nii.gz")
    assert "[32, 32, 16]" in (tmp_path / "report.md").read_text(), "the window that the weights were made with"


def test_inference_reconstructs_a_single_file_as_evaluation_does(trained, phantom_folder, tmp_path):
    source = phantom_folder / "phantom_01.nii.gz"
    arguments = ["--data", source, "--checkpoint", trained / "model.pt", "--set", "progress=false"]
    assert run("inference", *arguments, "--output", tmp_path / "inference") == 0
    assert run("evaluate", *arguments, *QUICK, "--output", tmp_path / "evaluate") == 0
    assert sorted(path.name for path in (tmp_path / "inference").iterdir()) == [
        "cases",
        "metrics.json",
        "per_case.csv",
        "phantom_01_reconstruction.nii.gz",
    ]
    one, other = (tmp_path / f / "phantom_01_reconstruction.nii.gz" for f in ("inference", "evaluate"))
    assert_reconstructed(source, one)
    np.testing.assert_array_equal(np.asarray(nib.load(one).dataobj), np.asarray(nib.load(other).dataobj))


@pytest.mark.parametrize("mode", ["linear", "constant"])
def test_other_blending_is_a_knob(trained, phantom_folder, tmp_path, mode):
    settings = ["--set", "progress=false", "--set", f"blend_mode={mode}", "--set", "sw_batch_size=2"]
    data = phantom_folder / "phantom_00.nii.gz"
    assert run("inference", "--data", data, "--checkpoint", trained / "model.pt", "--output", tmp_path, *settings) == 0
    assert_reconstructed(data, tmp_path / "phantom_00_reconstruction.nii.gz")


@pytest.mark.skipif(not REAL_CT.is_file(), reason="the real CT is not part of the repository")
def test_a_real_ct_is_reconstructed_on_its_grid(trained, tmp_path):
    settings = ["--set", "progress=false", "--set", "patch_size=[64, 64, 64]", "--set", "stride=[48, 48, 48]"]
    assert (
        run("inference", "--data", REAL_CT, "--checkpoint", trained / "model.pt", "--output", tmp_path, *settings) == 0
    )
    assert_reconstructed(REAL_CT, tmp_path / "TS-pulmonary_ct_cropped_reconstruction.nii.gz")
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["cases"][0]["case"] == "TS-pulmonary_ct_cropped"


def test_volumes_become_code_files_and_volumes_again_within_a_bound(trained, phantom_folder, tmp_path):
    source = sorted(phantom_folder.glob("*.nii.gz"))[0]
    weights, codes = ("--checkpoint", trained / "model.pt"), tmp_path / "codes"
    quiet = ("--set", "progress=false", "--set", "tile_size=[32,32,32]")
    assert run("encode", *weights, "--data", source, "--output", codes, "--max-error-hu", 3, *quiet) == 0
    assert run("decode", *weights, "--data", codes, "--output", tmp_path / "back", *quiet) == 0
    before = nib.load(source)
    after = nib.load(tmp_path / "back" / f"{source.name.removesuffix('.nii.gz')}_decoded.nii.gz")
    np.testing.assert_allclose(after.affine, before.affine, atol=1e-4)
    error = np.asarray(after.dataobj).astype(int) - np.asarray(before.dataobj)
    assert np.abs(error).max() <= 3


def test_monais_own_command_encodes(trained, phantom_folder, tmp_path):
    source = sorted(phantom_folder.glob("*.nii.gz"))[0]
    files = [CONFIGS / "inference.yaml", CONFIGS / "encode.yaml", trained / "model.yaml"]
    config_file = "[" + ",".join(f"'{file}'" for file in files) + "]"
    options = ["--input", source, "--ckpt_path", trained / "model.pt", "--output_dir", tmp_path / "codes"]
    options = ["--config_file", config_file, "--bundle_root", CONFIGS.parent, *options]
    result = monai_bundle(tmp_path, "encode", *options)
    assert result.returncode == 0, result.stderr
    assert "bits per voxel" in result.stdout
    assert [path.suffix for path in sorted((tmp_path / "codes").iterdir())] == [".json", ".npz"]


def test_a_datalist_says_what_is_trained_and_what_is_evaluated(trained, phantom_folder, tiny, tmp_path):
    datalist = {
        "training": [{"image": str(phantom_folder / "phantom_00.nii.gz")}],
        "validation": [{"image": str(phantom_folder / "phantom_02.nii.gz")}],
    }
    (tmp_path / "dataset.json").write_text(json.dumps(datalist))
    output = tmp_path / "out"
    settings = ["--set", "progress=false", "--checkpoint", trained / "model.pt"]
    assert run("evaluate", "--data", tmp_path, "--output", output, *settings, *QUICK) == 0
    metrics = json.loads((output / "metrics.json").read_text())
    assert [case["case"] for case in metrics["cases"]] == ["phantom_02"]


def monai_bundle(folder, run_id, *arguments):
    """``python -m monai.bundle run`` in a process of its own, from an unrelated folder."""
    command = [sys.executable, "-m", "monai.bundle", "run", run_id, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_monais_own_command_trains_from_anywhere(phantom_folder, tiny, tmp_path):
    configs = [str(path) for path in (CONFIGS / "train.yaml", ROOT / "configs/smoke.yaml", tiny)]
    options = ["--config_file", str(configs), "--bundle_root", CONFIGS.parent, "--dataset_dir", phantom_folder]
    result = monai_bundle(tmp_path, "training", *options, "--output_dir", tmp_path / "run", "--max_epochs", 1)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run/model.pt").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["run"], "all that a run writes goes below output_dir"


def test_monais_own_command_ends_with_one_line_too(tmp_path):
    options = [
        "--config_file",
        CONFIGS / "train.yaml",
        "--bundle_root",
        CONFIGS.parent,
        "--dataset_dir",
        tmp_path / "no",
    ]
    result = monai_bundle(tmp_path, "training", *options, "--output_dir", tmp_path / "run")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith(f"error: {tmp_path / 'no'}: no such file or folder")
    assert not list(tmp_path.iterdir())


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


# -- the configs -------------------------------------------------------------------------------------------------------


def config(name):
    return yaml.safe_load((CONFIGS / name).read_text())


def knob_lines(name):
    text = (CONFIGS / name).read_text()
    return text[text.index("# ---- where") : text.index("# ---- networks")]


def test_training_and_inference_have_the_same_knobs_with_the_same_comments():
    assert knob_lines("train.yaml") == knob_lines("inference.yaml")


@pytest.mark.parametrize("block", SHARED)
def test_training_and_inference_share_a_block(block):
    assert config("train.yaml")[block] == config("inference.yaml")[block]


def test_every_knob_has_a_comment():
    knobs = re.split(r"\n(?=[a-z])", knob_lines("train.yaml"))[1:]
    assert len(knobs) == len(yaml.safe_load(knob_lines("train.yaml")))
    assert [knob for knob in knobs if " # " not in knob] == []


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


@pytest.mark.parametrize(
    ("kind", "configs"),
    [("train", ["train.yaml"]), ("train", ["train.yaml", "evaluate.yaml"]), ("infer", ["inference.yaml"])],
)
def test_monai_finds_every_property(kind, configs, phantom_folder, trained, tiny, tmp_path):
    workflow = ConfigWorkflow(
        config_file=[*(str(CONFIGS / name) for name in configs), str(tiny), str(trained / "model.yaml")],
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(CONFIGS.parent),
        dataset_dir=str(phantom_folder),
        output_dir=str(tmp_path / "out"),
        ckpt_path=str(trained / "model.pt"),
        device="cpu",
        num_workers=0,
    )
    workflow.initialize()
    assert not workflow.check_properties()
    assert not (tmp_path / "out").exists(), "looking at a workflow writes nothing"


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


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def fails(tiny, tmp_path, capsys):
    """Runs a command that cannot work; its one line on stderr."""

    def run_and_fail(command, *arguments):
        output = tmp_path / "output"
        overlays = [] if command == "evaluate" else ["--overlay", ROOT / "configs/smoke.yaml", "--overlay", tiny]
        assert run(command, "--output", output, *overlays, "--set", "progress=false", *arguments) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert not output.exists(), "nothing half-written is left behind"
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    return run_and_fail


def test_a_missing_folder(fails, tmp_path):
    message = fails("train", "--data", tmp_path / "none")
    assert message.startswith(f"{tmp_path / 'none'}: no such file or folder; give a CT volume")


def test_an_empty_folder(fails, tmp_path):
    (tmp_path / "empty").mkdir()
    message = fails("train", "--data", tmp_path / "empty")
    assert message.startswith(f"{tmp_path / 'empty'}: holds no volume; expected DICOM, or files that end in")


@pytest.fixture
def not_ct(tmp_path):
    """A folder of segmentations."""
    folder = tmp_path / "masks"
    folder.mkdir()
    mask = np.eye(40, dtype=np.uint8)[..., None].repeat(40, 2)
    for name in "ab":
        nib.save(nib.Nifti1Image(mask, np.diag([2, 2, 3, 1])), folder / f"{name}.nii.gz")
    return folder


@pytest.mark.parametrize(("sampling", "num_workers"), [("random", 0), ("random", 1), ("grid", 0), ("grid", 1)])
def test_a_file_that_is_no_ct(fails, not_ct, sampling, num_workers):
    settings = ["--set", f"patch_sampling={sampling}", "--set", f"num_workers={num_workers}"]
    message = fails("train", "--data", not_ct, *settings)
    assert message.startswith(str(not_ct))
    assert "[hu-mask] expected a CT in HU, not a label map, found 2 different whole numbers from 0 to 1" in message
    assert "give the image, not its segmentation" in message


def test_a_file_that_is_no_ct_is_not_reconstructed(not_ct, trained, tmp_path, capsys):
    output, path = tmp_path / "output", not_ct / "a.nii.gz"
    weights = ("--checkpoint", trained / "model.pt", "--set", "progress=false")
    assert run("inference", "--data", path, "--output", output, *weights) == 1
    assert f"error: {path}: [hu-mask] expected" in capsys.readouterr().err
    assert [found.name for found in output.iterdir()] == ["cases"], "why it was refused"


def test_a_file_that_is_no_ct_costs_no_other_its_reconstruction(phantom_folder, not_ct, trained, tmp_path, capsys):
    folder = tmp_path / "mixed"
    folder.mkdir()
    shutil.copy(not_ct / "a.nii.gz", folder / "a.nii.gz")
    shutil.copy(sorted(phantom_folder.glob("*.nii.gz"))[0], folder / "b.nii.gz")
    output = tmp_path / "output"
    options = ("--checkpoint", trained / "model.pt", "--output", output, "--set", "progress=false")
    assert run("inference", "--data", folder, *options) == 3
    assert f"left out: {folder / 'a.nii.gz'}: [hu-mask] expected" in capsys.readouterr().err
    assert [case["case"] for case in json.loads((output / "metrics.json").read_text())["cases"]] == ["b"]
    before = (output / "b_reconstruction.nii.gz").stat().st_mtime_ns
    assert run("inference", "--data", folder, *options) == 3
    assert "1 of 2 cases were judged before" in capsys.readouterr().out
    assert (output / "b_reconstruction.nii.gz").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("max_epochs=many", "--set: max_epochs expects a whole number such as 30, found 'many'"),
        ("max_epoch=3", "--set: the bundle has no knob max_epoch; did you mean max_epochs?"),
        ("max_epochs=0", "max_epochs: expected a whole number of at least 1, found 0"),
        ("val_interval=0", "val_interval: expected a whole number of at least 1, found 0"),
        ("patch_size=[30, 32, 16]", "patch_size: expected multiples of the factor (4, 4, 4), found [30, 32, 16]; try"),
        ("patch_size=[32, 32]", "patch_size: expected three positive whole numbers such as"),
        ("g_betas=[0.5]", "g_betas: expected two numbers from 0 to below 1 such as [0.9, 0.99], found [0.5]"),
        ("g_betas=[0.5, 1.0]", "g_betas: expected two numbers from 0 to below 1 such as [0.9, 0.99], found [0.5, 1.0]"),
        ("num_res_blocks=[1]", "num_res_blocks must be one number or two parts (encoder, decoder), found [1]"),
        ("num_res_blocks=[-1, 1]", "num_res_blocks must not be negative, found -1"),
        ("stride=[48, 32, 16]", "stride: expected at most patch_size [32, 32, 16], found [48, 32, 16]"),
        ("factor=[3, 4, 4]", "factor must be three powers of two"),
        ("hu_window=[1000, -1000]", "hu_window: expected [low, high] in HU with low < high"),
        ("device=tpu9", "device: expected cpu, cuda or cuda:<number>, found 'tpu9'"),
        ("patch_sampling=all", "patch_sampling: expected 'random' or 'grid', found 'all'"),
        ("blend_mode=cubic", "mode must be one of gaussian, linear, constant, found 'cubic'"),
        ("precision=half", "precision: expected one of auto, bf16, float32, found 'half'"),
        ("norm=batch", "norm"),
        ("loss_weights::l1=-1", "weight of 'l1' is -1"),
        ("init_path=nowhere.pt", "nowhere.pt: no such weights"),
        ("lpips_path=nowhere.pt", "lpips_path: expected a file of VGG16 and LPIPS weights, found none at nowhere.pt"),
        ("val_fraction=1.5", "val_fraction: expected at least 0 and less than 1, found 1.5"),
        ("ema_decay=2.0", "ema_decay: expected at least 0 and less than 1, found 2.0"),
        ("codebook_decay=1.0", "codebook_decay: expected at least 0 and less than 1, found 1.0"),
        ("max_grad_norm=0", "max_grad_norm: expected more than 0, found 0"),
        ("seed=-1", "seed: expected a whole number from 0 to"),
        ("stitch_device=tpu", "stitch_device: expected cpu, cuda or cuda:<number>, found 'tpu'"),
        ("device=[cpu]", "device: expected cpu, cuda or cuda:<number>, found ['cpu']"),
        ("keep_last=0", "keep_last: expected a whole number of at least 1, found 0"),
        ("save_minutes=-1", "save_minutes: expected a number that is not negative, found -1"),
        ("loader_timeout=-1", "loader_timeout: expected a number that is not negative, found -1"),
        ("volume_size=[256,256]", "volume_size: expected three positive whole numbers such as"),
        ("num_groups=0", "num_groups: expected a whole number of at least 1, found 0"),
        ("num_res_blocks=[[1,many],1]", "--set: num_res_blocks[0][1] expects a whole number such as 1, found 'many'"),
        ("weight_decay=-1", "weight_decay: expected a number that is not negative, found -1"),
        ("final_rate=2.0", "final_rate: expected a share from 0 to 1, found 2.0"),
        ("decoder_channels=[4]", "decoder_channels must have 2 entries as channels has, found (4,)"),
        ("num_res_blocks=[[1,1,1],[1,1]]", "num_res_blocks must have one number or 2 for a part, found [1, 1, 1]"),
    ],
)
def test_a_knob_that_cannot_work(fails, phantom_folder, setting, message):
    assert fails("train", "--data", phantom_folder, "--set", setting).startswith(message)


def test_volumes_of_another_size_than_training_is_made_for(fails, phantom_folder):
    message = fails("train", "--data", phantom_folder, "--set", "volume_size=[32, 32, 16]")
    assert re.fullmatch(
        rf"{phantom_folder}/phantom_0\d\.nii\.gz: expected 32 x 32 x 16 voxels \(volume_size\), found 48 x 44 x 40; "
        r"bring the volumes to that grid by python -m ctpa_vqgan prepare VOLUMES --size 32 32 16 --output DATA, .*",
        message,
    )


def test_a_validation_volume_of_another_size_is_refused_before_training(phantom_folder):
    cases = bundle.first_cases(str(phantom_folder), 0.1, 4, [48, 44, 40])
    assert len(cases) == 1
    with pytest.raises(UserError, match="expected 32 x 32 x 16 voxels"):
        bundle.first_cases(str(phantom_folder), 0.1, 4, [32, 32, 16])


def test_no_gpu_where_one_was_asked_for(fails, phantom_folder, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    message = fails("train", "--data", phantom_folder, "--set", "device=cuda:0")
    assert message == "device: cuda:0 was asked for, but PyTorch finds no CUDA GPU; set device to cpu"


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    sizes = {"patch_size": [8, 8, 8], "stride": [8, 8, 8], "factor": (4, 4, 4), "hu_window": [-1000, 1000]}
    sizes |= {"precision": "auto", "channels": [8], "numbers": {}}
    bundle.check_knobs("cuda:1", **sizes)
    with pytest.raises(UserError, match="device: cuda:2 was asked for, but there are 2 CUDA GPUs, counted from cuda:0"):
        bundle.check_knobs("cuda:2", **sizes)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("patch_size=[4,4,4]", "patch_size: the discriminators need sides of at least 6 voxels"),
        ("channels=[0,8]", "channels: expected positive whole numbers"),
        ("val_fraction=-0.1", "val_fraction: expected a number that is not negative"),
        ("memory_gb=0", "memory_gb: expected null or a number of gigabytes above 0, found 0"),
        ("memory_gb=[1]", "memory_gb: expected null or a number of gigabytes above 0, found [1]"),
        ("memory_gb=0.001", "memory_bytes=1000000 is too little for windows of"),
        ("num_workers=-1", "num_workers: expected a number that is not negative"),
    ],
)
def test_settings_that_would_fail_late_are_refused_at_the_start(fails, phantom_folder, setting, message):
    assert fails("train", "--data", phantom_folder, "--set", setting).startswith(message)


@pytest.mark.parametrize("command", ["inference", "evaluate", "encode"])
def test_missing_weights(fails, phantom_folder, tmp_path, command):
    message = fails(command, "--data", phantom_folder, "--checkpoint", tmp_path / "model.pt")
    assert message.startswith(f"{tmp_path / 'model.pt'}: no such weights; train first")


def test_weights_of_another_network(fails, phantom_folder, trained, tmp_path):
    for name in ("model.pt", "model.pt.sha256"):  # without their model.yaml
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    message = fails(
        "inference", "--data", phantom_folder, "--checkpoint", tmp_path / "model.pt", "--set", "channels=[8, 8]"
    )
    assert message.startswith(f"{tmp_path / 'model.pt'}: these weights do not fit network_def")


def test_every_knob_is_known_by_name():
    """Names that other work relies on."""
    names = (
        "bundle_root dataset_dir output_dir device max_epochs patch_size stride blend_mode patch_sampling num_samples"
    )
    names += " batch_size micro_batch_size sw_batch_size val_fraction num_workers hu_window network_def init_path"
    for base in ("train.yaml", "inference.yaml"):
        assert set(names.split()) | {"input", "ckpt_path"} <= set(known_knobs([CONFIGS / base]))
