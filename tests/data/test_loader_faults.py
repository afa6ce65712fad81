"""Loader processes die, hang and get signals: the stream of patches stays the same, or the run ends with a name."""

import gc
import itertools
import multiprocessing
import os
import random
import signal
import threading
import time
from contextlib import suppress

import numpy as np
import pytest
import torch

from ctpa_vqgan.data import load_volume, loader, patch_dataset, patch_loader, prepare_patch, write_prepared
from ctpa_vqgan.errors import UserError

PATCH, STRIDE = (8, 8, 4), (5, 5, 3)
BATCH = 3
START = {"shared": "fork", "plain": "spawn"}  # what the loader takes for shared memory and for PyTorch's own way


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """Three prepared volumes, one with a side below the patch."""
    folder, found = tmp_path_factory.mktemp("volumes"), []
    for number, size in enumerate([(20, 16, 10), (12, 21, 14), (17, 13, 3)]):
        voxels = np.random.RandomState(number).randint(-1000, 1000, size).astype(np.int16)
        found.append({"image": str(write_prepared(folder / f"{number}.nii", voxels, np.eye(4))), "case": str(number)})
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Look often, and leave no process behind."""
    monkeypatch.setattr(loader, "POLL_SECONDS", 0.05)
    yield
    assert not multiprocessing.active_children()


def make(cases, sampling="random", loading=None, num_samples=14):
    transform = prepare_patch((-1000, 1000))
    loading = loading or load_volume()
    return patch_dataset(cases, loading, transform, PATCH, STRIDE, sampling, num_samples, batch_size=BATCH, seed=3)


def troubled(case, trouble):
    """A loading transform that gets into trouble at one case, in a loader process only."""
    load, main = load_volume(), os.getpid()

    def load_or_not(item):
        if item["image"] == case["image"] and os.getpid() != main:
            trouble()
        return load(item)

    return load_or_not


def die(number=signal.SIGKILL):
    os.kill(os.getpid(), number)


def same_batch(one, other):
    assert one.keys() == other.keys() == {"image", "case", "sample", "position", "unreadable"}
    return all(
        torch.equal(value, other[key]) if isinstance(value, torch.Tensor) else value == other[key]
        for key, value in one.items()
    )


def same_stream(one, other):
    return len(one) == len(other) and all(map(same_batch, one, other))


def processes():
    """Loader processes of this one, by their number."""
    return sorted(multiprocessing.active_children(), key=lambda process: process.pid)


def kill(process, number=signal.SIGKILL):
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)


# -- death -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampling", "workers", "way", "kills"),
    [("random", 1, "plain", 3), ("random", 4, "shared", 5), ("grid", 1, "shared", 3), ("grid", 2, "plain", 5)],
)
def test_kills_at_random_moments_leave_the_stream_as_it_is(monkeypatch, cases, sampling, workers, way, kills):
    expected = list(patch_loader(make(cases, sampling), BATCH))
    monkeypatch.setattr(loader.multiprocessing, "get_start_method", lambda: START[way])
    batches, draw, timers = patch_loader(make(cases, sampling), BATCH, workers), random.Random(0), []
    for _ in range(20):
        found = []
        for number, batch in enumerate(batches):
            found.append(batch)
            if number % 3 == 0 and batches.restarts < kills:
                victim = draw.choice(processes())
                timers.append(threading.Timer(draw.uniform(0, 0.02), kill, [victim]))
                timers[-1].start()
        assert same_stream(found, expected)
        if batches.restarts >= kills:
            break
    for timer in timers:
        timer.join()
    assert batches.restarts >= kills


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_a_process_that_dies_at_work_is_named_with_its_signal_and_file(cases, capsys, tmp_path, sampling):
    """Where the bytes of a file are gone, touching its pages kills; here that happens once."""
    once = tmp_path / "once"

    def die_once():
        with suppress(FileExistsError):
            once.mkdir()
            die(signal.SIGBUS)

    expected = list(patch_loader(make(cases, sampling), BATCH))
    found = list(patch_loader(make(cases, sampling, troubled(cases[1], die_once)), BATCH, num_workers=2))
    assert same_stream(found, expected)
    lines = [line for line in capsys.readouterr().err.splitlines() if "loader process" in line]
    assert len(lines) == 1
    assert "was killed by SIGBUS" in lines[0]
    assert f"reading {cases[1]['image']}; new ones go on with sample" in lines[0]
    assert lines[0].endswith("(restart 1)")


@pytest.mark.parametrize(
    ("sampling", "number", "way_out"),
    [
        ("random", "SIGKILL", "likely out of memory: lower num_workers"),
        ("grid", "SIGUSR2", "check these files and their disk"),
    ],
)
def test_processes_that_die_without_end_stop_the_run_with_the_cases(cases, capsys, sampling, number, way_out):
    dataset = make(cases, sampling, troubled(cases[1], lambda: die(signal.Signals[number])))
    batches, seen = patch_loader(dataset, BATCH, num_workers=2), 0
    with pytest.raises(UserError, match="3 times in a row") as caught:
        for batch in batches:
            seen += len(batch["sample"])
    message = str(caught.value)
    assert "\n" not in message
    planned = {cases[case]["case"] for case in dataset.epoch_order(0)[seen : seen + BATCH, 0]}
    listed = message.split("before the batch of ")[1].split(" came")[0]
    assert set(listed.split(", ")) == planned
    assert f"was killed by {number} reading {cases[1]['image']}" in message
    assert message.endswith(f"; {way_out}")
    assert capsys.readouterr().err.count("restart") == 2


def test_a_death_never_interrupts_what_the_main_process_does(cases):
    """PyTorch's own handler of SIGCHLD would raise here, once an iterator of anyone's has installed it."""
    list(torch.utils.data.DataLoader(range(4), num_workers=1))
    batches = patch_loader(make(cases), BATCH, num_workers=2)
    found, work = [], 0
    for batch in batches:
        found.append(batch)
        if len(found) == 5:
            kill(processes()[0])
            end = time.monotonic() + 0.3
            while time.monotonic() < end:
                work += 1
    assert work and batches.restarts == 1
    assert same_stream(found, list(patch_loader(make(cases), BATCH)))


def test_a_process_may_die_before_its_first_batch_and_as_it_starts(cases):
    class Killing(loader.PatchLoader):
        kills = 2

        def _start_processes(self, start):
            started = super()._start_processes(start)
            if self.kills:
                self.kills -= 1
                kill(processes()[0])
            return started

    dataset = make(cases)
    options = {"sampler": loader._SampleNumbers(dataset), "batch_size": BATCH, "num_workers": 2}
    batches = Killing(dataset, **options)
    assert same_stream(list(batches), list(patch_loader(make(cases), BATCH)))
    assert batches.restarts == 2


def test_restarts_leave_no_open_file_and_no_process(cases):
    batches = patch_loader(make(cases, num_samples=16), BATCH, num_workers=2)
    gc.collect()
    open_files = []
    for _ in range(3):
        for number, _ in enumerate(batches):
            if number == 2:
                kill(processes()[1])
        assert not processes()
        gc.collect()
        open_files.append(len(os.listdir("/proc/self/fd")))
    assert batches.restarts == 3
    assert open_files[-1] <= open_files[0]


def test_a_loop_left_early_ends_its_processes(cases):
    for _ in patch_loader(make(cases), BATCH, num_workers=2):
        assert len(processes()) == 2
        break
    assert not processes()


def test_processes_that_are_not_forked_give_the_same_stream(cases):
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        found = list(patch_loader(make(cases, num_samples=6), BATCH, num_workers=1))
    finally:
        multiprocessing.set_start_method(before, force=True)
    assert same_stream(found, list(patch_loader(make(cases, num_samples=6), BATCH)))


# -- hangs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampling", "way"), [("random", "shared"), ("grid", "plain")])
def test_a_hang_ends_the_run_with_the_file_and_kills_the_process(monkeypatch, cases, sampling, way):
    monkeypatch.setattr(loader.multiprocessing, "get_start_method", lambda: START[way])
    dataset = make(cases, sampling, troubled(cases[2], lambda: time.sleep(600)))
    begun = time.monotonic()
    with pytest.raises(UserError) as caught:
        list(patch_loader(dataset, BATCH, num_workers=2, timeout=1.5))
    assert str(caught.value).startswith(f"{cases[2]['image']}: expected a batch within loader_timeout = 1.5 s, found")
    assert 1.5 < time.monotonic() - begun < 20
    assert not processes()


def test_a_process_that_stands_still_ends_the_run_too(cases):
    with pytest.raises(UserError, match="expected a batch within loader_timeout"):
        for _ in patch_loader(make(cases), BATCH, num_workers=1, timeout=0.5):
            kill(processes()[0], signal.SIGSTOP)
    assert not processes()


def test_what_is_slow_does_not_hang(cases):
    """The limit is for one batch: neither for the epoch, nor for the time that the trainer takes."""
    dataset = make(cases, loading=troubled(cases[0], lambda: time.sleep(0.02)), num_samples=8)
    found = []
    for batch in patch_loader(dataset, BATCH, num_workers=1, timeout=1.5):
        found.append(batch)
        time.sleep(1.6 * (len(found) == 2))
    assert same_stream(found, list(patch_loader(make(cases, num_samples=8), BATCH)))


def test_a_death_is_no_hang(cases):
    batches = patch_loader(make(cases, loading=troubled(cases[0], die)), BATCH, num_workers=1, timeout=60)
    with pytest.raises(UserError, match="lower num_workers"):
        list(batches)


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_below_zero_is_refused(cases, timeout):
    with pytest.raises(UserError, match=f"loader_timeout: expected seconds, or 0 to wait for ever, found {timeout}"):
        patch_loader(make(cases), BATCH, timeout=timeout)


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def handlers():
    """Handlers as a trainer has them: they take a note."""
    notes, before = [], {}
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
        before[number] = signal.signal(number, lambda number, frame: notes.append(number))
    yield notes
    for number, handler in before.items():
        signal.signal(number, handler)


def test_loader_processes_ignore_the_signals_that_a_group_gets(cases):
    batches, found = patch_loader(make(cases), BATCH, num_workers=2), []
    for batch in batches:
        found.append(batch)
        if len(found) > 1:  # both have begun
            for process, number in itertools.product(processes(), (signal.SIGINT, signal.SIGUSR1)):
                kill(process, number)
    assert batches.restarts == 0
    assert same_stream(found, list(patch_loader(make(cases), BATCH)))


def test_sigterm_ends_a_loader_process(cases, capsys, handlers):
    batches, found = patch_loader(make(cases), BATCH, num_workers=2), []
    for batch in batches:
        found.append(batch)
        if len(found) == 2:
            kill(processes()[0], signal.SIGTERM)
            processes()[0].join(10)
    assert (batches.restarts, handlers) == (1, [])
    assert same_stream(found, list(patch_loader(make(cases), BATCH)))


def iterate_for_ever(dataset, told):
    class Telling(loader.PatchLoader):
        def _start_processes(self, start):
            started = super()._start_processes(start)
            told.send([process.pid for process in processes()])
            return started

    options = {"sampler": loader._SampleNumbers(dataset), "batch_size": BATCH, "num_workers": 2}
    for number, _ in enumerate(Telling(dataset, **options)):
        if number == 1:
            told.send("both wait")
            time.sleep(600)


@pytest.mark.parametrize("moment", ["they begin", "both wait", "both hang"])
def test_loader_processes_go_when_the_main_one_is_killed(cases, moment):
    loading = (lambda item: time.sleep(600)) if moment == "both hang" else None
    context = multiprocessing.get_context("fork")
    heard, told = context.Pipe(duplex=False)
    main = context.Process(target=iterate_for_ever, args=(make(cases, loading=loading), told))
    main.start()
    pids = heard.recv()
    assert len(pids) == 2
    if moment == "both wait":
        assert heard.recv() == moment
        assert all(alive(pid) for pid in pids)
    elif moment == "both hang":
        time.sleep(0.5)
    main.kill()
    main.join()
    end = time.monotonic() + 20
    while any(alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in pids)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


# -- seeds and names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", ["random", "grid"])
@pytest.mark.parametrize("workers", [0, 2])
def test_the_global_generators_stay_as_they_are(cases, sampling, workers):
    def states():
        return torch.get_rng_state().tolist(), random.getstate(), *map(str, np.random.get_state(legacy=False).values())

    before = states()
    for number, _ in enumerate(patch_loader(make(cases, sampling), BATCH, workers)):
        if workers and number == 3:
            kill(processes()[0])
    assert states() == before


def test_each_loader_process_has_a_seed_and_a_name_of_its_own(cases, tmp_path):
    def note():
        name = multiprocessing.current_process().name
        (tmp_path / name).write_text(f"{torch.initial_seed()} {np.random.randint(2**31)} {random.random()}")

    def noted():
        list(patch_loader(make(cases, loading=troubled(cases[0], note), num_samples=8), BATCH, num_workers=2))
        return {path.name: path.read_text().split()[0] for path in tmp_path.iterdir()}

    first = noted()
    assert set(first) == {"loader-0", "loader-1"}
    assert len(set(first.values())) == 2
    assert noted() == first
