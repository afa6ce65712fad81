"""Short forms of the campaigns of ``make soak``: trainings, killed, starved and signalled, come out bit for bit."""

import json

import pytest
import reliability
from faults import endurance
from faults.training import Run, differences, largest_difference, make_data

FEW_ITERATIONS = {"max_epochs": 1, "val_interval": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Volumes that all trainings share."""
    return make_data(tmp_path_factory.mktemp("volumes") / "data")


@pytest.mark.parametrize("name", ["resume", "saving", "damage", "disk", "signals", "loader"])
def test_every_fault_of_a_campaign_is_survived(name, data, tmp_path, monkeypatch):
    monkeypatch.setattr(reliability, "make_data", lambda folder: folder.symlink_to(data))
    content = reliability.main(["--smoke", "--only", name, "--json", str(tmp_path / "result.json")])
    assert json.loads((tmp_path / "result.json").read_text())["rows"] == content["rows"]
    for row in content["rows"]:
        assert row["survived"] == row["injected"] >= 1, row


def test_a_fault_that_is_not_survived_ends_with_an_error(monkeypatch, capsys):
    outcome = reliability.Outcome(3, 2, "one was lost")
    monkeypatch.setattr(reliability, "make_data", lambda folder: None)
    monkeypatch.setattr(reliability, "campaigns", lambda n, data: {"saving": lambda f: f.mkdir() or {"kills": outcome}})
    with pytest.raises(SystemExit):
        reliability.main(["--smoke", "--only", "saving"])
    assert "| kills | 3 | 2 | one was lost |" in capsys.readouterr().out


def test_rows_of_other_campaigns_stay_in_the_file_with_their_commits(data, tmp_path, monkeypatch):
    monkeypatch.setattr(reliability, "make_data", lambda folder: None)
    file = tmp_path / "result.json"
    for name, commit in (("damage", "abc"), ("saving", "def")):
        reliability.main(["--smoke", "--only", name, "--commit", commit, "--json", str(file)])
    rows = json.loads(file.read_text())["rows"]
    assert [(row["campaign"], row["commit"]) for row in rows] == [("saving", "def"), *[("damage", "abc")] * 2]


def test_a_campaign_that_there_is_not_is_refused(capsys):
    with pytest.raises(SystemExit):
        reliability.main(["--smoke", "--only", "everything"])
    assert "--only everything: expected some of repeat, resume" in capsys.readouterr().err


@pytest.fixture(scope="module")
def pair(data, tmp_path_factory):
    """Two trainings alike but for the seed."""
    folder = tmp_path_factory.mktemp("runs")
    runs = [Run(data, folder / f"run_{seed}", seed=seed, **FEW_ITERATIONS) for seed in (0, 1)]
    for run in runs:
        run.finish()
    return runs


def test_a_run_that_differs_is_found_by_its_losses_and_its_final_state(pair):
    assert differences(pair[0], pair[0]) == []
    found = differences(*pair)
    assert "iteration 1" in found and "final state" in found
    assert largest_difference(pair[0], pair[0]) == 0 < largest_difference(*pair)


def test_an_iteration_that_is_missing_or_was_done_otherwise_in_one_of_its_lives_is_found(pair, monkeypatch):
    lives = pair[0].lives()
    monkeypatch.setattr(Run, "lives", lambda run: lives[:-1] if run is pair[0] else lives)
    monkeypatch.setattr(Run, "weights", lambda run: "")
    assert differences(pair[0], pair[1])[0] == f"iteration {len(lives)} is missing"
    other = [*lives, (1, dict.fromkeys(lives[0][1], "0x1p0"))]
    monkeypatch.setattr(Run, "lives", lambda run: other if run is pair[0] else lives)
    assert differences(pair[0], pair[1])[0] == "iteration 1"


def test_memory_and_files_are_watched_over_a_run(data, tmp_path):
    # without pictures: the first one opens fonts, and a run of 30 iterations has hardly settled after it
    found, rows = endurance.campaign(data, tmp_path, 30, num_workers=0, **{"validate::handlers::0::max_cases": 0})
    assert found.passed and found.iterations >= 30
    assert all(row["resident_bytes"] > 1e8 and row["open_files"] > 5 for row in rows)
    assert not found._replace(open_files=1).passed
    assert not found._replace(iterations=endurance.ENOUGH_TO_TELL, resident_mb=1.5).passed
