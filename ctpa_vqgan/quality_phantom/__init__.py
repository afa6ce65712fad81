"""Phantoms of known truth that go through a network: sharpness, noise, HU scale, low contrast and emboli."""

from ctpa_vqgan.quality_phantom.suite import measure_phantoms, num_voxels

__all__ = ["measure_phantoms", "num_voxels"]
