"""Mean and standard deviation of latents over a data set, put into its code files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctpa_vqgan.tokens import EncodedVolume


def add_latent_statistics(files: Sequence[Path]) -> None:
    """Per channel, over all positions of all files; files that have them already, the same ones, are left alone.

    Args:
        files: code files with latents.
    """
    count, total, squares = 0, 0.0, 0.0
    for path in files:
        latents = EncodedVolume.load(path).latents
        channels = latents.reshape(len(latents), -1).astype(np.float64)
        count, total = count + channels.shape[1], total + channels.sum(axis=1)
        squares = squares + (channels**2).sum(axis=1)
    if not files:
        return
    mean = total / count
    std = np.sqrt(np.maximum(squares / count - mean**2, 1e-12))
    for path in files:
        encoded = EncodedVolume.load(path)
        if encoded.latent_mean is None or not (
            np.allclose(encoded.latent_mean, mean) and np.allclose(encoded.latent_std, std)
        ):
            dataclasses.replace(encoded, latent_mean=mean, latent_std=std).save(path)
