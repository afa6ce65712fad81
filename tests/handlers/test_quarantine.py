"""A file that breaks costs its patches and a line; too many of them end the run."""

import json

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from ctpa_vqgan.data import load_volume, patch_dataset, patch_loader, prepare_patch, write_prepared
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.events import TrainerEvents
from ctpa_vqgan.handlers import Checkpoints, Quarantine
from ctpa_vqgan.handlers.tensorboard import TensorBoardLog

PATCH = (8, 8, 4)


@pytest.fixture
def cases(tmp_path):
    """Five prepared volumes."""
    found = []
    for number in range(5):
        voxels = np.full((9, 10, 6), 100 * number, np.int16)
        path = write_prepared(tmp_path / "data" / f"{number}.nii", voxels, np.eye(4))
        found.append({"image": str(path), "case": str(number)})
    return found


def cut_short(case):
    with open(case["image"], "r+b") as file:
        file.truncate(500)


class Training(Engine):
    """As much of a trainer as handlers see: it takes notes of what it would train on."""

    def __init__(self, cases, sampling="random", workers=0, max_epochs=2):
        super().__init__(self.step)
        self.register_events(*TrainerEvents)
        self.dataset = patch_dataset(
            cases, load_volume(), prepare_patch((-1000, 1000)), PATCH, PATCH, sampling, num_samples=4, batch_size=2
        )
        self.loader = patch_loader(self.dataset, 2, workers)
        self.length, self.max_epochs, self.seen = self.dataset.num_batches(2), max_epochs, {}
        self.state.epoch_length, self.state.max_epochs = self.length, max_epochs
        self.add_event_handler(Events.EPOCH_STARTED, self.begin)

    def step(self, engine, batch):
        self.seen[self.state.iteration] = list(zip(batch["case"], batch["sample"].tolist(), batch["image"].clone()))

    def begin(self):
        self.dataset.start_at(self.state.iteration * 2)

    def state_dict(self):
        return {"iteration": self.state.iteration, "epoch_length": self.length}

    def load_state_dict(self, state):
        self.state.iteration, self.state.epoch = state["iteration"], state["iteration"] // self.length

    def go(self, *handlers):
        for handler in handlers:
            handler.attach(self)
        try:
            self.fire_event(TrainerEvents.RESUMING)
            self.run(self.loader, max_epochs=self.max_epochs, epoch_length=self.length)
        finally:
            self.fire_event(TrainerEvents.ENDED)
        return self


def trained(cases, share=0.4, **options):
    training = Training(cases, **options)
    quarantine = Quarantine(training.dataset, share)
    return training.go(quarantine), quarantine


def used(training):
    return {case for batch in training.seen.values() for case, *_ in batch}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_a_broken_file_is_named_once_and_the_run_goes_on(cases, capsys, sampling, workers):
    cut_short(cases[3])
    training, _ = trained(cases, sampling=sampling, workers=workers)
    assert training.state.iteration == 2 * training.length
    assert used(training) == {"0", "1", "2", "4"}
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"{cases[3]['image']}: [payload] expected as many bytes of voxels as the header states")
    assert line.endswith("; left out: 1 of 5 training cases")


def test_nothing_is_said_of_a_sound_data_set(cases, capsys):
    training, quarantine = trained(cases)
    assert used(training) == set("01234")
    assert capsys.readouterr() == ("", "")
    assert quarantine.state_dict() == {"cases": []}


def test_raw_files_are_mentioned_at_the_start(cases, phantom_folder, capsys):
    raw = {"image": str(sorted(phantom_folder.glob("*.nii.gz"))[0]), "case": "raw"}
    trained([*cases, raw])
    out = capsys.readouterr().out
    assert out.startswith("1 of 6 training files are not prepared:")
    assert out.count("\n") == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_may_break_while_the_run_goes_on(cases, workers):
    training = Training(cases, workers=workers, max_epochs=3)
    training.add_event_handler(Events.EPOCH_COMPLETED(once=1), lambda: cut_short(cases[0]))
    training.go(Quarantine(training.dataset, 0.4))
    first, later = (
        {case for n, batch in training.seen.items() if (n <= training.length) == early for case, *_ in batch}
        for early in (True, False)
    )
    assert first == set("01234")
    assert later == set("1234")


