"""What the tables hold: kinds of files, with the rules that they break or the truth that they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from corpus.nifti import gz, nifti
from corpus.patient import AFFINE, chest, turned

UNREADABLE = "unreadable header"


@dataclass(frozen=True)
class Kind:
    """A kind of file and what must be said about it.

    Args:
        suffix: of the file's name.
        make: the content; several files by name, the first of which is read; None for no file.
        rules: ids, any of which is a right verdict.
    """

    suffix: str
    make: Callable[[], bytes | dict[str, bytes] | None]
    rules: frozenset[str] = frozenset()

    def write(self, folder: Path, name: str) -> Path:
        """Write the file, and return the path to read."""
        content = self.make()
        files = content if isinstance(content, dict) else {name + self.suffix: content}
        for file, data in files.items():
            if data is not None:
                (folder / file).write_bytes(data)
        return folder / next(iter(files))


@dataclass(frozen=True)
class Legal(Kind):
    """A kind of file that must be read as it is.

    Args:
        truth: HU [X, Y, Z] and affine towards RAS.
    """

    truth: Callable[[], tuple[np.ndarray, np.ndarray]] = lambda: (chest(), AFFINE)


def in_nii(rules: str, make: Callable) -> Kind:
    """The NIfTI file as it is."""
    return Kind(".nii", make, frozenset(rules.split()))


def in_gz(rules: str, make: Callable) -> Kind:
    """The NIfTI file compressed, after any damage."""
    return Kind(".nii.gz", lambda: gz(make()), frozenset(rules.split()))


def in_raw_gz(rules: str, make: Callable) -> Kind:
    """Compressed by ``make`` itself, before the damage."""
    return Kind(".nii.gz", make, frozenset(rules.split()))


def in_nrrd(rules: str, make: Callable) -> Kind:
    """The NRRD file as it is."""
    return Kind(".nrrd", make, frozenset(rules.split()))


def in_mha(rules: str, make: Callable) -> Kind:
    """The MetaImage as it is, with its voxels inside."""
    return Kind(".mha", make, frozenset(rules.split()))


def legal_nifti(voxels=None, affine=AFFINE, truth=None, suffix=".nii.gz", axes="RAS", **fields) -> Legal:
    """A NIfTI file from voxels made when needed, and what is to come out of it.

    Args:
        voxels: makes the stored voxels, in RAS; the chest by default.
        affine: of ``voxels``.
        truth: makes the HU that are to come out; as stored by default.
        suffix: of the file's name; decides about compression.
        axes: order of the axes in the file.
        **fields: for :func:`nifti`.
    """
    voxels = voxels or chest

    def make() -> bytes:
        content = nifti(*turned(voxels(), affine, axes), **fields)
        return gz(content) if suffix.endswith(".gz") else content

    return Legal(suffix, make, truth=lambda: ((truth or voxels)(), affine))


def legal_of(make: Callable, suffix: str, affine=AFFINE) -> Legal:
    """A file of any format with the chest in it."""
    return Legal(suffix, make, truth=lambda: (chest(), affine))
