"""The adversarial losses: a hinge computed by hand, and gradients that do not vanish."""

import pytest
import torch

from ctpa_vqgan.losses import feature_matching_loss, hinge_discriminator_loss, hinge_generator_loss, ramp


def test_the_discriminator_hinge_by_hand():
    # real: relu(1 - (2, 0, -1)) = (0, 1, 2), mean 1; fake: relu(1 + (-2, 0.5, 3)) = (0, 1.5, 4), mean 5.5 / 3
    value = hinge_discriminator_loss(torch.tensor([2.0, 0.0, -1.0]), torch.tensor([-2.0, 0.5, 3.0]))
    torch.testing.assert_close(value, torch.tensor(0.5 * (1 + 5.5 / 3)))


def test_an_undecided_discriminator_pays_one_and_a_sure_one_nothing():
    assert hinge_discriminator_loss(torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)) == 1
    assert hinge_discriminator_loss(torch.full((4,), 1.0), torch.full((4,), -1.0)) == 0


def test_the_discriminator_learns_only_inside_the_margin():
    real, fake = torch.tensor([0.0, 5.0], requires_grad=True), torch.tensor([0.0, -5.0], requires_grad=True)
    hinge_discriminator_loss(real, fake).backward()
    assert real.grad.tolist() == [-0.25, 0.0]
    assert fake.grad.tolist() == [0.25, 0.0]


def test_the_generator_loss_is_minus_the_mean():
    # At these logits MONAI's hinge gives (9e-5, 1, 2), from tanh and the discriminator's formula.
    assert [hinge_generator_loss(torch.tensor([x])).item() for x in (5.0, 0.0, -5.0)] == [-5.0, 0.0, 5.0]


def test_the_generator_gradient_is_minus_one_nth_at_any_logit():
    logits = torch.tensor([[-50.0, -5.0], [0.0, 50.0]], requires_grad=True)
    hinge_generator_loss(logits).backward()
    assert logits.grad.tolist() == [[-0.25, -0.25], [-0.25, -0.25]]


def test_several_discriminators_count_alike_whatever_their_size():
    small, large = torch.tensor([4.0]), torch.full((1, 1, 8, 8), -2.0)
    assert hinge_generator_loss([small, large]) == (-4.0 + 2.0) / 2
    # small: real 4 costs 0, fake 4 costs 5; large: real -2 costs 3, fake -2 costs 0
    assert hinge_discriminator_loss([small, large], [small, large]) == (0.5 * 5 + 0.5 * 3) / 2


def test_feature_matching_by_hand():
    # One discriminator, two layers: mean |1 - 0| = 1 and mean (|3 - 1|, |0 - 0|) = 1; the other: |0 - 4| = 4.
    real = [[torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])], [torch.tensor([[4.0]])]]
    fake = [[torch.ones(1, 2), torch.tensor([[3.0, 0.0]])], [torch.tensor([[0.0]])]]
    assert feature_matching_loss(real, fake) == (1.0 + 4.0) / 2
    assert feature_matching_loss(real[0], fake[0]) == 1.0
    assert feature_matching_loss(real[1][0], fake[1][0]) == 4.0
    assert feature_matching_loss(real, real) == 0


def test_feature_matching_moves_only_the_fake():
    real, fake = torch.zeros(4, requires_grad=True), torch.ones(4, requires_grad=True)
    feature_matching_loss([real], [fake]).backward()
    assert real.grad is None
    assert fake.grad.tolist() == [0.25] * 4


def test_low_precision_logits_give_a_float32_loss():
    # 0.1 is not a bfloat16 number; summed in bfloat16, a thousand of them would be some percent off.
    logits = torch.full((1000,), 0.1, dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = [
            hinge_generator_loss(logits),
            hinge_discriminator_loss(logits, logits),
            feature_matching_loss([logits], [torch.zeros_like(logits)]),
        ]
    tenth = logits[0].item()
    assert [value.dtype for value in values] == [torch.float32] * 3
    torch.testing.assert_close(torch.stack(values), torch.tensor([-tenth, 1.0, tenth]), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("real", "fake", "found"),
    [
        ([torch.zeros(2)], [torch.zeros(2)] * 2, "a list of 1, a list of 2"),
        ([torch.zeros(2)] * 2, torch.zeros(2), "a list of 2, a tensor"),
        ([], [], "a list of 0, a list of 0"),
    ],
)
def test_lists_that_do_not_match_are_refused(real, fake, found):
    with pytest.raises(ValueError, match=found):
        hinge_discriminator_loss(real, fake)


def test_features_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"real \(1, 4\), fake \(3, 4\)"):
        feature_matching_loss([torch.zeros(1, 4)], [torch.zeros(3, 4)])


def test_the_ramp_is_late_then_linear_then_full():
    assert [ramp(i, start=100, length=50) for i in (0, 100, 110, 125, 150, 10_000)] == [0.0, 0.0, 0.2, 0.5, 1.0, 1.0]


def test_a_ramp_without_length_is_a_step():
    assert [ramp(i, start=100, length=0) for i in (99, 100, 101)] == [0.0, 1.0, 1.0]
    assert ramp(0, start=0, length=0) == 1.0


def test_a_ramp_that_runs_backwards_is_refused():
    with pytest.raises(ValueError, match="length is -1"):
        ramp(0, start=0, length=-1)
