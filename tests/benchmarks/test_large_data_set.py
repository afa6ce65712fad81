"""The data set of headers is one that training takes, and every step of the start is timed."""

import large_data_set
import pytest


@pytest.mark.parametrize(("kind", "raw"), [("prepared", False), ("raw", True)])
def test_headers_alone_are_a_data_set(tmp_path, kind, raw):
    large_data_set.write_data_set(tmp_path / "data", kind, 20)
    dataset = large_data_set.start(tmp_path / "data", "grid", lambda step: None)
    assert len(dataset.cases) == 18
    assert set(dataset.raw) == {raw}
    # 512 x 512 x 401 voxels: 3 x 3 x 4 windows
    assert len(dataset.windows[0]) == 36


def test_every_step_has_its_seconds(tmp_path):
    large_data_set.write_data_set(tmp_path / "data", "prepared", 20)
    found = large_data_set.measure(tmp_path / "data", "random")
    assert set(found["steps"]) == set(large_data_set.STEPS)
    assert found["seconds"] == sum(found["steps"].values()) > 0
    assert found["patches_per_epoch"] == 18 * 54
    assert found["order_bytes"] == 8 * found["patches_per_epoch"]


def test_a_start_that_misses_its_goal_says_so():
    row = {"name": "slow", "volumes": 10, "steps": dict.fromkeys(large_data_set.STEPS, 6.0), "seconds": 36.0}
    row |= {
        "processor_seconds": 30.0,
        "next_order_seconds": 1.0,
        "list_bytes": 2**20,
        "data_set_bytes": 2**21,
        "order_bytes": 2**19,
    }
    facts = dict.fromkeys(("command", "hardware", "threads", "commit", "versions", "date"), "x")
    text = large_data_set.markdown({"rows": [row, row | {"seconds": 18.0, "processor_seconds": 15.0}], **facts})
    first, second = [line for line in text.splitlines() if line.startswith("| slow")]
    assert "| 36, goal not met |" in first
    assert "| 18 | 15 | 0.5 |" in second, "half the processor's time of the row above"
