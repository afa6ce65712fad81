"""Work in processes goes on when one of them dies."""

import os
import signal

import pytest

from ctpa_vqgan.prepare.pool import Crashed, map_safely


def work(item: int) -> int:
    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == 13:
        raise KeyError("thirteen")
    return item * item


@pytest.mark.parametrize("workers", [0, 2])
def test_every_item_comes_with_its_result(workers):
    assert dict(map_safely(work, [1, 2, 4, 5], workers)) == {1: 1, 2: 4, 4: 16, 5: 25}


def test_an_item_that_kills_its_process_is_named_and_the_others_are_done():
    results = dict(map_safely(work, [1, 2, 3, 4, 5], 2))
    assert isinstance(results.pop(3), Crashed)
    assert results == {1: 1, 2: 4, 4: 16, 5: 25}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_the_function_is_raised(workers):
    with pytest.raises(KeyError, match="thirteen"):
        list(map_safely(work, [13], workers))


def test_no_items_need_no_process():
    assert list(map_safely(work, [], 2)) == []
