"""CT series from DICOM files: which files belong together, whether they make one straight grid, and their HU.

GDCM (through itk, imported on first use) gives header values and pixels. The geometry is checked here, because readers
take a missing, doubled or tilted slice in silence. Of the patient's data only PatientID leaves this package.
"""

from ctpa_vqgan.data.formats.dicom.find import find_series
from ctpa_vqgan.data.formats.dicom.read import read_series
from ctpa_vqgan.data.formats.dicom.series import Series, Skipped
from ctpa_vqgan.data.formats.dicom.sniff import FIXED_SUFFIXES, is_dicom

__all__ = ["FIXED_SUFFIXES", "Series", "Skipped", "find_series", "is_dicom", "read_series"]
