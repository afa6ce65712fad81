"""What the quality benchmark promises: equal time, patches by the seed alone, verdicts that the seeds allow."""

import argparse
import json
import sys
from pathlib import Path

import pytest
import quality
import torch

from ctpa_vqgan.data.phantom import write_phantom_dataset


def row(variant, seed, psnr, last=None):
    scores = {"psnr": psnr, "ssim": 0.9, "body_perplexity": 100.0, "bits_per_voxel": 0.2}
    case = {"averaged": scores, "last": {**scores, "psnr": last or psnr}}
    return {"variant": variant, "seed": seed, "minutes": 1.0, "iterations": 10, "cases": {"ct": case}}


def verdicts(rows):
    lines = quality.table(rows).splitlines()[2:]
    return {line.split(" | ")[0].strip("| "): line.split(" | ")[-1].strip(" |") for line in lines}


def test_a_difference_within_the_spread_of_the_seeds_is_no_difference():
    default = [row(quality.DEFAULT, 0, 30.0), row(quality.DEFAULT, 1, 30.2)]
    found = verdicts(
        [
            *default,
            row("norm: group", 0, 30.1),  # in the middle of the default's seeds
            row("cosine codes", 0, 31.0),
            row("code dimension 4", 0, 29.0),
            row("code dimension 16", 0, 30.0),  # better by more than the default's spread, but not by its own
            row("code dimension 16", 1, 31.0),
        ]
    )
    assert found["norm: group"] == "within the spread"
    assert found["cosine codes"] == "better"
    assert found["code dimension 4"] == "worse"
    assert found["code dimension 16"] == "within the spread"


def test_the_averaged_weights_are_judged_by_the_same_runs():
    rows = [row(quality.DEFAULT, 0, 30.0, last=29.0), row(quality.DEFAULT, 1, 30.1, last=29.1)]
    assert verdicts(rows)["weights of the last step, not averaged"] == "worse"


def test_every_variant_is_made_of_knobs_that_the_bundle_has():
    known = quality.ConfigParser.load_config_files(quality.CONFIGS)
    for name, knobs in quality.VARIANTS.items():
        assert set(knobs) <= set(known), name
    assert set(quality.COMMON) <= set(known)
    assert set(quality.WEIGHTS) == set(known["loss_weights"])


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


def test_what_is_in_the_file_is_not_run_again(tmp_path, monkeypatch, capsys):
    done = tmp_path / "quality.json"
    done.write_text(json.dumps({"rows": [row(quality.DEFAULT, 0, 30.0)]}))
    monkeypatch.setattr(quality.subprocess, "run", lambda *args, **kwargs: pytest.fail("ran again"))
    arguments = ["quality.py", "ct.nii", "--score", "other.nii", "--json", str(done), "--minutes", "1", "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--only", quality.DEFAULT])
    quality.main()
    assert "30.00" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [*arguments[:-3], "2"])
    with pytest.raises(SystemExit):
        quality.main()
    assert "holds runs of other lengths" in capsys.readouterr().err
