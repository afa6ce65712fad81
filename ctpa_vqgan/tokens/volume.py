"""A CT volume as codes, with all that is needed to undo them, in memory and on disk."""

# X Y Z voxels towards patient Right, Anterior, Superior; E embedding
# h w d latent positions (h = X / factor, rounded up)

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import ctpa_vqgan
from ctpa_vqgan.tokens import rates
from ctpa_vqgan.tokens.checks import (
    check_text,
    checked_affine,
    checked_codes,
    checked_latents,
    checked_statistics,
    checked_triple,
    checked_window,
)
from ctpa_vqgan.tokens.container import open_sealed, refuse, write_sealed
from ctpa_vqgan.tokens.fingerprint import network_fingerprint
from ctpa_vqgan.tokens.grid import Triple, check_same_voxels, latent_shape
from ctpa_vqgan.tokens.layout import DEFLATE, from_archive, to_members
from ctpa_vqgan.tokens.packing import bits_per_code, pack_codes, packed_size, unpack_codes
from ctpa_vqgan.tokens.residual import Residual

if TYPE_CHECKING:
    import torch

STORED_BITS = 16  # of a voxel in the scan


@dataclass(frozen=True, eq=False)
class EncodedVolume:
    """The codes of one volume and how to go back to voxels; complete without the file it came from.

    Construction checks that all parts agree, so that a value of this type can be decoded.

    Args:
        codes: [h, w, d], integers from 0 to ``num_embeddings`` - 1; kept as uint16, or uint32 above 65536 codes.
        shape: (X, Y, Z) of the volume in RAS order, in voxels, before padding.
        affine: [4, 4] of that volume, from voxel indices to mm in RAS+ world coordinates.
        original_shape: size of the input file's grid.
        original_affine: [4, 4] of the input file's grid.
        hu_window: HU at -1 and 1 of the network's scale.
        factor: voxels per code along X, Y, Z.
        num_embeddings: size of the codebook.
        network: fingerprint of the network, see :func:`~ctpa_vqgan.tokens.network_fingerprint`.
        latents: [E, h, w, d] before quantization, float16 or float32; for models that generate latents.
        latent_mean: [E], over the data set; together with ``latent_std``.
        latent_std: [E], over the data set.
        residual: what bounds the error of every voxel, see :func:`~ctpa_vqgan.tokens.bound_error`.
        version: of the package that encoded.

    Raises:
        ValueError: names the part that does not fit.
    """

    codes: np.ndarray = field(repr=False)
    shape: Triple
    affine: np.ndarray
    original_shape: Triple
    original_affine: np.ndarray
    hu_window: tuple[float, float]
    factor: Triple
    num_embeddings: int
    network: str
    latents: np.ndarray | None = field(default=None, repr=False)
    latent_mean: np.ndarray | None = None
    latent_std: np.ndarray | None = None
    residual: Residual | None = None
    version: str = ctpa_vqgan.__version__

    def __post_init__(self) -> None:
        for name in ("shape", "original_shape", "factor"):
            self._set(name, checked_triple(getattr(self, name), name))
        for name in ("affine", "original_affine"):
            self._set(name, checked_affine(getattr(self, name), name))
        check_same_voxels(self.shape, self.affine, self.original_shape, self.original_affine)
        self._set("hu_window", checked_window(self.hu_window))
        # only these two are text, and neither has room for a name or a path
        check_text(self.network, "network", r"[0-9a-f]{64}")
        check_text(self.version, "version", r"[0-9]+(\.[0-9]+)*((a|b|rc|\.post|\.dev)[0-9]+)*")
        self._set("num_embeddings", int(self.num_embeddings))
        self._set("codes", checked_codes(self.codes, latent_shape(self.shape, self.factor), self.num_embeddings))
        if self.latents is not None:
            self._set("latents", checked_latents(self.latents, self.codes.shape))
        for name, values in checked_statistics(self.latents, self.latent_mean, self.latent_std).items():
            self._set(name, values)
        if self.residual is not None and self.residual.shape != self.shape:
            raise ValueError(f"residual must be of shape {self.shape}, found {self.residual.shape}")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    # -- what follows from the fields ------------------------------------------------------------------------------

    @property
    def padding(self) -> Triple:
        """Voxels of air that were added at the end of each axis to reach a multiple of the factor."""
        return tuple(n * f - side for n, f, side in zip(self.codes.shape, self.factor, self.shape))

    @property
    def meta(self) -> dict[str, Any]:
        """What :func:`ctpa_vqgan.data.save_like` needs to write the volume on the grid of the input file."""
        return {name: getattr(self, name) for name in ("affine", "original_affine", "original_shape")}

    def bits_per_voxel(self) -> float:
        """Bits of the packed codes per voxel of the volume; latents, residual and header come on top."""
        return self.codes.size * bits_per_code(self.num_embeddings) / math.prod(self.shape)

    def order0_entropy_bits(self) -> float:
        """Entropy of this volume's codes, in bits per code."""
        return rates.order0_entropy_bits(self.codes)

    def lzma_bytes(self) -> int:
        """Size of this volume's codes under lzma; takes seconds for a large volume."""
        return rates.lzma_bytes(self.codes)

    def summary(self) -> dict[str, Any]:
        """Sizes and rates as plain numbers; :meth:`lzma_bytes`, which takes seconds, apart."""
        return {
            "num_codes": self.codes.size,
            "bits_per_code": bits_per_code(self.num_embeddings),
            "packed_bytes": packed_size(self.codes.size, self.num_embeddings),
            "bits_per_voxel": self.bits_per_voxel(),
            "compression_ratio": STORED_BITS / self.bits_per_voxel(),
            "order0_entropy_bits": self.order0_entropy_bits(),
            "latent_bytes": self.latents.nbytes if self.latents is not None else 0,
            "residual_bytes": self.residual.nbytes if self.residual else 0,
            "max_error_hu": self.residual.max_error_hu if self.residual else None,
        }

    # -- on disk ---------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike) -> Path:
        """Write a code file, whole or not at all; the same volume gives the same bytes.

        Args:
            path: target, ends in ``.npz``.

        Raises:
            ValueError: for another suffix.
            UserError: if the disk does not take it.
        """
        if Path(path).suffix != ".npz":
            raise ValueError(f"{path}: expected a name that ends in .npz")
        fields = {name: value for name, value in vars(self).items() if name != "residual"}
        packed = pack_codes(self.codes, self.num_embeddings)
        parts = self.residual.to_parts() if self.residual else {}
        return write_sealed(path, to_members({**fields, "codes": packed, **parts}), DEFLATE)

    @classmethod
    def load(cls, path: str | os.PathLike, network: str | torch.nn.Module | None = None) -> EncodedVolume:
        """Read a code file, every byte of it checked.

        Args:
            path: of :meth:`save`.
            network: the one that shall decode, or its fingerprint (cheaper for many files); None to read codes alone.

        Raises:
            UserError: names the file, and whether it is absent, something else, of another format version, damaged,
                inconsistent, or made by another network.
        """
        expected = _fingerprint(network)
        with open_sealed(path) as archive:
            values = from_archive(archive)
            _check_network(path, values["network"], expected)
            shape = checked_triple(values["shape"], "shape")
            grid = latent_shape(shape, checked_triple(values["factor"], "factor"))
            codes = unpack_codes(values["codes"], math.prod(grid), values["num_embeddings"]).reshape(grid)
            residual = Residual.from_parts(shape, values)
            fields = {name: values[name] for name in values if not name.startswith("residual")}
            return cls(**{**fields, "codes": codes, "residual": residual})

    @staticmethod
    def header(path: str | os.PathLike) -> dict[str, Any]:
        """All but codes, latents and residual, as plain values; reads a few kB, and only these are checked.

        Raises:
            UserError: as :meth:`load`, for what it reads.
        """
        with open_sealed(path, verify=False) as archive:
            values = from_archive(archive, bulky=False)
            there = set(archive.namelist())
        plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in values.items()}
        return {**plain, "has_latents": "latents.npy" in there, "has_residual": "residual.npy" in there}


def _fingerprint(network: str | torch.nn.Module | None) -> str | None:
    if network is None or isinstance(network, str):
        return network
    return network_fingerprint(network)


def _check_network(path: str | os.PathLike, found: str, expected: str | None) -> None:
    if expected is not None and found != expected:
        raise refuse(
            path,
            f"codes of the network {expected[:12]}...",
            f"those of {found[:12]}...",
            "decode with the model.pt and model.yaml that encoded it",
        )
