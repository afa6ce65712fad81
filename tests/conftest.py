"""What tests share: one small phantom, and threads that do not fight over two cores."""

from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def phantom():
    """A whole chest of 48 x 48 x 40 voxels in HU."""
    from ctpa_vqgan.data.phantom import make_phantom

    return make_phantom((48, 48, 40), (7.5, 7.5, 9.0), seed=1)


@pytest.fixture(scope="session")
def phantom_folder(tmp_path_factory) -> Path:
    """A flat folder of three small phantoms as NIfTI."""
    from ctpa_vqgan.data.phantom import write_phantom_dataset

    folder = tmp_path_factory.mktemp("phantoms")
    write_phantom_dataset(folder, 3, (48, 44, 40), (7.5, 8.0, 9.0), seed=5)
    return folder
