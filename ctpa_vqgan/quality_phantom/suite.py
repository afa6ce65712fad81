"""All phantoms in one go."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.quality_phantom import edges
from ctpa_vqgan.quality_phantom.disks import measure_disks
from ctpa_vqgan.quality_phantom.emboli import BLOOD_HU, measure_emboli
from ctpa_vqgan.quality_phantom.feed import Feed
from ctpa_vqgan.quality_phantom.linearity import measure_linearity
from ctpa_vqgan.quality_phantom.noise import ct_noise, measure_noise
from ctpa_vqgan.quality_phantom.render import SIDE, phantom_shape

SOFT_HU, SOFT_NOISE_HU = 50.0, 15.0  # the background of edges, inserts and disks: soft tissue under a soft kernel
OTHER_NOISE_HU = ((SOFT_HU, 30.0), (BLOOD_HU, 25.0))  # further backgrounds and standard deviations
NUM_BACKGROUNDS = 2
FINEST_MM, COARSEST_MM = 0.2, (2.0, 2.0, 5.0)  # coarser voxels are larger than an insert's core


def measure_phantoms(
    reconstruct: Callable[[torch.Tensor], Any],
    spacing_mm: Sequence[float] = (0.7, 0.7, 0.7),
    seed: int = 0,
    progress: Any = None,
    repeats: int = 1,
) -> dict:
    """Send phantoms of known truth through a network and measure what it does to them.

    Edges of lung, blood, fat and a faint one; CT noise in soft tissue and in blood; the HU scale; low-contrast disks;
    emboli of 2 to 8 mm in contrast-filled vessels. Phantoms are blurred by a known kernel and noisy like a CT, and lie
    anywhere between the voxels. All is a comparison with the phantom as it was fed in: a network that changes nothing
    gives 1 for every ratio.

    >>> found = measure_phantoms(lambda volume: volume, spacing_mm=(1.4, 1.4, 3))
    >>> [round(disk["dprime_ratio"], 3) for disk in found["disks"]]
    [1.0, 1.0, 1.0, 1.0]

    Args:
        reconstruct: maps a float32 tensor [X, Y, Z] in HU (on the CPU, sides multiples of 16) to its reconstruction.
        spacing_mm: voxel size along X, Y and Z; finer voxels cost more of them (:func:`num_voxels`).
        seed: of places and noise.
        progress: bar of :func:`ctpa_vqgan.progress.progress_bar`, or None.
        repeats: how many times as many phantoms of each kind: errors fall as 1 / sqrt(repeats).

    Returns:
        ``spacing_mm``, ``seconds``, ``edges``, ``noise``, ``linearity``, ``disks`` and ``emboli``, as the functions of
        this package's modules describe them: plain lists, dicts and floats, HU, mm, cycles per mm.

    Raises:
        UserError: if a reconstruction has another shape or NaN, or a spacing is below 0.2 mm or above 2 mm in the
            plane and 5 mm along z, or ``repeats`` not 1 or more.
    """
    began = time.perf_counter()
    spacing = _checked(spacing_mm, repeats)
    if progress is not None:
        progress.reset(total=_num_short(repeats) + _num_tall(repeats))
    feed = Feed(reconstruct, progress)
    shape = phantom_shape(spacing)
    # one source for each kind, so that more of one leaves the others as they were
    for_noise, for_edges, for_disks, for_inserts, for_emboli = (
        np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(5)
    )

    def noise_phantoms(background_hu: float, sd_hu: float, count: int) -> list:
        return [feed(background_hu + ct_noise(shape, spacing, sd_hu, for_noise)) for _ in range(count)]

    soft = noise_phantoms(SOFT_HU, SOFT_NOISE_HU, NUM_BACKGROUNDS * repeats)
    noise = [measure_noise(soft, SOFT_HU, SOFT_NOISE_HU, spacing)]
    for background_hu, sd_hu in OTHER_NOISE_HU:
        noise.append(measure_noise(noise_phantoms(background_hu, sd_hu, repeats), background_hu, sd_hu, spacing))
    found = {
        "edges": edges.measure_edges(feed, soft, SOFT_HU, spacing, for_edges, repeats),
        "noise": noise,
        "linearity": measure_linearity(feed, soft[0].before, SOFT_HU, spacing, for_inserts),
        "disks": measure_disks(feed, soft, spacing, for_disks),
        "emboli": measure_emboli(feed, spacing, for_emboli, repeats),
    }
    return {"spacing_mm": list(spacing), "seconds": time.perf_counter() - began, **found}


def num_voxels(spacing_mm: Sequence[float] = (0.7, 0.7, 0.7), repeats: int = 1) -> int:
    """Voxels that :func:`measure_phantoms` sends through the network.

    >>> num_voxels(), num_voxels((0.7, 0.7, 2.5))
    (7520256, 2506752)
    """
    spacing = _checked(spacing_mm, repeats)
    short, tall = math.prod(phantom_shape(spacing)), math.prod(phantom_shape(spacing, SIDE))
    return _num_short(repeats) * short + _num_tall(repeats) * tall


def _num_short(repeats: int) -> int:
    """Backgrounds, other noise, edges, disks on each background, and the inserts."""
    return (2 * NUM_BACKGROUNDS + len(OTHER_NOISE_HU) + edges.NUM_VOLUMES) * repeats + 1


def _num_tall(repeats: int) -> int:
    """Vessels with and without clots."""
    return 2 * repeats


def _checked(spacing_mm: Sequence[float], repeats: int) -> tuple[float, ...]:
    spacing = tuple(float(mm) for mm in spacing_mm)
    if len(spacing) != 3 or not all(FINEST_MM <= mm <= most for mm, most in zip(spacing, COARSEST_MM)):
        raise UserError(
            f"spacing_mm of the phantoms must be three lengths from {FINEST_MM} to {COARSEST_MM} mm, got {spacing}; "
            "leave it at its default, or take the spacing of a CT"
        )
    if repeats < 1:
        raise UserError(f"repeats must be 1 or more, got {repeats}")
    return spacing
