"""PyTorch files with their SHA-256 beside them: PyTorch takes most files with a flipped bit for sound ones.

``model.pt.sha256`` has the format of ``sha256sum``. While a file is replaced it names the new and the old content, so
that at every moment the file on disk is one that it names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from ctpa_vqgan.errors import BadNumbers, UserError
from ctpa_vqgan.files import whole, write_whole
from ctpa_vqgan.out_of_memory import is_out_of_memory


class Damaged(UserError):
    """A file is not what was once written."""


class Unsealed(UserError):
    """A file has no SHA-256 beside it: nothing is known to be wrong with it, nor that it is right."""


def save_sealed(content: Any, path: str | os.PathLike, finite: bool = True) -> str:
    """Write with ``torch.save``, read back, and only then give the file its name; an older one stays until then.

    Args:
        content: tensors, numbers, texts, lists and dicts: what ``torch.load(weights_only=True)`` reads.
        path: of the file; ``<path>.sha256`` goes beside it.
        finite: refuse tensors with numbers that are not finite.

    Returns:
        The SHA-256, in hexadecimal digits.

    Raises:
        BadNumbers: names the tensors that hold a number that is not finite.
        UserError: if the disk does not take it, or gives something else back.
    """
    path = Path(path)
    if finite and (bad := list(not_finite(content))):
        raise BadNumbers(
            f"{path}: not written: {', '.join(bad[:3])} holds numbers that are not finite ({len(bad)} tensors); "
            "an older file stays"
        )
    with whole(path) as temporary:
        digest = _save(content, temporary)
        if (found := sha256_of(temporary)) != digest:
            raise UserError(f"{path}: the disk gave back other bytes than were written ({found[:12]}...)")
        torch.load(temporary, map_location="cpu", weights_only=True, mmap=True)
        older = [line for line in _named(path) if path.is_file() and line != digest][-1:]
        _name(path, digest, *older)
    if older:
        _name(path, digest)
    return digest


def load_sealed(path: str | os.PathLike) -> Any:
    """Read what :func:`save_sealed` wrote, to the CPU, by ``weights_only=True``.

    Raises:
        Damaged: if its SHA-256 is another, or it is no plain PyTorch file.
        Unsealed: if there is no SHA-256 beside it.
        OSError: if it cannot be read at all, now.
    """
    check_seal(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        if isinstance(error, OSError) or is_out_of_memory(error):
            raise  # that says nothing of the file
        raise Damaged(f"{path}: damaged, or no plain PyTorch file ({type(error).__name__})") from error


def not_finite(value: Any, name: str = "") -> Iterator[str]:
    """Names of the tensors, at any depth, that hold a number that is not finite."""
    if isinstance(value, torch.Tensor):
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            yield name
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from not_finite(item, f"{name}.{key}".lstrip("."))
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            yield from not_finite(item, f"{name}.{number}")


def check_seal(path: str | os.PathLike) -> None:
    """Compare a file with the SHA-256 beside it.

    Raises:
        Damaged: if they differ.
        Unsealed: if there is no SHA-256.
        UserError: if there is no such file.
        OSError: if it cannot be read.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    if not seal_of(path).is_file():
        raise Unsealed(f"{path}: expected its SHA-256 in {seal_of(path).name}, found none; copy that file too")
    named, found = _named(path), sha256_of(path)
    if found not in named:
        expected = f"{named[0][:12]}..." if named else "of sha256sum"
        raise Damaged(f"{path}: damaged: expected the SHA-256 {expected}, found {found[:12]}...; copy it again")


def seal_of(path: str | os.PathLike) -> Path:
    """Where the SHA-256 of a file is."""
    path = Path(path)
    return path.with_name(f"{path.name}.sha256")


def sha256_of(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _save(content: Any, path: Path) -> str:
    """Write, and hash on the way there what is meant to be written."""
    with path.open("wb") as file:
        hashing = _Hashing(file)
        try:
            torch.save(content, hashing)
        except RuntimeError as error:  # so torch's zip writer passes on what went wrong in here
            if hashing.failure is None:
                raise
            raise hashing.failure from error
    return hashing.digest.hexdigest()


class _Hashing:
    """A file to write to that hashes what goes through."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.digest = file, hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        self.digest.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        self.file.flush()


def _name(path: Path, *digests: str) -> None:
    write_whole(seal_of(path), "".join(f"{digest}  {path.name}\n" for digest in digests))


def _named(path: Path) -> list[str]:
    """The digests beside a file that stand for its name."""
    try:
        lines = seal_of(path).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    return [line.split()[0] for line in lines if line.split()[1:] == [path.name]]
