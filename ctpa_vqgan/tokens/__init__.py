"""Tokens: volumes as codes, in memory and in files. Reading them takes numpy alone."""

from ctpa_vqgan.tokens.fingerprint import network_fingerprint
from ctpa_vqgan.tokens.residual import Residual, apply_residual, bound_error
from ctpa_vqgan.tokens.volume import EncodedVolume

__all__ = ["EncodedVolume", "Residual", "apply_residual", "bound_error", "network_fingerprint"]
