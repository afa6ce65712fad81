"""Inferers: whole volumes by blended windows or by exact tiles."""

from ctpa_vqgan.inferers.exact import ExactTileInferer
from ctpa_vqgan.inferers.sliding import VQGANInferer

__all__ = ["ExactTileInferer", "VQGANInferer"]
