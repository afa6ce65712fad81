"""One optimizer step at a time: what it does, what it leaves alone, and that a stopped run goes on as if it had not."""

import copy
import math
import shutil

import numpy as np
import pytest
import torch
from ignite.engine import Events
from ignite.handlers import EarlyStopping, Timer
from monai.handlers import LrScheduleHandler, StatsHandler, from_engine
from small_training import (
    SIDE,
    WEIGHTS,
    Patches,
    assert_equal_states,
    make_discriminator,
    make_losses,
    make_network,
    make_trainer,
    on_iteration,
    state_of,
)

from ctpa_vqgan.data import RandomPatchDataset, patch_loader, prepare_patch
from ctpa_vqgan.handlers import Checkpoints
from ctpa_vqgan.networks import VQGAN, VectorQuantizer
from ctpa_vqgan.trainer import VQGANTrainer, weight_ema

# -- a step ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("adversarial", [False, True])
@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_the_size_of_micro_batches_changes_memory_not_results(micro_batch_size, adversarial):
    ends = []
    for size in (4, micro_batch_size):
        network = make_network().double()
        discriminator = make_discriminator().double() if adversarial else None
        # plain gradient descent: Adam would blow rounding of tiny gradients up to whole steps
        trainer = make_trainer(network, Patches(8, torch.float64), max_epochs=3, discriminator=discriminator)
        trainer.micro_batch_size, trainer.max_grad_norm = size, 1.0
        trainer.g_optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        if adversarial:
            trainer.d_optimizer = torch.optim.SGD(discriminator.parameters(), lr=0.05)
        trainer.run()
        assert network.quantizer.initialized
        ends.append(state_of(*filter(None, [network, discriminator])))
    # losses are float32, so a few times 1e-7 of a step
    assert_equal_states(ends[0], ends[1], rtol=1e-5, atol=1e-6)


def test_a_last_smaller_batch_counts_each_of_its_patches_alike():
    """Of 5 patches in micro-batches of 2 the last one is alone: it weighs a fifth, not a third."""
    ends = []
    for size in (5, 2):
        network = make_network().double()
        trainer = make_trainer(network, Patches(5, torch.float64), batch_size=5, micro_batch_size=size)
        trainer.g_optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        trainer.run()
        ends.append((state_of(network), trainer.terms["loss"]))
    assert_equal_states(ends[0][0], ends[1][0], rtol=1e-5, atol=1e-6)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-6)


@pytest.mark.parametrize(("micro_batch_size", "passes"), [(1, 4), (2, 2), (4, 1)])
def test_the_generator_runs_once_per_micro_batch(micro_batch_size, passes):
    network, discriminator = make_network(), make_discriminator()
    calls = []
    network.encoder.register_forward_hook(lambda *_: calls.append(1))
    make_trainer(network, Patches(4), discriminator=discriminator, micro_batch_size=micro_batch_size).run()
    assert len(calls) == passes


def test_the_output_names_what_a_handler_needs():
    trainer = make_trainer(discriminator=make_discriminator())
    trainer.run()
    terms, output = trainer.terms, trainer.state.output
    assert len(output) == 4  # one dict per patch, as MONAI's engines have it
    assert set(output[0]) == {"image", "pred", "loss"}
    assert output[0]["image"].shape == output[0]["pred"].shape == (1, SIDE, SIDE, SIDE)
    assert not output[0]["pred"].requires_grad
    assert set(terms) == {"loss", *WEIGHTS, "discriminator", "generator_grad_norm", "discriminator_grad_norm"}
    total = sum(weight * terms[name] for name, weight in WEIGHTS.items())
    assert terms["loss"] == pytest.approx(total, rel=1e-5)
    assert trainer.patches_per_second > 0


