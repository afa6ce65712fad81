"""Sizes of volumes: how messages show them, and what does not have the size that a training is made for."""

from __future__ import annotations

from collections.abc import Sequence

from ctpa_vqgan.errors import UserError


def shown(size: Sequence[int]) -> str:
    """``512 x 512 x 604``."""
    return " x ".join(str(int(side)) for side in size)


def check_size(shape: Sequence[int], volume_size: Sequence[int] | None, name: str) -> None:
    """Refuse a volume that has another size than every volume must have.

    Args:
        shape: X, Y, Z of the volume.
        volume_size: the knob; None for any size.
        name: of the file, for the message.

    Raises:
        UserError: names the file, both sizes and the command that makes one of the other.
    """
    if volume_size is not None and tuple(shape) != tuple(volume_size):
        sides = " ".join(map(str, volume_size))
        raise UserError(
            f"{name}: expected {shown(volume_size)} voxels (volume_size), found {shown(shape)}; bring the volumes to "
            f"that grid by python -m ctpa_vqgan prepare VOLUMES --size {sides} --output DATA, or set volume_size=null"
        )
