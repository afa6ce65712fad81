"""Ranks leave together, so that the exit code of one does not cost another its cases."""

import threading
from collections import Counter

import pytest
import torch.distributed

from ctpa_vqgan.rendezvous import has_failed, is_first_to_say, wait_for_ranks


class Store:
    """As much of torchrun's store as is needed: counters."""

    def __init__(self):
        self.counts = Counter()

    def add(self, key, number):
        self.counts[key] += number
        return self.counts[key]


@pytest.fixture
def store(monkeypatch):
    store = Store()
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda url: iter([(store, 0, 2)]))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("WORLD_SIZE", "2")
    return store


def test_a_rank_waits_until_the_last_one_is_done(store):
    first = threading.Thread(target=wait_for_ranks)
    first.start()
    first.join(0.5)
    assert first.is_alive()
    wait_for_ranks()
    first.join(10)
    assert not first.is_alive()


@pytest.mark.parametrize("refused", [(False, False), (False, True), (True, False), (True, True)])
def test_all_know_whether_one_refused_something(store, refused):
    found = []
    first = threading.Thread(target=lambda: found.append(wait_for_ranks(refused[0])))
    first.start()
    found.append(wait_for_ranks(refused[1]))
    first.join(10)
    assert found == [any(refused)] * 2


def test_nobody_waits_for_a_rank_that_has_failed(store):
    first = threading.Thread(target=wait_for_ranks)
    first.start()
    has_failed()
    first.join(10)
    assert not first.is_alive()


def test_an_error_of_all_ranks_is_said_once(store):
    assert [is_first_to_say("no such folder") for _ in range(3)] == [True, False, False]
    assert is_first_to_say("disk full")


def test_an_error_is_said_where_nobody_can_be_asked(store, monkeypatch):
    monkeypatch.setattr(torch.distributed, "rendezvous", lambda url: iter(()))
    assert is_first_to_say("no such folder")
    assert is_first_to_say("no such folder")


def test_nobody_waits_for_a_job_that_has_gone(store, monkeypatch):
    def fail(key, number):
        raise RuntimeError("connection reset by peer")

    monkeypatch.setattr(store, "add", fail)
    wait_for_ranks()


def test_a_process_alone_does_not_wait(store, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "1")
    wait_for_ranks()
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # RANK and WORLD_SIZE of another launcher: no agent kills
    assert not wait_for_ranks()
    assert is_first_to_say("alone")
    assert not store.counts
