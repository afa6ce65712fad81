"""Reconstruct whole volumes window by window, blended; works inside any MONAI workflow and with any network."""

# B batch, C channels, H W D voxels

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer, sliding_window_inference
from tqdm import tqdm

from ctpa_vqgan.progress import progress_bar

BLEND_MODES = ("gaussian", "linear", "constant")


class VQGANInferer(SlidingWindowInferer):
    """MONAI's sliding-window inferer for volumes of any size: pads with air, blends, crops back.

    Each window is encoded and decoded by itself and the images are blended, the classic way. The volume is padded at
    its end to a multiple of the network's factor, and windows shrink to it where it is smaller. A network that does not
    tell its factor may need whole windows: for it, a smaller volume is padded to the window on both sides.

    Args:
        roi_size: window in voxels; each side a multiple of the factor.
        sw_batch_size: windows per forward pass.
        overlap: share of a window that neighbours share, one number or one per axis.
        mode: ``"gaussian"``, ``"linear"`` (weights fall to zero over the overlap) or ``"constant"`` (plain mean).
        sigma_scale: of the Gaussian, in windows.
        cval: what padding holds; -1 is air on the scale of [-1, 1].
        sw_device: where windows are computed; the network's inputs go there one batch of windows at a time.
        device: where the result is stitched; ``"cpu"`` keeps whole volumes off a small GPU.
        progress: show a bar over the windows.
        factor: multiple that sides must have, for networks without a ``factor`` of their own.

    Raises:
        ValueError: for an unknown mode, an overlap outside [0, 1), or a window that is no multiple of the factor.

    Example:
        >>> inferer = VQGANInferer(roi_size=(32, 32, 16))
        >>> inferer(torch.zeros(1, 1, 45, 40, 21), torch.nn.Identity()).shape
        torch.Size([1, 1, 45, 40, 21])
    """

    def __init__(
        self,
        roi_size: Sequence[int] = (256, 256, 128),
        sw_batch_size: int = 1,
        overlap: Sequence[float] | float = 0.25,
        mode: str = "gaussian",
        sigma_scale: Sequence[float] | float = 0.125,
        cval: float = -1.0,
        sw_device: torch.device | str | None = None,
        device: torch.device | str | None = None,
        progress: bool = False,
        factor: Sequence[int] | None = None,
    ) -> None:
        if mode not in BLEND_MODES:
            raise ValueError(f"mode must be one of {', '.join(BLEND_MODES)}, found {mode!r}")
        self.overlaps = tuple(overlap) if isinstance(overlap, Sequence) else (overlap,) * len(roi_size)
        if not all(0 <= o < 1 for o in self.overlaps):
            raise ValueError(f"overlap must be at least 0 and less than 1, found {overlap}")
        super().__init__(
            roi_size=tuple(roi_size),
            sw_batch_size=sw_batch_size,
            overlap=overlap,
            # MONAI knows no linear blending; it enters as a weight map
            mode="gaussian" if mode == "gaussian" else "constant",
            sigma_scale=sigma_scale,
            cval=cval,
            sw_device=sw_device,
            device=device,
            progress=progress,
        )
        self.blend_mode, self.factor = mode, factor
        self._weights: dict[tuple[int, ...], torch.Tensor] = {}

    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Volumes [B, C, H, W, D] -> reconstruction on the same grid, float32 (float64 stays).

        Args:
            inputs: on the network's scale; left untouched.
            network: called with windows; of several outputs the first counts.
        """
        size = inputs.shape[2:]
        known = self.factor or network_factor(network)
        factor = tuple(known or (1,) * len(size))
        if any(r % f for r, f in zip(self.roi_size, factor)):
            raise ValueError(f"roi_size {self.roi_size} must be a multiple of the compression factor {factor}")
        volume = pad_to_multiple(inputs if inputs.dtype == torch.float64 else inputs.float(), factor, self.cval)
        roi = tuple(min(r, s) if known else r for r, s in zip(self.roi_size, volume.shape[2:]))
        steps = [int(r * (1 - o)) if r < s else r for r, o, s in zip(roi, self.overlaps, volume.shape[2:])]
        windows = len(volume) * len(dense_patch_slices(volume.shape[2:], roi, steps))
        bar = progress_bar(windows, "windows", leave=False, show=self.progress)
        result = sliding_window_inference(
            volume,
            roi,
            self.sw_batch_size,
            _first_output_of(network, args, bar),
            self.overlap,
            self.mode,
            self.sigma_scale,
            cval=self.cval,
            sw_device=self.sw_device,
            device=kwargs.pop("device", self.device),
            roi_weight_map=self._weight_map(roi),
            **kwargs,
        )
        bar.close()
        return result[(..., *(slice(s) for s in size))]

    def _weight_map(self, roi: tuple[int, ...]) -> torch.Tensor:
        """Blend weights of a window, made once per window size."""
        if roi not in self._weights:
            if self.blend_mode == "linear":
                weights = linear_weights(roi, self.overlaps)
            else:
                weights = compute_importance_map(roi, mode=self.mode, sigma_scale=self.sigma_scale)
            self._weights[roi] = weights
        return self._weights[roi]


def linear_weights(roi: Sequence[int], overlaps: Sequence[float]) -> torch.Tensor:
    """1 in the middle of a window, falling linearly over the overlap at each side; neighbours add up to 1."""
    weights = torch.ones(())
    for size, overlap in zip(roi, overlaps):
        distance = torch.minimum(torch.arange(size) + 0.5, size - 0.5 - torch.arange(size))
        shared = size - int(size * (1 - overlap))  # as MONAI rounds the step
        weights = weights[..., None] * (distance / max(1, shared)).clamp(max=1.0)
    return weights


def network_factor(network: Callable) -> tuple[int, ...] | None:
    """Voxels per latent position of a network (also behind DistributedDataParallel), None if it does not say."""
    return getattr(getattr(network, "module", network), "factor", None)


def pad_to_multiple(volume: torch.Tensor, factor: Sequence[int], value: float) -> torch.Tensor:
    """Pad the end of each axis of [B, C, H, W, D] to a multiple of ``factor``; no copy where nothing is missing."""
    missing = [-s % f for s, f in zip(volume.shape[2:], factor)]
    return F.pad(volume, [n for m in reversed(missing) for n in (0, m)], value=value) if any(missing) else volume


def _first_output_of(network: Callable, args: tuple, bar: tqdm) -> Callable:
    def predict(window: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        output = network(window, *args, **kwargs)
        if isinstance(output, (tuple, list)):
            output = output[0]
        # blending works in place, in float32 or better; a view of the input would corrupt the volume
        shared = output.untyped_storage().data_ptr() == window.untyped_storage().data_ptr()
        output = output.clone() if shared else output
        bar.update(len(window))
        return output if output.dtype == torch.float64 else output.float()

    return predict