def test_the_codes_of_an_epoch_are_counted():
    trainer = make_trainer(max_epochs=2)
    trainer.run()
    assert trainer.codes.summary()["num_tokens"] == 8 * (SIDE // 4) ** 3, "of the last epoch alone"


def test_gradients_are_clipped():
    network = make_network()
    start = torch.cat([p.detach().flatten() for p in network.parameters()])
    trainer = make_trainer(network, Patches(4), max_grad_norm=1e-3)
    trainer.g_optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    trainer.run()
    moved = torch.cat([p.detach().flatten() for p in network.parameters()]) - start
    assert trainer.terms["generator_grad_norm"] > 1e-3
    assert float(moved.norm()) == pytest.approx(1e-3, rel=1e-2)


def test_the_loss_falls():
    values = []
    trainer = make_trainer(make_network(init_steps=40), max_epochs=20, micro_batch_size=4)
    on_iteration(trainer, lambda engine: values.append(engine.terms["l1"]))
    trainer.run()
    assert np.mean(values[-3:]) < 0.7 * np.mean(values[:3])


# -- the adversary -----------------------------------------------------------------------------------------------------


def count_calls(module):
    calls = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_the_discriminator_does_nothing_before_its_start():
    discriminator = make_discriminator()
    before = state_of(discriminator)
    calls = count_calls(discriminator)
    per_iteration = []
    trainer = make_trainer(discriminator=discriminator, max_epochs=3, adversarial_start=4, micro_batch_size=4)
    on_iteration(trainer, lambda engine: per_iteration.append((len(calls), "discriminator" in engine.terms)))
    trainer.add_event_handler(
        Events.ITERATION_COMPLETED(once=4), lambda: assert_equal_states(before, state_of(discriminator))
    )
    trainer.run()
    assert per_iteration[:4] == [(0, False)] * 4
    assert per_iteration[4] == (4, True), "fake and real for the generator, fake and real for itself"
    assert not torch.equal(next(iter(before[0].values())), next(iter(discriminator.state_dict().values())))


def test_without_feature_matching_the_generator_asks_about_the_fake_alone():
    discriminator = make_discriminator()
    calls = count_calls(discriminator)
    losses = make_losses(feature_matching=0.0)
    make_trainer(data=Patches(4), discriminator=discriminator, losses=losses, micro_batch_size=4).run()
    assert len(calls) == 3


def test_a_discriminator_without_weight_costs_nothing():
    discriminator = make_discriminator()
    calls = count_calls(discriminator)
    losses = make_losses(adversarial=0.0, feature_matching=0.0)
    make_trainer(discriminator=discriminator, losses=losses).run()
    assert not calls


def test_the_weight_of_the_adversary_grows_along_its_ramp():
    trainer = make_trainer(
        discriminator=make_discriminator(), max_epochs=4, adversarial_start=2, adversarial_ramp=4, micro_batch_size=4
    )
    factors = []

    def look(engine):
        losses = engine.terms
        plain = sum(WEIGHTS[name] * losses[name] for name in ("l1", "perceptual", "commitment"))
        gan = sum(WEIGHTS[name] * losses.get(name, 0.0) for name in ("adversarial", "feature_matching"))
        factors.append((engine.terms["loss"] - plain) / gan if gan else 0.0)

    on_iteration(trainer, look)
    trainer.run()
    assert factors == pytest.approx([0, 0, 0, 0.25, 0.5, 0.75, 1, 1], abs=1e-3)


def test_the_generators_pass_leaves_no_gradient_in_the_discriminator():
    discriminator = make_discriminator()
    trainer = make_trainer(discriminator=discriminator)
    trainer.state.iteration = 1
    images = Patches(2).patches
    values = trainer._gan_values(images, images.clone().requires_grad_())
    sum(values.values()).backward()
    assert all(p.grad is None for p in discriminator.parameters())
    assert all(p.requires_grad for p in discriminator.parameters())


# -- moving average ----------------------------------------------------------------------------------------------------


def test_the_average_follows_the_formula():
    network = torch.nn.Linear(1, 1, bias=False)
    ema = weight_ema(network, decay=0.5)
    expected = None
    for n, value in enumerate([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]):
        network.weight.data.fill_(value)
        ema.update_parameters(network)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = value if expected is None else decay * expected + (1 - decay) * value
        assert float(ema.module.weight.detach()) == pytest.approx(expected)
    assert decay == 0.5, "the limit was reached"


def test_the_average_copies_the_codebook():
    network = make_network()
    ema = weight_ema(network)
    trainer = make_trainer(network, max_epochs=3, ema=ema)
    trainer.run()
    for (name, buffer), average in zip(network.named_buffers(), ema.module.buffers()):
        assert torch.equal(buffer, average), name
    weights = zip(network.parameters(), ema.module.parameters())
    assert any(not torch.equal(weight, average) for weight, average in weights)
    assert not ema.module.training


def test_the_average_of_a_short_run_has_left_its_initial_weights():
    network = make_network()
    start = [p.detach().clone() for p in network.parameters()]
    ema = weight_ema(network, decay=0.9999)
    make_trainer(network, max_epochs=5, ema=ema).run()

    def distance(ones, others):
        return math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in zip(ones, others)))

    assert distance(ema.module.parameters(), network.parameters()) < 0.5 * distance(start, network.parameters())


# -- trouble -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "half"}, "precision must be one of auto, bf16, float32"),
        ({"micro_batch_size": 0}, "micro_batch_size must be positive, found 0"),
        ({"d_optimizer": torch.optim.SGD([torch.zeros(1)], 0.1)}, "belong together"),
    ],
)
def test_arguments_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_trainer(**options)


