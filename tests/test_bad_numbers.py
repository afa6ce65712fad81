"""A NaN costs a step, not a run; many end it before they reach the weights, and leave what is needed to look."""

import math

import pytest
import torch
from ignite.engine import Events
from small_training import Patches, assert_equal_states, make_discriminator, make_network, make_trainer, state_of

from ctpa_vqgan import replay
from ctpa_vqgan.errors import BadNumbers, UserError
from ctpa_vqgan.handlers import BadSteps, Checkpoints
from ctpa_vqgan.sealed import load_sealed
from ctpa_vqgan.trainer import weight_ema

PLACES = ("input voxel", "reconstruction", "perceptual", "adversarial", "discriminator", "codebook")
BAD = 4  # iteration of the first bad number, of 8


class Training:
    """Two networks, averages and checkpoints, with a bad number put in at one place."""

    def __init__(self, folder, precision="float32", place=None, always=False, max_bad_steps=3):
        self.network, self.discriminator = make_network(init_steps=1), make_discriminator()
        self.ema = weight_ema(self.network)
        self.data = Patches(8)
        self.trainer = make_trainer(
            self.network,
            self.data,
            batch_size=2,
            max_epochs=2,
            discriminator=self.discriminator,
            ema=self.ema,
            precision=precision,
            max_bad_steps=max_bad_steps,
        )
        state = {"network": self.network, "discriminator": self.discriminator, "ema": self.ema}
        state |= {"g_optimizer": self.trainer.g_optimizer, "d_optimizer": self.trainer.d_optimizer}
        self.objects = [*state.values()]
        self.checkpoints = Checkpoints(folder / "checkpoints", state, save_interval=1, keep_last=100)
        BadSteps(folder, self.checkpoints).attach(self.trainer)
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self.remember)
        self.checkpoints.attach(self.trainer)
        self.states, self.sums = {0: self.now()}, {}
        if place:
            self.spoil(place, always)

    def now(self):
        return state_of(self.network, self.discriminator, self.ema)

    def remember(self, engine):
        self.states[engine.state.iteration] = self.now()

    def spoil(self, place, always):
        """Let a number be NaN (inf at the codebook) at iteration BAD, or from then on."""
        trainer, nan = self.trainer, math.nan

        def bad():
            return trainer.state.iteration >= BAD if always else trainer.state.iteration == BAD

        def replaced(function):
            def call(*args, **options):
                value = function(*args, **options)
                return value * nan if bad() else value

            return call

        if place == "input voxel":
            prepare = trainer.prepare_batch

            def spoiled(batch, *args, **options):
                image = prepare(batch, *args, **options)[0].clone()
                if bad():
                    image[1, 0, 3, 3, 3] = nan
                return image, None

            trainer.prepare_batch = spoiled
        elif place == "reconstruction":
            self.network.decoder.register_forward_hook(lambda m, i, output: output * nan if bad() else output)
        elif place == "perceptual":
            trainer.losses.terms["perceptual"].forward = replaced(trainer.losses.terms["perceptual"].forward)
        elif place == "adversarial":
            trainer._gan_values = self.with_bad("adversarial", trainer._gan_values, bad)
        elif place == "discriminator":
            trainer._discriminator_pass = self.with_bad("discriminator", trainer._discriminator_pass, bad)
        else:
            observe = self.network.quantizer._observe

            def overflowing(latents, codes):
                observe(latents * math.inf if bad() else latents, codes)

            self.network.quantizer._observe = overflowing

    @staticmethod
    def with_bad(name, function, bad):
        def call(*args):
            values = function(*args)
            return values | {name: values[name] * math.nan} if bad() else values

        return call


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("place", PLACES)
def test_a_single_bad_number_costs_its_step_and_nothing_else(tmp_path, capsys, place, precision):
    training = Training(tmp_path, precision, place)
    training.trainer.run()
    assert training.trainer.state.iteration == 8
    assert training.trainer.skipped_steps == 1
    assert_equal_states(training.states[BAD - 1], training.states[BAD])
    line = next(line for line in capsys.readouterr().err.splitlines() if "not finite" in line)
    assert line.startswith(f"iteration {BAD}: ") and "step skipped (1 in all, 1 in a row)" in line
    assert line.endswith("cases case_6, case_7")
    assert_all_finite(training, tmp_path)
    assert not list(tmp_path.glob("bad_step_*"))


@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("place", PLACES)
def test_bad_numbers_that_stay_end_the_run_before_they_reach_the_weights(tmp_path, place, precision):
    training = Training(tmp_path, precision, place, always=True)
    with pytest.raises(BadNumbers, match="3 steps in a row with numbers") as error:
        training.trainer.run()
    assert error.value.exit_code == 4
    assert training.trainer.state.iteration == BAD + 2
    assert_equal_states(training.states[BAD - 1], training.now())
    assert_all_finite(training, tmp_path)
    assert [path.name for path in tmp_path.glob("bad_step_*.pt")] == [f"bad_step_{BAD + 2:09d}.pt"]


