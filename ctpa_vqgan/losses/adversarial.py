"""The adversarial game: what the discriminator minimises, what the generator minimises, and when it starts.

Each loss takes a tensor (one discriminator) or a list with one entry per discriminator, and returns the mean over the
entries: every discriminator counts alike, however many patches it scores. The arithmetic is float32 under autocast too.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from ctpa_vqgan.precision import float32_or_better

Nested = Tensor | Sequence["Nested"]
"""A tensor, or a list of them, or a list of lists (discriminators, then layers)."""


def hinge_discriminator_loss(real_logits: Nested, fake_logits: Nested) -> Tensor:
    """Half the mean of ``relu(1 - real)`` plus half the mean of ``relu(1 + fake)``: scores beyond +-1 earn nothing.

    Lim & Ye 2017, arXiv 1705.02894. Not MONAI's ``PatchAdversarialLoss(criterion="hinge")``: that one squeezes the
    logits through tanh, so the gradient vanishes exactly when the discriminator is sure.

    Args:
        real_logits: scores of real volumes, any shape, or a list of such tensors.
        fake_logits: scores of detached reconstructions, likewise.

    Returns:
        A scalar, 1 for logits of 0.

    Raises:
        ValueError: if the two arguments are not nested alike.
    """
    return _mean_over(
        lambda real, fake: 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean()), real_logits, fake_logits
    )


def hinge_generator_loss(fake_logits: Nested) -> Tensor:
    """Minus the mean score of the reconstructions: its gradient is -1/N at any logit, also when the generator loses.

    Lim & Ye 2017, arXiv 1705.02894; used for VQGAN by Esser et al. 2021, arXiv 2012.09841.

    Args:
        fake_logits: scores of reconstructions that still carry their graph, any shape, or a list of such tensors.

    Returns:
        A scalar of either sign.
    """
    return _mean_over(lambda fake: -fake.mean(), fake_logits)


def feature_matching_loss(real_features: Nested, fake_features: Nested) -> Tensor:
    """Mean over layers of the L1 distance between discriminator features: a perceptual loss that trains itself.

    Wang et al. 2018 (pix2pixHD), arXiv 1711.11585. The real features are constants: only the generator is to move.

    Args:
        real_features: one tensor per layer of the real volume, or a list of such lists, one per discriminator.
        fake_features: the same for its reconstruction.

    Returns:
        A scalar, 0 for equal features.

    Raises:
        ValueError: if the two arguments are not nested alike or two features differ in shape.
    """
    return _mean_over(_layer_distance, real_features, fake_features)


def ramp(iteration: int, start: int, length: int) -> float:
    """Factor of the adversarial weight: 0 up to ``start``, then rising linearly to 1 at ``start + length``.

    A discriminator that starts beside an untrained generator wins at once and stays ahead, so VQGAN (Esser et al. 2021)
    starts it late; the ramp spares the generator the jolt of the full weight in one step.

    Args:
        iteration: number of generator updates so far.
        start: iteration after which the factor rises.
        length: iterations from 0 to 1; 0 is a step: 1 from ``start`` on.

    Raises:
        ValueError: if ``length`` is negative.
    """
    if length < 0:
        raise ValueError(f"length is {length} iterations, expected 0 (a step) or more")
    if length == 0:
        return float(iteration >= start)
    return min(max((iteration - start) / length, 0.0), 1.0)


def _layer_distance(real: Tensor, fake: Tensor) -> Tensor:
    if real.shape != fake.shape:
        raise ValueError(f"features differ in shape: real {tuple(real.shape)}, fake {tuple(fake.shape)}")
    return F.l1_loss(fake, real.detach())


def _mean_over(loss: Callable[..., Tensor], *items: Nested) -> Tensor:
    """Apply ``loss`` to the tensors that stand at the same place of each nested list; mean over every level."""
    if all(isinstance(item, Tensor) for item in items):
        return loss(*(float32_or_better(item) for item in items))
    if any(isinstance(item, Tensor) for item in items) or len({len(item) for item in items}) > 1 or not len(items[0]):
        found = ", ".join("a tensor" if isinstance(item, Tensor) else f"a list of {len(item)}" for item in items)
        raise ValueError(f"expected one entry per discriminator or layer, real and fake alike, but got {found}")
    return torch.stack([_mean_over(loss, *entries) for entries in zip(*items)]).mean()
