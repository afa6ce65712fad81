"""What tests share: one small phantom, and threads that do not fight over two cores."""

import logging
import sys
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


@pytest.fixture(scope="module")
def python_as_it_was():
    """A workflow sets up logging and a hook for errors, as befits a process of its own."""
    loggers = [logging.getLogger(name) for name in (None, "monai", "ignite")]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    hook = sys.excepthook
    yield
    sys.excepthook = hook
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
