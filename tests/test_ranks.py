"""Who takes which part, and what a process says that is not alone; what two of them do is in test_several_ranks.py."""

import signal
import subprocess
import sys
import time

import pytest

from ctpa_vqgan import bundle, ranks
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.progress import progress_bar, say
from ctpa_vqgan.ranks import Shard


@pytest.mark.parametrize("count", [1, 2, 3, 7, 20])
@pytest.mark.parametrize("length", [0, 1, 5, 12])
def test_parts_are_the_whole_in_order_and_differ_by_one_at_most(count, length):
    parts = [Shard(index, count).part(range(100, 100 + length)) for index in range(count)]
    assert [number for part in parts for number in part] == list(range(100, 100 + length))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == sorted(sizes, reverse=True), "rank 0 has a patch wherever one has"


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_cases_are_dealt_in_turn(count):
    items = list("abcdefg")
    dealt = [Shard(index, count).take(items) for index in range(count)]
    assert sorted(item for part in dealt for item in part) == items
    assert dealt[0] == items[::count]


def test_a_process_alone_has_everything(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert Shard.of_this_process() == Shard.of_group() == Shard.of(None) == Shard(0, 1)
    assert ranks.is_main()
    assert not ranks.are_many()


def test_torchruns_variables_are_known_before_a_group_is_made(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert Shard.of_this_process() == Shard.of(None) == Shard(2, 4)
    assert Shard.of_group() == Shard(0, 1)
    assert not ranks.is_main()


@pytest.mark.parametrize(
    ("text", "shard"), [("1/1", Shard(0, 1)), ("1/4", Shard(0, 4)), ("12/12", Shard(11, 12)), (" 01/04", Shard(0, 4))]
)
def test_shards_are_counted_from_1(text, shard):
    assert Shard.of(text) == shard
    assert Shard.of(str(shard)) == shard


@pytest.mark.parametrize("text", ["0/4", "00/4", "5/4", "1-4", "1/0", "a", "", "1/4/2", "-1/4", "1.0/2", 1])
def test_no_shard_is_made_of_anything_else(text):
    with pytest.raises(UserError, match="--shard: expected part i/n counted from 1, such as 1/4, found"):
        Shard.of(text)


def test_torchrun_and_a_shard_do_not_go_together(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="expected none under torchrun, whose 2 processes share"):
        Shard.of("1/4")


def test_alone_nothing_is_exchanged():
    assert ranks.gather("mine") == ranks.to_main("mine") == ["mine"]
    assert ranks.gather_numbers(3, 4) == [[3], [4]]
    assert [ranks.anywhere(flag) for flag in (False, True)] == [False, True]
    assert ranks.from_main(lambda: "made") == "made"


def test_rank_0_speaks_for_all_but_for_what_is_a_ranks_own(monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        say("for all")
        say("my own", every_rank=True)
    assert capsys.readouterr().err.splitlines() == ["for all", "my own", "rank 1: my own"]
    assert progress_bar(3, "rank 1").disable


def test_one_gpu_needs_no_multi_gpu_config(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    bundle.check_ranks()
    with pytest.raises(UserError, match=r"expected to be started by torchrun .+ found no WORLD_SIZE"):
        bundle.join_ranks("cpu", timeout=10)


def test_several_processes_need_it(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"or multi_gpu_train.yaml merged after train.yaml, found 2 processes"):
        bundle.check_ranks()


@pytest.mark.parametrize("timeout", [0, -1, None, "an hour", True])
def test_a_wait_needs_a_time(monkeypatch, timeout):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="rank_timeout: expected a number of seconds above 0"):
        bundle.join_ranks("cpu", timeout)


def test_ranks_that_do_not_come_are_named_with_the_way_out(monkeypatch):
    environment = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"rank 1 of 2: could not join the others .+GLOO_SOCKET_IFNAME"):
        bundle.join_ranks("cpu", timeout=0.5)


def test_a_rank_without_a_case_validates_the_first(monkeypatch):
    cases = ["a", "b", "c"]
    shares = []
    for index in range(5):
        monkeypatch.setattr(Shard, "of_group", lambda index=index: Shard(index, 5))
        shares.append(bundle.rank_cases(cases))
    assert shares == [[0], [1], [2], [0], [0]]


STUCK = """
import os, signal, time
os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "1"
from ctpa_vqgan.handlers.preemption import _Patience
signal.signal(signal.SIGTERM, lambda *ignored: None)  # as of a handler that waits for the end of the step
patience = _Patience()
signal.raise_signal(signal.SIGTERM)
patience.end()  # the ranks agreed in time
time.sleep(1.5)
patience = _Patience()
print("still here", flush=True)
time.sleep(30)
"""


def test_a_rank_that_no_signal_can_move_ends_before_torchrun_kills_it():
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"still here\n"
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert b"SIGTERM: the step is not done after 0.6 s; leaving" in told
    assert time.monotonic() - began < 25, "of 30 s that it would have slept"
