"""Whether a reconstruction depends on where its windows lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ctpa_vqgan.metrics import shift_sd


def shift_test(
    reconstruct: Callable[[torch.Tensor], torch.Tensor],
    original: torch.Tensor,
    roi_size: Sequence[int],
    stride: Sequence[int],
    factor: Sequence[int],
    reach: Sequence[int] | None,
) -> dict[str, Any]:
    """Reconstruct the middle of a volume twice, the second time half a stride away, see ``metrics.shift_sd``.

    Taken is as much of the volume as one window holds, or twice the reach and half a window where that is more, in a
    box of air that leaves room for the shift. The air is not part of the volume, so only voxels that it cannot reach
    count: what is left depends on where windows lie, and on nothing else.

    Args:
        reconstruct: [X, Y, Z] in HU to the same in HU.
        original: [X, Y, Z], HU.
        roi_size: voxels of a window.
        stride: voxels from window to window.
        factor: voxels per code; the shift is a multiple of it, so that cells of codes stay cells of codes.
        reach: voxels on either side that a reconstructed voxel depends on; None for all of its window.

    Returns:
        ``mean_hu`` and ``p95_hu`` of the voxels' standard deviation, ``offsets``, the ``box`` in voxels, and
        ``num_voxels`` that count; ``skipped``, the reason, where the volume is too small for any.
    """
    reach = tuple(roi_size if reach is None else reach)
    size = [min(side, max(roi, 2 * r + roi // 2)) for side, roi, r in zip(original.shape, roi_size, reach)]
    inside = tuple(slice(r, side - r) for r, side in zip(reach, size))
    if any(part.stop <= part.start for part in inside):
        least = " x ".join(str(2 * r + 1) for r in reach)
        return {"skipped": f"the volume has less than {least} voxels: its border reaches all of it"}
    starts = [(side - crop) // 2 for side, crop in zip(original.shape, size)]
    crop = original[tuple(slice(start, start + side) for start, side in zip(starts, size))].float()
    shift = [max(step // 2 // f, 1) * f for step, f in zip(stride, factor)]
    offsets = [[0, 0, 0], shift]
    sd = shift_sd(reconstruct, crop, offsets).sd[inside]
    return {
        "mean_hu": sd.mean(dtype=torch.float64).item(),
        "p95_hu": float(np.percentile(sd.numpy(), 95)),
        "offsets": offsets,
        "box": [side + step for side, step in zip(size, shift)],
        "num_voxels": sd.numel(),
    }
