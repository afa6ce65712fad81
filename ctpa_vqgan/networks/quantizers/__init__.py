"""Quantizers: from continuous latents to integer codes, all behind one interface.

``forward`` gives :class:`Quantized`; ``quantize`` and ``embed`` go to codes and back; ``step`` follows each optimizer
step, and with several ranks ``begin_step`` comes before it; ``num_embeddings`` and ``embedding_dim`` tell the size,
``config`` how to build it again.
"""

from ctpa_vqgan.networks.quantizers.factory import make_quantizer
from ctpa_vqgan.networks.quantizers.finite_scalar import FiniteScalarQuantizer
from ctpa_vqgan.networks.quantizers.residual import ResidualQuantizer
from ctpa_vqgan.networks.quantizers.result import Quantized
from ctpa_vqgan.networks.quantizers.vector import TRAINING_STATE, VectorQuantizer

__all__ = [
    "TRAINING_STATE",
    "FiniteScalarQuantizer",
    "Quantized",
    "ResidualQuantizer",
    "VectorQuantizer",
    "make_quantizer",
]
