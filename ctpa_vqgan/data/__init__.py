"""Data: from files to patches and volumes on the network's scale."""

from ctpa_vqgan.data.cases import Case, find_cases, training_cases, validation_cases
from ctpa_vqgan.data.patches import GridPatches, RandomPatchDataset, grid_windows, patch_dataset, patch_loader
from ctpa_vqgan.data.reader import AIR_HU, CTReader, case_name, save_like
from ctpa_vqgan.data.transforms import ToHUd, load_volume, prepare_patch, prepare_volume, to_hu, window_hu

__all__ = [
    "AIR_HU",
    "CTReader",
    "Case",
    "GridPatches",
    "RandomPatchDataset",
    "ToHUd",
    "case_name",
    "find_cases",
    "grid_windows",
    "load_volume",
    "patch_dataset",
    "patch_loader",
    "prepare_patch",
    "prepare_volume",
    "save_like",
    "to_hu",
    "training_cases",
    "validation_cases",
    "window_hu",
]
