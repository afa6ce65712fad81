"""The harness measures what it says."""

import json

import pytest
import torch
from side_by_side import OUT_OF_MEMORY, LiveBytes, argument_parser, compare, number, paired, parsed, peak_memory, report
from torch._subclasses.fake_tensor import FakeTensorMode

KIB = 1024


def kib(count: int) -> torch.Tensor:
    """A tensor of so many KiB."""
    return torch.ones(count * KIB // 4)


def test_peak_memory_is_what_lives_at_once():
    def work():
        kib(5)
        first, second = kib(3), kib(4)
        del first
        return second, kib(1)

    assert peak_memory(work, "cpu") == {"peak_bytes": 7 * KIB}


def test_what_lay_in_memory_before_does_not_count():
    weight = kib(8)
    assert peak_memory(lambda: weight.mul_(2).view(2, -1), "cpu") == {"peak_bytes": 0}


def test_tensors_kept_for_the_backward_pass_count():
    x = kib(2).requires_grad_()

    def work():
        y = x
        for _ in range(6):
            y = y.exp()  # keeps its result
        return y

    assert peak_memory(work, "cpu") == {"peak_bytes": 12 * KIB}


def test_tensors_that_know_only_their_shape_do_not_count():
    with LiveBytes() as live, FakeTensorMode():
        torch.nn.Conv3d(1, 4, 3)(torch.zeros(1, 1, 32, 32, 32))
    assert live.peak == 0


def test_contenders_take_turns():
    calls = []
    compare({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, "cpu", 3, uncounted="ab")
    assert calls == ["a", "b", *["a", "b"] * 3]  # first a call of each to warm up


def test_a_paired_ratio_is_the_median_of_the_ratios_within_rounds():
    row, reference = {"rounds": [1.0, 6.0, 9.0]}, {"rounds": [1.0, 2.0, 10.0]}
    assert paired(row | {"status": "ok"}, reference | {"status": "ok"}) == 1.0  # and not 6 / 2
    assert paired(row | {"status": OUT_OF_MEMORY}, reference | {"status": "ok"}) is None


def test_who_runs_out_of_memory_or_fails_is_a_row_and_the_others_go_on(capsys):
    def greedy():
        raise torch.OutOfMemoryError("CUDA out of memory")

    def greedy_on_a_cpu():
        torch.empty(2**60, dtype=torch.uint8)

    def broken():
        raise ValueError("no such thing\nand more")

    works = {"greedy": greedy, "cpu": greedy_on_a_cpu, "broken": broken, "fine": lambda: kib(1)}
    rows = compare(works, "cpu", 2)
    assert [row["status"] for row in rows] == [OUT_OF_MEMORY, OUT_OF_MEMORY, "failed: ValueError: no such thing", "ok"]
    assert [len(row["rounds"]) for row in rows] == [0, 0, 0, 2]
    assert "no such thing" in capsys.readouterr().err


def test_numbers_carry_hardware_versions_and_commit(tmp_path, capsys):
    options = parsed(argument_parser("doc"), ["--json", str(tmp_path / "new" / "x.json")], {"cpu": {"repeats": 7}})
    report(options, lambda content: f"repeats {options.repeats}", rows=[])
    assert "repeats 7" in capsys.readouterr().out
    content = json.loads((tmp_path / "new" / "x.json").read_text())
    assert {"hardware", "versions", "commit", "command", "date", "threads", "device"} <= set(content)
    options.commit = "abc"
    assert report(options, lambda content: "", rows=[])["commit"] == "abc"


def test_a_device_that_is_not_there_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        parsed(argument_parser("doc"), ["--device", "cuda"], {"cuda": {}})
    assert "needs a GPU" in capsys.readouterr().err


def test_numbers_are_short_and_plain():
    written = [number(value) for value in (0.00012345, 1.0, 12345.6, None)]
    assert written == ["0.000123", "1", "12 300", "-"]
