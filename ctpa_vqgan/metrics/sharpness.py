"""Sharpness, noise texture and HU scale, measured on phantoms whose truth is known.

A phantom goes through the network, the same functions measure it before and after, and the two answers are compared.
Networks are not linear: what they do to an edge of 1000 HU says little about one of 20, so measure several contrasts.
"""

# N bins along the edge, F frequencies, X Y Z voxels; positions are voxel index * spacing_mm, voxel 0's centre is 0 mm

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from ctpa_vqgan.metrics.slabs import check_volumes, read_slab, slabs

NUM_FREQUENCIES = 401

Point = tuple[float, float, float]


class Surface(Protocol):
    """What an edge can be: anything that knows how far from it a point lies."""

    def distance_mm(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Signed distance in mm of points (x, y, z) in mm, negative inside."""
        ...


class Sphere(NamedTuple):
    """A ball: its MTF is the mean over all directions.

    Source: Thornton and Flynn, "Measurement of the spatial resolution of a clinical volumetric computed tomography
    scanner using a sphere phantom", Proc. SPIE 6142, 2006.
    """

    center_mm: Point
    radius_mm: float

    def distance_mm(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance to the surface in mm, negative inside the ball."""
        a, b, c = self.center_mm
        return np.sqrt((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2) - self.radius_mm


class Cylinder(NamedTuple):
    """A rod without ends (crop the volume to where it is whole): the MTF across its axis, in plane for a rod along z.

    Source: Richard et al., "Towards task-based assessment of CT performance: System and object MTF across different
    reconstruction algorithms", Med. Phys. 39, 2012.
    """

    point_mm: Point  # any point on the axis
    direction: Point  # of the axis, in mm, of any length
    radius_mm: float

    def distance_mm(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance to the mantle in mm, negative inside the rod."""
        u, v, w = _unit("direction", self.direction)
        a, b, c = self.point_mm
        x, y, z = x - a, y - b, z - c
        cross = (y * w - z * v) ** 2 + (z * u - x * w) ** 2 + (x * v - y * u) ** 2
        return np.sqrt(cross) - self.radius_mm


class Plane(NamedTuple):
    """A flat edge, tilted by some degrees against the grid so that its voxels lie at all distances: the slanted edge.

    Source: Samei, Flynn and Reimann, "A method for measuring the presampled MTF of digital radiographic systems using
    an edge test device", Med. Phys. 25, 1998; ISO 12233.
    """

    point_mm: Point
    normal: Point  # towards the outside, in mm, of any length

    def distance_mm(self, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Distance to the plane in mm, positive on the side the normal points to."""
        u, v, w = _unit("normal", self.normal)
        a, b, c = self.point_mm
        return (x - a) * u + (y - b) * v + (z - c) * w


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


class NoisePower(NamedTuple):
    """Two-dimensional noise power spectrum, zero frequency first (as ``numpy.fft.fftfreq`` orders it)."""

    x_per_mm: np.ndarray  # [X], cycles per mm
    y_per_mm: np.ndarray  # [Y], cycles per mm
    nps: np.ndarray  # [X, Y], HU^2 mm^2
    variance_hu2: float  # the integral of ``nps``


class RadialNoisePower(NamedTuple):
    """Noise power by spatial frequency, all directions taken together, up to Nyquist."""

    frequency_per_mm: np.ndarray  # [F], mean of the frequencies in each ring, zero left out
    nps: np.ndarray  # [F], HU^2 mm^2
    mean_frequency_per_mm: float  # the spectrum's centre of mass, the corners beyond Nyquist left out
    peak_frequency_per_mm: float


class HuLinearity(NamedTuple):
    """How measured HU follow the known ones."""

    slope: float
    intercept_hu: float
    max_residual_hu: float  # largest distance from the fitted line
    max_deviation_hu: float  # largest distance from the known value


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
    spacing = _lengths("spacing_mm", spacing_mm, 3)
    bin_mm = min(spacing) / 10 if bin_mm is None else bin_mm
    _lengths("reach_mm and bin_mm", (reach_mm, bin_mm), 2)
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


def noise_power(rois: Any, spacing_mm: Sequence[float], degree: int = 2) -> NoisePower:
    """In-plane noise power spectrum of homogeneous regions, the mean of one periodogram for each slice.

    From every slice a polynomial of x and y is taken first (cupping and gradients are not noise); that costs white
    noise the share ``coefficients / voxels`` of its variance, 0.15 % for degree 2 in 64 x 64, all at low frequency.
    The integral over all frequencies is the variance of what is left, exactly (Parseval).

    Source: ICRU Report 87, 2012; Samei et al., Med. Phys. 46, 2019 (AAPM TG-233). Sizes and numbers of regions: Dolly
    et al., "Practical considerations for noise power spectra estimation for clinical CT scanners", JACMP 17, 2016.

    Args:
        rois: [X, Y, N], HU: N slices or squares of one size; put regions together along the last axis. Noise of the
            estimate falls as 1 / sqrt(N).
        spacing_mm: voxel size along X and Y (a third value is left unused).
        degree: highest power of the polynomial: 0 takes the mean, 1 a plane, 2 a bowl too.

    Returns:
        The spectrum in HU^2 mm^2: white noise of standard deviation s in pixels of a by b mm has s^2 a b everywhere.

    Raises:
        ValueError: if ``rois`` is not [X, Y, N], a side is under 8, a voxel is NaN or infinite, ``degree`` is not 0,
            1 or 2, or a spacing is not positive.
    """
    check_volumes(rois, rois)
    num_x, num_y, num_rois = rois.shape
    if min(num_x, num_y) < 8:
        raise ValueError(f"regions must be 8 x 8 voxels or larger to hold a spectrum, got {num_x} x {num_y}")
    if degree not in (0, 1, 2):
        raise ValueError(f"degree must be 0 (mean), 1 (plane) or 2 (bowl), got {degree}")
    spacing = _lengths("spacing_mm", spacing_mm[:2], 2)
    x, y = np.meshgrid(np.linspace(-1, 1, num_x), np.linspace(-1, 1, num_y), indexing="ij")
    terms = [x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)]
    basis = np.linalg.qr(np.stack(terms, -1).reshape(num_x * num_y, -1))[0]
    power = np.zeros((num_x, num_y))
    for start, stop in slabs(num_rois):
        slab = read_slab(rois, start, stop, "cpu").numpy().astype(np.float64)
        if not np.isfinite(slab).all():
            raise ValueError(f"rois hold NaN or infinite voxels in slices {start} to {stop - 1}")
        slab -= slab.mean()  # so that the fit below loses no digits to a large mean
        flat = slab.reshape(num_x * num_y, -1)
        noise = (flat - basis @ (basis.T @ flat)).reshape(slab.shape)
        power += (abs(np.fft.fft2(noise, axes=(0, 1))) ** 2).sum(-1)
    nps = power * spacing[0] * spacing[1] / (num_x * num_y * num_rois)
    cell = 1 / (num_x * spacing[0] * num_y * spacing[1])  # per mm^2: area of one coefficient in frequency
    x_per_mm, y_per_mm = np.fft.fftfreq(num_x, spacing[0]), np.fft.fftfreq(num_y, spacing[1])
    return NoisePower(x_per_mm, y_per_mm, nps, float(nps.sum() * cell))


def radial_noise_power(power: NoisePower) -> RadialNoisePower:
    """Average a spectrum over rings, each as wide as the coarser frequency step, up to the lower Nyquist frequency.

    The mean frequency tells noise texture in one number (a smoothing network lowers it); AAPM TG-233 has it beside the
    peak frequency, which jumps from ring to ring.

    Raises:
        ValueError: if the spectrum is zero: noise-free regions have no frequency.
    """
    frequency = _frequency(power)
    width = float(max(power.x_per_mm[1], power.y_per_mm[1]))
    nyquist = float(min(abs(power.x_per_mm).max(), abs(power.y_per_mm).max()))
    ring = np.round(frequency / width).astype(np.int64)
    kept = (ring > 0) & (frequency <= nyquist * (1 + 1e-9))
    if not power.nps[kept].sum() > 0:
        raise ValueError("the noise power is zero at all frequencies; are the regions constant?")
    counts, radius, total = (
        np.bincount(ring[kept], weights)[1:] for weights in (None, frequency[kept], power.nps[kept])
    )
    radius, nps = radius / counts, total / counts
    centroid = float((frequency[kept] * power.nps[kept]).sum() / power.nps[kept].sum())
    return RadialNoisePower(radius, nps, centroid, float(radius[nps.argmax()]))


def noise_power_ratio(reconstruction: NoisePower, original: NoisePower, edges_per_mm: Sequence[float]) -> np.ndarray:
    """Noise power of a reconstruction over that of its original, by frequency band: 1 keeps texture, 0 smooths it away.

    Powers are summed over a band before they are divided, so that no empty coefficient decides. Power is amplitude
    squared: noise of two thirds the standard deviation gives 0.44.

    Args:
        reconstruction: spectrum of regions in the reconstruction.
        original: spectrum of the same regions in the original.
        edges_per_mm: [B + 1] rising band edges in cycles per mm, as ``(0, 0.2, 0.4, 0.7)``; a band holds its lower
            edge, not its upper one. The zero frequency, which detrending took out, never counts.

    Returns:
        [B], NaN for a band in which the original has no noise.

    Raises:
        ValueError: if the spectra lie on different frequencies, the edges do not rise, or a band holds no coefficient.
    """
    if reconstruction.nps.shape != original.nps.shape or not (
        np.allclose(reconstruction.x_per_mm, original.x_per_mm)
        and np.allclose(reconstruction.y_per_mm, original.y_per_mm)
    ):
        raise ValueError("the two spectra must lie on one frequency grid: cut equal regions and give one spacing_mm")
    edges = np.asarray(edges_per_mm, dtype=np.float64)
    if edges.ndim != 1 or len(edges) < 2 or not (np.diff(edges) > 0).all() or edges[0] < 0:
        raise ValueError(f"edges_per_mm must be two or more rising frequencies from 0 up, got {edges_per_mm}")
    frequency = _frequency(original)
    ratios = []
    for low, high in pairwise(edges):
        band = (frequency >= low) & (frequency < high) & (frequency > 0)
        if not band.any():
            raise ValueError(f"no frequency lies in the band {low:g} to {high:g} per mm; take larger regions or bands")
        noise = original.nps[band].sum()
        ratios.append(reconstruction.nps[band].sum() / noise if noise > 0 else math.nan)
    return np.array(ratios)


def insert_means(volume: Any, labels: Any) -> dict[int, float]:
    """Mean HU of each insert of a phantom, read slab by slab.

    Args:
        volume: [X, Y, Z], HU.
        labels: [X, Y, Z], 0 for what is left out and 1, 2, ... (at most 65535) for the inserts; keep two or three
            voxels away from their edges, or blur counts as error of the scale.

    Returns:
        Mean HU by label, in rising order of labels.

    Raises:
        ValueError: if shapes differ, a label is no whole number from 0 to 65535, there is none above 0, or a voxel
            of an insert is NaN or infinite.
    """
    check_volumes(volume, labels)
    counts, sums = np.zeros((2, 65536))
    for start, stop in slabs(volume.shape[2]):
        label = read_slab(labels, start, stop, "cpu").numpy()
        index = label.clip(0, 65535).astype(np.int64) if np.isfinite(label).all() else None
        if index is None or (index != label).any():
            raise ValueError(f"labels must be whole numbers from 0 to 65535 (slices {start} to {stop - 1} are not)")
        hu = read_slab(volume, start, stop, "cpu").numpy()[index > 0].astype(np.float64)
        counts += np.bincount(index[index > 0], minlength=65536)
        sums += np.bincount(index[index > 0], hu, minlength=65536)
    found = np.flatnonzero(counts)
    if not found.size:
        raise ValueError("labels hold no insert: every voxel is 0")
    if not np.isfinite(sums).all():
        raise ValueError(f"inserts {np.flatnonzero(~np.isfinite(sums)).tolist()} hold NaN or infinite voxels")
    return {int(label): float(sums[label] / counts[label]) for label in found}


def hu_linearity(measured_hu: Sequence[float], known_hu: Sequence[float]) -> HuLinearity:
    """Least-squares line through the HU of inserts, against what they are known to be.

    >>> hu_linearity([-990, 10, 1010], [-1000, 0, 1000])
    HuLinearity(slope=1.0, intercept_hu=10.0, max_residual_hu=0.0, max_deviation_hu=10.0)

    Source: AAPM Report 39, "Specification and acceptance testing of computed tomography scanners", 1993 (CT number
    linearity).

    Args:
        measured_hu: [N] mean of each insert, as ``insert_means`` gives it.
        known_hu: [N], in the same order.

    Returns:
        Slope (1 is ideal), intercept in HU at 0 HU, largest distance from the line and from the known value.

    Raises:
        ValueError: if there are not two or more different known values with one finite measurement each.
    """
    measured, known = np.asarray(measured_hu, dtype=np.float64), np.asarray(known_hu, dtype=np.float64)
    if measured.ndim != 1 or measured.shape != known.shape or len(np.unique(known)) < 2:
        raise ValueError(
            f"need one measured value for each of two or more different known HU, got {measured_hu} and {known_hu}"
        )
    if not (np.isfinite(measured).all() and np.isfinite(known).all()):
        raise ValueError(f"HU must be finite, got {measured_hu} and {known_hu}")
    centred = known - known.mean()
    slope = (centred @ (measured - measured.mean())) / (centred @ centred)
    intercept = measured.mean() - slope * known.mean()
    residual, deviation = abs(measured - intercept - slope * known).max(), abs(measured - known).max()
    return HuLinearity(float(slope), float(intercept), float(residual), float(deviation))


def _unit(name: str, vector: Sequence[float]) -> np.ndarray:
    length = math.hypot(*vector)
    if not 0 < length < math.inf:
        raise ValueError(f"{name} must be a vector of a length above 0, got {tuple(vector)}")
    return np.asarray(vector, dtype=np.float64) / length


def _lengths(name: str, values: Sequence[float], count: int) -> list[float]:
    lengths = [float(value) for value in values]
    if len(lengths) != count or not all(0 < length < math.inf for length in lengths):
        raise ValueError(f"{name} must be {count} lengths in mm above 0, got {tuple(lengths)}")
    return lengths


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


def _frequency(power: NoisePower) -> np.ndarray:
    return np.hypot(power.x_per_mm[:, None], power.y_per_mm[None, :])
