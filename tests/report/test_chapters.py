"""What the report claims follows from the numbers: met or not, won or lost, seams or none."""

import copy
import math

import pytest
from realistic import evaluation, phantoms, rivals, summary

from ctpa_vqgan.report.blocks import Mark, Table
from ctpa_vqgan.report.chapters import tell_story
from ctpa_vqgan.report.chapters.against import at_rate, standing
from ctpa_vqgan.report.chapters.codes import usage
from ctpa_vqgan.report.chapters.goals import GOALS
from ctpa_vqgan.report.results import strict, summarize
from ctpa_vqgan.report.values import tell, worst_first

NAMES = ("case", "cases", "mean", "name", "error", "shape", "diameter_mm", "background_hu", "contrast_hu")  # of rows


def as_metrics(rows, **extra):
    rows = strict(rows)
    return {"cases": rows, **summarize(rows), **strict(extra)}


@pytest.fixture
def metrics():
    rows, extra = evaluation()
    return as_metrics(rows, **extra)


def goal(name):
    (found,) = [goal for goal in GOALS if goal.name.startswith(name)]
    return found


def story(metrics, tmp_path, pictures=()):
    return {chapter.title: chapter for chapter in tell_story(metrics, {}, pictures, tmp_path)}


def said(chapter):
    return " ".join(str(block) for block in chapter.blocks)


def test_a_goal_is_met_only_if_every_case_meets_it(metrics):
    dice = goal("Lung vessels, Dice")
    mark = dice.judge(metrics, "reconstruction")
    assert mark == Mark(False, "0.886 (LungDx-A0001_contrast; 1 of 3 within)")
    for case in metrics["cases"]:
        case["reconstruction"]["structure"]["vessels"]["dice"] = 0.95
    assert dice.judge(metrics, "reconstruction").met is True
    for case in metrics["cases"]:
        case["reconstruction"]["structure"]["vessels"]["dice"] = None
    assert dice.judge(metrics, "reconstruction") == Mark(None, "")


def test_a_bias_counts_on_either_side_and_the_worst_tissue_is_named():
    tissues = {
        "fat": summary(9, 1.9, 10),
        "bone": summary(9, -2.1, 10),
        "air": summary(0, math.nan, math.nan) | {"psnr": 0},
    }
    rows = [{"case": "a", "reconstruction": {"tissues": tissues}}]
    assert goal("HU bias").judge(as_metrics(rows), "reconstruction") == Mark(False, "-2.10 HU (bone, a; 1 of 2 within)")
    del tissues["bone"]
    assert goal("HU bias").judge(as_metrics(rows), "reconstruction").met


def test_small_emboli_are_not_asked_for():
    measured = phantoms(1.0)
    for entry in measured["emboli"]:
        entry["recovery"] = 0.5 if entry["diameter_mm"] < 3 else 0.96
    mark = goal("Contrast of emboli").judge(as_metrics([], phantoms={"decoded": measured}), "decoded")
    assert mark.met and mark.text == "0.96 (3 mm; 4 of 4 within)"


def test_an_edge_that_is_gone_does_not_drop_out_of_the_goal():
    edge = {"shape": "ball", "contrast_hu": 50, "mtf50_ratio": math.nan}
    sharp, gone = edge | {"reconstruction": [1.0, 0.9, 0.8]}, edge | {"reconstruction": [math.nan] * 3}
    judge = goal("Sharpness").judge
    assert judge(as_metrics([], phantoms={"decoded": {"edges": [sharp]}}), "decoded").met is None
    assert judge(as_metrics([], phantoms={"decoded": {"edges": [gone]}}), "decoded") == Mark(
        False, "0.00 (ball, 50 HU)"
    )


@pytest.mark.parametrize(
    "before, after, met", [(214, 209, False), (209, 214, False), (214, 211, True), (150, 100, True)]
)
def test_enhancement_flips_where_the_answer_changes(before, after, met):
    label = summary(5, after - before, 9) | {"original_mean_hu": before, "mean_hu": after}
    rows = [{"case": "a", "reconstruction": {"labels": {"pulmonary_artery": label}}}]
    assert goal("Adequate enhancement").judge(as_metrics(rows), "reconstruction").met is met


def test_every_goal_is_shown_met_or_not(metrics, tmp_path):
    (table,) = [block for block in story(metrics, tmp_path)["In short"].blocks if isinstance(block, Table)]
    assert [row[0] for row in table.rows] == [f"{goal.name}: {goal.target}" for goal in GOALS]
    words = [mark.word for row in table.rows for mark in row[1:]]
    assert {"✓ met", "✗ not met", "- not measured"} == set(words)


def test_seams_are_told_or_their_absence(metrics, tmp_path):
    text = said(story(metrics, tmp_path)["In short"])
    assert "2 seams found in 1 case; the highest has 6.4 HU (axis Z, between voxels 95 and 96" in text
    for case in metrics["cases"]:
        case["reconstruction"]["seams"]["found"] = []
    assert "None found where windows meet." in said(story(metrics, tmp_path)["In short"])
    for case in metrics["cases"]:
        del case["reconstruction"]["seams"], case["decoded"]["seams"], case["tiles"]
        case.pop("shift", None)
    assert "Seams" not in story(metrics, tmp_path)


