"""Inferers: whole volumes by blended windows or by exact tiles."""

from ctpa_vqgan.inferers.exact import ExactTileInferer, TooLargeForOneTile
from ctpa_vqgan.inferers.memory import BudgetTooSmall
from ctpa_vqgan.inferers.sliding import VQGANInferer
from ctpa_vqgan.inferers.tiles import latent_grid

__all__ = ["BudgetTooSmall", "ExactTileInferer", "TooLargeForOneTile", "VQGANInferer", "latent_grid"]
