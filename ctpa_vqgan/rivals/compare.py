"""Hold a tokenizer against the same network on a coarse grid, against interpolation and against codecs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.metrics import tissue_fidelity, volume_fidelity
from ctpa_vqgan.rivals.codecs import CODECS, encode_at_rates, rate
from ctpa_vqgan.rivals.resampled import BITS, enlarge, shrink, size_at_rate

USUAL_RATE = 13 / 64  # bits per voxel of 8192 codes for 4 x 4 x 4 voxels, where the model has no rate of its own
RATE_FACTORS = (1 / 4, 1 / 2, 2, 4)  # of the model's rate, besides the rate itself
SMALL_BITS = 16  # a voxel of the guide's grid, stored as it is


class Structure(Protocol):
    """What has measured the original's texture already."""

    def compare(self, reconstruction: Any) -> Mapping[str, Any]:
        """Numbers by group; ``["noise"]["nps_ratio"]`` is taken from them."""


def compare_with_rivals(
    original: Any,
    spacing_mm: Sequence[float],
    reconstruct: Callable[[torch.Tensor], tuple[Any, Mapping[str, float] | None]],
    model_rows: Sequence[dict[str, Any]],
    codecs: Sequence[str] = ("hevc", "jpeg2000"),
    small_size: Sequence[int] = (256, 256, 64),
    structure: Structure | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Measure what else could be done with about the bits that the model's codes take.

    * The network on a coarse grid, ``kind`` baseline: the volume is brought to ``small_size`` (antialiased, see
      :func:`~ctpa_vqgan.rivals.resampled.shrink`; a side that is shorter stays), through the network, and back
      (trilinearly). ``small_psnr``, ``small_ssim`` and ``small_mae_hu`` compare on the coarse grid, where such
      networks are commonly scored; all else compares with the original on its own grid.
    * That grid without the network, and a grid of about the model's rate, ``kind`` interpolation.
    * HEVC and JPEG 2000, ``kind`` codec: at the model's rate (to 5 %, where they go that far), and at about a quarter,
      half, twice and four times of it. Bits are those of the streams that were made.

    Rates count bits per voxel of the **original's** grid. The model's is that of the first of ``model_rows`` with one,
    or else 0.203 (8192 codes, each for 4 x 4 x 4 voxels). Every rival is clipped to -1000..1000 HU and rounded to
    whole HU, and measured like the model: by ``volume_fidelity`` and, in the body, ``tissue_fidelity``. One rival at a
    time is held, as int16.

    Args:
        original: [X, Y, Z] array or tensor, HU.
        spacing_mm: size of a voxel along X, Y, Z.
        reconstruct: takes a volume [x, y, z] of any size in HU, float32 on the CPU; gives its reconstruction, of the
            same shape in HU, and ``{"bits", "usage", "perplexity"}`` of its codes (``bits`` of all of them together)
            or None.
        model_rows: the model's own rows, which come first.
        codecs: names out of ``CODECS``.
        small_size: the coarse grid.
        structure: gives ``nps_ratio``, which is NaN without it.
        progress: called with a few words before each rival, for example a bar's ``set_postfix_str``.

    Returns:
        One dict per rival, with ``name``, ``kind``, ``setting``, ``bits_per_voxel``, ``psnr``, ``ssim``, ``mae_hu``,
        ``rmse_hu``, ``body_psnr``, ``body_mae_hu``, ``body_rmse_hu``, ``nps_ratio`` and ``seconds`` (there and back,
        wall-clock time); of kind baseline also ``small_size``, ``small_psnr``, ``small_ssim``, ``small_mae_hu``, and
        ``usage`` and ``perplexity`` where it has codes. What cannot be done here (a package is missing, memory does
        not suffice) is ``{"name", "kind", "skipped"}``.

    Raises:
        ValueError: for an unknown codec.
    """
    if unknown := set(codecs) - set(CODECS):
        raise ValueError(f"codecs must be some of {', '.join(CODECS)}, found {', '.join(sorted(unknown))}")
    rates = [row["bits_per_voxel"] for row in model_rows if math.isfinite(row.get("bits_per_voxel") or math.nan)]
    bench = _Bench(original, tuple(spacing_mm), structure, progress or (lambda what: None))
    rows = [*model_rows, *bench.on_small_grid(reconstruct, small_size)]
    wanted = rates[0] if rates else USUAL_RATE
    rows.append(bench.on_grid_of_rate(wanted))
    for name in codecs:
        rows += bench.through_codec(CODECS[name], wanted)
    return rows


class _Bench:
    """Measures rivals of one volume."""

    def __init__(
        self,
        original: Any,
        spacing_mm: tuple[float, ...],
        structure: Structure | None,
        announce: Callable[[str], None],
    ) -> None:
        self.original, self.spacing_mm, self.structure, self.announce = original, spacing_mm, structure, announce
        self.shape = tuple(original.shape)
        self.num_voxels = math.prod(self.shape)
        self.device = original.device if isinstance(original, torch.Tensor) else None

    def on_small_grid(self, reconstruct: Callable, small_size: Sequence[int]) -> Iterator[dict[str, Any]]:
        """The coarse grid with the network and without it."""
        size = tuple(min(few, many) for few, many in zip(small_size, self.shape, strict=True))
        if size == self.shape:
            reason = f"the volume is not larger than {' x '.join(map(str, small_size))}, there is nothing to shrink"
            yield {"name": "network on a coarse grid", "kind": "baseline", "skipped": reason}
            yield {"name": "coarse grid alone", "kind": "interpolation", "skipped": reason}
            return
        clock = time.perf_counter()
        small = shrink(self.original, size)
        shrink_seconds = time.perf_counter() - clock
        grid = self._grid(size)
        if kept := [axis for axis, few, many in zip("XYZ", small_size, self.shape) if many <= few]:
            grid += f", {', '.join(kept)} as it was"
        yield self._through_network(reconstruct, small, shrink_seconds, grid)
        name = f"coarse grid of {' x '.join(map(str, size))} alone"
        self.announce(name)
        clock = time.perf_counter()
        large = enlarge(small, self.shape)
        seconds = shrink_seconds + time.perf_counter() - clock
        bits = SMALL_BITS * small.numel()
        yield self._row(name, "interpolation", f"{grid}, {SMALL_BITS} bits each", bits, large, seconds)

    def _through_network(
        self, reconstruct: Callable, small: torch.Tensor, shrink_seconds: float, grid: str
    ) -> dict[str, Any]:
        name = f"network on {' x '.join(map(str, small.shape))}"
        self.announce(name)
        clock = time.perf_counter()
        try:
            output, codes = reconstruct(small.float())
        except UserError as error:
            return {"name": name, "kind": "baseline", "skipped": str(error)}
        large = enlarge(output, self.shape)
        seconds = shrink_seconds + time.perf_counter() - clock
        codes = dict(codes or {})
        found = volume_fidelity(torch.as_tensor(output).cpu(), small)
        setting = f"{grid}, through the network, trilinear back"
        return {
            **self._row(name, "baseline", setting, codes.pop("bits", math.nan), large, seconds),
            "small_size": list(small.shape),
            **{f"small_{key}": found[key] for key in ("psnr", "ssim", "mae_hu")},
            **{key: codes[key] for key in ("usage", "perplexity") if key in codes},
        }

    def on_grid_of_rate(self, bits_per_voxel: float) -> dict[str, Any]:
        """The grid whose voxels take about this rate."""
        self.announce("trilinear interpolation")
        clock = time.perf_counter()
        small = shrink(self.original, size_at_rate(self.shape, bits_per_voxel))
        large = enlarge(small, self.shape)
        seconds = time.perf_counter() - clock
        setting = f"{self._grid(small.shape)}, {BITS} bits each, trilinear back"
        return self._row("trilinear", "interpolation", setting, BITS * small.numel(), large, seconds)

    def through_codec(self, codec_class: type, bits_per_voxel: float) -> Iterator[dict[str, Any]]:
        """A codec's curve, from few bits to many, or the reason why there is none."""
        try:
            codec = codec_class()
        except UserError as error:
            yield {"name": codec_class.name, "kind": "codec", "skipped": str(error)}
            return
        self.announce(f"{codec.name} at {bits_per_voxel:.3f} bits per voxel")
        rows = []
        for quality, packets, seconds in encode_at_rates(codec, self.original, bits_per_voxel, RATE_FACTORS):
            clock = time.perf_counter()
            decoded = codec.decode(packets, self.shape)
            seconds += time.perf_counter() - clock
            bits = self.num_voxels * rate(packets, self.shape)
            rows.append(self._row(codec.name, "codec", codec.setting(quality), bits, decoded, seconds))
            self.announce(f"{codec.name}, {codec.setting(quality)} done")
        yield from sorted(rows, key=lambda row: row["bits_per_voxel"])

    def _grid(self, size: Sequence[int]) -> str:
        spacing = [mm * many / few for mm, many, few in zip(self.spacing_mm, self.shape, size, strict=True)]
        voxels, sides = " x ".join(map(str, size)), " x ".join(f"{mm:.2f}" for mm in spacing)
        return f"{voxels} voxels of {sides} mm (trilinear, antialiased)"

    def _row(
        self, name: str, kind: str, setting: str, bits: float, reconstruction: Any, seconds: float
    ) -> dict[str, Any]:
        whole = volume_fidelity(reconstruction, self.original, device=self.device)
        body = tissue_fidelity(reconstruction, self.original, tissues={}, windows={}).regions["body"]
        noise = (self.structure.compare(reconstruction).get("noise") if self.structure else None) or {}
        return {
            "name": name,
            "kind": kind,
            "setting": setting,
            "bits_per_voxel": float(bits) / self.num_voxels,
            **{key: whole[key] for key in ("psnr", "ssim", "mae_hu", "rmse_hu")},
            **{f"body_{key}": getattr(body, key) for key in ("psnr", "mae_hu", "rmse_hu")},
            "nps_ratio": noise.get("nps_ratio", math.nan),
            "seconds": seconds,
        }
