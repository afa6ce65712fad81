"""Rods from air to bone in soft tissue: whether the network keeps the HU scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ctpa_vqgan.metrics.linearity import hu_linearity, insert_means
from ctpa_vqgan.metrics.surfaces import Cylinder
from ctpa_vqgan.quality_phantom.feed import Feed
from ctpa_vqgan.quality_phantom.render import middle, render, slots

# HU, evenly enough over the scale; noise on them stays within the usual window of -1000 to 1000
INSERTS_HU = (-950, -850, -700, -500, -300, -150, -50, 0, 50, 100, 200, 300, 400, 550, 750, 950)
NUM_ACROSS = 4
RADIUS_MM, CORE_MM = 5.5, 2.5  # the mean is taken over the core, where blur does not reach


def measure_linearity(
    feed: Feed, background: np.ndarray, background_hu: float, spacing_mm: Sequence[float], rng: np.random.Generator
) -> dict:
    """Mean HU of sixteen rods after the network against that before it.

    Args:
        feed: the way through the network.
        background: [X, Y, Z], homogeneous noisy phantom.
        background_hu: its mean.
        spacing_mm: voxel size along X, Y and Z.
        rng: source of the places of the rods.

    Returns:
        ``phantoms["linearity"]``. What is known is what was fed in, measured by the same cores.
    """
    phantom = background.astype(np.float64)
    labels = np.zeros(phantom.shape, np.int32)
    x, y, z = np.meshgrid(*(np.arange(n) * mm for n, mm in zip(phantom.shape, spacing_mm)), indexing="ij", sparse=True)
    order = rng.permutation(INSERTS_HU)
    for number, (slot, label) in enumerate(zip(slots(phantom, NUM_ACROSS), slots(labels, NUM_ACROSS))):
        width, height = slot.shape[:2]
        rod = Cylinder(tuple(middle(slot.shape, spacing_mm, rng, jitter=0.5)), (0.0, 0.0, 1.0), RADIUS_MM)
        slot += (order[number] - background_hu) * render(slot.shape, rod, spacing_mm)
        label[:] = (rod.distance_mm(x[:width], y[:, :height], z) < CORE_MM - RADIUS_MM) * (number + 1)
    seen = feed(phantom)
    known, measured = (np.array(list(insert_means(volume, labels).values())) for volume in seen)
    rising = np.argsort(order)
    known, measured = known[rising].tolist(), measured[rising].tolist()
    return {**hu_linearity(measured, known)._asdict(), "known_hu": known, "measured_hu": measured}
