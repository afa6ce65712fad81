"""The demo goes the whole way, and keeps demos apart."""

import pytest

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.cli import demo
from ctpa_vqgan.errors import UserError


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
    assert training["data"] == str(phantom_folder)
    assert scoring["data"].startswith(str(phantom_folder)) and scoring["data"].endswith(".nii.gz")
    assert scoring["checkpoint"] == str(tmp_path / "run/model.pt")
    assert capsys.readouterr().out.count("python -m ctpa_vqgan") == 2


def test_phantoms_are_made_once(calls, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "NUM_PHANTOMS", 2)
    monkeypatch.setattr(demo, "PHANTOM_SIZE", (24, 24, 16))
    demo.run_demo(output=str(tmp_path))
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "phantoms").glob("*.nii.gz")}
    assert len(stamps) == 2
    demo.run_demo(output=str(tmp_path))
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_a_demo_on_other_data_does_not_go_on_with_the_first_one(calls, phantom_folder, tmp_path):
    demo.run_demo(str(phantom_folder), str(tmp_path))
    with pytest.raises(UserError, match="holds a demo on"):
        demo.run_demo(str(tmp_path.parent), str(tmp_path))


def test_absent_data_leaves_nothing_behind(tmp_path, capsys):
    assert main(["demo", "--data", str(tmp_path / "nowhere"), "--output", str(tmp_path / "run")]) == 1
    assert "no such file or folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
