"""MONAI's door to volumes: prepared ones are mapped into memory, all others loaded and checked."""

from __future__ import annotations

import os

import numpy as np
import torch

from ctpa_vqgan.data.prepared import TO_FILE_ORDER, is_prepared, map_prepared
from ctpa_vqgan.data.reader import CTReader
from ctpa_vqgan.data.volumes import Source


class MappedReader(CTReader):
    """Reader for :class:`monai.transforms.LoadImaged` (with ``dtype=None``) that gives int16 HU in RAS orientation.

    A prepared volume costs a header: its voxels stay in the file until a crop touches them. Anything else is loaded
    whole and checked by :class:`CTReader`. Either has x fastest in memory: crops then copy runs of neighbours.

    Metadata is that of :class:`CTReader`.

    Raises:
        BadVolume: as :class:`CTReader`, and :func:`~ctpa_vqgan.data.prepared.map_prepared` for prepared volumes.
    """

    def get_data(self, img: Source) -> tuple[torch.Tensor, dict]:
        """Voxels [X, Y, Z] int16 in RAS, and metadata."""
        if not (isinstance(img, (str, os.PathLike)) and is_prepared(img)):
            return super().get_data(img)
        voxels, affine = map_prepared(img)
        affine, shape = affine[:, TO_FILE_ORDER], np.array(voxels.shape[::-1])
        meta = {"affine": affine, "original_affine": affine.copy(), "original_shape": shape, "spatial_shape": shape}
        # a tensor, because MONAI makes a numpy array C-contiguous: it would read and transpose the whole volume
        return torch.from_numpy(voxels).permute(2, 1, 0), meta
