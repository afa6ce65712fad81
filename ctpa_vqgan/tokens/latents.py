"""Continuous latents beside the codes, for models that generate them."""

# E embedding, h w d latent positions

from __future__ import annotations

from typing import Any

import numpy as np


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
