"""``python -m ctpa_vqgan``: what it refuses, what it passes on to MONAI, and what it prints."""

import os
import shlex
import signal
import subprocess
import sys

import pytest
from fire.parser import DefaultParseValue

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.cli import workflows
from ctpa_vqgan.errors import BadVolume


@pytest.fixture
def passed_on(monkeypatch):
    """What MONAI would be told, without running it."""
    calls = []
    monkeypatch.setattr(workflows, "_run", lambda *args: calls.append(args))
    return calls


def run(*arguments):
    return main([str(argument) for argument in arguments])


BUNDLE = workflows.find_bundle()


def test_a_reader_who_has_seen_enough_is_no_fault():
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "ctpa_vqgan", "verify"]
    ended = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (ended.returncode, ended.stderr) == (128 + signal.SIGPIPE, "")


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom ctpa_vqgan.__main__ import main\n"
        "try:\n    main(['train', '--help'])\nexcept SystemExit as end:\n"
        "    print([m for m in ('torch', 'monai', 'numpy', 'matplotlib') if m in sys.modules], end.code)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("usage: python -m ctpa_vqgan train")
    assert result.stdout.splitlines()[-1] == "[] 0"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["train", "--datta", "x"], ["evaluate", "--data"]])
def test_wrong_usage_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_a_run_that_succeeds_ends_with_0(passed_on):
    assert run("train", "--data", "ct") == 0
    assert len(passed_on) == 1


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (
            BadVolume("x.nii.gz", "gzip", "a whole file", "half of it", "copy it again"),
            1,
            "error: x.nii.gz: [gzip] expected a whole file, found half of it; copy it again",
        ),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on from the last checkpoint"),
    ],
)
def test_what_ends_a_run_has_one_line_and_a_code(monkeypatch, capsys, error, code, message):
    def fail(*_):
        raise error

    monkeypatch.setattr(workflows, "_run", fail)
    assert run("train", "--data", "ct") == code
    assert capsys.readouterr().err.splitlines() == [message]


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def fail(*_):
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(workflows, "_run", fail)
    with pytest.raises(RuntimeError, match="a fault of ours"):
        run("train")


@pytest.mark.parametrize("command", ["train", "evaluate", "inference"])
def test_a_misspelt_knob_is_refused_with_the_nearest(passed_on, capsys, command):
    assert run(command, "--set", "max_epoch=3") == 1
    assert capsys.readouterr().err == "error: --set: the bundle has no knob max_epoch; did you mean max_epochs?\n"
    assert not passed_on


def test_a_misspelt_knob_in_an_overlay_is_refused_by_file(passed_on, capsys, tmp_path):
    (tmp_path / "my.yaml").write_text("# mine\nlearning_rate: 1.0e-3\n")
    assert run("train", "--overlay", tmp_path / "my.yaml") == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'my.yaml'}: the bundle has no knob learning_rate; did you mean g_learning_rate?\n"
    )
    assert not passed_on


def test_a_value_of_the_wrong_kind_is_refused(passed_on, capsys):
    assert run("train", "--set", "patch_size=64") == 1
    assert "patch_size expects a list such as [256, 256, 128], found 64" in capsys.readouterr().err
    assert not passed_on


def test_numbers_that_yaml_takes_for_text_become_numbers(passed_on, tmp_path):
    (tmp_path / "a.yaml").write_text("g_learning_rate: 1e-4\nd_learning_rate: 1e-5\nwarmup: 10\n")
    (tmp_path / "b.yaml").write_text("d_learning_rate: 0.5\n")
    overlays = ["--overlay", tmp_path / "a.yaml", "--overlay", tmp_path / "b.yaml"]
    assert run("train", *overlays, "--set", "max_grad_norm=1e2") == 0
    overrides = passed_on[0][-1]
    assert overrides["g_learning_rate"] == 1e-4
    assert overrides["max_grad_norm"] == 100.0
    assert "d_learning_rate" not in overrides, "the later overlay has the last word"
    assert "warmup" not in overrides, "MONAI reads it from the overlay"


def test_options_stand_for_knobs(passed_on):
    assert run("train", "--data", "ct", "--output", "runs/x") == 0
    assert run("inference", "--data", "ct", "--output", "runs/x", "--checkpoint", "w/model.pt") == 0
    (train_id, *_, train), (inference_id, *_, inference) = passed_on
    assert (train_id, inference_id) == ("training", "inference")
    assert train == {"bundle_root": str(BUNDLE), "dataset_dir": "ct", "output_dir": "runs/x"}
    assert inference == {
        "bundle_root": str(BUNDLE),
        "input": "ct",
        "output_dir": "runs/x",
        "ckpt_path": "w/model.pt",
    }


def test_a_setting_has_the_last_word(passed_on):
    assert run("train", "--output", "a", "--set", "output_dir=b", "--set", "output_dir=c") == 0
    assert passed_on[0][-1]["output_dir"] == "c"


@pytest.fixture
def weights(tmp_path):
    (tmp_path / "model.pt").touch()
    (tmp_path / "model.yaml").write_text("hu_window: [-1000.0, 1000.0]\n")
    return tmp_path / "model.pt"


