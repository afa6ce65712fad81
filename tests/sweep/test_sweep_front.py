"""The Pareto front and the suggestion, against rows whose answer is known."""

import math

import pytest

from ctpa_vqgan.sweep.front import pareto_front, suggest


def row(psnr, seconds, seam=0.0, memory=100.0, found=0, **other):
    kept = {"psnr": psnr, "case_seconds": seconds, "seam_hu": seam, "memory_mb": memory, "seams_found": found}
    return {"kind": "windows", "comparable": True} | kept | other


FAILED = {"kind": "windows", "comparable": True, "failed": "out of memory"}


def test_the_front_is_what_no_other_row_beats():
    rows = [
        row(40.0, 10.0),  # best
        row(39.0, 5.0),  # faster
        row(39.0, 6.0),  # slower than that, and no better
        row(38.0, 5.0, memory=50.0),  # less memory
        row(38.0, 5.0, memory=60.0),
        row(39.0, 20.0, seam=3.0),
    ]
    assert pareto_front(rows) == [True, True, False, True, False, False]


def test_the_smallest_seam_alone_is_reason_enough():
    assert pareto_front([row(40.0, 10.0, seam=1.0), row(30.0, 90.0, seam=0.2, memory=999.0)]) == [True, True]


def test_equal_rows_keep_each_other_and_so_do_rows_that_print_alike():
    assert pareto_front([row(40.0, 10.0), row(40.0, 10.0)]) == [True, True]
    assert pareto_front([row(40.001, 10.0, seam=0.01), row(40.0, 10.04, seam=0.04)]) == [True, True]


def test_what_failed_or_cannot_be_compared_is_not_on_the_front_and_keeps_none_from_it():
    alone = row(50.0, 0.1, comparable=False)
    assert pareto_front([FAILED, alone, row(40.0, 10.0)]) == [False, False, True]


def test_a_seam_that_cannot_be_told_counts_as_the_worst_and_an_infinite_psnr_as_the_best():
    assert pareto_front([row(40.0, 10.0, seam=math.nan), row(40.0, 10.0, seam=5.0)]) == [False, True]
    assert pareto_front([row(math.inf, 10.0), row(40.0, 10.0)]) == [True, False]


def test_the_fastest_within_a_twentieth_of_a_db_and_without_a_seam_is_suggested():
    rows = [
        row(40.00, 100.0),
        row(39.96, 50.0),  # this one
        row(39.94, 30.0),  # too much is lost
        row(40.20, 10.0, seam=2.0, found=3),  # shows seams
        row(41.00, 1.0, kind="exact tiles"),
        row(41.00, 1.0, comparable=False),
        FAILED,
    ]
    suggestion = suggest(rows)
    assert suggestion.index == 1
    assert suggestion.reason == (
        "the fastest within 0.05 dB of the best PSNR (40.00 dB) among 3 settings in which no seam was found"
    )


def test_of_settings_that_take_about_as_long_the_best_is_suggested():
    suggestion = suggest([row(39.96, 10.0), row(39.99, 10.9), row(40.00, 12.0)])
    assert suggestion.index == 1
    assert suggestion.reason.startswith("the best of 2 about equally fast ones within 0.05 dB")


def test_where_every_setting_shows_seams_the_weakest_are_compared():
    rows = [row(40.0, 10.0, seam=9.0, found=4), row(39.0, 20.0, seam=2.0, found=1), row(38.0, 5.0, seam=2.5, found=1)]
    suggestion = suggest(rows)
    assert suggestion.index == 1
    assert "about the weakest seams (2.00 HU; every setting shows some)" in suggestion.reason


def test_where_no_seam_can_be_told_the_reason_says_so():
    suggestion = suggest([row(40.0, 10.0, seam=math.nan), row(40.0, 5.0, seam=math.nan)])
    assert suggestion.index == 1
    assert suggestion.reason.endswith("in which seams could not be told")


@pytest.mark.parametrize("rows", [[], [FAILED], [row(40.0, 1.0, comparable=False)]])
def test_nothing_is_suggested_where_nothing_can_be_compared(rows):
    assert suggest(rows) is None


def test_a_single_setting_is_suggested_as_such():
    assert suggest([row(40.0, 1.0), FAILED]).reason == "the only setting that could be compared"
