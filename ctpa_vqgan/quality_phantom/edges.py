"""Balls and rods of several contrasts: how sharp their edges are after the network."""

# K copies of an edge, X Y Z voxels

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ctpa_vqgan.metrics.edges import EdgeSpread, Mtf, edge_mtf, edge_spread
from ctpa_vqgan.metrics.surfaces import Cylinder, Sphere
from ctpa_vqgan.quality_phantom.feed import Feed, Seen
from ctpa_vqgan.quality_phantom.render import blur_mm, middle, render, slots

# HU against soft tissue: lung, contrast-filled blood, fat, and a faint edge, with the copies that each needs
CONTRASTS = {-900: 2, 350: 2, -150: 3, 50: 5}
NUM_ACROSS = 2
NUM_VOLUMES = 2 * sum(CONTRASTS.values()) // NUM_ACROSS**2  # balls and rods
RADIUS, REACH = 13.5, 9.0  # in units of the blur
JITTER = 2  # voxels: any place within a latent cell
AXIS = (0.06, 0.04, 1.0)  # of the rods: tilted against the grid, so that voxels lie at all distances from the edge
MIN_VOXELS = 16  # in a ball's innermost bin on average, so that thick slices leave none empty
CURVE_STEP = 8  # of the MTF's frequencies, one in so many is handed on


def measure_edges(
    feed: Feed,
    backgrounds: Sequence[Seen],
    background_hu: float,
    spacing_mm: Sequence[float],
    rng: np.random.Generator,
    repeats: int = 1,
) -> list[dict]:
    """MTF of balls (all directions) and rods near z (in the plane), before and after the network.

    Each phantom is a background that went through the network already, with objects put on it. Subtracting the two
    leaves the objects, and takes out the noise that they share as far as the network is linear; what is left of it is
    random and averages out over copies. So a faint edge can be measured in the noise that a network is used to.

    Args:
        feed: the way through the network.
        backgrounds: homogeneous noisy phantoms before and after the network, taken in turn.
        background_hu: their mean.
        spacing_mm: voxel size along X, Y and Z.
        rng: source of the places.
        repeats: how many times as many copies.

    Returns:
        ``phantoms["edges"]``. ``mtf50_ratio`` is after over before, ``mtf50_ratio_error`` its standard error by the
        jackknife over copies. NaN where no edge is left or the MTF does not fall to 0.5 below Nyquist.
    """
    results = []
    copies = [contrast for contrast, count in CONTRASTS.items() for _ in range(count * repeats)]
    for kind in ("ball", "rod"):
        found: dict[int, list[tuple[EdgeSpread, EdgeSpread]]] = {contrast: [] for contrast in CONTRASTS}
        for number, start in enumerate(range(0, len(copies), NUM_ACROSS**2)):
            background = backgrounds[number % len(backgrounds)]
            phantom = background.before.astype(np.float64)
            placed = []
            for slot, contrast in zip(slots(phantom, NUM_ACROSS), copies[start : start + NUM_ACROSS**2]):
                surface = _surface(kind, slot.shape, spacing_mm, rng)
                slot += contrast * render(slot.shape, surface, spacing_mm)
                placed.append((contrast, surface))
            objects = feed(phantom) - background
            views = zip(slots(objects.before, NUM_ACROSS), slots(objects.after, NUM_ACROSS))
            for (contrast, surface), pair in zip(placed, views):
                found[contrast].append(tuple(_spread(view, surface, spacing_mm) for view in pair))
        results += [_entry(kind, background_hu, contrast, spreads, spacing_mm) for contrast, spreads in found.items()]
    return results


def _surface(kind: str, shape: Sequence[int], spacing_mm: Sequence[float], rng: np.random.Generator):
    centre = tuple(middle(shape, spacing_mm, rng, JITTER).tolist())
    radius = RADIUS * blur_mm(spacing_mm)
    return Sphere(centre, radius) if kind == "ball" else Cylinder(centre, AXIS, radius)


def _spread(volume: np.ndarray, surface: Sphere | Cylinder, spacing_mm: Sequence[float]) -> EdgeSpread:
    blur = blur_mm(spacing_mm)
    innermost_mm2 = 4 * math.pi * ((RADIUS - REACH) * blur) ** 2
    bin_mm = max(min(spacing_mm) / 5, MIN_VOXELS * math.prod(spacing_mm) / innermost_mm2)
    return edge_spread(volume, surface, spacing_mm, REACH * blur, bin_mm)


def _mean_mtf(edges: Sequence[EdgeSpread], spacing_mm: Sequence[float]) -> Mtf | None:
    """MTF of the mean over copies up to Nyquist; None if no edge is left."""
    hu = np.mean([edge.hu for edge in edges], axis=0)
    error = np.sqrt(np.sum([edge.error_hu**2 for edge in edges], axis=0)) / len(edges)
    try:
        return edge_mtf(EdgeSpread(edges[0].distance_mm, hu, error), 0.5 / min(spacing_mm))
    except ValueError:  # the network made one grey of both sides
        return None


def _ratio(before: Mtf | None, after: Mtf | None) -> float:
    return after.mtf50_per_mm / before.mtf50_per_mm if before and after else math.nan


def _entry(kind: str, background_hu: float, contrast: int, spreads: list, spacing_mm: Sequence[float]) -> dict:
    columns = list(zip(*spreads))
    before, after = (_mean_mtf(column, spacing_mm) for column in columns)
    others = [
        _ratio(*(_mean_mtf(column[:k] + column[k + 1 :], spacing_mm) for column in columns))
        for k in range(len(spreads))
    ]
    curve = before.frequency_per_mm[::CURVE_STEP]
    return {
        "shape": kind,
        "background_hu": float(background_hu),
        "contrast_hu": float(contrast),
        "original_mtf50_per_mm": before.mtf50_per_mm,
        "mtf50_per_mm": after.mtf50_per_mm if after else math.nan,
        "mtf50_ratio": _ratio(before, after),
        "mtf50_ratio_error": math.sqrt(len(others) - 1) * float(np.std(others)),
        "frequency_per_mm": curve.tolist(),
        "original": before.mtf[::CURVE_STEP].tolist(),
        "reconstruction": (after.mtf[::CURVE_STEP] if after else np.full(len(curve), math.nan)).tolist(),
    }
