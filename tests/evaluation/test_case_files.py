"""Cases that were judged are not judged again, unless anything that they depend on changed."""

import json
import math
import os

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
    assert again.row(case) == {"case": "a", "psnr": "inf", "ssim": None, "tissues": {"x": [1.5]}}


def test_nothing_is_done_at_first(tmp_path, case):
    assert CaseFiles(tmp_path, MADE_BY).row(case) is None


@pytest.mark.parametrize("changed", [{"network": "def"}, {"stride": [1, 2, 3]}])
def test_another_network_or_setting_judges_anew(tmp_path, case, changed):
    CaseFiles(tmp_path, MADE_BY).save(case, {"case": "a"})
    assert CaseFiles(tmp_path, MADE_BY | changed).row(case) is None


def test_another_volume_of_the_same_name_and_size_is_judged_anew(tmp_path, case):
    CaseFiles(tmp_path, MADE_BY).save(case, {"case": "a"})
    (tmp_path / "a.nii.gz").write_bytes(b"VOXELS")
    assert CaseFiles(tmp_path, MADE_BY).row(case) is None


def test_every_file_of_a_series_counts(tmp_path, case):
    (tmp_path / "b").write_bytes(b"slice")
    series = {"image": (case["image"], str(tmp_path / "b")), "case": "a"}
    CaseFiles(tmp_path, MADE_BY).save(series, {"case": "a"})
    assert CaseFiles(tmp_path, MADE_BY).row(series) is not None
    (tmp_path / "b").write_bytes(b"other")
    assert CaseFiles(tmp_path, MADE_BY).row(series) is None


@pytest.mark.parametrize("content", ["", "{", "[]", '{"row": 1}', "\x00"])
def test_a_damaged_file_is_judged_anew(tmp_path, case, content):
    files = CaseFiles(tmp_path, MADE_BY)
    files.save(case, {"case": "a"})
    (tmp_path / "cases/a.json").write_text(content)
    assert files.row(case) is None
    files.save(case, {"case": "a"})
    assert json.loads((tmp_path / "cases/a.json").read_text())["row"] == {"case": "a"}


@pytest.mark.parametrize(
    ("suffix", "field"), [("mhd", "ElementDataFile = voxels.raw"), ("nhdr", "data file: voxels.raw")]
)
def test_voxels_beside_their_header_count(tmp_path, suffix, field):
    header = tmp_path / f"a.{suffix}"
    header.write_text(f"NRRD0004\ndimension: 3\n{field}\n")
    (tmp_path / "voxels.raw").write_bytes(b"voxels")
    case = {"image": str(header), "case": "a"}
    CaseFiles(tmp_path, MADE_BY).save(case, {"case": "a"})
    assert CaseFiles(tmp_path, MADE_BY).row(case) is not None
    (tmp_path / "voxels.raw").write_bytes(b"VOXELS")
    assert CaseFiles(tmp_path, MADE_BY).row(case) is None


def test_a_refusal_is_kept_until_the_case_is_judged(tmp_path, case):
    files = CaseFiles(tmp_path, MADE_BY)
    files.refuse(case, "a.nii.gz: no volume")
    assert (files.refusal(case), files.row(case)) == ("a.nii.gz: no volume", None)
    assert CaseFiles(tmp_path, MADE_BY | {"labels": "maps"}).refusal(case) is None, "other settings may read it"
    files.save(case, {"case": "a"})
    assert (files.refusal(case), files.row(case)) == (None, {"case": "a"})


def test_the_row_of_another_shard_costs_no_reading_of_its_volume(tmp_path, case, monkeypatch):
    CaseFiles(tmp_path, MADE_BY).save(case, {"case": "a"})
    monkeypatch.setattr("hashlib.file_digest", None)
    assert CaseFiles(tmp_path, MADE_BY).row(case, by_bytes=False) == {"case": "a"}


def test_a_volume_that_was_replaced_makes_the_row_and_refusal_of_another_shard_void(tmp_path, case):
    files = CaseFiles(tmp_path, MADE_BY)
    for keep, known in ((files.save, {"case": "a"}), (files.refuse, "no volume")):
        keep(case, known)
        assert known in (files.row(case, by_bytes=False), files.refusal(case))
        with open(case["image"], "ab") as file:
            file.write(b"more")
        assert (files.row(case, by_bytes=False), files.refusal(case)) == (None, None)


def test_a_volume_that_was_only_touched_counts_again_once_its_bytes_were_compared(tmp_path, case):
    CaseFiles(tmp_path, MADE_BY).save(case, {"case": "a"})
    os.utime(case["image"], (1, 1))
    again = CaseFiles(tmp_path, MADE_BY)
    assert again.row(case, by_bytes=False) is None
    assert again.row(case) == again.row(case, by_bytes=False) == {"case": "a"}
