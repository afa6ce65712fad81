"""Judge a tokenizer: everything that is measured of a case, and what an evaluation keeps while it runs."""

from ctpa_vqgan.evaluation.case_files import CaseFiles
from ctpa_vqgan.evaluation.details import headline, version_details
from ctpa_vqgan.evaluation.labels import LabelMaps
from ctpa_vqgan.evaluation.reconstructor import Reconstructor
from ctpa_vqgan.evaluation.shift import shift_test

__all__ = ["CaseFiles", "LabelMaps", "Reconstructor", "headline", "shift_test", "version_details"]
