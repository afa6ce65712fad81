import numpy as np
import pytest

from ctpa_vqgan.rivals import CODECS

NEEDS = {"hevc": "av", "jpeg2000": "imagecodecs"}


@pytest.fixture(params=NEEDS)
def codec(request):
    """Each codec that this machine has."""
    pytest.importorskip(NEEDS[request.param], reason=f"{NEEDS[request.param]} is of the optional extra [codecs]")
    return CODECS[request.param]()


@pytest.fixture
def scan():
    """A ball of tissue in air, with noise: int16 [45, 36, 20] of odd sides, in HU."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, side) for side in (45, 36, 20)), indexing="ij")
    ball = np.where(x**2 + y**2 + z**2 < 0.8, 40 + 300 * x, -1000)
    return (ball + np.random.default_rng(0).normal(0, 15, ball.shape)).round().astype(np.int16)