def test_losing_to_a_codec_is_said_and_so_is_winning():
    rows = strict(rivals(0.2, 36.0))
    (reconstruction, decoded) = standing(rows)
    assert "loses to HEVC by 5.9 dB (41.90 dB" in reconstruction
    assert "beats trilinear by 5.3 dB (30.70 dB at 0.1905" in reconstruction
    assert "loses to HEVC by 6.0 dB" in decoded
    assert "JPEG 2000" not in reconstruction, "it was not measured"
    for row in rows:
        row["psnr"] = 30.0 if row["kind"] == "codec" and "psnr" in row else row.get("psnr")
    assert "beats HEVC by 6.0 dB (30.00 dB" in standing(rows)[0]
    for row in rows:
        row["psnr"] = 36.02 if row["kind"] == "codec" else row.get("psnr")
    assert "equals HEVC (36.02 dB" in standing(rows)[0]


def test_a_rate_between_two_points_is_interpolated_along_its_logarithm():
    points = [{"bits_per_voxel": b, "psnr": v} for b, v in ((0.1, 30.0), (0.4, 40.0))]
    assert at_rate(points, 0.2, "psnr") == (pytest.approx(35.0), 0.2)
    assert at_rate(points, 0.45, "psnr") == (40.0, 0.4), "the nearest, if it is near"
    assert all(map(math.isnan, at_rate(points, 0.8, "psnr")))
    assert all(map(math.isnan, at_rate([], 0.8, "psnr")))


def test_skipped_rivals_name_their_way_out(metrics, tmp_path):
    text = said(story(metrics, tmp_path)["Against other ways"])
    assert "pip install 'ctpa_vqgan[codecs]'" in text
    rows = next(
        block.rows for block in story(metrics, tmp_path)["Against other ways"].blocks if isinstance(block, Table)
    )
    assert ["the guide: its baseline", "resized", "35.3", "0.971", ""] in rows
    assert ["here: network on 256 x 256 x 64, LIDC-0001", "small, 256 x 256 x 64", "35.61", "0.9380", "19.2"] in rows
    assert any(row[0].startswith("here: network on") and row[1] == "full" for row in rows)


def test_codes_of_all_cases_are_counted_together(tmp_path):
    assert usage([5, 5, 0, 0]) == (2, pytest.approx(2.0))
    assert math.isnan(usage([0, 0])[1])
    codes = [{"counts": [4, 0, 0, 0], "body_counts": [0] * 4}, {"counts": [0, 4, 0, 0], "body_counts": [0] * 4}]
    rows = [{"case": str(i), "usage": 0.25, "codes": found} for i, found in enumerate(codes)]
    assert "2 of 4 codes occur (50.0%), perplexity 2." in said(story(as_metrics(rows), tmp_path)["Codes and rate"])


def test_tissue_numbers_are_means_over_cases_with_voxels(tmp_path):
    nothing = dict.fromkeys(summary(1, 1, 1), math.nan) | {"num_voxels": 0}
    biases = [summary(10, 2.0, 0), summary(30, -4.0, 0), nothing]
    rows = [
        {"case": f"c{i}", "reconstruction": {"regions": {"whole": summary(100, 1, 1)}, "tissues": {"bone": found}}}
        for i, found in enumerate(biases)
    ]
    (table,) = [b for b in story(as_metrics(rows), tmp_path)["HU by tissue and window"].blocks if isinstance(b, Table)]
    (bone,) = [row for row in table.rows if row[0] == "bone"]
    assert bone[1:6] == ["from 700", "13.3%", "-1.00", "-4.00 (c1)", "2.40"]


def test_any_part_may_be_missing_or_null(metrics, tmp_path):
    whole = {"cases": metrics["cases"], **{key: metrics[key] for key in ("mean", "phantoms", "refused")}}
    paths = []

    def walk(entry, path):
        for key in list(entry) if isinstance(entry, dict) else range(len(entry)) if isinstance(entry, list) else ():
            if len(path) < 5 and not (isinstance(key, int) and key > 1):
                paths.append([*path, key])
                walk(entry[key], [*path, key])

    walk(whole, [])
    tried = 0
    for path in paths:
        if path[-1] in NAMES or isinstance(path[-1], int):
            continue
        for gone in (True, False):
            broken = copy.copy(whole)
            entry = broken
            for key in path[:-1]:  # only what is on the way is copied
                entry[key] = copy.copy(entry[key])
                entry = entry[key]
            if gone:
                del entry[path[-1]]
            else:
                entry[path[-1]] = None
            assert tell_story(broken, {}, [], tmp_path)
            tried += 1
    assert tried > 300


def test_cases_without_psnr_come_last_and_infinite_ones_before_them():
    cases = [
        {"case": "none", "psnr": None},
        {"case": "inf", "psnr": "inf"},
        {"case": "b", "psnr": 3.0},
        {"case": "a", "psnr": -1},
    ]
    assert [case["case"] for case in worst_first(cases)] == ["a", "b", "inf", "none"]


@pytest.mark.parametrize(
    "value, text", [(None, "n/a"), ("inf", "∞"), (-0.04, "0.0"), (0.04, "0.0"), (-1.25, "-1.2"), (True, "n/a")]
)
def test_numbers_are_told_with_their_sign_and_no_minus_zero(value, text):
    assert tell(value, "+.1f") == (text if text[0] != "1" else f"+{text}")
