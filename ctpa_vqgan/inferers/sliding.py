"""Reconstruct whole volumes window by window, blended; works inside any MONAI workflow and with any network."""

# B batch, C channels, H W D voxels

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer, sliding_window_inference
from tqdm import tqdm

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.inferers.bf16_check import check_bf16
from ctpa_vqgan.inferers.memory import first_line, largest_window, window_bytes
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.out_of_memory import is_out_of_memory, release_memory
from ctpa_vqgan.progress import progress_bar

BLEND_MODES = ("gaussian", "linear", "constant")

logger = logging.getLogger(__name__)


class VQGANInferer(SlidingWindowInferer):
    """MONAI's sliding-window inferer for volumes of any size: pads with air, blends, crops back.

    Each window is encoded and decoded by itself and the images are blended, the classic way. The volume is padded at
    its end to a multiple of the network's factor, and windows shrink to it where it is smaller. A network that does not
    tell its factor may need whole windows: for it, a smaller volume is padded to the window on both sides.

    With ``memory_bytes`` windows grow as far as memory allows, up to the whole volume. Neighbours still share as many
    voxels as windows of ``roi_size`` would, so that less is computed twice. Under bf16 autocast, windows larger than
    all that came before pass :func:`~ctpa_vqgan.inferers.bf16_check.check_bf16` first, or ``roi_size`` stays.

    Where memory runs out, the volume begins again: with windows of ``roi_size`` if they had grown, then with half the
    ``sw_batch_size``, and at one window with stitching on the CPU, where the result then stays. The log says so, and
    later volumes begin with what worked.

    Args:
        roi_size: window in voxels; each side a multiple of the factor.
        sw_batch_size: windows per forward pass.
        overlap: share of a window that neighbours share, one number or one per axis.
        mode: ``"gaussian"``, ``"linear"`` (weights fall to zero over the overlap) or ``"constant"`` (plain mean).
        sigma_scale: of the Gaussian, in windows; one number or one per axis.
        cval: what padding holds; -1 is air on the scale of [-1, 1].
        sw_device: where windows are computed; the network's inputs go there one batch of windows at a time.
        device: where the result is stitched; ``"cpu"`` keeps whole volumes off a small GPU.
        progress: show a bar over the windows.
        factor: multiple that sides must have, for networks without a ``factor`` of their own.
        memory_bytes: what ``sw_batch_size`` windows may take where they are computed, above the weights, the volume
            and its result; needs a :class:`~ctpa_vqgan.networks.VQGAN`. By default windows are those of ``roi_size``.

    Raises:
        ValueError: for an unknown mode, an overlap outside [0, 1), a ``sigma_scale`` that is not above 0, a window that
            is no multiple of the factor, or ``memory_bytes`` with another network.
        BudgetTooSmall: when called, if windows of ``roi_size`` do not fit ``memory_bytes``.
        UserError: when called, if memory runs out for a single window, stitched on the CPU.

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
        memory_bytes: int | None = None,
    ) -> None:
        if mode not in BLEND_MODES:
            raise ValueError(f"mode must be one of {', '.join(BLEND_MODES)}, found {mode!r}")
        self.overlaps = tuple(overlap) if isinstance(overlap, Sequence) else (overlap,) * len(roi_size)
        if not all(0 <= o < 1 for o in self.overlaps):
            raise ValueError(f"overlap must be at least 0 and less than 1, found {overlap}")
        if not all(0 < s < math.inf for s in (sigma_scale if isinstance(sigma_scale, Sequence) else (sigma_scale,))):
            raise ValueError(f"sigma_scale must be above 0, found {sigma_scale}; 0.125 is usual")
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
        self.blend_mode, self.factor, self.memory_bytes = mode, factor, memory_bytes
        self._weights: tuple[Any, torch.Tensor | None] = (None, None)
        # voxels of the largest batch of windows that passed in bf16, and of the smallest that did not
        self._bf16_good, self._bf16_bad = 0, math.inf
        # window and step of the last volume, in voxels: smaller than set for a small one, larger by memory_bytes
        self.grid: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        self._on_cpu = False  # whether memory ran out, so that volumes are stitched there
        self._grew = False  # whether the windows of this volume are larger than roi_size

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
        least = tuple(min(r, s) if known else r for r, s in zip(self.roi_size, volume.shape[2:]))
        device = kwargs.pop("device", self.device)
        while True:
            try:
                result = self._stitched(volume, least, network, args, kwargs, "cpu" if self._on_cpu else device)
                return result[(..., *(slice(s) for s in size))]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = first_line(error)
            # outside of the except block, or the traceback would hold on to the windows
            release_memory()
            self._need_less(reason, torch.device(device or volume.device))

    def _stitched(
        self,
        volume: torch.Tensor,
        roi: tuple[int, ...],
        network: Callable,
        args: tuple,
        kwargs: dict[str, Any],
        device: torch.device | str | None,
    ) -> torch.Tensor:
        """All windows of a padded volume, blended on ``device``."""
        overlaps = self.overlaps
        self._grew = False
        if self.memory_bytes is not None:
            least = roi
            roi, overlaps = self._within_memory(least, volume, network)
            self._grew = roi != least
        steps = [int(r * (1 - o)) if r < s else r for r, o, s in zip(roi, overlaps, volume.shape[2:])]
        self.grid = tuple(roi), tuple(steps)
        windows = len(volume) * len(dense_patch_slices(volume.shape[2:], roi, steps))
        with progress_bar(windows, "windows", leave=False, show=self.progress) as bar:
            return sliding_window_inference(
                volume,
                roi,
                self.sw_batch_size,
                _first_output_of(network, args, bar),
                overlaps,
                self.mode,
                self.sigma_scale,
                cval=self.cval,
                # where the volume is, also when it is stitched elsewhere
                sw_device=self.sw_device or volume.device,
                device=device,
                roi_weight_map=self._weight_map(roi, overlaps),
                **kwargs,
            )

    def _need_less(self, reason: str, device: torch.device) -> None:
        """One step down, kept for later volumes.

        Raises:
            UserError: if there is none left.
        """
        if self._grew:
            self.memory_bytes = None
            step = f"windows are now {self.roi_size} as set, whatever memory_gb allows"
        elif self.sw_batch_size > 1:
            self.sw_batch_size //= 2
            step = f"sw_batch_size is now {self.sw_batch_size}"
        elif device.type != "cpu" and not self._on_cpu:
            self._on_cpu = True
            step = "volumes are now stitched on the CPU"
        else:
            raise UserError(
                f"memory ran out for a single window of {self.roi_size} voxels, stitched on the CPU ({reason}); lower "
                "patch_size (roi_size) and memory_gb, or compute on a device with more memory (sw_device)"
            )
        logger.warning("memory ran out (%s); %s, and this volume begins again", reason, step)

    def check_memory(self, network: VQGAN) -> None:
        """Whether windows of ``roi_size`` fit ``memory_bytes`` in the precision that is on now; computes nothing.

        Raises:
            BudgetTooSmall: if not; names the budget that they need.
        """
        if self.memory_bytes is not None:
            volume = torch.empty((1, network.in_channels, *self.roi_size), device="meta")
            self._grown(self.roi_size, volume, network, next(network.parameters()).device)

    def _within_memory(
        self, least: tuple[int, ...], volume: torch.Tensor, network: Callable
    ) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """The windows that ``memory_bytes`` allows, and their overlap that keeps as many voxels as was set."""
        network = getattr(network, "module", network)
        if not isinstance(network, VQGAN):
            raise ValueError(
                f"memory_bytes needs a VQGAN, of which memory can be foretold, found {type(network).__name__}; "
                "leave it out, and set roi_size"
            )
        device = torch.device(self.sw_device or volume.device)
        roi, shared = self._grown(least, volume, network, device)
        if roi == least or not self._computes_well(roi, network, device):
            return least, self.overlaps
        logger.info("windows of %s voxels for a volume of %s", roi, tuple(volume.shape[2:]))
        ratios = overlap_of(roi, [r - s for r, s in zip(roi, shared)])
        return roi, tuple(o if r < side else 0.0 for o, r, side in zip(ratios, roi, volume.shape[2:]))

    def _grown(
        self, least: tuple[int, ...], volume: torch.Tensor, network: VQGAN, device: torch.device
    ) -> tuple[tuple[int, ...], list[int]]:
        """Windows and the voxels that they share."""
        shared = [r - max(1, int(r * (1 - o))) for r, o in zip(self.roi_size, self.overlaps)]

        def bytes_of(roi: tuple[int, ...]) -> float:
            return window_bytes(network, (self.sw_batch_size, volume.shape[1], *roi), volume.dtype, device)

        return largest_window(self.memory_bytes, least, shared, volume.shape[2:], network.factor, bytes_of), shared

    def _computes_well(self, roi: tuple[int, ...], network: VQGAN, device: torch.device) -> bool:
        """Whether bf16 can be trusted with windows of this size: its faults come with large ones."""
        if not torch.is_autocast_enabled(device.type) or torch.get_autocast_dtype(device.type) != torch.bfloat16:
            return True
        voxels = self.sw_batch_size * math.prod(roi)
        if self._bf16_good < voxels < self._bf16_bad:
            errors = check_bf16(network, roi, self.sw_batch_size)
            if errors.small:
                self._bf16_good = voxels
            else:
                self._bf16_bad = voxels
                logger.warning("windows of %s are wrong in bf16 (%s); keeping %s", roi, errors, self.roi_size)
        return voxels <= self._bf16_good

    def _weight_map(self, roi: tuple[int, ...], overlaps: tuple[float, ...]) -> torch.Tensor:
        """Blend weights, made again when windows change; one size is kept, as it may be that of a volume."""
        known, weights = self._weights
        if known != (roi, overlaps):
            if self.blend_mode == "linear":
                weights = linear_weights(roi, overlaps)
            else:
                weights = compute_importance_map(roi, mode=self.mode, sigma_scale=self.sigma_scale)
            self._weights = (roi, overlaps), weights
        return weights


def overlap_of(roi_size: Sequence[int], stride: Sequence[int]) -> list[float]:
    """Overlap per axis for which MONAI's inferer steps by ``stride``.

    MONAI computes the step as int(window * (1 - overlap)); half a voxel in hand keeps rounding from making it shorter.
    """
    return [max(0.0, 1 - (step + 0.5) / side) for side, step in zip(roi_size, stride)]


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
