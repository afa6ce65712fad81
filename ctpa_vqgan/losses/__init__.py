"""What training minimises: losses by name, each with its weight in the config."""

from ctpa_vqgan.losses.adversarial import (
    feature_matching_loss,
    hinge_discriminator_loss,
    hinge_generator_loss,
    ramp,
)
from ctpa_vqgan.losses.lpips import LPIPS
from ctpa_vqgan.losses.perceptual import GradientLoss
from ctpa_vqgan.losses.reconstruction import HUL1Loss, WindowedL1Loss
from ctpa_vqgan.losses.weighted import WeightedLosses

__all__ = [
    "LPIPS",
    "GradientLoss",
    "HUL1Loss",
    "WeightedLosses",
    "WindowedL1Loss",
    "feature_matching_loss",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "ramp",
]
