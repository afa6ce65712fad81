"""A synthetic CT pulmonary angiogram: a chest in Hounsfield units whose every voxel is labelled.

The way a phantom travels: a patient is drawn from a seed (`patient`), painted on a canvas of voxels from the skin to
the heart (`trunk`, `skeleton`, `heart`), gets a pulmonary circulation with clots (`tree`, `pulmonary`), and goes
through a scanner (`scan`).
"""

from ctpa_vqgan.data.phantom.canvas import HU, LABELS
from ctpa_vqgan.data.phantom.dataset import write_phantom_dataset
from ctpa_vqgan.data.phantom.make import Phantom, make_phantom

__all__ = ["HU", "LABELS", "Phantom", "make_phantom", "write_phantom_dataset"]
