"""Bars and lines of progress."""

import os
import signal
import sys

from tqdm import tqdm

from ctpa_vqgan.progress import say


def test_a_process_that_is_killed_while_it_writes_stops_no_other(capfd):
    pid = os.fork()
    if not pid:
        with tqdm.external_write_mode(file=sys.stderr):
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert tqdm.get_lock().acquire(blocking=False), "say() would wait for ever"
    tqdm.get_lock().release()
    say("still there")
    assert "still there" in capfd.readouterr().err
