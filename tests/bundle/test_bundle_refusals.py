"""All that the bundle refuses, in one line and before anything is written."""

import re

import pytest
import torch
from the_bundle import ROOT, run

from ctpa_vqgan import bundle
from ctpa_vqgan.errors import UserError

pytestmark = pytest.mark.usefixtures("python_as_it_was")


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


@pytest.mark.parametrize(("sampling", "num_workers"), [("random", 0), ("random", 1), ("grid", 0), ("grid", 1)])
def test_a_file_that_is_no_ct(fails, not_ct, sampling, num_workers):
    settings = ["--set", f"patch_sampling={sampling}", "--set", f"num_workers={num_workers}"]
    message = fails("train", "--data", not_ct, *settings)
    assert message.startswith(str(not_ct))
    assert "[hu-mask] expected a CT in HU, not a label map, found 2 different whole numbers from 0 to 1" in message
    assert "give the image, not its segmentation" in message


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
