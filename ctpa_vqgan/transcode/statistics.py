"""Mean and standard deviation of latents over a data set, put into its code files."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctpa_vqgan.tokens import EncodedVolume
from ctpa_vqgan.tokens.dataset import latent_statistics


def add_latent_statistics(files: Sequence[Path]) -> None:
    """Per channel, over all positions of all files; files that have them already, the same ones, are left alone.

    Args:
        files: code files with latents.
    """
    if not files:
        return
    statistics = latent_statistics(files)
    mean, std = statistics.mean.numpy(), statistics.std.numpy()
    for path in files:
        encoded = EncodedVolume.load(path)
        if encoded.latent_mean is None or not (
            np.allclose(encoded.latent_mean, mean) and np.allclose(encoded.latent_std, std)
        ):
            dataclasses.replace(encoded, latent_mean=mean, latent_std=std).save(path)