def test_bf16_is_for_cuda_unless_asked_for():
    assert not make_trainer().bf16
    trainer = make_trainer(precision="bf16")
    trainer.run()
    assert trainer.bf16
    assert trainer.network.quantizer.embedding.dtype == torch.float32
    assert trainer.state.output[0]["pred"].dtype == torch.float32


# -- compilation -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_network_learns_what_a_plain_one_learns_and_its_copies_stay_plain():
    """Half a minute of the C++ compiler's time the first time, though the network has a single level and one block."""
    from torch._inductor import config as inductor

    ends = []
    for compiled in (False, True):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(16, 4, init_steps=1, reservoir_size=256, patches_in_reservoir=8)
        network = VQGAN(channels=(4,), factor=(2, 2, 2), num_res_blocks=(1, 0), quantizer=quantizer)
        ema = weight_ema(network)
        trainer = make_trainer(network, Patches(4), max_epochs=2, ema=ema, compile=compiled, micro_batch_size=2)
        trainer.g_optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        with inductor.patch({"cpp.simdlen": 1}):  # scalar code compiles in half the time
            trainer.run()
        assert (network.encoder._compiled_call_impl is not None) == compiled
        assert ema.module.encoder._compiled_call_impl is None
        assert copy.deepcopy(network).decoder._compiled_call_impl is None
        ends.append((state_of(network, ema), trainer.terms))
    # sums in another order: a few times 1e-7 of the values, over two steps
    assert_equal_states(ends[0][0], ends[1][0], rtol=1e-4, atol=1e-5)
    assert ends[0][1] == pytest.approx(ends[1][1], rel=1e-4)


@pytest.mark.parametrize("broken", ["compiler", "code"])
def test_without_a_compiler_training_goes_on_with_a_line_and_the_same_result(monkeypatch, caplog, broken):
    def fails(function, dynamic):
        if broken == "compiler":
            raise RuntimeError("Cannot find a working triton installation.\nMore lines")

        def broken_code(*inputs):
            raise OSError("no such library")

        return broken_code

    monkeypatch.setattr(torch, "compile", fails)
    ends = []
    for compiled in (False, True):
        network = make_network()
        make_trainer(network, Patches(4), compile=compiled).run()
        ends.append(state_of(network))
        assert network.encoder._compiled_call_impl is network.decoder._compiled_call_impl is None
    assert_equal_states(*ends)
    (line,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    reason = (
        "RuntimeError: Cannot find a working triton installation."
        if broken == "compiler"
        else "OSError: no such library"
    )
    assert line == f"torch.compile failed here ({reason}); training goes on without it"


# -- handlers of others ------------------------------------------------------------------------------------------------


def test_handlers_of_monai_and_ignite_attach(capsys):
    network = make_network()
    trainer = make_trainer(network, max_epochs=2)
    schedule = torch.optim.lr_scheduler.StepLR(trainer.g_optimizer, step_size=1, gamma=0.5)
    LrScheduleHandler(lr_scheduler=schedule, print_lr=False).attach(trainer)
    StatsHandler(name="test_trainer", tag_name="train_loss", output_transform=from_engine(["loss"], first=True)).attach(
        trainer
    )
    timer = Timer(average=True)
    timer.attach(
        trainer, resume=Events.ITERATION_STARTED, pause=Events.ITERATION_COMPLETED, step=Events.ITERATION_COMPLETED
    )
    trainer.run()
    printed = [line for line in capsys.readouterr().out.splitlines() if "train_loss" in line]
    assert len(printed) == 4
    assert f"{trainer.terms['loss']:.4f}" in printed[-1]
    assert trainer.g_optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 / 4)
    assert timer.step_count == 4
    assert timer.value() > 0


def test_ignites_early_stopping_ends_the_run():
    trainer = make_trainer(max_epochs=50)
    stopper = EarlyStopping(patience=2, score_function=lambda engine: 0.0, trainer=trainer)
    trainer.add_event_handler(Events.EPOCH_COMPLETED, stopper)
    trainer.run()
    assert trainer.state.epoch == 3


def test_handlers_given_to_the_trainer_attach_too():
    class Counting:
        epochs = 0

        def attach(self, engine):
            engine.add_event_handler(Events.EPOCH_COMPLETED, self.count)

        def count(self, engine):
            self.epochs += 1

    counting = Counting()
    make_trainer(train_handlers=[counting], max_epochs=3).run()
    assert counting.epochs == 3


# -- a stopped run -----------------------------------------------------------------------------------------------------


class Stopped(Exception):
    """Somebody pulled the plug."""