def assert_all_finite(training, folder):
    files = training.checkpoints.files()
    assert files
    for path in files:
        assert_finite(load_sealed(path), path.name)
    for state in training.now():
        assert_finite(state, "end")


def assert_finite(value, name):
    if isinstance(value, torch.Tensor):
        assert not value.is_floating_point() or bool(value.isfinite().all()), name
    elif isinstance(value, dict):
        for key, item in value.items():
            assert_finite(item, f"{name}.{key}")


def test_after_a_good_step_the_count_in_a_row_begins_anew(tmp_path):
    training = Training(tmp_path, max_bad_steps=2)
    step = training.trainer._sums
    training.trainer._sums = lambda *args: (
        step(*args) | ({"loss": math.nan} if training.trainer.state.iteration % 2 else {})
    )
    training.trainer.run()
    assert (training.trainer.skipped_steps, training.trainer.bad_in_a_row) == (4, 0)


def test_a_resumed_run_goes_on_counting(tmp_path):
    first = Training(tmp_path, place="perceptual", always=True, max_bad_steps=100)
    first.trainer.state.max_epochs = 1
    first.trainer.run()
    again = Training(tmp_path, place="perceptual", always=True, max_bad_steps=100)
    again.trainer.run()
    assert (again.trainer.skipped_steps, again.trainer.bad_in_a_row) == (5, 5)


def test_positions_are_told_where_the_batch_has_them(tmp_path, capsys):
    training = Training(tmp_path)

    class Placed(Patches):
        def __getitem__(self, number):
            return super().__getitem__(number) | {"position": torch.tensor([number, 0, 7])}

    data = Placed(2)
    data.patches[1, 0, 0, 0, 0] = math.inf
    make_trainer(training.network, data, batch_size=2).run()
    assert "case_0 at (0, 0, 7), case_1 at (1, 0, 7)" in capsys.readouterr().err


def test_the_dump_replays_the_step_and_says_where_the_bad_number_comes_from(tmp_path, capsys):
    training = Training(tmp_path, place="input voxel", always=True)
    with pytest.raises(BadNumbers):
        training.trainer.run()
    (dump,) = tmp_path.glob("bad_step_*.pt")
    before = sorted(path.name for path in tmp_path.rglob("*"))

    again = Training(tmp_path, place="reconstruction", always=True)
    sums = replay.replay(again.trainer, again.checkpoints, str(dump))
    told = capsys.readouterr().out
    assert told.startswith("iteration 6 again, 2 patches of (16, 16, 16):")
    assert math.isnan(sums["l1"]) and "network.decoder" in told
    assert_equal_states(again.now(), training.now())
    assert sorted(path.name for path in tmp_path.rglob("*")) == before, "nothing is written"

    clean = Training(tmp_path)
    sums = replay.replay(clean.trainer, clean.checkpoints, str(dump))
    assert all(map(math.isfinite, sums.values()))
    assert "the cause lay outside of this step" in capsys.readouterr().out


def test_a_replay_of_something_else_is_refused(tmp_path):
    training = Training(tmp_path)
    training.trainer.run()
    with pytest.raises(UserError, match="give it with --dump"):
        replay.replay(training.trainer, training.checkpoints, None)
    with pytest.raises(UserError, match="expected a dump of a step, found none"):
        replay.replay(training.trainer, training.checkpoints, str(training.checkpoints.files()[-1]))
    with pytest.raises(UserError, match="no such file"):
        replay.replay(training.trainer, training.checkpoints, str(tmp_path / "none.pt"))


def test_a_dump_that_cannot_be_written_does_not_hide_why_the_run_ends(tmp_path, monkeypatch):
    def full(*_, **__):
        raise UserError("no space left")

    monkeypatch.setattr("ctpa_vqgan.handlers.bad_steps.save_sealed", full)
    with pytest.raises(BadNumbers, match="there is no dump of it: no space left"):
        Training(tmp_path, place="perceptual", always=True).trainer.run()


def test_a_bad_number_on_another_rank_skips_the_step_here_too(tmp_path, monkeypatch):
    training = Training(tmp_path)

    def with_those_of_another_rank(values):
        return values * float("nan") if training.trainer.state.iteration == BAD else values

    monkeypatch.setattr("ctpa_vqgan.trainer.ranks.add", with_those_of_another_rank)
    training.trainer.run()
    assert_equal_states(training.states[BAD - 1], training.states[BAD])
    assert training.trainer.skipped_steps == 1
