"""One quantizer of three kinds by name, so that a config chooses by one word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ctpa_vqgan.networks.quantizers.finite_scalar import FiniteScalarQuantizer
from ctpa_vqgan.networks.quantizers.residual import ResidualQuantizer
from ctpa_vqgan.networks.quantizers.vector import VectorQuantizer

Quantizer = VectorQuantizer | FiniteScalarQuantizer | ResidualQuantizer
KINDS = ("vq", "fsq", "residual")


def make_quantizer(
    kind: str = "vq",
    num_embeddings: int = 8192,
    embedding_dim: int = 8,
    levels: Sequence[int] = (8, 8, 8, 4, 4),
    **vector_arguments: Any,
) -> Quantizer:
    """A quantizer of a kind, with what that kind uses of the arguments.

    Args:
        kind: ``"vq"`` (:class:`VectorQuantizer`), ``"fsq"`` (:class:`FiniteScalarQuantizer`) or ``"residual"``
            (:class:`ResidualQuantizer`).
        num_embeddings: codes per book; ``"fsq"`` has the product of its levels.
        embedding_dim: length of a code; ``"fsq"`` has the number of its levels.
        levels: of ``"fsq"`` alone.
        **vector_arguments: others of :class:`VectorQuantizer`, for ``"vq"`` and ``"residual"``.

    Returns:
        The quantizer itself: its ``config`` names its own class and has no trace of this function.

    Raises:
        ValueError: if the kind is unknown, or as that kind.
    """
    if kind == "vq":
        return VectorQuantizer(num_embeddings, embedding_dim, **vector_arguments)
    if kind == "fsq":
        return FiniteScalarQuantizer(levels)
    if kind == "residual":
        return ResidualQuantizer(num_embeddings, embedding_dim, **vector_arguments)
    raise ValueError(f"quantizer must be one of {', '.join(KINDS)}, found {kind!r}")
