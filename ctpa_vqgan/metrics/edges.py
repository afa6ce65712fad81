"""Sharpness: the modulation transfer function of an edge whose place is known.

A phantom goes through the network, the same functions measure it before and after, and the two answers are compared.
Networks are not linear: what they do to an edge of 1000 HU says little about one of 20, so measure several contrasts.
"""

# N bins along the edge, F frequencies, X Y Z voxels; positions are voxel index * spacing_mm, voxel 0's centre is 0 mm

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ctpa_vqgan.metrics.lengths import positive_lengths
from ctpa_vqgan.metrics.slabs import check_volumes, read_slab, slabs
from ctpa_vqgan.metrics.surfaces import Surface

NUM_FREQUENCIES = 401


class EdgeSpread(NamedTuple):
    """Mean HU by distance from an edge."""

    distance_mm: np.ndarray  # [N], bin centres in equal steps, negative inside
    hu: np.ndarray  # [N]
    error_hu: np.ndarray  # [N], standard error of ``hu``


class LineSpread(NamedTuple):
    """Derivative of an edge-spread function."""

    distance_mm: np.ndarray  # [N - 1]
    hu_per_mm: np.ndarray  # [N - 1]


class Mtf(NamedTuple):
    """Modulation transfer by frequency; of one task (contrast and noise), so a task transfer function."""

    frequency_per_mm: np.ndarray  # [F], cycles per mm, from 0
    mtf: np.ndarray  # [F], 1 at frequency 0
    error: np.ndarray  # [F], standard error of ``mtf``
    mtf50_per_mm: float  # where the MTF first falls to 0.5; NaN if it does not
    mtf50_error_per_mm: float  # its standard error
    contrast_hu: float  # outside minus inside


def edge_spread(
    volume: Any,
    surface: Surface,
    spacing_mm: Sequence[float],
    reach_mm: float,
    bin_mm: float | None = None,
) -> EdgeSpread:
    """Average the voxels near a known surface by their distance from it.

    Voxels fall at all distances, so bins may be far narrower than a voxel: the answer is presampled, free of aliasing.
    Read slab by slab, summed in float64.

    Args:
        volume: [X, Y, Z], HU, holding nothing else within ``reach_mm`` of the surface: crop it first.
        surface: the phantom's edge, in mm from the first voxel of ``volume``.
        spacing_mm: voxel size along X, Y and Z.
        reach_mm: how far on either side to look; five times the blur's standard deviation or more (four reads
            the MTF50 1 % too high, three 6 %), and less than the radius of a sphere or cylinder.
        bin_mm: width of a bin; None takes a tenth of the smallest voxel side.

    Returns:
        The edge-spread function. ``error_hu`` takes the voxels' noise as independent and
        equal on both sides; correlated noise errs more.

    Raises:
        ValueError: if ``volume`` is no volume or holds NaN or infinity near the edge, a length is not positive, or a
            bin is empty.
    """
    check_volumes(volume, volume)
    spacing = positive_lengths("spacing_mm", spacing_mm, 3)
    bin_mm = min(spacing) / 10 if bin_mm is None else bin_mm
    positive_lengths("reach_mm and bin_mm", (reach_mm, bin_mm), 2)
    half = round(reach_mm / bin_mm)
    if half < 4:
        raise ValueError(f"reach_mm {reach_mm} must hold four bins of {bin_mm} mm or more; take narrower bins")
    x = np.arange(volume.shape[0])[:, None, None] * spacing[0]
    y = np.arange(volume.shape[1])[None, :, None] * spacing[1]
    counts, sums, squares, places = np.zeros((4, 2 * half))
    for start, stop in slabs(volume.shape[2]):
        distance = surface.distance_mm(x, y, np.arange(start, stop)[None, None, :] * spacing[2])
        bins = np.floor(distance / bin_mm + half)
        near = (bins >= 0) & (bins < 2 * half)
        hu = read_slab(volume, start, stop, "cpu").numpy()[near].astype(np.float64)
        if not np.isfinite(hu).all():
            raise ValueError(f"volume has NaN or infinite voxels near the edge in slices {start} to {stop - 1}")
        bins = bins[near].astype(np.int64)
        counts += np.bincount(bins, minlength=2 * half)
        sums += np.bincount(bins, hu, minlength=2 * half)
        squares += np.bincount(bins, hu * hu, minlength=2 * half)
        places += np.bincount(bins, distance[near], minlength=2 * half)
    if not counts.all():
        raise ValueError(
            f"{int((counts == 0).sum())} of {2 * half} bins of {bin_mm:.3g} mm hold no voxel; take wider bins, tilt a "
            "flat edge against the grid, or take a smaller reach_mm, inside the object and inside the volume"
        )
    mean = sums / counts
    # a bin of one voxel tells no spread of its own: the spread is pooled over all bins
    pooled = np.maximum(squares - counts * mean**2, 0).sum() / max(counts.sum() - 2 * half, 1)
    centres = (np.arange(2 * half) - half + 0.5) * bin_mm
    # a bin's few voxels lie off its centre on average: follow the slope there
    hu = mean - np.gradient(mean, places / counts) * (places / counts - centres)
    return EdgeSpread(centres, hu, np.sqrt(pooled / counts))


