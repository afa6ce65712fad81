"""When memory runs out in training, micro-batches shrink and nothing else changes."""

import pytest
import torch
from ignite.engine import Events
from small_training import Patches, assert_equal_states, make_discriminator, make_network, make_trainer, state_of

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.handlers import Checkpoints
from ctpa_vqgan.out_of_memory import is_out_of_memory


def small_memory(trainer, most, where="decoder", once_at=None):
    """Let a part of the network fail with more than ``most`` patches, as a GPU does."""
    calls = []
    part = trainer.discriminator if where == "discriminator" else getattr(trainer.network, where)

    def check(module, inputs):
        if len(inputs[0]) > most and trainer.state.iteration >= (once_at or 0):
            calls.append(len(inputs[0]))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    part.register_forward_pre_hook(check)
    return calls


def training(micro_batch_size=4, **options):
    network, discriminator = make_network(init_steps=1).double(), make_discriminator().double()
    trainer = make_trainer(
        network,
        Patches(8, torch.float64),
        max_epochs=2,
        discriminator=discriminator,
        micro_batch_size=micro_batch_size,
        lr=1e-3,
        **options,
    )
    return trainer, network, discriminator


@pytest.mark.parametrize("where", ["encoder", "decoder", "discriminator"])
def test_the_micro_batch_halves_and_the_step_is_done_again_from_its_start(where, capsys):
    """Bit for bit as if the smaller size had been set: nothing of the failed attempt counts."""
    trainer, *networks = training()
    failed = small_memory(trainer, 1, where, once_at=2)
    # one trainer is told at iteration 2 what the other finds out
    other, *others = training()
    other.add_event_handler(Events.ITERATION_STARTED(once=2), lambda: setattr(other, "micro_batch_size", 1))
    trainer.run()
    other.run()
    assert failed == [4, 2]
    assert trainer.micro_batch_size == 1
    assert_equal_states(state_of(*networks), state_of(*others))
    assert torch.equal(trainer.codes.counts, other.codes.counts)
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "iteration 2: memory ran out with micro_batch_size=4; going on with 2, still 4 patches a step"
    assert len(told) == 2


def test_results_are_those_of_the_larger_micro_batch_up_to_rounding():
    ends = []
    for most in (4, 1):
        trainer, *networks = training()
        small_memory(trainer, most)
        trainer.run()
        ends.append(state_of(*networks))
    assert_equal_states(*ends, rtol=1e-5, atol=1e-5)


def test_a_resumed_run_begins_with_the_size_that_was_found(tmp_path):
    def go(epochs, most):
        trainer, network, _ = training()
        trainer.state.max_epochs = epochs
        failed = small_memory(trainer, most)
        Checkpoints(tmp_path, {"network": network}).attach(trainer)
        trainer.run()
        return trainer, failed

    assert go(1, 2)[1] == [4]
    trainer, failed = go(2, 2)
    assert trainer.micro_batch_size == 2
    assert failed == []


def test_a_single_patch_that_does_not_fit_ends_with_one_line():
    trainer, *networks = training()
    before = state_of(*networks)
    small_memory(trainer, 0)
    with pytest.raises(UserError, match=r"memory ran out with a single patch of \(16, 16, 16\); lower patch_size") as e:
        trainer.run()
    assert "\n" not in str(e.value)
    assert_equal_states(before, state_of(*networks))


def test_other_errors_pass_as_they_are():
    trainer, *_ = training()
    trainer.network.decoder.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.run()
    assert trainer.micro_batch_size == 4


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:130] . DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("can't allocate memory"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_the_cpu_allocator_says_so_too():
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(error.value)
