"""Networks: the VQ-GAN generator, its quantizer and its discriminators."""

from ctpa_vqgan.networks.discriminators import DiscriminatorOutput, PatchDiscriminators
from ctpa_vqgan.networks.quantizers import Quantized, VectorQuantizer
from ctpa_vqgan.networks.vqgan import VQGAN, Autoencoded, Halo

__all__ = ["VQGAN", "Autoencoded", "DiscriminatorOutput", "Halo", "PatchDiscriminators", "Quantized", "VectorQuantizer"]
