"""Networks: the VQ-GAN generator, its quantizers and its discriminators."""

from ctpa_vqgan.networks.discriminators import DiscriminatorOutput, PatchDiscriminators
from ctpa_vqgan.networks.quantizers import (
    FiniteScalarQuantizer,
    Quantized,
    ResidualQuantizer,
    VectorQuantizer,
    make_quantizer,
)
from ctpa_vqgan.networks.vqgan import VQGAN, Autoencoded, Halo

__all__ = [
    "VQGAN",
    "Autoencoded",
    "DiscriminatorOutput",
    "FiniteScalarQuantizer",
    "Halo",
    "PatchDiscriminators",
    "Quantized",
    "ResidualQuantizer",
    "VectorQuantizer",
    "make_quantizer",
]
