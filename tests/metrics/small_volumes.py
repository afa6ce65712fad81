"""Volumes for tests of what is measured on phantoms."""

import math

import numpy as np


def noise(shape, sd, seed=0):
    return np.random.default_rng(seed).normal(0, sd, shape)


def nan_volume():
    volume = np.zeros((20, 20, 20))
    volume[10, 10, 10] = math.nan
    return volume
