"""A run's checkpoints: whole, checked, as many as asked for, and the newest good one is what it goes on from."""

import math
import os
import random
from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events

from ctpa_vqgan.errors import BadNumbers, UserError
from ctpa_vqgan.events import TrainerEvents
from ctpa_vqgan.handlers import Checkpoints
from ctpa_vqgan.sealed import load_sealed, save_sealed

NOBODY = 2**30  # number of a process that there cannot be


class Counting(Engine):
    """As much of a trainer as checkpoints see: it counts, and can be resumed."""

    def __init__(self, epoch_length=5, max_epochs=2):
        super().__init__(lambda engine, batch: {"loss": 0.0})
        self.register_events(*TrainerEvents)
        self.state.epoch_length, self.state.max_epochs, self.epoch_end_due = epoch_length, max_epochs, False

    def state_dict(self):
        return {"iteration": self.state.iteration, "epoch_length": self.state.epoch_length, "due": self.epoch_end_due}

    def load_state_dict(self, state):
        self.state.iteration, self.epoch_end_due = state["iteration"], state["due"]
        self.state.epoch = self.state.iteration // self.state.epoch_length

    def go(self):
        try:
            self.fire_event(TrainerEvents.RESUMING)
            if self.state.iteration < self.state.epoch_length * self.state.max_epochs:
                self.run(range(self.state.epoch_length), max_epochs=self.state.max_epochs)
        finally:
            self.fire_event(TrainerEvents.ENDED)
        return self


def build(folder, **options):
    model, engine = torch.nn.Linear(1, 1), Counting()
    checkpoints = Checkpoints(folder, {"model": model}, **options)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: model.weight.data.fill_(e.state.iteration))
    return model, engine, checkpoints


def run(folder, **options):
    model, engine, checkpoints = build(folder, **options)
    checkpoints.attach(engine)
    engine.go()
    return model, checkpoints


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def iterations(folder):
    return [int(path.name[11:20]) for path in sorted(folder.glob("checkpoint_*.pt"))]


def flip(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)


# -- saving ------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_follows_each_epoch_and_the_last_two_stay_with_their_checksums(tmp_path):
    run(tmp_path)
    assert names(tmp_path) == [
        "checkpoint_000000005.pt",
        "checkpoint_000000005.pt.sha256",
        "checkpoint_000000010.pt",
        "checkpoint_000000010.pt.sha256",
    ]


def test_checkpoints_within_an_epoch_come_as_often_as_asked(tmp_path):
    run(tmp_path, save_interval=2, keep_last=100)
    assert iterations(tmp_path) == [2, 4, 5, 6, 8, 10]


def test_checkpoints_come_by_the_clock_too(tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 25))  # seconds: each look at it takes 25
    monkeypatch.setattr("ctpa_vqgan.handlers.checkpoints.time", SimpleNamespace(monotonic=lambda: next(clock)))
    run(tmp_path, save_minutes=1, keep_last=100)
    assert iterations(tmp_path) == [3, 5, 8, 10]


def test_old_checkpoints_are_removed_after_the_new_one_is_written(tmp_path, monkeypatch):
    found = []

    def save(content, path):
        save_sealed(content, path)
        found.append(iterations(tmp_path))

    monkeypatch.setattr("ctpa_vqgan.handlers.checkpoints.save_sealed", save)
    run(tmp_path, keep_last=1)
    assert found == [[5], [5, 10]]
    assert names(tmp_path) == ["checkpoint_000000010.pt", "checkpoint_000000010.pt.sha256"]


def test_the_best_by_validation_stay_beside_the_last_and_a_resumed_run_knows_them(tmp_path):
    scores = {1: 20.0, 2: 31.0, 3: math.nan, 4: 25.0, 5: 30.0, 6: 1.0}
    validator = SimpleNamespace(state=SimpleNamespace(epoch=0, metrics={}, key_metric_name="psnr"))

    def train(epochs):
        _, engine, checkpoints = build(tmp_path, keep_last=1, keep_best=2, validator=validator)
        engine.state.max_epochs = epochs

        @engine.on(Events.EPOCH_COMPLETED(event_filter=lambda engine, epoch: epoch != 5))  # no validation then
        def validate():
            validator.state.epoch, validator.state.metrics = engine.state.epoch, {"psnr": scores[engine.state.epoch]}

        checkpoints.attach(engine)
        engine.go()

    train(3)
    assert iterations(tmp_path) == [5, 10, 15]
    train(6)
    assert iterations(tmp_path) == [10, 20, 30], "31 dB, 25 dB, and the last"


