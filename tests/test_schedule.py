"""The learning rate follows the settings of now, not those of the checkpoint."""

import pytest
import torch

from ctpa_vqgan.schedule import WarmupCosine


def make(rate=1.0, warmup=2, total=10):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    return optimizer, WarmupCosine(optimizer, warmup_steps=warmup, t_total=total)


def advance(optimizer, schedule, steps):
    rates = []
    for _ in range(steps):
        optimizer.step()
        schedule.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


def resumed(state, **settings):
    optimizer, schedule = make(**settings)
    optimizer.load_state_dict(state[0])
    schedule.load_state_dict(state[1])
    return optimizer, schedule


def test_warm_up_is_linear_and_the_end_is_zero():
    rates = advance(*make(), 10)
    assert rates[:2] == pytest.approx([0.5, 1.0])
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)


def test_a_resumed_schedule_goes_on_as_if_nothing_happened():
    whole = advance(*make(), 10)
    optimizer, schedule = make()
    advance(optimizer, schedule, 4)
    state = optimizer.state_dict(), schedule.state_dict()
    assert advance(*resumed(state), 6) == whole[4:]


def test_more_epochs_stretch_the_rest_of_the_cosine():
    optimizer, schedule = make()
    advance(optimizer, schedule, 10)
    longer = advance(*resumed((optimizer.state_dict(), schedule.state_dict()), total=20), 10)
    assert longer == advance(*make(total=20), 20)[10:]  # falls to zero; MONAI's own would rise to the full rate
    assert longer == sorted(longer, reverse=True)


def test_a_lower_rate_counts_from_the_next_step_on():
    optimizer, schedule = make()
    advance(optimizer, schedule, 4)
    lower = advance(*resumed((optimizer.state_dict(), schedule.state_dict()), rate=0.1), 6)
    assert lower == pytest.approx([rate / 10 for rate in advance(*make(), 10)[4:]])
