"""Networks whose effect is known, and what the phantoms say of them."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from ctpa_vqgan.quality_phantom import measure_phantoms

BLUR_MM = 0.5  # of the network; the phantoms' own is 0.6 mm


@pytest.fixture(scope="session")
def blurred() -> dict:
    def reconstruct(volume):
        return torch.from_numpy(gaussian_filter(volume.numpy(), BLUR_MM / 0.7, truncate=6, mode="nearest"))

    return measure_phantoms(reconstruct)


@pytest.fixture(scope="session")
def scaled() -> dict:
    return measure_phantoms(lambda volume: 0.98 * volume + 5)


@pytest.fixture(scope="session")
def grey() -> dict:
    return measure_phantoms(lambda volume: torch.full_like(volume, 40))


@pytest.fixture(scope="session")
def matched_gain():
    """What a blur of the network leaves of an object's amplitude, found by least squares against the blurred object.

    With B the transform of a ball (3 dimensions) or disk (2), G = exp(-2 (pi 0.6 f)^2) and H = exp(-2 (pi s f)^2):
    the integral of B^2 G^2 H over that of B^2 G^2.
    """

    def gain(diameter_mm: float, dimensions: int, blur_mm: float = BLUR_MM) -> float:
        from scipy.special import j1

        f = np.linspace(1e-4, 4, 40001)
        x = math.pi * diameter_mm * f
        form = (np.sin(x) - x * np.cos(x)) / x**3 if dimensions == 3 else j1(x) / x
        weight = form**2 * np.exp(-((2 * math.pi * 0.6 * f) ** 2)) * f ** (dimensions - 1)
        return float((weight * np.exp(-2 * (math.pi * blur_mm * f) ** 2)).sum() / weight.sum())

    return gain
