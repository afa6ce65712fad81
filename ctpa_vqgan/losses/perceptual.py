"""A perceptual loss that needs no weights: edges at several scales.

# B batch, C channels, H W D voxels
"""

import torch
from torch import Tensor, nn


class GradientLoss(nn.Module):
    """Multi-scale L1 between the finite differences of two volumes: vessel walls should stand where they stood.

    The default perceptual term: it penalises blur, which plain L1 forgives, and downloads nothing. Differences along
    H, W and D are compared at full size, then after each halving (mean of 2 x 2 x 2 blocks); the value is the mean over
    scales and axes. The gradient difference follows Mathieu et al. 2016, arXiv 1511.05440.

    At each halving an odd side loses its last plane and a side of 1 stays 1 (it has no differences: that axis is left
    out at that scale). A constant offset costs nothing, so use it beside `HUL1Loss`.

    ``monai.losses.JukeboxLoss(spatial_dims=3)`` compares FFT amplitudes and is a drop-in alternative. Its gradient is
    NaN where a prediction has an amplitude of exactly 0 (a constant patch, say).

    Args:
        num_scales: number of sizes compared, 1 = full size only.

    Raises:
        ValueError: if ``num_scales`` is below 1.

    Example:
        >>> step = torch.tensor([0.0, 0.0, 1.0, 1.0]).reshape(1, 1, 4, 1, 1)
        >>> GradientLoss(num_scales=1)(step, torch.zeros_like(step))  # one edge of height 1 among three differences
        tensor(0.3333)
    """

    def __init__(self, num_scales: int = 3) -> None:
        super().__init__()
        if num_scales < 1:
            raise ValueError(f"num_scales is {num_scales}, expected at least 1 (the full size)")
        self.num_scales = num_scales

    def forward(self, prediction: Tensor, target: Tensor) -> Tensor:
        """Compare two batches [B, C, H, W, D]; the result is a scalar in network units per voxel of its scale."""
        # Differences and means are linear, so those of the error are the errors of those: half the work and memory.
        error = prediction - target
        values = []
        for scale in range(self.num_scales):
            if scale:
                error = _halve(error)
            values += [error.diff(dim=axis).abs().mean() for axis in (2, 3, 4) if error.shape[axis] > 1]
        # A single voxel has no differences; 0 x error keeps the graph, so that backward() still works.
        return torch.stack(values).mean() if values else 0 * error.sum()


def _halve(volume: Tensor) -> Tensor:
    """Mean over blocks of 2 voxels along each axis that has them: [B, C, H, W, D] to [B, C, H//2, W//2, D//2].

    Not ``avg_pool3d``: on CUDA its backward pass adds with atomics and differs from run to run.
    """
    batch, channels, *sides = volume.shape
    blocks = [min(2, side) for side in sides]
    (h, w, d), (bh, bw, bd) = (side // block for side, block in zip(sides, blocks)), blocks
    cropped = volume[:, :, : h * bh, : w * bw, : d * bd]
    return cropped.reshape(batch, channels, h, bh, w, bw, d, bd).mean(dim=(3, 5, 7))
