"""Encoded volumes of random codes, and the real CT."""

import os
from pathlib import Path

import numpy as np
import pytest

from ctpa_vqgan.tokens import EncodedVolume

REAL_DATA = Path(os.environ.get("CTPA_VQGAN_DATA", Path(__file__).parents[3] / "shared/data"))
NETWORK = "0123456789abcdef" * 4


@pytest.fixture
def make_volume():
    """An encoded volume of 30 x 28 x 17 voxels; its keyword arguments replace single fields."""

    def make(**changes):
        rng = np.random.default_rng(1)
        affine = np.array([[0.7, 0, 0, -180.0], [0, 0.7, 0, -170.0], [0, 0, 2.5, 30.0], [0, 0, 0, 1]])
        fields = {
            "codes": rng.integers(0, 8192, (8, 7, 5)),
            "shape": (30, 28, 17),
            "affine": affine,
            "original_shape": (30, 28, 17),
            "original_affine": affine,
            "hu_window": (-1000.0, 1000.0),
            "factor": (4, 4, 4),
            "num_embeddings": 8192,
            "network": NETWORK,
        }
        return EncodedVolume(**{**fields, **changes})

    return make


@pytest.fixture(scope="session")
def real_ct():
    """Voxels [X, Y, Z] of a thorax with contrast and padding of -2048, read once."""
    path = REAL_DATA / "LIDC-0001.nii.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there; set CTPA_VQGAN_DATA to the folder of the real data")
    from ctpa_vqgan.data.volumes import read_volume, to_ras

    volume = read_volume(path)
    return to_ras(volume.voxels, volume.affine)[0]
