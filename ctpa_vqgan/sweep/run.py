"""Reconstruct a part of one case with every setting of the sliding window that is tried, and measure."""

# X Y Z voxels

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from ctpa_vqgan.data import load_volume
from ctpa_vqgan.data.cases import Case
from ctpa_vqgan.inferers import latent_grid
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.progress import progress_bar
from ctpa_vqgan.report.planes import body_centre
from ctpa_vqgan.sweep.bench import Bench, Precision
from ctpa_vqgan.sweep.page import finish, write_page
from ctpa_vqgan.sweep.settings import Choices, Chosen, Size, choose, crop_size


def sweep(
    cases: Sequence[Case],
    network: VQGAN,
    output_dir: str | Path,
    choices: Choices,
    hu_window: Sequence[float],
    voxels: float | None = None,
    device: torch.device | str = "cpu",
    stitch_device: torch.device | str | None = None,
    sw_batch_size: int = 1,
    precision_of: Precision = lambda window: "float32",
    settings: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Try settings of the sliding window on the first case, and write ``sweep.md``, ``.json``, ``.csv`` and ``.png``.

    Every setting is measured by the same rules: PSNR, SSIM and errors in HU against the original, seams on its own
    window planes, time, and memory. One row more is for exact tiles (what ``encode`` and ``decode`` do), where the
    network has them. A setting that memory runs out for is listed as such. The files are written anew after each
    setting, so that an interrupted sweep leaves what it found.

    Args:
        cases: of :func:`ctpa_vqgan.data.find_cases`; the first is taken.
        network: in evaluation mode, on ``device``.
        output_dir: folder; made if need be.
        choices: settings to try.
        hu_window: HU at -1 and 1.
        voxels: most voxels of the part, around the centre of the body, that is looked at; None takes the whole case.
        device: where windows are computed.
        stitch_device: where they are blended; ``device`` by default.
        sw_batch_size: windows per forward pass.
        precision_of: ``"bf16"`` or ``"float32"`` for windows of a size, see :func:`ctpa_vqgan.bundle.window_precision`.
        settings: what a reader needs to repeat the numbers.
        progress: show a bar with the time left.

    Returns:
        The content of ``sweep.json``.

    Raises:
        UserError: the volume is refused, or the part has no room for two windows.
    """
    case = cases[0]
    volume = load_volume()({"image": case["image"]})["image"]
    hu = volume.as_tensor()[0]
    part = crop_size(hu.shape, voxels, choices.patch_size, choices.factor)
    corner = _corner(hu, part)
    padded, full = (_padded(shape, choices.factor) for shape in (part, hu.shape))
    chosen = choose(choices, padded, full)
    hu = hu[tuple(slice(start, start + side) for start, side in zip(corner, part))].contiguous()
    bench = Bench(network, hu, tuple(hu_window), torch.device(device), stitch_device, sw_batch_size, precision_of)
    found = {
        "case": case["case"],
        "shape": list(volume.shape[1:]),
        "spacing_mm": [float(mm) for mm in nib.affines.voxel_sizes(np.asarray(volume.affine))],
        "part": {"corner": list(corner), "shape": list(part)},
        "memory": bench.memory_told(),
        "num_possible": chosen.num_possible,
        "num_tried": len(chosen.settings),
        "too_large": [list(window) for window in chosen.too_large],
        "settings": dict(settings or {}),
    }
    rows = _measure_all(bench, chosen, padded, full, Path(output_dir), found, progress)
    return finish(output_dir, rows, found)


def _measure_all(
    bench: Bench, chosen: Chosen, padded: Size, full: Size, folder: Path, found: dict[str, Any], progress: bool
) -> list[dict[str, Any]]:
    """A row for each setting, written as they come; what an interruption leaves is said."""
    rows: list[dict[str, Any]] = []
    tiles = chosen.settings[0].window
    works = [2 * math.prod(padded)]  # about what halos and float64 make of tiles
    works += [setting.num_windows(padded) * math.prod(setting.window) for setting in chosen.settings]
    steps: list[Callable[[], dict[str, Any] | None]] = [functools.partial(bench.tiles, tiles, padded, full)]
    steps += [functools.partial(bench.windows, setting, padded, full) for setting in chosen.settings]
    with progress_bar(max(1, round(sum(works) / 1e6)), "sweep, million voxels", leave=False, show=progress) as bar:
        try:
            done = 0
            for step, work in zip(steps, works):
                if (row := step()) is not None:
                    rows.append(row)
                    write_page(folder, rows, found)
                before, done = round(done / 1e6), done + work
                bar.update(round(done / 1e6) - before)
        except KeyboardInterrupt:
            bar.close()
            print(f"{len(rows)} of {len(steps)} settings were measured" + (f": {folder}/sweep.md" if rows else ""))
            raise
    return rows


def _corner(hu: torch.Tensor, part: Sequence[int]) -> tuple[int, ...]:
    """Where a part of this size begins that has the body's centre in its middle, as far as the volume allows."""
    if tuple(part) == tuple(hu.shape):
        return (0, 0, 0)
    centre = body_centre(hu.numpy())
    return tuple(min(max(c - p // 2, 0), side - p) for c, p, side in zip(centre, part, hu.shape))


def _padded(shape: Sequence[int], factor: Sequence[int]) -> Size:
    return tuple(g * f for g, f in zip(latent_grid(shape, factor), factor))
