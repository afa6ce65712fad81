"""Data: from files to patches and volumes on the network's scale."""

from __future__ import annotations

import importlib
from typing import Any

# by module, imported on first use: `prepare` needs neither torch nor MONAI, which take seconds and bring ITK
_HOMES = {
    "cases": ["Case", "find_cases", "training_cases", "validation_cases"],
    "checks": ["RULES"],
    "formats.volume": ["AIR_HU", "Volume"],
    "mapped": ["MappedReader"],
    "loader": ["patch_loader"],
    "patches": ["GridPatches", "RandomPatchDataset", "grid_windows", "patch_dataset"],
    "prepared": ["is_prepared", "map_prepared", "prepared_shape", "write_prepared"],
    "projection": ["project_xray", "xray_along_grid"],
    "readable": ["ReadableCases"],
    "reader": ["CTReader", "save_like"],
    "transforms": [
        "ToHUd",
        "finite_to_hu",
        "load_volume",
        "prepare_patch",
        "prepare_volume",
        "scale_hu_",
        "to_hu",
        "window_hu",
    ],
    "volumes": ["case_name", "read_volume"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
