"""Cases one after the other, past those that cannot be read."""

import pytest
from monai.data import DataLoader

from ctpa_vqgan.data import ReadableCases
from ctpa_vqgan.errors import UserError

CASES = [{"image": f"{name}.nii.gz", "case": name} for name in "abc"]


def read(case):
    if case["case"] == "b":
        raise RuntimeError("a transform failed") from UserError("b.nii.gz: expected a CT, found a cake")
    return {"case": case["case"]}


def names(dataset):
    return [item["case"][0] for item in DataLoader(dataset, batch_size=1)]


def test_a_case_that_is_refused_costs_no_other(capsys):
    dataset = ReadableCases(CASES, read)
    assert names(dataset) == ["a", "c"]
    assert dataset.refused == {"b": "b.nii.gz: expected a CT, found a cake"}
    assert "left out: b.nii.gz: expected a CT, found a cake" in capsys.readouterr().err


def test_every_rank_names_what_it_left_out(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    list(ReadableCases(CASES, read))
    assert "rank 1: left out: b.nii.gz: expected a CT" in capsys.readouterr().err


def test_a_case_that_is_done_is_not_read():
    dataset = ReadableCases(CASES, read, is_done=lambda case: case["case"] != "a")
    assert names(dataset) == ["a"]
    assert not dataset.refused


def test_each_pass_tells_its_own_refusals():
    dataset = ReadableCases(CASES, read)
    list(dataset)
    dataset.transform = lambda case: {"case": case["case"]}
    assert len(list(dataset)) == 3
    assert not dataset.refused


def test_a_fault_of_the_program_is_not_taken_for_one_of_the_file():
    def broken(case):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        list(ReadableCases(CASES, broken))


def test_processes_of_a_loader_would_lose_what_is_refused():
    with pytest.raises(ValueError, match="num_workers=0"):
        list(DataLoader(ReadableCases(CASES, read), num_workers=1))