def line_spread(edge: EdgeSpread) -> LineSpread:
    """Derivative of an edge-spread function, at the borders between its bins."""
    middles = (edge.distance_mm[1:] + edge.distance_mm[:-1]) / 2
    return LineSpread(middles, np.diff(edge.hu) / np.diff(edge.distance_mm))


def edge_mtf(edge: EdgeSpread, max_frequency_per_mm: float | None = None) -> Mtf:
    """Modulation transfer function of an edge: the Fourier transform of its line spread.

    The line spread is weighted by a window, flat over the inner half of the reach and a cosine to zero beyond, that
    keeps out the noise of the plateaus. What bins and differences take away, sinc^2(frequency * bin), is given back.

    With little contrast, look at ``mtf50_error_per_mm``: more voxels (a longer rod, more copies of it) make it smaller.
    A sphere or cylinder whose radius is under six times the blur's standard deviation reads more than 1 % off, as its
    edge is no longer flat.

    >>> from math import erf
    >>> x = np.linspace(-4, 4, 161)
    >>> edge = EdgeSpread(x, np.array([50 * erf(d / 0.7 / 2**0.5) for d in x]), np.zeros(161))  # blur of 0.7 mm
    >>> round(edge_mtf(edge).mtf50_per_mm, 3), round(edge_mtf(edge).contrast_hu)  # sqrt(ln 4) / (2 pi 0.7) = 0.268
    (0.268, 100)

    Source: Richard et al., Med. Phys. 39, 2012 (the task transfer function); Samei et al., "Performance evaluation of
    computed tomography systems: Summary of AAPM Task Group 233", Med. Phys. 46, 2019.

    Args:
        edge: the edge-spread function.
        max_frequency_per_mm: highest frequency, cycles per mm; None takes 0.2 per bin, that is four times the voxels'
            Nyquist frequency if a bin is a tenth of a voxel.

    Returns:
        The MTF at ``NUM_FREQUENCIES`` equal steps. It may exceed 1 where a network or kernel sharpens.

    Raises:
        ValueError: if there is no step, or ``max_frequency_per_mm`` is not above 0 and at most 0.5 per bin.
    """
    bin_mm = float(edge.distance_mm[1] - edge.distance_mm[0])
    highest = 0.2 / bin_mm if max_frequency_per_mm is None else max_frequency_per_mm
    if not 0 < highest <= 0.5 / bin_mm * (1 + 1e-9):
        raise ValueError(f"max_frequency_per_mm must be in (0, {0.5 / bin_mm:.3g}] for this edge, got {highest}")
    frequency = np.linspace(0, highest, NUM_FREQUENCIES)
    position = line_spread(edge).distance_mm
    weights = _flat_cosine(position / (abs(edge.distance_mm).max() + bin_mm / 2))
    waves = weights * np.exp(-2j * np.pi * frequency[:, None] * position) / np.sinc(frequency * bin_mm)[:, None] ** 2
    # the transform as a matrix that acts on the edge itself, so that the edge's errors go through it too
    matrix = np.pad(waves, ((0, 0), (1, 0))) - np.pad(waves, ((0, 0), (0, 1)))
    spectrum = matrix @ edge.hu
    step = float(spectrum[0].real)
    if abs(step) <= 1e-6 * max(1.0, float(abs(edge.hu).max())):
        raise ValueError("the edge has no step, so no MTF: are surface and spacing_mm those of this volume?")
    mtf = abs(spectrum) / abs(step)
    phase = np.conj(spectrum) / np.maximum(abs(spectrum), 1e-300)
    gradient = (phase[:, None] * matrix).real / abs(step) - mtf[:, None] * matrix[0].real / step
    error = np.sqrt((gradient**2) @ edge.error_hu**2)
    mtf50, mtf50_error = _first_half(frequency, mtf, error)
    return Mtf(frequency, mtf, error, mtf50, mtf50_error, step)


def _flat_cosine(position: np.ndarray) -> np.ndarray:
    """1 where abs(position) is at most a half, then half a cosine that is 0 at 1."""
    return 0.5 + 0.5 * np.cos(np.pi * np.clip(2 * abs(position) - 1, 0, 1))


def _first_half(frequency: np.ndarray, mtf: np.ndarray, error: np.ndarray) -> tuple[float, float]:
    """Frequency at which ``mtf`` first falls to 0.5, linear between samples, with its error; NaN if it never does."""
    below = np.flatnonzero(mtf <= 0.5)
    if not below.size:
        return math.nan, math.nan
    i = int(below[0])
    slope = (mtf[i] - mtf[i - 1]) / (frequency[i] - frequency[i - 1])
    return float(frequency[i - 1] + (0.5 - mtf[i - 1]) / slope), float(abs(error[i] / slope))