def test_a_disk_that_is_full_for_a_while_costs_a_line_and_no_checkpoint_that_was_there(tmp_path, monkeypatch, capsys):
    def save(content, path):
        if content["trainer"]["iteration"] in (5, 6):
            raise UserError(f"{path}: could not be written (No space left on device); free some space")
        save_sealed(content, path)

    monkeypatch.setattr("ctpa_vqgan.handlers.checkpoints.save_sealed", save)
    run(tmp_path, save_interval=2, keep_last=1)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0][-12:] for line in lines] == ["000000005.pt", "000000006.pt"]
    assert all(line.endswith("training goes on, the next checkpoint is tried in its turn") for line in lines)
    assert iterations(tmp_path) == [10]


def test_a_run_whose_last_checkpoint_cannot_be_written_says_so_at_its_end(tmp_path, monkeypatch):
    def save(content, path):
        if content["trainer"]["iteration"] == 10:
            raise UserError("no space")
        save_sealed(content, path)

    monkeypatch.setattr("ctpa_vqgan.handlers.checkpoints.save_sealed", save)
    with pytest.raises(UserError, match="training is done, but not saved: no space; the same command goes on"):
        run(tmp_path)
    assert iterations(tmp_path) == [5]


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_no_checkpoint_holds_a_number_that_is_not_finite(tmp_path, number):
    model, engine, checkpoints = build(tmp_path)
    checkpoints.attach(engine)

    @engine.on(Events.ITERATION_COMPLETED(once=7))
    def spoil():
        model.bias.data.fill_(number)

    with pytest.raises(BadNumbers, match=r"000000010\.pt: not written: model\.bias holds numbers that are not finite"):
        engine.go()
    assert iterations(tmp_path) == [5]


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_the_newest_checkpoint_is_resumed_from_and_a_line_says_so(tmp_path, capsys):
    run(tmp_path)
    model, _ = run(tmp_path)
    assert model.weight.item() == 10
    assert "resumed at iteration 10 of 10 from checkpoint_000000010.pt" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["flip", "cut", "other checksum"])
def test_a_damaged_checkpoint_is_named_and_set_aside_and_the_one_before_is_taken(tmp_path, capsys, damage):
    run(tmp_path)
    newest = tmp_path / "checkpoint_000000010.pt"
    seal = newest.with_name(f"{newest.name}.sha256")
    if damage == "flip":
        flip(newest)
    elif damage == "cut":
        newest.write_bytes(newest.read_bytes()[:-1])
    else:
        flip(seal, 0.1)
    model, engine, checkpoints = build(tmp_path)
    checkpoints.attach(engine)
    engine.fire_event(TrainerEvents.RESUMING)
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(f"{newest}: ") and told[0].endswith("trying the checkpoint before it")
    assert told[1] == "resumed at iteration 5 of 10 from checkpoint_000000005.pt"
    assert model.weight.item() == 5
    assert (tmp_path / "checkpoint_000000010.pt.damaged").is_file()
    assert (tmp_path / "checkpoint_000000010.pt.damaged.sha256").is_file()
    assert iterations(tmp_path) == [5]
    engine.fire_event(TrainerEvents.ENDED)


@pytest.mark.parametrize("reason", ["no checksum", "no access"])
def test_a_checkpoint_that_cannot_be_judged_now_is_passed_over_and_left_alone(tmp_path, monkeypatch, capsys, reason):
    run(tmp_path)
    newest = tmp_path / "checkpoint_000000010.pt"
    if reason == "no checksum":
        newest.with_name(f"{newest.name}.sha256").unlink()
    else:

        def load(path):
            if path == newest:
                raise OSError(5, "Input/output error")
            return load_sealed(path)

        monkeypatch.setattr("ctpa_vqgan.handlers.checkpoints.load_sealed", load)
    _, engine, checkpoints = build(tmp_path)
    checkpoints.attach(engine)
    engine.fire_event(TrainerEvents.RESUMING)
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith(f"{newest}: ") and told[0].endswith("trying the checkpoint before it")
    assert engine.state.iteration == 5
    assert iterations(tmp_path) == [5, 10]
    engine.fire_event(TrainerEvents.ENDED)


