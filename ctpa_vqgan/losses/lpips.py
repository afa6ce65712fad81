"""LPIPS on slices of a volume, with weights from one local file: no download, no torchvision.

# B batch, H W D voxels, S slices per axis, a b the sides of a slice
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ctpa_vqgan.losses.lpips_weights import BLOCKS, load_lpips_weights
from ctpa_vqgan.networks.discriminators import take_slices

_MIN_SIDE = 16  # four poolings leave one position
# LPIPS v0.1 brings RGB in [-1, 1] to the mean and deviation of ImageNet.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """Learned perceptual distance (Zhang et al. 2018, arXiv 1801.03924), version 0.1 with VGG16, in 2.5-D.

    Choose it when sharpness matters more than independence from ImageNet weights. Evenly spaced slices of all three
    planes are compared, always the same ones: no random numbers, so validation can be repeated. The grey channel is
    shown to VGG16 three times.

    The weights are constants: not parameters, not in ``state_dict`` (they would add 56 MiB to every checkpoint), and
    there is no dropout for ``train()`` to switch on. Gradients reach the prediction; the target is a constant.

    Args:
        weights: path of the file described in `load_lpips_weights`.
        slices_per_axis: S, slices in each of the three planes; each costs about 0.15 GiB at 256 x 256 in training.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it cannot be read, or a tensor is missing or has another shape; or if ``slices_per_axis`` < 1.
    """

    def __init__(self, weights: str | Path, slices_per_axis: int = 4) -> None:
        super().__init__()
        if slices_per_axis < 1:
            raise ValueError(f"slices_per_axis is {slices_per_axis}, expected at least 1")
        self.slices_per_axis = slices_per_axis
        for name, tensor in load_lpips_weights(weights).items():
            self.register_buffer(_buffer(name), tensor.float(), persistent=False)
        self.register_buffer("shift", torch.tensor(_SHIFT).reshape(1, 3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.tensor(_SCALE).reshape(1, 3, 1, 1), persistent=False)

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compare two batches [B, 1, H, W, D] in [-1, 1]; the result is a scalar, the mean over planes and slices.

        Raises:
            ValueError: if there is more than one channel or a side is under 16 voxels, where VGG16's poolings end.
        """
        if prediction.shape[1] != 1 or min(prediction.shape[2:]) < _MIN_SIDE:
            raise ValueError(
                f"LPIPS needs [B, 1, H, W, D] with sides of at least {_MIN_SIDE} voxels, but got "
                f"{tuple(prediction.shape)}; enlarge the patch or set the weight of this loss to 0"
            )
        return torch.stack([self._plane(prediction, target, axis) for axis in (2, 3, 4)]).mean()

    def _plane(self, prediction: Tensor, target: Tensor, axis: int) -> Tensor:
        # Half a step in, so that the slices stand in the middle of their shares and none on the border.
        where = (axis, self.slices_per_axis, prediction.shape[axis] // (2 * self.slices_per_axis))
        with torch.no_grad():
            wanted = self._features(take_slices(target, *where))
        found = self._features(take_slices(prediction, *where))
        heads = (self._get(f"lin{block}.model.1.weight") for block in range(len(BLOCKS)))
        return sum(_distance(f, w, head) for f, w, head in zip(found, wanted, heads))

    def _features(self, slices: Tensor) -> list[Tensor]:
        """Run slices [B*S, 1, a, b] through VGG16; the last activation of each of the five blocks."""
        x, taps = (slices - self.shift) / self.scale, []
        for block, (indices, _) in enumerate(BLOCKS):
            x = F.max_pool2d(x, 2) if block else x
            for i in indices:
                x = F.relu(F.conv2d(x, self._get(f"features.{i}.weight"), self._get(f"features.{i}.bias"), padding=1))
            taps.append(x)
        return taps

    def _get(self, name: str) -> Tensor:
        return getattr(self, _buffer(name))


def _distance(found: Tensor, wanted: Tensor, head: Tensor) -> Tensor:
    """Mean of the weighted squared difference of unit feature vectors [B*S, C, a, b]; ``head`` [1, C, 1, 1]."""
    # F.normalize passes no gradient at a zero vector (usual in air), where x / sqrt(sum(x**2)) as in lpips gives NaN.
    difference = F.normalize(found, eps=1e-10) - F.normalize(wanted, eps=1e-10)
    return F.conv2d(difference.square(), head).mean()


def _buffer(name: str) -> str:
    return name.replace(".", "_")  # a buffer's name must not contain a dot
