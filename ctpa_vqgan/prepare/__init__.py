"""From any hospital export to a checked, fast data set."""

from ctpa_vqgan.prepare.run import Prepared, prepare

__all__ = ["Prepared", "prepare"]