def test_a_later_checkpoint_that_was_passed_over_does_not_push_out_those_that_are_good(tmp_path):
    run(tmp_path)
    (tmp_path / "checkpoint_000000010.pt.sha256").unlink()
    model, engine, checkpoints = build(tmp_path, keep_last=1)
    checkpoints.resume(engine)
    engine.state.iteration = 7
    model.weight.data.fill_(7)
    checkpoints.save(engine)
    checkpoints._end(engine)
    assert iterations(tmp_path) == [7, 10]
    model, engine, checkpoints = build(tmp_path)
    checkpoints.resume(engine)
    assert (engine.state.iteration, model.weight.item()) == (7, 7)
    checkpoints._end(engine)


def test_memory_that_runs_out_while_a_checkpoint_is_read_ends_the_start_and_touches_nothing(tmp_path, monkeypatch):
    run(tmp_path)
    before = names(tmp_path)

    def load(path):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("ctpa_vqgan.handlers.checkpoints.load_sealed", load)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        run(tmp_path)
    assert names(tmp_path) == before


def test_files_of_similar_names_are_left_alone(tmp_path):
    (tmp_path / "checkpoint_000000001_keep.pt").write_bytes(b"mine")
    (tmp_path / "checkpoint_best.pt").write_bytes(b"mine too")
    run(tmp_path, keep_last=1)
    run(tmp_path)
    assert {"checkpoint_000000001_keep.pt", "checkpoint_best.pt"} < set(names(tmp_path))


def test_a_folder_that_takes_nothing_is_refused_at_the_start(tmp_path, monkeypatch):
    def refuse(*_):
        raise UserError("probe: could not be written (Read-only file system); check the disk and its rights")

    monkeypatch.setattr("ctpa_vqgan.handlers.checkpoints.write_whole", refuse)
    _, engine, checkpoints = build(tmp_path)
    checkpoints.attach(engine)
    with pytest.raises(UserError, match="Read-only file system"):
        engine.fire_event(TrainerEvents.RESUMED)


def test_random_damage_to_the_newest_never_stops_a_run(tmp_path):
    run(tmp_path)
    newest, draw = tmp_path / "checkpoint_000000010.pt", random.Random(0)
    whole, seal = newest.read_bytes(), newest.with_name(f"{newest.name}.sha256")
    line = seal.read_bytes()
    for number in range(20):
        seal.write_bytes(line)
        newest.write_bytes(whole)
        flip(newest, draw.random()) if number % 2 else newest.write_bytes(whole[: draw.randrange(len(whole))])
        _, engine, checkpoints = build(tmp_path)
        checkpoints.resume(engine)
        assert engine.state.iteration == 5
        checkpoints._end(engine)


def test_when_all_are_damaged_the_run_does_not_begin_anew_by_itself(tmp_path):
    run(tmp_path)
    for path in tmp_path.glob("*.pt"):
        flip(path)
    for _ in range(2):  # a scheduler starts the same command again and again
        with pytest.raises(UserError, match="expected a checkpoint to go on from, found none that is good"):
            run(tmp_path)
    for path in tmp_path.glob("*.damaged*"):
        path.unlink()
    model, _ = run(tmp_path)
    assert model.weight.item() == 10, "the user said so by removing them"


def test_a_checkpoint_of_another_network_is_named_with_a_way_out(tmp_path):
    run(tmp_path)
    other = Checkpoints(tmp_path, {"model": torch.nn.Linear(2, 1)})
    with pytest.raises(UserError, match=r"checkpoint_000000010\.pt: does not fit this run .*choose a new output_dir"):
        other.resume(Counting())


