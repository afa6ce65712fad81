"""Write phantoms as a data set: a flat folder of NIfTI volumes."""

from pathlib import Path

import nibabel as nib
import numpy as np

from ctpa_vqgan.data.phantom.make import make_phantom
from ctpa_vqgan.files import whole


def write_phantom_dataset(
    folder: str | Path,
    num_volumes: int,
    size: tuple[int, int, int] = (512, 512, 604),
    spacing_mm: tuple[float, float, float] = (0.7, 0.7, 0.6),
    seed: int = 0,
    labels: bool = False,
) -> list[Path]:
    """Write ``phantom_00.nii.gz``, ``phantom_01.nii.gz``, ... into a folder, one patient each.

    A file appears under its name only when it is complete, so an interrupted run leaves no broken volume behind.

    Args:
        folder: created if missing.
        num_volumes: how many.
        size: see `make_phantom`.
        spacing_mm: see `make_phantom`.
        seed: volume ``k`` is ``make_phantom(seed=seed + k)``.
        labels: also write the label maps, under the same names, into ``<folder>_labels`` beside it.

    Returns:
        Paths of the volumes, in order.
    """
    folder = Path(folder)
    paths = []
    for k in range(num_volumes):
        phantom = make_phantom(size, spacing_mm, seed + k)
        paths.append(folder / f"phantom_{k:02d}.nii.gz")
        _write(paths[-1], phantom.volume, phantom.affine)
        if labels:
            _write(folder.with_name(f"{folder.name}_labels") / paths[-1].name, phantom.labels, phantom.affine)
    return paths


def _write(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    with whole(path) as temporary:
        nib.save(image, temporary)
