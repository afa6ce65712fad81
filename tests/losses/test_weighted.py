"""Losses by name: what is computed, what is added up, and what is refused."""

import pytest
import torch
from monai.losses import JukeboxLoss
from torch import nn

from ctpa_vqgan.losses import GradientLoss, HUL1Loss, WeightedLosses, WindowedL1Loss


def all_terms():
    return {"l1": HUL1Loss(), "windowed": WindowedL1Loss(), "gradient": GradientLoss(), "spectral": JukeboxLoss(3)}


def test_every_reconstruction_term_is_zero_for_equal_volumes():
    losses = WeightedLosses(all_terms(), dict.fromkeys(all_terms(), 1.0))
    x = torch.rand(1, 1, 8, 8, 8)
    assert losses(x, x.clone()) == dict.fromkeys(all_terms(), 0.0)


def test_values_are_unweighted_and_the_total_weighs_them():
    losses = WeightedLosses({"l1": HUL1Loss(), "mse": nn.functional.mse_loss}, {"l1": 4.0, "mse": 10.0})
    values = losses(torch.full((1, 1, 2, 2, 2), 0.5), torch.zeros(1, 1, 2, 2, 2))
    assert values == {"l1": 0.5, "mse": 0.25}
    assert losses.total(values) == 4.0 * 0.5 + 10.0 * 0.25


def test_a_weight_of_zero_is_not_computed():
    def never(prediction, target):
        raise AssertionError("computed in spite of its weight")

    losses = WeightedLosses({"l1": HUL1Loss(), "never": never}, {"l1": 1, "never": 0})
    assert list(losses(torch.ones(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2))) == ["l1"]


def test_a_term_that_cannot_be_built_keeps_its_name_at_weight_zero():
    assert WeightedLosses({"l1": HUL1Loss(), "lpips": None}, {"l1": 1, "lpips": 0}).weights["lpips"] == 0
    with pytest.raises(ValueError, match=r"\['lpips'\] have a weight but are None"):
        WeightedLosses({"l1": HUL1Loss(), "lpips": None}, {"l1": 1, "lpips": 0.5})


def test_external_losses_join_the_sum_with_the_factor_of_the_iteration():
    names = ["commitment", "adversarial"]
    losses = WeightedLosses({"l1": HUL1Loss()}, {"l1": 1.0, "commitment": 0.25, "adversarial": 0.1}, external=names)
    values = {"l1": torch.tensor(2.0), "commitment": torch.tensor(8.0), "adversarial": torch.tensor(-3.0)}
    torch.testing.assert_close(losses.total(values), torch.tensor(2.0 + 0.25 * 8 - 0.1 * 3))
    torch.testing.assert_close(losses.total(values, {"adversarial": 0.5}), torch.tensor(2.0 + 2.0 - 0.5 * 0.3))


def test_what_does_not_count_cannot_poison_the_sum():
    weights = {"l1": 1.0, "broken": 0.0, "late": 1.0}
    losses = WeightedLosses({"l1": HUL1Loss()}, weights, external=["broken", "late"])
    values = {"l1": torch.tensor(2.0), "broken": torch.tensor(torch.nan), "late": torch.tensor(torch.inf)}
    assert losses.total(values, factors={"late": 0.0}) == 2.0


def test_the_total_carries_the_gradient_to_the_prediction():
    losses = WeightedLosses({"l1": HUL1Loss()}, {"l1": 4.0})
    prediction = torch.full((1, 1, 2, 2, 2), 0.5, requires_grad=True)
    losses.total(losses(prediction, torch.zeros(1, 1, 2, 2, 2))).backward()
    torch.testing.assert_close(prediction.grad, torch.full((1, 1, 2, 2, 2), 4.0 / 8))


def test_values_are_float32_under_bfloat16_autocast():
    # A matmul would run in bfloat16 here; the prediction already does.
    def matmul(prediction, target):
        return (prediction[0, 0, 0] @ target[0, 0, 0]).mean()

    terms = {**all_terms(), "matmul": matmul}
    losses = WeightedLosses(terms, dict.fromkeys(terms, 1.0))
    prediction, target = torch.rand(1, 1, 8, 8, 8).bfloat16(), torch.rand(1, 1, 8, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = losses(prediction, target)
        total = losses.total(values)
    assert {value.dtype for value in [*values.values(), total]} == {torch.float32}
    torch.testing.assert_close(values, losses(prediction.float(), target), rtol=0, atol=0)


def test_modules_among_the_terms_move_with_it():
    term = nn.PReLU()
    assert [*WeightedLosses({"a": term, "b": nn.functional.l1_loss}, {"a": 1, "b": 1}).parameters()] == [term.weight]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"l1": 1, "l2": 1}, r"unknown names \['l2'\]; known losses: \['commitment', 'l1'\]"),
        ({"l1": 1}, r"lacks \['commitment'\]"),
        ({"l1": "1e-4", "commitment": 1}, r"'l1' is '1e-4'.*1\.0e-4"),
        ({"l1": -1.0, "commitment": 1}, "'l1' is -1.0"),
        ({"l1": float("nan"), "commitment": 1}, "'l1' is nan"),
    ],
)
def test_weights_that_do_not_fit_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        WeightedLosses({"l1": HUL1Loss()}, weights, external=["commitment"])


def test_a_total_of_nothing_or_of_strangers_is_refused():
    losses = WeightedLosses({"l1": HUL1Loss()}, {"l1": 0.0})
    with pytest.raises(ValueError, match="nothing to add up"):
        losses.total({"l1": torch.tensor(1.0)})
    with pytest.raises(ValueError, match=r"no weight for \['l2'\]; known losses: \['l1'\]"):
        losses.total({"l2": torch.tensor(1.0)})


def test_shapes_that_would_broadcast_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 1, 2, 2, 2\) and target \(2, 2, 2\) differ in shape"):
        WeightedLosses({"l1": HUL1Loss()}, {"l1": 1.0})(torch.zeros(1, 1, 2, 2, 2), torch.zeros(2, 2, 2))
