"""Try settings of the sliding window on one case, and say which one to take."""

from ctpa_vqgan.sweep.run import sweep
from ctpa_vqgan.sweep.settings import Choices, default_windows

__all__ = ["Choices", "default_windows", "sweep"]