def test_the_description_beside_a_checkpoint_is_merged_before_the_overlays(passed_on, weights, tmp_path):
    (tmp_path / "my.yaml").write_text("sw_batch_size: 2\n")
    assert run("evaluate", "--checkpoint", weights, "--overlay", tmp_path / "my.yaml") == 0
    configs = [str(BUNDLE / "configs" / name) for name in ("train.yaml", "evaluate.yaml")]
    assert passed_on[0][1] == [*configs, str(tmp_path / "model.yaml"), str(tmp_path / "my.yaml")]


def test_weights_without_a_description_are_taken_alone(passed_on, weights):
    weights.with_name("model.yaml").unlink()
    assert run("inference", "--checkpoint", weights) == 0
    assert passed_on[0][1] == [str(BUNDLE / "configs/inference.yaml")]


def test_the_printed_command_tells_monai_the_same(passed_on, capsys, weights, tmp_path):
    (tmp_path / "my overlay.yaml").write_text("sw_batch_size: 2\nmax_grad_norm: 1e1\n")
    settings = ["patch_size=[64, 64, 32]", "progress=false", "g_learning_rate=1e-4", "stitch_device=null", "seed=3"]
    settings += ["loss_weights::l1=2", "device=cpu", "hu_window=[-1024, 3071.5]"]
    arguments = ["--data", "a folder", "--output", "runs/first-1", "--checkpoint", weights]
    arguments += ["--overlay", tmp_path / "my overlay.yaml"]
    assert run("evaluate", *arguments, *(word for setting in settings for word in ("--set", setting))) == 0
    run_id, files, _, overrides = passed_on[0]

    line = capsys.readouterr().out.strip()
    assert line.startswith("$ ")
    words = shlex.split(line[2:])
    assert words[:5] == ["python", "-m", "monai.bundle", "run", run_id]
    # MONAI's command line is Google's fire: values are Python literals, or text
    told = {key.removeprefix("--"): DefaultParseValue(value) for key, value in zip(words[5::2], words[6::2])}
    assert told.pop("config_file") == files
    assert told == overrides


def test_a_single_config_is_printed_as_it_is(passed_on, capsys):
    assert run("train") == 0
    words = shlex.split(capsys.readouterr().out)
    assert words[words.index("--config_file") + 1] == str(BUNDLE / "configs/train.yaml")


def test_another_bundle_can_be_given(passed_on, capsys, tmp_path):
    assert run("train", "--bundle", tmp_path) == 1
    assert f"error: {tmp_path}: no bundle there" in capsys.readouterr().err
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/train.yaml").write_text("max_epochs: 1\ndataset_dir: .\n")
    assert run("train", "--bundle", tmp_path) == 0
    assert passed_on[0][1] == [str(tmp_path / "configs/train.yaml")]


def test_a_sweep_takes_no_label_maps(capsys):
    assert run("evaluate", "--sweep", "--labels", "maps") == 1
    assert capsys.readouterr().err == (
        "error: --labels: --sweep measures no structures; leave it out, or evaluate without --sweep\n"
    )


@pytest.mark.parametrize("command", workflows.SHARED)
def test_a_shard_is_a_knob(passed_on, command):
    assert run(command, "--shard", "2/8") == 0
    assert passed_on[0][-1]["shard"] == "2/8"


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "1.5", "-1/4"])
@pytest.mark.parametrize("option", ["--shard={}", "--set=shard={}"])
def test_a_part_that_there_is_not_is_refused(passed_on, capsys, option, text):
    assert run("encode", option.format(text)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --shard: expected part i/n counted from 1, such as 1/4, found ")
    assert not passed_on


def test_a_shard_under_torchrun_is_refused(passed_on, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("encode", "--shard", "1/4") == 1
    assert "--shard: expected none under torchrun, whose 2 processes share the cases" in capsys.readouterr().err


def test_neither_training_nor_a_sweep_takes_a_part_of_the_cases(passed_on, capsys):
    with pytest.raises(SystemExit, match="2"):
        run("train", "--shard", "1/4")
    assert run("train", "--set", "shard=1/4") == 1
    assert run("evaluate", "--sweep", "--shard", "1/4") == 1
    assert run("evaluate", "--sweep", "--set", "shard=1/4") == 1
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "error: shard: train takes no part of the cases, found 1/4; only evaluate, inference, encode, decode do",
        "error: --shard: --sweep looks at one case; leave it out, or evaluate without --sweep",
        "error: shard: sweep takes no part of the cases, found 1/4; only evaluate, inference, encode, decode do",
    ]
    assert not passed_on


def test_several_ranks_train_by_a_config_of_their_own_before_the_overlays(passed_on, capsys, monkeypatch, tmp_path):
    bundle = tmp_path / "bundle"
    (bundle / "configs").mkdir(parents=True)
    (bundle / "configs/train.yaml").write_text("max_epochs: 1\ndataset_dir: .\n")
    (bundle / "configs/multi_gpu_train.yaml").write_text("max_epochs: 2\n")
    (tmp_path / "my.yaml").write_text("max_epochs: 3\n")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run("train", "--bundle", bundle, "--overlay", tmp_path / "my.yaml") == 0
    names = [
        str(bundle / "configs/train.yaml"),
        str(bundle / "configs/multi_gpu_train.yaml"),
        str(tmp_path / "my.yaml"),
    ]
    assert passed_on[0][1] == names
    assert ",".join(names) in capsys.readouterr().out.replace("'", "").replace('"', "")
    monkeypatch.setenv("RANK", "1")
    assert run("train", "--bundle", bundle) == 0
    assert capsys.readouterr().out == "", "the first rank speaks for all"
