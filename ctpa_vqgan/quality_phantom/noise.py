"""CT noise of a known spectrum, and what the network leaves of it."""

# X Y Z voxels

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ctpa_vqgan.metrics.noise_power import noise_power, radial_noise_power
from ctpa_vqgan.quality_phantom.feed import Seen
from ctpa_vqgan.quality_phantom.render import blur_mm

MARGIN = 1 / 6  # of each side: left out, where a network sees the border


def noise_spectrum(shape: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
    """Power of CT noise by frequency, [X, Y, Z] in the order of ``numpy.fft.fftfreq``, mean 1.

    Filtered back-projection gives noise of power f MTF(f)^2 in the plane, f from the ramp filter, and blurs it along z
    like the image. The kernel is that of the phantoms' edges, so noise and edges fit each other.

    Source: Riederer, Pelc and Chesler, "The noise power spectrum in computed X-ray tomography", Phys. Med. Biol. 23,
    1978; Kijewski and Judy, "The noise power spectrum of CT images", Phys. Med. Biol. 32, 1987.
    """
    x, y, z = np.meshgrid(*(np.fft.fftfreq(n, mm) for n, mm in zip(shape, spacing_mm)), indexing="ij", sparse=True)
    in_plane = np.hypot(x, y)
    power = in_plane * np.exp(-((2 * math.pi * blur_mm(spacing_mm)) ** 2) * (in_plane**2 + z**2))
    return power / power.mean()


def ct_noise(shape: Sequence[int], spacing_mm: Sequence[float], sd_hu: float, rng: np.random.Generator) -> np.ndarray:
    """Correlated noise [X, Y, Z] of standard deviation ``sd_hu``, float64, periodic over the volume."""
    white = np.fft.fftn(rng.standard_normal(shape))
    return sd_hu * np.fft.ifftn(white * np.sqrt(noise_spectrum(shape, spacing_mm))).real


def homogeneous(volume: np.ndarray) -> np.ndarray:
    """The inner part of a volume [X, Y, Z]."""
    return volume[tuple(slice(round(side * MARGIN), side - round(side * MARGIN)) for side in volume.shape)]


def measure_noise(seen: Sequence[Seen], background_hu: float, sd_hu: float, spacing_mm: Sequence[float]) -> dict:
    """Noise power before and after the network, in a phantom that is nothing but noise on one background.

    Args:
        seen: one or more realisations.
        background_hu: its mean.
        sd_hu: its nominal standard deviation.
        spacing_mm: voxel size along X, Y and Z.

    Returns:
        One entry of ``phantoms["noise"]``; ratios are after over before: of the standard deviations, of the power
        summed over all frequencies, of the mean frequencies. Where the network leaves no noise at all, the mean
        frequency is NaN.
    """
    before, after = (np.concatenate([homogeneous(s[side]) for s in seen], axis=2) for side in (0, 1))
    powers = [noise_power(rois, spacing_mm) for rois in (before, after)]
    total_before, total_after = (power.variance_hu2 for power in powers)
    original = radial_noise_power(powers[0])
    left = total_after > 1e-9 * total_before
    reconstruction = radial_noise_power(powers[1]) if left else None
    return {
        "background_hu": float(background_hu),
        "sd_hu": float(sd_hu),
        "sd_ratio": math.sqrt(total_after / total_before),
        "nps_ratio": total_after / total_before,
        "mean_frequency_ratio": reconstruction.mean_frequency_per_mm / original.mean_frequency_per_mm
        if left
        else math.nan,
        "frequency_per_mm": original.frequency_per_mm.tolist(),
        "original": original.nps.tolist(),
        "reconstruction": reconstruction.nps.tolist() if left else [0.0] * len(original.nps),
    }
