"""Turn one source into a checked volume of the data set."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from ctpa_vqgan.data.checks.rules import PADDING_BELOW_HU, refuse
from ctpa_vqgan.data.formats.volume import AIR_HU
from ctpa_vqgan.data.prepared import write_prepared
from ctpa_vqgan.data.sizes import shown
from ctpa_vqgan.data.volumes import read_volume, to_ras
from ctpa_vqgan.errors import BadVolume, UserError
from ctpa_vqgan.prepare.sketch import sketch
from ctpa_vqgan.prepare.sources import Source
from ctpa_vqgan.prepare.split import patient_key
from ctpa_vqgan.prepare.statistics import volume_statistics
from ctpa_vqgan.prepare.thumbnails import thumbnail

Record = dict[str, Any]


def convert(job: tuple[Source, str, Sequence[int] | None]) -> Record | BadVolume:
    """Check a source and write it as int16 HU, RAS, scanner padding as air.

    Args:
        job: the source, where to write, and the size x, y, z that it is to have; None leaves its grid as it is.

    Returns:
        What is known of the case, or why it is refused.

    Raises:
        UserError: if the disk does not take the volume.
    """
    source, target, size = job
    try:
        return _convert(source, Path(target), size)
    except BadVolume as error:
        return error
    except UserError:
        raise
    except MemoryError:
        return refuse("unreadable", source.name, "a volume larger than the memory at hand")
    except Exception as error:  # whatever a library says of a file must not end the others' work
        reason = " ".join(str(error).split())[:200]
        return refuse("unreadable", source.name, f"an error while reading ({type(error).__name__}: {reason})")


def _convert(source: Source, target: Path, size: Sequence[int] | None) -> Record:
    volume = read_volume(source.files)
    voxels, affine = to_ras(volume.voxels, volume.affine)
    for plane in volume.voxels.transpose(np.argsort(volume.voxels.strides)[::-1]):  # plane by plane: small masks
        plane[plane < PADDING_BELOW_HU] = AIR_HU
    all_voxels, original = sketch(voxels), voxels.shape  # on a coarser grid two crops of one scan share nothing
    if size is not None:
        voxels, affine = _shrunk(source, voxels, affine, size)
    spacing_mm = [round(float(mm), 6) for mm in nib.affines.voxel_sizes(affine)]
    write_prepared(target, voxels, affine)
    content = _sha256(target)
    return {
        "source": source.name,
        "series": source.series,
        "stamp": source.stamp,
        "format": source.format,
        "sha256": content,
        "bytes": target.stat().st_size,
        "own_patient": patient_key(volume.patient or f"content {content}"),
        "shape": list(voxels.shape),
        "spacing_mm": spacing_mm,
        **({} if size is None else {"original_shape": list(original)}),
        "original_orientation": "".join(nib.aff2axcodes(volume.affine)),
        "statistics": volume_statistics(voxels, spacing_mm),
        "warnings": [finding._asdict() for finding in volume.warnings],
        "sketch": all_voxels,
        "thumbnail": base64.b64encode(thumbnail(voxels, spacing_mm)).decode(),
    }


def _shrunk(
    source: Source, voxels: np.ndarray, affine: np.ndarray, size: Sequence[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Voxels and affine on a grid of ``size`` over the same box; BadVolume if an axis has fewer voxels than that."""
    if any(few > many for few, many in zip(size, voxels.shape)):
        raise refuse("shrink", source.name, f"{shown(voxels.shape)} for {shown(size)}")
    from ctpa_vqgan.data.resampled import shrink, shrunk_affine  # brings torch, which all else here does without

    return shrink(voxels, size, hu_range=None).numpy(), shrunk_affine(affine, voxels.shape, size)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
