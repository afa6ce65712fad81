"""Numbers about a reconstruction (fidelity, in HU) and about its codes (codebook use, bits)."""

from ctpa_vqgan.metrics.codebook import CodeCounter, bits_per_voxel, body_tokens, compression_ratio
from ctpa_vqgan.metrics.fidelity import error_by_slice, volume_difference, volume_fidelity
from ctpa_vqgan.metrics.seams import seam_index, window_planes
from ctpa_vqgan.metrics.shift import shift_sd
from ctpa_vqgan.metrics.ssim import volume_ssim
from ctpa_vqgan.metrics.structure import PatientStructure
from ctpa_vqgan.metrics.tissues import DISPLAY_WINDOWS, TISSUES_HU, tissue_fidelity

__all__ = [
    "DISPLAY_WINDOWS",
    "TISSUES_HU",
    "CodeCounter",
    "PatientStructure",
    "bits_per_voxel",
    "body_tokens",
    "compression_ratio",
    "error_by_slice",
    "seam_index",
    "shift_sd",
    "tissue_fidelity",
    "volume_difference",
    "volume_fidelity",
    "volume_ssim",
    "window_planes",
]
