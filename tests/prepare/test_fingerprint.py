"""The fingerprint adds up, and names nobody."""

import json

import numpy as np
import pytest

from ctpa_vqgan.prepare.fingerprint import MAX_BINS, fingerprint
from ctpa_vqgan.prepare.statistics import volume_statistics


def record(number, spacing=(0.7, 0.7, 1.0), contrast_hu=None):
    voxels = np.random.default_rng(number).integers(-1100, 3200, (12, 10, 8 + number)).astype(np.int16)
    statistics = volume_statistics(voxels, spacing)
    return {
        "case": f"ct-case{number}",
        "source": f"/disk/Doe^Jane{number}.nii.gz",
        "file": f"volumes/ct-case{number}.nii",
        "split": "validation" if number == 0 else "training",
        "patient": f"secret{number // 2}",
        "shape": list(voxels.shape),
        "spacing_mm": list(spacing),
        "statistics": statistics | {"contrast": contrast_hu is not None, "contrast_hu": contrast_hu},
        "warnings": [{"rule": "thickness", "found": "9 mm in Doe^Jane"}] * number,
        "format": "NIfTI",
        "original_orientation": "LPS",
        "sketch": [4711],
    }


def test_numbers_are_those_of_the_records():
    found = fingerprint([record(0), record(1, contrast_hu=300.0), record(2, contrast_hu=400.0)])
    assert (found["cases"], found["patients"], found["voxels"]) == (3, 2, 120 * (8 + 9 + 10))
    assert found["splits"] == {"training": 2, "validation": 1}
    assert found["warnings"] == {"thickness": 2}  # cases, not findings
    assert found["contrast"] == {"cases": 2, "share": pytest.approx(2 / 3, abs=1e-4), "median_hu": 350}
    assert found["shape"]["z"]["percentiles"]["50"] == 9
    assert found["extent_mm"]["x"]["max"] == pytest.approx(12 * 0.7)


def test_every_voxel_is_in_the_hu_histogram():
    found = fingerprint([record(0), record(3)])
    histogram = found["hu"]["histogram"]
    assert sum(histogram["counts"]) + histogram["under"] + histogram["over"] == found["voxels"]


def test_the_order_of_the_cases_does_not_show():
    records = [record(i, spacing=(0.6 + i / 10, 0.7, 2.0 - i / 10)) for i in range(5)]
    assert fingerprint(records) == fingerprint(records[::-1])


def test_nothing_identifies_anybody():
    text = json.dumps(fingerprint([record(i) for i in range(4)]), allow_nan=False)
    for private in ("Doe", "ct-case", "disk", "secret", "4711"):
        assert private not in text


@pytest.mark.parametrize("values", [[0.7], [0.6, 0.7, 0.8], [0.48, 5.0], [1, 604], [0.7] * 50 + [0.9765625]])
def test_a_histogram_has_few_bins_with_round_borders_that_hold_all(values):
    found = fingerprint([record(0, spacing=(mm, 1.0, 1.0)) for mm in values])["spacing_mm"]["x"]
    start, step, counts = (found["histogram"][key] for key in ("start", "step", "counts"))
    assert sum(counts) == len(values) and len(counts) <= MAX_BINS
    assert counts[0] and counts[-1]
    assert f"{step:e}"[0] in "125" and float(f"{step:.0e}") == step
    places = [int((mm - start) / step + 1e-6) for mm in values]
    assert counts == np.bincount(places, minlength=len(counts)).tolist()


def test_a_data_set_without_cases_has_a_fingerprint():
    found = fingerprint([])
    assert found["cases"] == 0 and found["contrast"]["share"] is None
    json.dumps(found, allow_nan=False)
