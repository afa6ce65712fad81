"""The report tells every volume's fate, and is a valid page whatever the files are called."""

import re

import numpy as np
import pytest

from ctpa_vqgan.data.checks.rules import RULES
from ctpa_vqgan.prepare.fingerprint import fingerprint
from ctpa_vqgan.prepare.page import render_report
from ctpa_vqgan.prepare.statistics import volume_statistics

ODD_NAMES = ["a|b.nii", "two\nlines.nii", "`tick`|``.nii", "$x$ and $y$.nii", "<b>_*bold*_.nii", "\udcff\x07.nii", "|"]
STATISTICS = volume_statistics(np.full((40, 40, 40), 300, np.int16), (1.5, 1.5, 1.5))


def record(number=0, source="in/scan.nii.gz", warnings=()):
    return {
        "case": f"ct-{number:012x}",
        "source": source,
        "split": "training",
        "patient": "0",
        "shape": [40, 40, 40],
        "spacing_mm": [1.5, 1.5, 0.625],
        "statistics": STATISTICS,
        "warnings": list(warnings),
        "format": "NIfTI",
        "original_orientation": "LPS",
    }


def refusal(source="in/mask.nii.gz", rule="hu-mask", found="7 values"):
    return {"source": source, "rule": rule, "expected": "a CT", "found": found, "what_to_do": "give the image"}


def report(accepted=(), refused=(), skipped=(), settings=None):
    return render_report(list(accepted), list(refused), list(skipped), fingerprint(list(accepted)), settings or {})


def tables(page):
    """Cells of the tables, row by row, as GitHub divides them: at pipes without a backslash."""
    lines = [line for line in page.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def test_the_first_line_says_that_the_page_is_private():
    for page in (report(), report([record()])):
        first = page.splitlines()[0]
        assert "Private" in first and "identify patients" in first and "not share" in first


def test_the_summary_counts():
    page = report([record(0), record(1)], [refusal()], [{"source": "a", "why": "b"}] * 3)
    assert "2 of 3 volumes accepted (2 for training; 1 patient), 1 refused; 3 other files skipped." in page


def test_a_case_has_its_row():
    warning = {"rule": "thickness", "found": "8 mm"}
    assert [
        "`ct-000000000000`",
        "`in/scan.nii.gz`",
        "training",
        "40 x 40 x 40",
        "1.5 x 1.5 x 0.625",
        "300 / 300 / 300",
        "300",
        "`thickness`: 8 mm",
    ] in tables(report([record(warnings=[warning])]))


def test_a_refusal_has_its_row_and_its_rule_is_explained():
    page = report(refused=[refusal()])
    assert ["`in/mask.nii.gz`", "`hu-mask`", "a CT", "7 values", "give the image"] in tables(page)
    assert f"- `hu-mask`: expects {RULES['hu-mask'].expects}" in page


def test_rules_that_were_not_met_are_not_explained():
    assert "What the rules mean" not in report([record()])


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_break_no_table(name):
    page = report(
        [record(source=name, warnings=[{"rule": "patient-name", "found": name}])],
        [refusal(source=name, found=name)],
        [{"source": name, "why": name}],
        {"inputs": [name]},
    )
    page.encode()  # a name that is no text can be written
    assert {len(row) for row in tables(page)} == {8, 5, 3, 6}
    outside_code = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", page)
    assert "$" not in outside_code and "<b>" not in outside_code.replace("\\<", "")


def test_skipped_files_are_counted_by_reason():
    skipped = [{"source": f"scout{i}", "why": "a scout"} for i in range(500)]
    rows = tables(report(skipped=[*skipped, {"source": "x", "why": "one picture"}]))
    assert ["a scout", "500", "`scout0`, `scout1`, `scout2` and 497 more"] in rows
    assert ["one picture", "1", "`x`"] in rows


def test_every_sheet_of_thumbnails_is_linked():
    one, many = report([record()]), report([record(i) for i in range(250)])
    assert "(thumbnails.png)" in one and "thumbnails_2" not in one
    assert all(f"({name})" in many for name in ("thumbnails.png", "thumbnails_2.png", "thumbnails_3.png"))


def test_the_fingerprint_is_drawn():
    page = report([record()])
    assert "HU: share of the voxels from the value on, in steps of 256" in page
    assert re.search(r"^ +256  █{30} 100.00%$", page, re.MULTILINE)
    assert ["spacing, mm, z", "0.625", "0.625", "0.625", "0.625", "0.625"] in tables(page)
