"""The demo goes the whole way on few cases, and starts anew on other data."""

import json

import pytest

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.cli import demo


@pytest.fixture
def calls(monkeypatch):
    """Workflows that the demo asks for, instead of running them."""
    recorded = []
    monkeypatch.setattr(demo, "run_workflow", lambda name, **options: recorded.append((name, options)))
    return recorded


def test_the_demo_trains_on_the_data_and_scores_a_held_out_volume(calls, phantom_folder, tmp_path, capsys):
    demo.run_demo(str(phantom_folder), str(tmp_path / "run"))
    (first, training), (second, scoring) = calls
    assert (first, second) == ("train", "evaluate")
    split = json.loads((tmp_path / "run/dataset.json").read_text())
    assert training["data"] == str(tmp_path / "run/dataset.json")
    assert len(split["training"]) == 2
    assert training["settings"] == ["num_samples=150"]  # as many patches as from five volumes
    assert split["validation"] == [{"image": scoring["data"]}]
    assert split["validation"][0] not in split["training"]
    assert scoring["checkpoint"] == str(tmp_path / "run/model.pt")
    assert capsys.readouterr().out.count("-m ctpa_vqgan") == 2


def test_a_large_folder_is_cut_to_a_few_cases(calls, monkeypatch, phantom_folder, tmp_path):
    monkeypatch.setattr(demo, "NUM_CASES", 2)
    demo.run_demo(str(phantom_folder), str(tmp_path))
    split = json.loads((tmp_path / "dataset.json").read_text())
    assert (len(split["training"]), len(split["validation"])) == (1, 1)


def test_phantoms_are_made_once(calls, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "NUM_CASES", 2)
    monkeypatch.setattr(demo, "PHANTOM_SIZE", (24, 24, 16))
    demo.run_demo(output=str(tmp_path))
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "phantoms").glob("*.nii.gz")}
    assert len(stamps) == 2
    demo.run_demo(output=str(tmp_path))
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_a_demo_on_other_data_starts_anew(calls, phantom_folder, tmp_path):
    checkpoint = tmp_path / "checkpoints/checkpoint_000000001.pt"
    demo.run_demo(str(phantom_folder), str(tmp_path))
    checkpoint.parent.mkdir()
    checkpoint.touch()
    demo.run_demo(str(phantom_folder), str(tmp_path))
    assert checkpoint.exists()  # the same data: it goes on
    demo.run_demo(str(sorted(phantom_folder.glob("*.nii.gz"))[0]), str(tmp_path))
    assert not checkpoint.exists()


def test_absent_data_leaves_nothing_behind(tmp_path, capsys):
    assert main(["demo", "--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "run")]) == 1
    assert "no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
