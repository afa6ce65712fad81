"""The demo goes the whole way on few cases, and starts anew on other data."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from matplotlib.image import imread

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.cli import demo


@pytest.fixture
def calls(monkeypatch):
    """Workflows that the demo asks for, instead of running them; the bundle has no weights."""
    recorded = []
    monkeypatch.setattr(demo, "run_workflow", lambda name, **options: recorded.append((name, options)))
    monkeypatch.setattr(demo, "find_bundle", lambda: Path("a bundle without weights"))
    return recorded


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A bundle with weights, phantoms of 24 x 22 x 16 voxels, and workflows that leave the volume as it was."""
    weights = tmp_path / "bundle/models/model.pt"
    weights.parent.mkdir(parents=True)
    weights.touch()
    recorded = []

    def workflow(name, data, output, **options):
        recorded.append((name, {"data": data, "output": output, **options}))
        if name != "train":
            source, folder = nib.load(data), Path(output)
            folder.mkdir(exist_ok=True)
            nib.save(source, folder / Path(data).name.replace(".nii", "_reconstruction.nii"))
            mean = {"psnr": 20.5 if name == "evaluate" else 30.25, "ssim": 0.5, "mae_hu": 1.0}
            (folder / "metrics.json").write_text(json.dumps({"mean": mean}))
            (folder / "report.md").write_text("# Report\n")

    monkeypatch.setattr(demo, "run_workflow", workflow)
    monkeypatch.setattr(demo, "find_bundle", lambda: tmp_path / "bundle")
    monkeypatch.setattr(demo, "NUM_CASES", 2)
    monkeypatch.setattr(demo, "PHANTOM_SIZE", (24, 22, 16))
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
    told = capsys.readouterr().out
    assert told.count("-m ctpa_vqgan") == 2
    assert f"--checkpoint {tmp_path / 'run/model.pt'}" in told


def test_the_shipped_weights_reconstruct_the_same_phantom_and_are_shown_beside(shipped, tmp_path, capsys):
    output = tmp_path / "run"
    demo.run_demo(output=str(output))
    (_, _), (_, scoring), (last, options) = shipped
    assert last == "inference"
    assert options["data"] == scoring["data"]
    assert options["checkpoint"] == str(tmp_path / "bundle/models/model.pt")
    assert options["settings"][0] == "patch_size=[24, 24, 16]"  # one window, a multiple of the factor
    told = capsys.readouterr().out
    assert "freshly trained  20.50" in told and "shipped weights  30.25" in told
    assert "--checkpoint" not in told, "the bundle's weights are the default"
    picture = imread(output / "beside.png")
    assert np.ptp(picture[..., :3]) > 0.5
    report = (output / "report.md").read_text()
    assert report.startswith("# Report\n")
    assert "| shipped weights | 30.25 | 0.5000 | 1.00 |" in report and "![beside](beside.png)" in report


def test_without_shipped_weights_nothing_is_said_of_them(calls, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(demo, "NUM_CASES", 2)
    monkeypatch.setattr(demo, "PHANTOM_SIZE", (24, 24, 16))
    demo.run_demo(output=str(tmp_path))
    assert [name for name, _ in calls] == ["train", "evaluate"]
    assert "come with the bundle" not in capsys.readouterr().out
    assert not (tmp_path / "beside.png").exists()


def test_own_volumes_are_not_run_through_the_larger_network(shipped, phantom_folder, tmp_path, capsys):
    demo.run_demo(str(phantom_folder), str(tmp_path / "run"))
    assert [name for name, _ in shipped] == ["train", "evaluate"]
    assert "--checkpoint" not in capsys.readouterr().out


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
