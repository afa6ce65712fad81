"""How near a reconstruction is to its original: PSNR, SSIM, MAE and RMSE in HU."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

from ctpa_vqgan.metrics.slabs import check_volumes, finite_slab, slabs
from ctpa_vqgan.metrics.ssim import volume_ssim


@torch.no_grad()
def volume_fidelity(
    reconstruction: Any,
    original: Any,
    hu_range: tuple[float, float] = (-1000.0, 1000.0),
    device: torch.device | str | None = None,
) -> dict[str, float]:
    """Compare a reconstruction with its original, voxel by voxel and window by window.

    Both are first clipped to ``hu_range``, for **every** number below: a tokenizer that sees -1000..1000 HU cannot give
    back metal or scanner padding. ``clipped_share`` says how much of the original that concerns.
    Memory is bounded: slabs of 32 slices, sums in float64.

    >>> volume_fidelity(torch.full((16, 16, 16), 20.0), torch.zeros(16, 16, 16))["psnr"]
    40.0

    Args:
        reconstruction: [X, Y, Z] array or tensor (MetaTensor too) of any real type, HU.
        original: [X, Y, Z], HU.
        hu_range: lowest and highest HU; PSNR's peak and SSIM's data range are its width (2000 HU).
        device: where slabs are computed, moved there one at a time; None takes the volumes' own.

    Returns:
        ``psnr`` in dB, ``inf`` where the clipped volumes are identical; ``ssim`` and ``body_ssim``, see
        :func:`~ctpa_vqgan.metrics.ssim.volume_ssim`, NaN where a side is under 11 voxels;
        ``mae_hu`` and ``rmse_hu``, mean absolute and root mean square error in HU; ``clipped_share``, the share of the
        original's voxels outside ``hu_range``.

    Raises:
        ValueError: if the two are not volumes of one shape, hold a NaN or infinity, or ``hu_range`` is empty.
    """
    low, high = hu_range
    if not low < high:
        raise ValueError(f"hu_range must be (lowest, highest), got {hu_range}")
    check_volumes(reconstruction, original)
    absolute, squared, clipped = 0.0, 0.0, 0
    for start, stop in slabs(original.shape[-1]):
        x = finite_slab("reconstruction", reconstruction, start, stop, device)
        y = finite_slab("original", original, start, stop, device)
        clipped += int(((y < low) | (y > high)).sum())
        error = x.clamp(low, high).sub_(y.clamp(low, high)).abs_()
        absolute += error.sum(dtype=torch.float64).item()
        squared += error.square_().sum(dtype=torch.float64).item()
    num_voxels = math.prod(original.shape)
    mse, ssim = squared / num_voxels, volume_ssim(reconstruction, original, hu_range, device)
    return {
        "psnr": 10 * math.log10((high - low) ** 2 / mse) if mse else math.inf,
        "ssim": ssim.whole,
        "body_ssim": ssim.body,
        "mae_hu": absolute / num_voxels,
        "rmse_hu": math.sqrt(mse),
        "clipped_share": clipped / num_voxels,
    }


@torch.no_grad()
def error_by_slice(
    reconstruction: Any, original: Any, hu_range: tuple[float, float] = (-1000.0, 1000.0)
) -> dict[str, list[float]]:
    """The error of each axial slice, both volumes clipped to ``hu_range``.

    >>> error_by_slice(torch.full((2, 2, 3), 20.0), torch.zeros(2, 2, 3))["bias_hu"]
    [20.0, 20.0, 20.0]

    Args:
        reconstruction: [X, Y, Z], HU.
        original: [X, Y, Z], HU.
        hu_range: lowest and highest HU that count.

    Returns:
        ``mae_hu``, ``bias_hu`` (mean of reconstruction - original) and ``rmse_hu``, Z numbers each.

    Raises:
        ValueError: if the two are not volumes of one shape or hold a NaN or infinity.
    """
    check_volumes(reconstruction, original)
    found: dict[str, list[float]] = {"mae_hu": [], "bias_hu": [], "rmse_hu": []}
    for start, stop in slabs(original.shape[-1]):
        pair = (("reconstruction", reconstruction), ("original", original))
        x, y = (finite_slab(name, volume, start, stop, None).clamp(*hu_range) for name, volume in pair)
        error = (x - y).double()
        found["mae_hu"] += error.abs().mean(dim=(0, 1)).tolist()
        found["bias_hu"] += error.mean(dim=(0, 1)).tolist()
        found["rmse_hu"] += error.square().mean(dim=(0, 1)).sqrt().tolist()
    return found


class Difference(NamedTuple):
    """How far two versions of a volume are apart: the largest and the mean absolute difference in HU."""

    max_hu: float
    mean_hu: float


@torch.no_grad()
def volume_difference(one: Any, other: Any) -> Difference:
    """Compare two versions of a volume, slab by slab and without clipping.

    >>> volume_difference(torch.tensor([[[1.0, 5.0]]]), torch.tensor([[[1.0, 2.0]]]))
    Difference(max_hu=3.0, mean_hu=1.5)

    Args:
        one: [X, Y, Z], HU.
        other: [X, Y, Z], HU.

    Raises:
        ValueError: if the two are not volumes of one shape or hold a NaN or infinity.
    """
    check_volumes(one, other)
    largest, total = 0.0, 0.0
    for start, stop in slabs(other.shape[-1]):
        apart = finite_slab("one", one, start, stop, None) - finite_slab("other", other, start, stop, None)
        largest = max(largest, apart.abs().max().item())
        total += apart.abs().sum(dtype=torch.float64).item()
    return Difference(largest, total / math.prod(other.shape))
