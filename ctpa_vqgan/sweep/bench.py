"""Measure one setting at a time: quality, seams, time and memory, all by the same rules."""

# X Y Z voxels; h w d latent positions

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch

from ctpa_vqgan.data import scale_hu_, to_hu
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.inferers import ExactTileInferer, VQGANInferer
from ctpa_vqgan.inferers.memory import decoding_bytes, encoding_bytes, first_line, window_bytes
from ctpa_vqgan.inferers.sliding import overlap_of
from ctpa_vqgan.metrics import seam_index, volume_fidelity, window_planes
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.networks.blocks import UnboundedReceptiveField
from ctpa_vqgan.out_of_memory import is_out_of_memory, release_memory
from ctpa_vqgan.sweep.settings import Setting, Size, by, is_comparable

Precision = Callable[[Sequence[int]], str]


@dataclass
class Bench:
    """One part of a case, on which settings are measured.

    Args:
        network: see :func:`ctpa_vqgan.sweep.sweep`, like all but ``hu``.
        hu: the original [X, Y, Z], HU.
    """

    network: VQGAN
    hu: torch.Tensor
    hu_window: tuple[float, ...]
    device: torch.device
    stitch_device: torch.device | str | None
    sw_batch_size: int
    precision_of: Precision
    exact: torch.Tensor | None = None  # [X, Y, Z], HU: what exact tiles give, once they are measured
    counted: dict[Size, float] = field(default_factory=dict)  # bytes by window, which take half a second to count

    def memory_told(self) -> str:
        """What the column of memory is."""
        if self.device.type == "cuda":
            return "peak that PyTorch allocated on the device, weights included (torch.cuda.max_memory_allocated)"
        return "counted on the shapes of tensors for one batch of windows, without weights, volume and result"

    @torch.no_grad()
    def windows(self, setting: Setting, padded: Size, full: Size) -> dict[str, Any]:
        """Blended windows."""
        alone = setting.num_windows(padded) == 1
        blend = setting.mode if setting.sigma_scale is None else f"{setting.mode} {setting.sigma_scale:g}"
        shared = sum(1 - step / side for step, side in zip(setting.stride, setting.window)) / 3
        row = {
            "kind": "windows",
            "window": by(setting.window),
            "step": by(setting.stride),
            "overlap": math.nan if alone else shared,
            "blend": "one window" if alone else blend,
            "knobs": setting.knobs(),
            "comparable": is_comparable(setting.window, padded, full),
            "num_windows": setting.num_windows(padded),
        }

        def reconstruct() -> torch.Tensor:
            inferer = _AsSet(
                setting.window,
                self.sw_batch_size,
                overlap_of(setting.window, setting.stride),
                setting.mode,
                0.125 if setting.sigma_scale is None else setting.sigma_scale,
                sw_device=self.device,
                device=self.stitch_device,
            )
            with self._autocast(setting.window):
                return inferer(self._image(self.stitch_device or self.device), self.network)

        def count() -> float:
            if setting.window not in self.counted:
                with self._autocast(setting.window):
                    batch = torch.Size((self.sw_batch_size, self.network.in_channels, *setting.window))
                    self.counted[setting.window] = window_bytes(self.network, batch, torch.float32, self.device)
            return self.counted[setting.window]

        planes = window_planes(padded, setting.window, setting.stride)
        longer = setting.num_windows(full) / row["num_windows"]
        return row | self._measured(reconstruct, count, planes, longer, lambda: self._warm_up(setting.window))

    @torch.no_grad()
    def tiles(self, tile: Size, padded: Size, full: Size) -> dict[str, Any] | None:
        """Exact tiles of that size; None for a network that has none."""
        try:
            halo = self.network.halo
        except UnboundedReceptiveField:
            return None
        inferer, factor = ExactTileInferer(tile), self.network.factor

        def reconstruct() -> torch.Tensor:
            return inferer(self._image(self.device), self.network)

        def count() -> float:
            core, grid = ([s // f for s, f in zip(sides, factor)] for sides in (tile, padded))
            one, other = (
                [min(c + 2 * h, g) for c, h, g in zip(core, sides, grid)] for sides in (halo.encoder, halo.decoder)
            )
            return max(
                encoding_bytes(self.network, _as_it_is, one, core), decoding_bytes(self.network, _as_it_is, other, core)
            )

        row = {
            "kind": "exact tiles",
            "window": by(tile),
            "step": by(tile),
            "overlap": 0.0,
            "blend": "exact tiles",
            "comparable": True,
            "num_windows": math.prod(math.ceil(s / t) for s, t in zip(padded, tile)),
        }
        longer = math.prod(full) / math.prod(padded)
        planes = window_planes(padded, tile, tile)
        return row | self._measured(reconstruct, count, planes, longer, exact=True)

    def _measured(
        self,
        reconstruct: Callable[[], torch.Tensor],
        count: Callable[[], float],
        planes: Sequence[Sequence[int]],
        longer: float,
        warm_up: Callable[[], None] = lambda: None,
        exact: bool = False,
    ) -> dict[str, Any]:
        """Time, memory and quality of a reconstruction; or the reason why there is none."""
        try:
            peak = count()
            if math.isinf(peak):
                return {"failed": "tensors beyond 2^31 elements, which convolutions cannot be trusted with"}
            warm_up()
            self._wait(reset=True)
            began = time.perf_counter()
            reconstruction = reconstruct()
            self._wait()
            seconds = time.perf_counter() - began
            if self.device.type == "cuda":
                peak = torch.cuda.max_memory_allocated(self.device)
            reconstruction = to_hu(reconstruction[0, 0], self.hu_window).cpu()
            self.exact = reconstruction if exact else self.exact
            return {
                **volume_fidelity(reconstruction, self.hu, device=self.device),
                **self._seams(reconstruction, planes),
                "seconds": seconds,
                "case_seconds": seconds * longer,
                "memory_mb": peak / 1e6,
            }
        except UserError as error:  # bf16 that fails its self-test for these windows
            return {"failed": first_line(error)}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            failed = {"failed": f"out of memory ({first_line(error)})"}
        # outside of the except block, or the traceback would hold on to the windows
        release_memory()
        return failed

    def _seams(self, reconstruction: torch.Tensor, planes: Sequence[Sequence[int]]) -> dict[str, Any]:
        """Seams against exact tiles, which have none, so that no anatomy is taken for one; or against the original."""
        seams = seam_index(reconstruction, self.hu if self.exact is None else self.exact, planes, device=self.device)
        of_error = seam_index(reconstruction, self.hu, planes, device=self.device)
        ratios = [ratio for ratio in of_error.ratio if math.isfinite(ratio)]
        return {
            "seam_hu": seams.hu if seams.planes else 0.0,  # a window alone has no neighbour to differ from
            "seam_ratio": max(ratios, key=lambda ratio: abs(ratio - 1), default=math.nan),
            "seams_found": len(seams.found),
            "num_planes": len(seams.planes),
        }

    def _image(self, device: torch.device | str) -> torch.Tensor:
        """[1, 1, X, Y, Z] in [-1, 1]."""
        return scale_hu_(self.hu.to(device=device, dtype=torch.float32, copy=True), self.hu_window)[None, None]

    def _autocast(self, window: Size) -> AbstractContextManager:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision_of(tuple(window)) == "bf16")

    def _warm_up(self, window: Size) -> None:
        """On CUDA one batch of windows beforehand: cuDNN looks for kernels at the first of each shape."""
        if self.device.type == "cuda":
            with self._autocast(window):
                shape = (self.sw_batch_size, self.network.in_channels, *window)
                self.network(torch.zeros(shape, device=self.device))

    def _wait(self, reset: bool = False) -> None:
        """Until the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            if reset:
                torch.cuda.reset_peak_memory_stats(self.device)


class _AsSet(VQGANInferer):
    """Windows as they are set or none: what another setting would give is that setting's affair."""

    def _need_less(self, reason: str, device: torch.device) -> None:
        raise MemoryError(reason)


def _as_it_is(work: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
    return work(tensor)
