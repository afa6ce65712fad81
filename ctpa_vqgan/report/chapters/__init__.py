"""What a report says, chapter by chapter, from ``metrics.json``; how it is written down is not known here."""

from ctpa_vqgan.report.chapters.story import tell_story

__all__ = ["tell_story"]