def volume(item):
    """Volumes without files: a case's name says what it holds."""
    generator = torch.Generator().manual_seed(int(item["image"]))
    coarse = torch.rand(1, 1, 6, 6, 6, generator=generator) * 2400 - 1200
    return {"image": torch.nn.functional.interpolate(coarse, size=(24, 24, 24), mode="trilinear")[0].short()}


class Run:
    """A whole training run with everything that has a state, in a folder."""

    def __init__(self, folder, max_epochs=3, stop_at=None, save_interval=4):
        cases = [{"image": str(number), "case": str(number)} for number in range(3)]
        dataset = RandomPatchDataset(
            cases, volume, prepare_patch((-1000.0, 1000.0)), (SIDE,) * 3, num_samples=4, seed=3
        )
        loader = patch_loader(dataset, batch_size=2)
        self.network, self.discriminator = make_network(init_steps=3), make_discriminator()
        self.ema = weight_ema(self.network, 0.9)
        g_optimizer = torch.optim.AdamW(self.network.parameters(), lr=3e-3)
        d_optimizer = torch.optim.AdamW(self.discriminator.parameters(), lr=1e-3)
        g_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(g_optimizer, 18)
        d_scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(d_optimizer, 18)
        self.state = {
            "network": self.network,
            "discriminator": self.discriminator,
            "ema": self.ema,
            "g_optimizer": g_optimizer,
            "d_optimizer": d_optimizer,
            "g_scheduler": g_scheduler,
            "d_scheduler": d_scheduler,
        }
        self.trainer = VQGANTrainer(
            device="cpu",
            max_epochs=max_epochs,
            train_data_loader=loader,
            epoch_length=dataset.num_batches(2),
            network=self.network,
            losses=make_losses(),
            g_optimizer=g_optimizer,
            discriminator=self.discriminator,
            d_optimizer=d_optimizer,
            g_scheduler=g_scheduler,
            d_scheduler=d_scheduler,
            ema=self.ema,
            micro_batch_size=1,
            adversarial_start=6,
            adversarial_ramp=4,
            train_handlers=[Checkpoints(folder, self.state, save_interval)],
        )
        self.samples = []
        self.trainer.add_event_handler(Events.ITERATION_COMPLETED, self._look, stop_at)

    def _look(self, engine, stop_at):
        self.samples += [int(item["sample"]) for item in engine.state.batch]
        if engine.state.iteration == stop_at:
            raise Stopped

    def run(self):
        self.trainer.run()
        return self

    def everything(self):
        flat = {}

        def walk(prefix, value):
            if isinstance(value, dict):
                for key, inner in value.items():
                    walk(f"{prefix}/{key}", inner)
            elif isinstance(value, (list, tuple)):
                for index, inner in enumerate(value):
                    walk(f"{prefix}/{index}", inner)
            else:
                flat[prefix] = value

        for name, item in self.state.items():
            walk(name, item.state_dict())
        return flat


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return Run(tmp_path_factory.mktemp("whole")).run()


@pytest.mark.parametrize("stop_at", [2, 5, 6, 17])
def test_a_resumed_run_ends_bit_for_bit_where_an_uninterrupted_one_ends(tmp_path, uninterrupted, stop_at):
    with pytest.raises(Stopped):
        Run(tmp_path, stop_at=stop_at).run()
    resumed = Run(tmp_path).run()
    expected, found = uninterrupted.everything(), resumed.everything()
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        same = torch.equal(value, found[key]) if isinstance(value, torch.Tensor) else value == found[key]
        assert same, key
    assert resumed.samples == uninterrupted.samples[-len(resumed.samples) :]
    assert resumed.trainer.state.iteration == uninterrupted.trainer.state.iteration == 18


def test_a_resumed_run_begins_after_its_last_checkpoint(tmp_path):
    with pytest.raises(Stopped):
        Run(tmp_path, stop_at=11).run()
    resumed = Run(tmp_path).run()
    assert resumed.samples == list(range(2 * 8, 36)), "a checkpoint at iteration 8, two patches an iteration"


def test_a_finished_run_started_again_does_nothing(tmp_path):
    finished = Run(tmp_path).run()
    files = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = Run(tmp_path).run()
    assert again.samples == []
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files
    assert_equal_states(state_of(finished.network), state_of(again.network))


def test_a_finished_run_goes_on_when_it_is_given_more_epochs(tmp_path):
    Run(tmp_path, max_epochs=2).run()
    assert Run(tmp_path, max_epochs=3).run().samples == list(range(24, 36))


def test_a_resumed_run_leaves_the_codebook_where_it_was(tmp_path):
    first = Run(tmp_path, max_epochs=1).run()
    again = Run(tmp_path, max_epochs=1).run()
    assert torch.equal(first.network.quantizer.embedding, again.network.quantizer.embedding)
    assert bool(again.network.quantizer.initialized)
