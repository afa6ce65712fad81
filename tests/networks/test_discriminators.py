"""The two critics: which slices they see, what they return, and what they refuse."""

import pytest
import torch

from ctpa_vqgan.losses import feature_matching_loss, hinge_discriminator_loss
from ctpa_vqgan.networks.discriminators import PatchDiscriminators, take_slices


def count_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.fixture
def critics():
    torch.manual_seed(0)
    return PatchDiscriminators(channels=4, num_layers=2, num_slices=3)


def test_four_views_of_a_patch(critics):
    output = critics(torch.rand(2, 1, 16, 20, 24))
    # 16, 20, 24 are halved twice to 4, 5, 6 and lose one position in each of the last two layers.
    assert [tuple(logits.shape) for logits in output.logits] == [
        (2, 1, 2, 3, 4),
        (6, 1, 3, 4),
        (6, 1, 2, 4),
        (6, 1, 2, 3),
    ]
    assert [len(features) for features in output.features] == [3, 3, 3, 3]
    assert [feature.shape[1] for feature in output.features[0]] == [4, 8, 16]


def test_logits_are_raw_scores(critics):
    # No sigmoid or tanh at the end: a hundredfold last layer gives hundredfold scores.
    x = torch.rand(1, 1, 16, 16, 16)
    before = critics(x).logits[0]
    critics.volume.final_conv.conv.weight.data *= 100
    torch.testing.assert_close(critics(x).logits[0], 100 * before, rtol=1e-4, atol=1e-6)


def test_the_default_critics_have_three_and_a_half_million_parameters():
    # Kernels of 4: 4 x 4 x 4 = 64 taps a pair of channels in 3-D, 16 in 2-D; biases in the first and last layer only.
    pairs = 1 * 32 + 32 * 64 + 64 * 128 + 128 * 256 + 256 * 1
    critics = PatchDiscriminators()
    assert count_parameters(critics.volume) == 64 * pairs + 32 + 1 == 2_770_977
    assert count_parameters(critics.slices) == 16 * pairs + 32 + 1 == 692_769


def test_each_critic_can_be_alone():
    x = torch.rand(1, 1, 16, 16, 16)
    only_volume = PatchDiscriminators(channels=4, num_layers=2, slices=False)
    only_slices = PatchDiscriminators(channels=4, num_layers=2, volume=False, num_slices=2)
    assert [logits.ndim for logits in only_volume(x).logits] == [5]
    assert [logits.ndim for logits in only_slices(x).logits] == [4, 4, 4]
    assert count_parameters(only_slices) == count_parameters(only_slices.slices)


def test_a_sample_scores_the_same_in_any_micro_batch(critics):
    critics, x = critics.double(), torch.rand(3, 1, 16, 16, 16, dtype=torch.float64)
    together, alone = critics(x, offset=5), [critics(sample[None], offset=5) for sample in x]
    for view, logits in enumerate(together.logits):
        torch.testing.assert_close(logits, torch.cat([output.logits[view] for output in alone]), rtol=0, atol=1e-12)


def test_train_and_eval_agree(critics):
    x = torch.rand(1, 1, 16, 16, 16)
    torch.testing.assert_close(critics.train()(x).logits, critics.eval()(x).logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("count", "offset", "expected"),
    [
        (4, 0, [0, 2, 4, 6]),
        (4, 3, [3, 5, 7, 1]),  # wraps round
        (4, 1003, [3, 5, 7, 1]),  # an iteration number will do: 1003 mod 8 = 3
        (3, 0, [0, 2, 5]),  # 8 / 3 is not whole: steps of 2 and 3
        (20, 0, [0, 1, 2, 3, 4, 5, 6, 7]),  # never a slice twice
    ],
)
@pytest.mark.parametrize("axis", [2, 3, 4])
def test_slices_are_where_the_formula_says(count, offset, expected, axis):
    sides = [5, 6, 7]
    sides[axis - 2] = 8
    # Every voxel holds its own position along the axis.
    position = torch.arange(8.0).reshape([8 if a == axis else 1 for a in range(5)]).expand(2, 1, *sides)
    slices = take_slices(position, axis, count, offset)
    assert slices.shape == (2 * len(expected), 1, *(side for a, side in enumerate(sides, 2) if a != axis))
    assert slices[:, 0, 0, 0].tolist() == expected * 2


def test_the_offset_moves_the_slices_and_nothing_else(critics):
    x = torch.rand(1, 1, 16, 16, 16)
    first, moved, again = critics(x, offset=0).logits, critics(x, offset=1).logits, critics(x, offset=16).logits
    assert torch.equal(first[0], moved[0])
    assert not torch.equal(first[1], moved[1])
    assert all(torch.equal(a, b) for a, b in zip(first, again))


def test_no_random_number_is_drawn(critics):
    state = torch.get_rng_state()
    critics(torch.rand(1, 1, 16, 16, 16, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("num_layers", "side"), [(1, 6), (2, 12), (2, 16), (3, 24), (3, 32)])
def test_the_smallest_patches_train(num_layers, side):
    critics = PatchDiscriminators(channels=2, num_layers=num_layers, num_slices=1)
    real, fake = torch.rand(1, 1, side, side, side), torch.zeros(1, 1, side, side, side, requires_grad=True)
    a, b = critics(real), critics(fake)
    (hinge_discriminator_loss(a.logits, b.logits) + feature_matching_loss(a.features, b.features)).backward()
    assert fake.grad.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in critics.parameters())


@pytest.mark.parametrize(("num_layers", "least"), [(2, 12), (3, 24)])
def test_a_patch_too_small_for_the_layers_is_refused(num_layers, least):
    critics = PatchDiscriminators(channels=2, num_layers=num_layers)
    with pytest.raises(ValueError, match=rf"\(32, 32, {least - 1}\) has a side under {least} voxels"):
        critics(torch.rand(1, 1, 32, 32, least - 1))


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match="both off"):
        PatchDiscriminators(volume=False, slices=False)
    with pytest.raises(ValueError, match="num_layers is 0"):
        PatchDiscriminators(num_layers=0)


def test_a_critic_learns_to_tell_sharp_from_flat():
    torch.manual_seed(0)
    critics = PatchDiscriminators(channels=4, num_layers=1, num_slices=1)
    optimizer = torch.optim.Adam(critics.parameters(), lr=2e-2)
    sharp, flat = torch.rand(1, 1, 8, 8, 8) * 2 - 1, torch.zeros(1, 1, 8, 8, 8)
    for _ in range(9):
        optimizer.zero_grad()
        loss = hinge_discriminator_loss(critics(sharp).logits, critics(flat).logits)
        loss.backward()
        optimizer.step()
    assert loss < 0.2  # 1 at the start, 0 when every patch is told apart beyond the margin


@pytest.mark.parametrize("kwargs", [{"norm": "layer"}, {"padding": 3}])
def test_a_norm_or_padding_that_is_none_of_theirs_is_refused(kwargs):
    with pytest.raises(ValueError, match="norm must be one of instance, batch and padding 1 or 2, found"):
        PatchDiscriminators(channels=4, **kwargs)


def test_their_config_builds_them_again():
    critics = PatchDiscriminators(channels=4, num_layers=2, norm="batch", padding=2, bias=True)
    again = PatchDiscriminators(**critics.config)
    again.load_state_dict(critics.state_dict())
    volume = torch.rand(1, 1, 16, 16, 16)
    for found, expected in zip(again.eval()(volume).logits, critics.eval()(volume).logits):
        assert torch.equal(found, expected)
