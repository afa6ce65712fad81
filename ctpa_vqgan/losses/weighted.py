"""The losses of a training run by name: computed here, weighed here, logged under the same names everywhere."""

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from ctpa_vqgan.precision import float32_or_better


class WeightedLosses(nn.Module):
    """Named reconstruction terms and the weight of each.

    A weight of 0 switches a term off: it is not computed and takes no memory. Values are float32 also under autocast,
    because a mean over 8 million voxels does not survive bfloat16.

    Args:
        terms: callables ``(prediction, target) -> scalar`` by name, modules or functions; None holds the place of one
            that cannot be built here, such as `LPIPS` without its weights file, and needs the weight 0.
        weights: a finite weight of at least 0 for every term and every external name, no more and no fewer.
        external: names of values computed elsewhere that `total` weighs too: ``"commitment"`` comes from the quantizer,
            ``"adversarial"`` and ``"feature_matching"`` from the discriminators.

    Raises:
        ValueError: if ``weights`` has an unknown name, lacks a known one, or holds something else than a weight.

    Example:
        >>> losses = WeightedLosses({"l1": nn.L1Loss()}, {"l1": 4.0, "commitment": 0.25}, external=["commitment"])
        >>> values = losses(torch.ones(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2))
        >>> values["commitment"] = torch.tensor(2.0)
        >>> losses.total(values)  # 4 x 1 + 0.25 x 2
        tensor(4.5000)
    """

    def __init__(
        self,
        terms: Mapping[str, Callable[[Tensor, Tensor], Tensor] | None],
        weights: Mapping[str, float],
        external: Iterable[str] = (),
    ) -> None:
        super().__init__()
        self.terms = dict(terms)
        # Registers the terms that are modules, so that .to(device) reaches them; plain functions need no such care.
        self._modules_of_terms = nn.ModuleList(term for term in self.terms.values() if isinstance(term, nn.Module))
        self.weights = _checked(weights, [*self.terms, *external])
        if absent := [name for name, term in self.terms.items() if term is None and self.weights[name]]:
            raise ValueError(f"terms {absent} have a weight but are None; define them or set their weight to 0")

    def forward(self, prediction: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Compute the unweighted value of every term whose weight is not 0.

        Args:
            prediction: reconstruction [B, 1, H, W, D] on the network scale.
            target: volume of the same shape.

        Returns:
            A float32 scalar by name, in the order of ``terms``.

        Raises:
            ValueError: if the shapes differ (they would broadcast to a plausible, wrong number).
        """
        if prediction.shape != target.shape:
            raise ValueError(f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape")
        with torch.autocast(prediction.device.type, enabled=False):
            prediction, target = float32_or_better(prediction), float32_or_better(target)
            return {name: term(prediction, target) for name, term in self.terms.items() if self.weights[name]}

    def total(self, values: Mapping[str, Tensor], factors: Mapping[str, float] | None = None) -> Tensor:
        """Weigh and add.

        Args:
            values: unweighted scalars by name, of terms and of external losses.
            factors: further factors by name for this iteration, e.g. ``{"adversarial": ramp(...)}``; 1 where absent.

        Returns:
            A scalar to call ``backward()`` on. A value whose weight or factor is 0 is left out, so that its NaN
            (0 x NaN is NaN) and its graph stay out too.

        Raises:
            ValueError: if a name is unknown, or if nothing with a weight is left to add.
        """
        factors = factors or {}
        if unknown := {*values, *factors} - set(self.weights):
            raise ValueError(f"no weight for {sorted(unknown)}; known losses: {sorted(self.weights)}")
        scales = {name: self.weights[name] * factors.get(name, 1.0) for name in values}
        if not any(scales.values()):
            raise ValueError(f"nothing to add up: every weight is 0 among {scales}; give one of them a weight above 0")
        return sum(scale * float32_or_better(values[name]) for name, scale in scales.items() if scale)


def _checked(weights: Mapping[str, float], names: list[str]) -> dict[str, float]:
    unknown, missing = set(weights) - set(names), set(names) - set(weights)
    if unknown:
        raise ValueError(f"weights has unknown names {sorted(unknown)}; known losses: {sorted(names)}")
    if missing:
        raise ValueError(
            f"weights lacks {sorted(missing)}; give a weight to each of {sorted(names)}, 0 switches it off"
        )
    for name, weight in weights.items():
        if not isinstance(weight, int | float) or not math.isfinite(weight) or weight < 0:
            # PyYAML reads 1e-4 as text: a weight that is a string is nearly always that.
            raise ValueError(
                f"weight of {name!r} is {weight!r}, expected a finite number >= 0 (in YAML 1.0e-4, not 1e-4)"
            )
    return dict(weights)
