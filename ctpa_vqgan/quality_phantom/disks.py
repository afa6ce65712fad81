"""Low-contrast disks: whether what could just be seen before the network can be seen after it."""

# X Y voxels, Z slices, S reading slices, K copies of a disk

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ctpa_vqgan.metrics.surfaces import Cylinder
from ctpa_vqgan.quality_phantom.feed import Feed, Seen
from ctpa_vqgan.quality_phantom.noise import homogeneous
from ctpa_vqgan.quality_phantom.render import middle, render, slots

DISKS = ((3.0, 14.0), (5.0, 7.0), (7.0, 5.0), (10.0, 3.0))  # diameter in mm, contrast in HU
NUM_ACROSS = 4  # so a background holds four copies of each disk
JITTER = 1  # voxels
READING_MM = 3.0  # slices are read about this thick


class Answers(NamedTuple):
    """What the observer says of one copy of a disk in HU of its contrast, before [0] and after [1] the network."""

    present: np.ndarray  # [2, S]
    absent: np.ndarray  # [2, S]


def measure_disks(
    feed: Feed, backgrounds: Sequence[Seen], spacing_mm: Sequence[float], rng: np.random.Generator
) -> list[dict]:
    """Contrast recovery, contrast-to-noise ratio and detectability of rods along z of low contrast.

    The observer is the non-prewhitening matched filter: it weights an image by the disk as it was fed in, before and
    after the network alike (a template learnt from few noisy pictures would flatter itself). Its d' is the distance
    between its answers with and without a disk, in units of their scatter over copies, realisations and slices.
    Recovery is the amplitude that it finds after the network over that before, each less what it finds in the same
    noise without the disk.

    Source: the disks are those of the MITA low-contrast phantom (CCT189); Burgess, "Statistically defined backgrounds:
    performance of a modified nonprewhitening observer model", J. Opt. Soc. Am. A 11, 1994; Samei et al., Med. Phys. 46,
    2019 (AAPM TG-233).

    Args:
        feed: the way through the network.
        backgrounds: homogeneous noisy phantoms before and after the network; each gets all the disks.
        spacing_mm: voxel size along X, Y and Z.
        rng: source of the places.

    Returns:
        ``phantoms["disks"]``. CNR is amplitude over the noise of a pixel, in slices of about ``READING_MM``.
        ``recovery_error`` is the standard error over copies. A CNR or d' without any noise is NaN.
    """
    found: dict[tuple[float, float], list[Answers]] = {disk: [] for disk in DISKS}
    for background in backgrounds:
        phantom = background.before.astype(np.float64)
        order = [DISKS[k] for k in rng.permutation(NUM_ACROSS**2) % len(DISKS)]
        templates = []
        for slot, (diameter_mm, contrast_hu) in zip(slots(phantom, NUM_ACROSS), order):
            centre = tuple(middle(slot.shape, spacing_mm, rng, JITTER))
            templates.append(render((*slot.shape[:2], 1), Cylinder(centre, (0, 0, 1), diameter_mm / 2), spacing_mm))
            slot += contrast_hu * templates[-1]
        with_disks = feed(phantom)
        # both are shown to the observer relative to the background's mean
        images = [
            [_reading_slices(volume - empty.mean(), spacing_mm) for volume in (full, empty)]
            for full, empty in zip(with_disks, background)
        ]
        views = [[list(slots(image, NUM_ACROSS)) for image in side] for side in images]
        for k, (disk, template) in enumerate(zip(order, templates)):
            present, absent = (np.stack([_amplitude(side[i][k], template) for side in views]) for i in (0, 1))
            found[disk].append(Answers(present, absent))
    noise_hu = [
        float(np.std([homogeneous(_reading_slices(seen[side], spacing_mm)) for seen in backgrounds])) for side in (0, 1)
    ]
    return [_entry(disk, copies, noise_hu) for disk, copies in found.items()]


def _reading_slices(volume: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """Means of neighbouring slices, [X, Y, S]; slices that fill no reading slice are left out."""
    num = max(1, round(READING_MM / spacing_mm[2]))
    kept = volume[..., : volume.shape[2] // num * num]
    return kept.reshape(*volume.shape[:2], -1, num).mean(-1, dtype=np.float64)


def _amplitude(image: np.ndarray, template: np.ndarray) -> np.ndarray:
    """How much of ``template`` [X, Y, 1] is in each slice of ``image`` [X, Y, S], by least squares."""
    return (image * template).sum((0, 1)) / (template**2).sum()


def _dprime(present: np.ndarray, absent: np.ndarray) -> float:
    return _over(present.mean() - absent.mean(), math.sqrt((present.var(ddof=1) + absent.var(ddof=1)) / 2))


def _over(value: float, scatter: float) -> float:
    return float(value / scatter) if scatter > 0 else math.nan


def _entry(disk: tuple[float, float], copies: list[Answers], noise_hu: list[float]) -> dict:
    diameter_mm, contrast_hu = disk
    amplitudes = np.array([(copy.present - copy.absent).mean(1) for copy in copies])  # [K, 2]
    recoveries = amplitudes[:, 1] / amplitudes[:, 0].mean()
    present, absent = (np.concatenate([copy[i] for copy in copies], axis=1) for i in (0, 1))
    before, after = (_dprime(present[side], absent[side]) for side in (0, 1))
    return {
        "diameter_mm": diameter_mm,
        "contrast_hu": contrast_hu,
        "recovery": float(recoveries.mean()),
        "recovery_error": float(recoveries.std(ddof=1) / math.sqrt(len(recoveries))),
        "original_cnr": _over(amplitudes[:, 0].mean(), noise_hu[0]),
        "cnr": _over(amplitudes[:, 1].mean(), noise_hu[1]),
        "original_dprime": before,
        "dprime": after,
        "dprime_ratio": after / before,
    }
