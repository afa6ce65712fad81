"""What a tokenizer must be held against: a coarser grid, and the codecs HEVC and JPEG 2000 at the same rate."""

from ctpa_vqgan.rivals.codecs import CODECS, can_be_made
from ctpa_vqgan.rivals.compare import compare_with_rivals
from ctpa_vqgan.rivals.resampled import enlarge, shrink, size_at_rate

__all__ = ["CODECS", "can_be_made", "compare_with_rivals", "enlarge", "shrink", "size_at_rate"]
