"""Voxel-wise reconstruction losses that mean the same number of HU whatever window the network sees.

# B batch, H W D voxels; prediction and target [B, 1, H, W, D] in [-1, 1], which is ``hu_window`` in HU
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctpa_vqgan.windows import WINDOWS


class HUL1Loss(nn.Module):
    """Mean absolute error in units of 1000 HU: 0.015 is a mean error of 15 HU.

    The main reconstruction term. For the default window, 1000 HU is one network unit and the value is plain L1; for any
    other window it stays in HU, so that a weight chosen once keeps its meaning.

    Args:
        hu_window: the (low, high) HU values that the network sees as -1 and 1.

    Raises:
        ValueError: if ``hu_window`` does not rise.

    Example:
        >>> HUL1Loss(hu_window=(-1000, 1000))(torch.full((1, 1, 2, 2, 2), 0.5), torch.zeros(1, 1, 2, 2, 2))
        tensor(0.5000)
    """

    def __init__(self, hu_window: Sequence[float] = (-1000, 1000)) -> None:
        super().__init__()
        low, high = _rising(hu_window)
        self.kilo_hu_per_unit = (high - low) / 2 / 1000

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compare two batches [B, 1, H, W, D]; the result is a scalar in units of 1000 HU."""
        return self.kilo_hu_per_unit * F.l1_loss(prediction, target)


class WindowedL1Loss(nn.Module):
    """L1 as a radiologist's screen shows it: the mean over display windows, each from black (0) to white (1).

    A clot differs from contrast by about 200 HU, a tenth of the network's range but a third of the PE window (why PE
    needs its own window: Bae et al. 2005, Radiology 236:677). Choose it to spend the codebook on what is read.
    A predicted voxel beyond a window is clipped there and gets no gradient from it, which is intended (nobody sees the
    difference on that screen), so use it beside `HUL1Loss`, never alone.

    Args:
        hu_window: the (low, high) HU values that the network sees as -1 and 1.
        windows: (level, width) in HU by name.

    Raises:
        ValueError: if ``hu_window`` does not rise, or there is no window, or one has no width or lies outside it.
    """

    def __init__(
        self,
        hu_window: Sequence[float] = (-1000, 1000),
        windows: Mapping[str, Sequence[float]] = WINDOWS,
    ) -> None:
        super().__init__()
        self.hu_window = low, high = _rising(hu_window)
        if not windows:
            raise ValueError(f"windows is empty, expected (level, width) in HU by name such as {WINDOWS}")
        self.windows = {name: (float(level), float(width)) for name, (level, width) in windows.items()}
        for name, (level, width) in self.windows.items():
            if width <= 0:
                raise ValueError(f"window {name!r} is (level, width) = ({level}, {width}) HU, expected a width above 0")
            if level + width / 2 <= low or level - width / 2 >= high:
                raise ValueError(
                    f"window {name!r} at level {level}, width {width} HU lies outside hu_window ({low}, {high}), "
                    "where it would always be 0; widen hu_window or leave the window out"
                )

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compare two batches [B, 1, H, W, D]; the result is a scalar, 1 = black against white in every window."""
        errors = [F.l1_loss(self._display(prediction, *w), self._display(target, *w)) for w in self.windows.values()]
        return torch.stack(errors).mean()

    def _display(self, volume: Tensor, level: float, width: float) -> Tensor:
        low, high = self.hu_window
        # One multiplication and one addition per voxel: HU are never written out, they would be another full volume.
        scale = (high - low) / 2 / width
        shift = ((low + high) / 2 - level) / width + 0.5
        return (volume * scale + shift).clamp(0, 1)


def _rising(hu_window: Sequence[float]) -> tuple[float, float]:
    low, high = map(float, hu_window)
    if not low < high:
        raise ValueError(f"hu_window is ({low}, {high}), expected (low, high) in HU with low < high")
    return low, high
