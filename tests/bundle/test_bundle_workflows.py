"""From files to weights to reconstructions, by our command and by MONAI's."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow
from the_bundle import CONFIGS, QUICK, REAL_CT, ROOT, monai_bundle, run

from ctpa_vqgan.sealed import load_sealed

pytestmark = pytest.mark.usefixtures("python_as_it_was")


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


def test_weights_of_another_network_are_refused(phantom_folder, trained, tmp_path, capsys):
    for name in ("model.pt", "model.pt.sha256"):  # without their model.yaml
        (tmp_path / name).write_bytes((trained / name).read_bytes())
    settings = ["--set", "channels=[8, 8]", "--set", "progress=false", "--output", tmp_path / "out"]
    assert run("inference", "--data", phantom_folder, "--checkpoint", tmp_path / "model.pt", *settings) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {tmp_path / 'model.pt'}: these weights do not fit network_def")
    assert not (tmp_path / "out").exists()
