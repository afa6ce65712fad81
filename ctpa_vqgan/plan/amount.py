"""How many volumes, voxels, patches and steps a training has."""

from __future__ import annotations

import math
from typing import NamedTuple

from monai.bundle import ConfigParser

from ctpa_vqgan.data import find_cases
from ctpa_vqgan.data.patches import check_sampling, grid_windows
from ctpa_vqgan.data.prepared import is_prepared, prepared_shape
from ctpa_vqgan.data.reader import volume_shape
from ctpa_vqgan.data.unreadable import unreadable

TYPICAL_SIZE = (512, 512, 604)  # voxels of a CT pulmonary angiogram
BYTES_PER_VOXEL = 2  # of prepared volumes: int16


class Amount(NamedTuple):
    """What a training goes through."""

    volumes: int  # for training and validation
    training_volumes: int
    voxels: int  # of all volumes
    patches_per_epoch: int
    steps_per_epoch: int
    steps: int

    @property
    def data_bytes(self) -> int:
        """Of the volumes as ``prepare`` writes them."""
        return self.voxels * BYTES_PER_VOXEL


def amount_of(parser: ConfigParser, data: str | None, num_volumes: int) -> Amount:
    """Count what is in a data set, or foretell it.

    Args:
        parser: of train.yaml with its overlays.
        data: as for training, a path and no expression; only headers are read.
        num_volumes: of 512 x 512 x 604 voxels, without ``data``.

    Raises:
        UserError: if ``data`` cannot be trained on.
    """
    check_sampling(parser["patch_sampling"])
    if data is None:
        volumes, voxels = num_volumes, num_volumes * math.prod(TYPICAL_SIZE)
        held_out = min(max(1, round(num_volumes * parser["val_fraction"])), num_volumes - 1)
        training = num_volumes - held_out
        per_volume = parser["num_samples"]
        if parser["patch_sampling"] == "grid":
            stride = parser.get_parsed_content("stride")
            per_volume = len(grid_windows(TYPICAL_SIZE, parser["patch_size"], stride))
        patches = training * per_volume
    else:
        per_volume = parser["num_samples"] if parser["patch_sampling"] == "random" else 1
        parser["dataset_dir"], parser["num_samples"] = data, 1  # patches of one kind need not be listed to be counted
        dataset = parser.get_parsed_content("train::dataset")
        patches, training = dataset.num_patches * per_volume, len(dataset.cases)
        cases = find_cases(data)
        volumes, voxels = len(cases), sum(_voxels(case["image"]) for case in cases)
    per_epoch = math.ceil(patches / parser["batch_size"])
    return Amount(volumes, training, voxels, patches, per_epoch, per_epoch * parser["max_epochs"])


def _voxels(image: object) -> int:
    """0 for a volume that cannot be read: training leaves it out."""
    try:
        return math.prod(prepared_shape(image) if is_prepared(image) else volume_shape(image))
    except Exception as error:
        if unreadable(error, str(image)) is None:
            raise
        return 0
