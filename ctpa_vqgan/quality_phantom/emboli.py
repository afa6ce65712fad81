"""Emboli in contrast-filled vessels: how much of a clot's contrast is left, by size."""

# X Y Z voxels

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ctpa_vqgan.metrics.surfaces import Cylinder, Sphere
from ctpa_vqgan.quality_phantom.feed import Feed
from ctpa_vqgan.quality_phantom.noise import ct_noise
from ctpa_vqgan.quality_phantom.render import SIDE, middle, phantom_shape, render, slots

CLOT_HU, BLOOD_HU, LUNG_HU = 60.0, 350.0, -850.0  # clot: Yazici et al., 2024 (55 to 63 HU without contrast)
VESSEL_MM = {2.0: 4.0, 3.0: 5.5, 4.0: 7.0, 6.0: 9.5, 8.0: 12.0}  # diameter of the vessel by that of the clot
NUM_ACROSS, NUM_ALONG = 3, 4  # vessels along x and y, clots along each
MAX_TILT = 0.05  # of a vessel against z, mm per mm
NOISE_HU = 20.0
JITTER = 1  # voxels, in the plane and along z; the tilt adds to it


def measure_emboli(feed: Feed, spacing_mm: Sequence[float], rng: np.random.Generator, num_volumes: int) -> list[dict]:
    """Contrast recovery of round clots of 60 HU in vessels of 350 HU that run through lung.

    The same vessels in the same noise go through the network with and without clots; blood minus clot is the
    difference of the two. Recovery is its amplitude after the network over that before, by least squares against the
    clot as it was fed in: 1 keeps it, 0.8 shows clot 58 HU too bright.

    Args:
        feed: the way through the network.
        spacing_mm: voxel size along X, Y and Z.
        rng: source of places and noise.
        num_volumes: of 36 clots each, on 9 vessels.

    Returns:
        ``phantoms["emboli"]``. ``recovery_sd`` is the scatter over ``count`` clots, anywhere on the network's grid.
    """
    shape = phantom_shape(spacing_mm, SIDE)
    found: dict[float, list[float]] = {diameter: [] for diameter in VESSEL_MM}
    for _ in range(num_volumes):
        empty = LUNG_HU + ct_noise(shape, spacing_mm, NOISE_HU, rng)
        clots = np.zeros(shape)
        placed = []
        for k, (slot, defect) in enumerate(zip(slots(empty, NUM_ACROSS), slots(clots, NUM_ACROSS))):
            diameter = list(VESSEL_MM)[k % len(VESSEL_MM)]
            centre = middle(slot.shape, spacing_mm, rng, JITTER)
            direction = np.array([*rng.uniform(-MAX_TILT, MAX_TILT, 2), 1])
            vessel = Cylinder(tuple(centre), tuple(direction), VESSEL_MM[diameter] / 2)
            slot += (BLOOD_HU - LUNG_HU) * render(slot.shape, vessel, spacing_mm)
            step = slot.shape[2] // NUM_ALONG
            for part in range(NUM_ALONG):
                view = defect[..., part * step : (part + 1) * step]
                start = np.array([0, 0, part * step * spacing_mm[2]])
                along = middle(view.shape, spacing_mm, rng, JITTER)[2] + start[2] - centre[2]
                clot = Sphere(tuple(centre + along * direction - start), diameter / 2)
                view += render(view.shape, clot, spacing_mm)
            placed.append(diameter)
        without = feed(empty)
        missing = without - feed(without.before + (CLOT_HU - BLOOD_HU) * clots)
        for diameter, *views in zip(placed, *(slots(volume, NUM_ACROSS) for volume in (clots, *missing))):
            found[diameter] += [
                _recovery(*(view[..., part * step : (part + 1) * step] for view in views)) for part in range(NUM_ALONG)
            ]
    return [
        {
            "diameter_mm": diameter,
            "vessel_mm": VESSEL_MM[diameter],
            "clot_hu": CLOT_HU,
            "blood_hu": BLOOD_HU,
            "recovery": float(np.mean(values)),
            "recovery_sd": float(np.std(values, ddof=1)) if len(values) > 1 else math.nan,
            "count": len(values),
        }
        for diameter, values in found.items()
    ]


def _recovery(clot: np.ndarray, before: np.ndarray, after: np.ndarray) -> float:
    return float((clot * after).sum(dtype=np.float64) / (clot * before).sum(dtype=np.float64))
