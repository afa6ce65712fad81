"""Texts that may name a patient are told from those of programs."""

import pytest

from ctpa_vqgan.data.checks.privacy import may_name_patient

NAMES = ["DOE^JOHN", "John Doe", "DOE JOHN", "Doe, John", "patient 17", "MRN 4711", "12345678", "born 1961-02-28"]
TOOLS = ["", "FSL5.0", "TotalSegmentator", "TE=2;Time=123456.000", "5.0.10", "dcm2niix v1.0.20230411", "CT 1.25mm"]


@pytest.mark.parametrize("text", NAMES)
def test_names_dates_and_numbers_are_found(text):
    assert may_name_patient(text)


@pytest.mark.parametrize("text", TOOLS)
def test_what_programs_write_is_let_pass(text):
    assert not may_name_patient(text)
