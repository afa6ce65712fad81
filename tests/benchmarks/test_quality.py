"""What the quality benchmark promises: equal time, patches by the seed alone, verdicts that the seeds allow."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
import quality
import torch

from ctpa_vqgan.data.phantom import write_phantom_dataset

SCORES = {"psnr": 30.0, "ssim": 0.9, "body_perplexity": 100.0, "bits_per_voxel": 0.2}
CASE = {"averaged": SCORES, "last": SCORES}


def row(variant, seed, psnr, last=None):
    case = {"averaged": {**SCORES, "psnr": psnr}, "last": {**SCORES, "psnr": last or psnr}}
    return {"variant": variant, "seed": seed, "minutes": 1.0, "iterations": 10, "cases": {"ct": case}}


def verdicts(rows):
    lines = quality.table(rows).splitlines()[2:]
    return {line.split(" | ")[0].strip("| "): line.split(" | ")[-1].strip(" |") for line in lines}


def test_a_difference_within_the_spread_of_the_seeds_is_no_difference():
    default = [row(quality.DEFAULT, 0, 30.0), row(quality.DEFAULT, 1, 30.2)]
    found = verdicts(
        [
            *default,
            row("norm: group", 0, 30.1),  # between the default's seeds
            row("norm: group", 1, 30.1),
            row("cosine codes", 0, 31.0),
            row("cosine codes", 1, 31.0),
            row("code dimension 4", 0, 29.0),
            row("code dimension 4", 1, 29.0),
            row("front end: haar", 0, 35.0),
            row("code dimension 16", 0, 30.0),  # better by more than the default's spread, but not by its own
            row("code dimension 16", 1, 31.0),
        ]
    )
    assert found["norm: group"] == "within the spread"
    assert found["cosine codes"] == "better"
    assert found["code dimension 4"] == "worse"
    assert found["code dimension 16"] == "within the spread"
    assert found["front end: haar"] == "one seed: no verdict"


def test_without_the_default_there_is_no_verdict():
    assert verdicts([row("cosine codes", 0, 31.0), row("cosine codes", 1, 31.0)]) == {"cosine codes": ""}


def test_the_averaged_weights_are_judged_by_the_same_runs():
    rows = [row(quality.DEFAULT, 0, 30.0, last=29.0), row(quality.DEFAULT, 1, 30.1, last=29.1)]
    assert verdicts(rows)["weights of the last step, not averaged"] == "worse"


def test_every_variant_is_made_of_knobs_that_the_bundle_has():
    parser = quality.ConfigParser()
    parser.read_config(quality.CONFIGS)
    for name, knobs in [*quality.VARIANTS.items(), ("what all share", quality.COMMON)]:
        for knob in knobs:
            assert knob in parser, f"{name}: {knob}"


def test_patches_are_a_function_of_the_seed():
    volume = torch.rand(1, 12, 10, 8)

    def first(seed):
        return next(iter(quality.RandomPatches(volume, [8, 8, 8], 2, seed)))["image"]

    assert first(1).shape == (2, 1, 8, 8, 8)
    assert torch.equal(first(1), first(1))
    assert not torch.equal(first(1), first(2))


def test_the_learning_rate_rises_and_falls_with_the_cpu_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(quality.time, "process_time", lambda: clock[0])
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    schedule = quality.CpuTimeCosine(optimizer, seconds=100.0)
    rates = []
    for clock[0] in (0, 10, 50, 100, 200):
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates[0] < 0.1 < rates[1]
    assert rates[2] == pytest.approx(1.0)
    assert rates[3:] == pytest.approx([0, 0])
    assert schedule.share == 1


@pytest.fixture
def volume(tmp_path):
    return str(write_phantom_dataset(tmp_path, 1, (48, 48, 40), (7.5, 7.5, 8.0))[0])


def test_a_run_gives_a_row_that_the_table_takes(volume, monkeypatch):
    monkeypatch.setitem(quality.VARIANTS, quality.DEFAULT, {"channels": [4, 8], "num_embeddings": 16})
    options = argparse.Namespace(volume=volume, score=[volume], minutes=0.005)
    found = quality.run_one(quality.DEFAULT, 0, options)
    assert found["iterations"] >= 1
    assert set(found["cases"]) == {Path(volume).name.split(".")[0]}
    assert quality.table([found]).count("\n") == 3  # head, rule, the default, its weights of the last step


def test_the_command_that_is_kept_names_files_and_no_folders_of_this_machine(tmp_path):
    options = argparse.Namespace(volume=str(tmp_path / "a.nii"), score=[str(tmp_path / "b.nii")], minutes=12.0)
    options.json = tmp_path / "quality.json"
    expected = "python benchmarks/quality.py a.nii --score b.nii --minutes 12 --json quality.json"
    assert quality.command_of(options) == expected


@pytest.fixture
def script(tmp_path, monkeypatch, volume):
    """Run the script on a file that holds one row, of ``volume`` scored on ``other``."""
    other = tmp_path / "other.nii.gz"
    other.write_bytes(Path(volume).read_bytes())
    done = tmp_path / "quality.json"
    known = row(quality.DEFAULT, 0, 30.0)
    done.write_text(json.dumps({"rows": [{**known, "trained_on": Path(volume).name, "cases": {"other": CASE}}]}))
    monkeypatch.setattr(quality, "VARIANTS", {quality.DEFAULT: {"channels": [4, 8], "num_embeddings": 16}})

    def run(volume=volume, score=other, minutes=1.0, seed=0):
        arguments = [
            volume,
            "--score",
            str(score),
            "--json",
            str(done),
            "--minutes",
            str(minutes),
            "--seeds",
            str(seed),
        ]
        monkeypatch.setattr(sys, "argv", [quality.__file__, *arguments])
        quality.main()
        return json.loads(done.read_text())["rows"]

    return run


def test_what_is_in_the_file_is_not_run_again(script, monkeypatch, capsys):
    monkeypatch.setattr(quality.subprocess, "Popen", lambda *args, **kwargs: pytest.fail("ran again"))
    assert len(script()) == 1
    assert "30.00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"minutes": 2.0}, "holds runs of 1.0 minutes"),
        ({"score": "elsewhere.nii.gz"}, "scored on other; give the same"),
        ({"volume": "typo.nii.gz"}, "holds runs of 1.0 minutes on phantom_00.nii.gz"),
    ],
)
def test_another_experiment_is_refused_before_anything_runs(script, monkeypatch, capsys, change, message):
    monkeypatch.setattr(quality.subprocess, "Popen", lambda *args, **kwargs: pytest.fail("trained"))
    with pytest.raises(SystemExit):
        script(**change)
    assert message in capsys.readouterr().err


def test_a_failing_run_ends_all(script, monkeypatch):
    class Failing:
        returncode = 1

        def __init__(self, *args, **kwargs):
            started.append(self)

        def communicate(self):
            return "", ""

        def terminate(self):
            pass

    started = []
    monkeypatch.setattr(quality.subprocess, "Popen", Failing)
    with pytest.raises(subprocess.CalledProcessError):
        script(seed=1)
    assert len(started) == 1
