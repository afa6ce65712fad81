"""Which voxels are the patient's."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ctpa_vqgan.metrics.codebook import AIR_HU, BODY_HU

BODY_CELL = 4  # voxels: the body is found as mean over such cubes


def body_voxels(hu: torch.Tensor) -> torch.Tensor:
    """Voxels in cubes of 4 x 4 x 4 (less at the far borders) whose mean is above -950 HU, as ``body_tokens`` has it.

    Args:
        hu: [X, Y, Z], float32; of a slab, the first slice begins a cube.

    Returns:
        Bool [X, Y, Z].
    """
    cell = [min(BODY_CELL, side) for side in hu.shape]
    mean = F.avg_pool3d(hu.clamp(min=AIR_HU)[None], cell, ceil_mode=True)[0]  # at a border: mean of what there is
    body = mean > BODY_HU
    for dim, length in enumerate(hu.shape):
        body = body.repeat_interleave(BODY_CELL, dim=dim).narrow(dim, 0, length)
    return body
