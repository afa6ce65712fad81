"""Numbers about a reconstruction (fidelity, in HU) and about its codes (codebook use, bits)."""

from ctpa_vqgan.metrics.codebook import CodeCounter, bits_per_voxel, body_tokens, compression_ratio
from ctpa_vqgan.metrics.fidelity import volume_fidelity
from ctpa_vqgan.metrics.ssim import volume_ssim

__all__ = [
    "CodeCounter",
    "bits_per_voxel",
    "body_tokens",
    "compression_ratio",
    "volume_fidelity",
    "volume_ssim",
]