@pytest.mark.parametrize("workers", [0, 2])
def test_the_run_stops_when_too_many_are_bad(cases, capsys, workers):
    for case in cases[1:4]:
        cut_short(case)
    training = Training(cases, workers=workers)
    with pytest.raises(UserError) as error:
        training.go(Quarantine(training.dataset, 0.4))
    message = str(error.value)
    assert "\n" not in message
    assert ": [payload] expected" in message
    assert message.endswith(
        "with it 3 of 5 training cases (60.0%) cannot be read, more than max_bad_share (40.0%): mend or remove them, "
        "or raise max_bad_share"
    )
    assert len(capsys.readouterr().err.strip().splitlines()) == 2, "the third is in the error"


def test_by_default_a_few_cases_tolerate_none(cases):
    cut_short(cases[0])
    training = Training(cases)
    with pytest.raises(
        UserError, match=r"1 of 5 training cases \(20\.0%\) cannot be read, more than max_bad_share \(5"
    ):
        training.go(Quarantine(training.dataset))


@pytest.mark.parametrize("sampling", ["random", "grid"])
def test_without_any_case_the_run_ends_whatever_the_share(cases, sampling):
    training = Training(cases[:2], sampling=sampling)
    for case in cases[:2]:
        cut_short(case)
    with pytest.raises(UserError, match=r"\[payload\].*no .*training case is left"):
        training.go(Quarantine(training.dataset, 1.0))


def test_a_case_that_a_grid_cannot_measure_is_told_at_the_start(cases, capsys):
    with open(cases[2]["image"], "wb") as file:
        file.write(b"rubbish")
    training, quarantine = trained(cases, sampling="grid")
    assert used(training) == {"0", "1", "3", "4"}
    assert f"{cases[2]['image']}: [" in capsys.readouterr().err
    assert list(quarantine.cases) == [cases[2]["image"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_leaves_them_out_from_the_start_and_draws_the_same(cases, tmp_path, workers, capsys):
    cut_short(cases[3])
    whole, _ = trained(cases, workers=workers)

    folder = tmp_path / "checkpoints"
    first = Training(cases, workers=workers, max_epochs=1)
    quarantine = Quarantine(first.dataset, 0.4)
    first.go(Checkpoints(folder, {"quarantine": quarantine}), quarantine)
    capsys.readouterr()

    second = Training(cases, workers=workers)
    reads = []
    loading = second.dataset.loading
    second.dataset.loading = lambda item: reads.append(item["image"]) or loading(item)
    quarantine = Quarantine(second.dataset, 0.4)
    second.go(Checkpoints(folder, {"quarantine": quarantine}), quarantine)
    assert second.seen.keys() == set(range(whole.length + 1, 2 * whole.length + 1))
    for iteration, batch in second.seen.items():
        for (*one, patch), (*other, expected) in zip(batch, whole.seen[iteration]):
            assert one == other
            assert torch.equal(patch, expected)
    assert cases[3]["image"] not in reads, "not tried again"
    assert capsys.readouterr().err.splitlines()[1:] == [f"still left out: {cases[3]['image']}"]


def test_the_state_is_plain_enough_for_a_checkpoint(cases, tmp_path):
    cut_short(cases[3])
    _, quarantine = trained(cases)
    state = quarantine.state_dict()
    assert json.loads(json.dumps(state)) == state
    torch.save(state, tmp_path / "state.pt")
    other = Quarantine(Training(cases).dataset, 0.4)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.cases == quarantine.cases
    elsewhere = Quarantine(Training(cases[:2]).dataset, 0.4)
    elsewhere.load_state_dict(state)
    assert not elsewhere.cases, "a case that is no longer part of the data does not count"


def test_tensorboard_shows_how_many(cases, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cut_short(cases[3])
    training = Training(cases)
    log = TensorBoardLog(tmp_path / "log")
    training.go(Quarantine(training.dataset, 0.4, log))
    log.writer.close()
    events = EventAccumulator(str(tmp_path / "log"))
    events.Reload()
    assert [event.value for event in events.Scalars("data/quarantined")] == [1, 1, 1]


@pytest.mark.parametrize("share", [-0.1, 1.5, 5])
def test_a_share_is_between_nothing_and_all(cases, share):
    with pytest.raises(UserError, match=f"max_bad_share: expected a share between 0 and 1, found {share}"):
        Quarantine(Training(cases).dataset, share)
