"""What a part of an encoded volume must be by itself; each check returns it in its one type, or raises ValueError."""

# E embedding, h w d latent positions

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ctpa_vqgan.tokens.grid import Triple
from ctpa_vqgan.tokens.packing import code_dtype


def checked_triple(values: Sequence[int], name: str) -> Triple:
    """Three positive whole numbers; ValueError otherwise."""
    found = np.asarray(values)
    if found.shape != (3,) or (found != np.rint(found)).any() or (found < 1).any():
        raise ValueError(f"{name} must be three positive whole numbers, found {found.tolist()}")
    return tuple(int(value) for value in found)


def checked_affine(values: Any, name: str) -> np.ndarray:
    """[4, 4] float64 that spans a volume; ValueError otherwise."""
    affine = np.array(values, dtype=np.float64, order="C")
    usable = affine.shape == (4, 4) and np.isfinite(affine).all() and (affine[3] == [0, 0, 0, 1]).all()
    if not usable or not np.linalg.det(affine):
        raise ValueError(f"{name} must be [4, 4], finite and invertible, found {affine.tolist()}")
    return affine


def checked_window(hu_window: Any) -> tuple[float, float]:
    """(lowest, highest) HU as floats; ValueError otherwise."""
    low, high = (float(hu) for hu in hu_window)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"hu_window must be (lowest HU, highest HU), found {(low, high)}")
    return low, high


def check_text(text: str, name: str, pattern: str) -> None:
    """ValueError unless the text matches the whole pattern."""
    if not isinstance(text, str) or not re.fullmatch(pattern, text, re.ASCII):
        raise ValueError(f"{name} must match {pattern}, found {str(text)[:100]!r}")


def checked_codes(codes: Any, grid: Triple, num_embeddings: int) -> np.ndarray:
    """[h, w, d] of the smallest type, each below ``num_embeddings``; ValueError otherwise."""
    codes = np.asarray(codes)
    if codes.dtype.kind not in "iu":
        raise ValueError(f"codes must be integers, found {codes.dtype}")
    if codes.shape != grid:
        raise ValueError(f"codes must be [h, w, d] = {grid} for this shape and factor, found {codes.shape}")
    low, high = int(codes.min()), int(codes.max())
    if not 0 <= low <= high < num_embeddings:
        raise ValueError(f"codes must lie in 0 to {num_embeddings - 1}, found {low} to {high}")
    return np.ascontiguousarray(codes, code_dtype(num_embeddings))


def checked_latents(latents: Any, grid: tuple[int, ...]) -> np.ndarray:
    """[E, h, w, d] on the grid of the codes, finite, float16 or float32; ValueError otherwise."""
    latents = np.asarray(latents)
    if latents.dtype not in (np.float16, np.float32):
        raise ValueError(f"latents must be float16 or float32, found {latents.dtype}")
    if latents.ndim != 4 or latents.shape[1:] != grid or not latents.size:
        raise ValueError(f"latents must be [E, {', '.join(map(str, grid))}] as the codes, found {latents.shape}")
    if not all(np.isfinite(channel).all() for channel in latents):
        raise ValueError(f"latents must be finite, found NaN or infinity in {latents.dtype}")
    return np.ascontiguousarray(latents)


def checked_statistics(latents: np.ndarray | None, mean: Any, std: Any) -> dict[str, np.ndarray | None]:
    """Mean and standard deviation per channel, both or none, and only beside latents; ValueError otherwise."""
    if mean is None and std is None:
        return {}
    if latents is None or mean is None or std is None:
        raise ValueError("latent_mean and latent_std come together, and with latents; found one of them alone")
    mean, std = (np.array(values, np.float32, order="C") for values in (mean, std))
    if mean.shape != latents.shape[:1] or std.shape != mean.shape:
        raise ValueError(
            f"latent_mean and latent_std must have one value per channel of latents {latents.shape}, "
            f"found {mean.shape} and {std.shape}"
        )
    if not (np.isfinite(mean).all() and np.isfinite(std).all() and (std > 0).all()):
        raise ValueError(f"latent_mean must be finite and latent_std positive, found {mean} and {std}")
    return {"latent_mean": mean, "latent_std": std}