def test_a_checkpoint_of_another_version_is_named_with_a_way_out(tmp_path):
    save_sealed({"iteration": 3}, tmp_path / "checkpoint_000000003.pt")
    with pytest.raises(UserError, match="holds no trainer: made by another version"):
        run(tmp_path)


def test_a_changed_number_of_iterations_per_epoch_is_refused(tmp_path):
    run(tmp_path)
    with pytest.raises(UserError, match="made with 5 iterations per epoch, this run has 6"):
        Checkpoints(tmp_path, {"model": torch.nn.Linear(1, 1)}).resume(Counting(epoch_length=6))


def test_changed_knobs_are_refused_by_name_with_both_values(tmp_path):
    knobs = {"channels": (4, 8), "seed": 0, "precision": "auto"}
    run(tmp_path, knobs=knobs)
    run(tmp_path, knobs=knobs)
    with pytest.raises(UserError) as error:
        run(tmp_path, knobs=knobs | {"channels": (8, 8), "seed": 1})
    assert "channels=[4, 8], now [8, 8]; seed=0, now 1; restore that" in str(error.value)
    run(tmp_path, knobs=knobs | {"another": 3})


def test_a_knob_may_change_where_the_user_says_so(tmp_path):
    run(tmp_path, knobs={"rate": 1.0})
    run(tmp_path, knobs={"rate": 2.0}, allow_changed=["rate"])
    with pytest.raises(UserError, match="allow_changed: rat is none of the knobs"):
        run(tmp_path, knobs={"rate": 2.0}, allow_changed=["rat"])


def test_global_random_numbers_go_on_where_they_were(tmp_path):
    _, engine, checkpoints = build(tmp_path)
    engine.state.iteration = 3
    torch.manual_seed(11)
    checkpoints.save(engine)
    expected = torch.rand(3)
    torch.manual_seed(12)
    checkpoints.resume(engine)
    assert torch.equal(torch.rand(3), expected)


def test_what_a_killed_run_was_writing_is_removed(tmp_path):
    (tmp_path / f".{NOBODY}.checkpoint_000000099.pt").write_bytes(b"half")
    (tmp_path / f".{os.getppid()}.checkpoint_000000099.pt").write_bytes(b"of a process that lives")
    (tmp_path / ".keep").write_bytes(b"not ours")
    run(tmp_path, keep_last=1)
    left = {".keep", f".{os.getppid()}.checkpoint_000000099.pt"}
    assert set(names(tmp_path)) == left | {"checkpoint_000000010.pt", "checkpoint_000000010.pt.sha256"}


def test_a_second_run_in_the_same_folder_is_refused_until_the_first_ends(tmp_path):
    _, first, checkpoints = build(tmp_path)
    checkpoints.attach(first)
    first.fire_event(TrainerEvents.RESUMING)
    with pytest.raises(UserError, match="another process works there"):
        run(tmp_path)
    first.fire_event(TrainerEvents.ENDED)
    run(tmp_path)


def test_a_loader_process_does_not_keep_the_folder_of_a_killed_run(tmp_path):
    (started, tell_started), (ended, tell_end) = os.pipe(), os.pipe()
    child = os.fork()
    if not child:
        Checkpoints(tmp_path, {}).resume(Counting())
        if not os.fork():  # as a loader process: it outlives its parent
            os.close(tell_end)
            os.write(tell_started, b".")
            os.read(ended, 1)  # until the test is over
        os._exit(0)
    os.waitpid(child, 0)
    os.read(started, 1)
    run(tmp_path)
    os.close(tell_end)


def test_the_state_of_an_iteration_is_written_once(tmp_path):
    _, engine, checkpoints = build(tmp_path)
    engine.state.iteration = 3
    assert checkpoints.save(engine)
    before = (tmp_path / "checkpoint_000000003.pt").stat().st_mtime_ns
    assert checkpoints.save(engine)
    assert (tmp_path / "checkpoint_000000003.pt").stat().st_mtime_ns == before
    assert load_sealed(tmp_path / "checkpoint_000000003.pt")["trainer"]["iteration"] == 3


def test_keeping_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="keep_last: expected at least 1, found 0"):
        Checkpoints(tmp_path, {}, keep_last=0)
