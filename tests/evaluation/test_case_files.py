"""Cases that were judged are not judged again, unless anything that they depend on changed."""

import json
import math

import pytest

from ctpa_vqgan.evaluation import CaseFiles

MADE_BY = {"network": "abc", "hu_window": (-1000.0, 1000.0)}


@pytest.fixture
def case(tmp_path):
    (tmp_path / "a.nii.gz").write_bytes(b"voxels")
    return {"image": str(tmp_path / "a.nii.gz"), "case": "a"}


def test_what_was_saved_comes_back(tmp_path, case):
    CaseFiles(tmp_path, MADE_BY).save(case, {"case": "a", "psnr": math.inf, "ssim": math.nan, "tissues": {"x": [1.5]}})
    again = CaseFiles(tmp_path, MADE_BY)
    assert again.is_done(case)
    assert again.row(case) == {"case": "a", "psnr": "inf", "ssim": None, "tissues": {"x": [1.5]}}


def test_nothing_is_done_at_first(tmp_path, case):
    assert not CaseFiles(tmp_path, MADE_BY).is_done(case)


@pytest.mark.parametrize("changed", [{"network": "def"}, {"stride": [1, 2, 3]}])
def test_another_network_or_setting_judges_anew(tmp_path, case, changed):
    CaseFiles(tmp_path, MADE_BY).save(case, {"case": "a"})
    assert not CaseFiles(tmp_path, MADE_BY | changed).is_done(case)


def test_another_volume_of_the_same_name_and_size_is_judged_anew(tmp_path, case):
    CaseFiles(tmp_path, MADE_BY).save(case, {"case": "a"})
    (tmp_path / "a.nii.gz").write_bytes(b"VOXELS")
    assert not CaseFiles(tmp_path, MADE_BY).is_done(case)


def test_every_file_of_a_series_counts(tmp_path, case):
    (tmp_path / "b").write_bytes(b"slice")
    series = {"image": (case["image"], str(tmp_path / "b")), "case": "a"}
    CaseFiles(tmp_path, MADE_BY).save(series, {"case": "a"})
    assert CaseFiles(tmp_path, MADE_BY).is_done(series)
    (tmp_path / "b").write_bytes(b"other")
    assert not CaseFiles(tmp_path, MADE_BY).is_done(series)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"row": 1}', "\x00"])
def test_a_damaged_file_is_judged_anew(tmp_path, case, content):
    files = CaseFiles(tmp_path, MADE_BY)
    files.save(case, {"case": "a"})
    (tmp_path / "cases/a.json").write_text(content)
    assert not files.is_done(case)
    files.save(case, {"case": "a"})
    assert json.loads((tmp_path / "cases/a.json").read_text())["row"] == {"case": "a"}
