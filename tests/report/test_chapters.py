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


@pytest.mark.parametrize("ratio, met", [(0.89, False), (0.9, True), (1.1, True), (1.11, False)])
def test_an_edge_sharper_than_before_is_no_better_than_a_blurred_one(ratio, met):
    edge = {"shape": "rod", "contrast_hu": 50, "mtf50_ratio": ratio, "reconstruction": [1.0, 0.5]}
    mark = goal("Sharpness").judge(as_metrics([], phantoms={"decoded": {"edges": [edge]}}), "decoded")
    assert mark.met is met


def test_an_embolus_of_too_much_contrast_is_as_wrong_as_one_of_too_little():
    measured = phantoms(1.0)
    for entry in measured["emboli"]:
        entry["recovery"] = 1.13 if entry["diameter_mm"] == 4 else 1.0
    mark = goal("Contrast of emboli").judge(as_metrics([], phantoms={"decoded": measured}), "decoded")
    assert mark == Mark(False, "1.13 (4 mm; 3 of 4 within)")


def test_every_goal_names_who_asks_for_it(metrics, tmp_path):
    (table,) = [block for block in story(metrics, tmp_path)["In short"].blocks if isinstance(block, Table)]
    source = {row[0].split(":")[0]: row[-1] for row in table.rows}
    assert table.header[-1] == "source" and all(source.values())
    assert "Lloyd" in source["Adequate enhancement (≥ 211 HU) stays so"]
    own = [name for name, text in source.items() if text == "this project"]
    assert {name.split(",")[0].split(" (")[0] for name in own} >= {
        *("Seam index", "Seams found on window planes", "Shift test", "Windows - exact tiles"),
    }


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
    words = [cell.word for row in table.rows for cell in row if isinstance(cell, Mark)]
    assert {"✓ met", "✗ not met", "- not measured"} == set(words)


def test_seams_are_told_or_their_absence(metrics, tmp_path):
    text = said(story(metrics, tmp_path)["In short"])
    assert "2 seams found in 1 case; the highest has 6.4 HU (axis Z, between voxels 95 and 96" in text
    for case in metrics["cases"]:
        case["reconstruction"]["seams"]["found"] = []
    assert "None found where windows meet; in 1 case nothing met." in said(story(metrics, tmp_path)["In short"])
    for case in metrics["cases"]:
        del case["reconstruction"]["seams"], case["decoded"]["seams"], case["tiles"]
        case.pop("shift", None)
    assert "Seams" not in story(metrics, tmp_path)


def test_where_one_window_holds_every_volume_no_seam_is_claimed_or_denied(metrics, tmp_path):
    lone = as_metrics(metrics["cases"][2:])
    assert lone["mean"]["seams_found"] is None
    for name in ("Seams found", "Seam index"):
        mark = goal(name).judge(lone, "reconstruction")
        assert (mark.met, f"{mark.word} {mark.text}") == (None, "- not measured: one window, nothing met")
        assert goal(name).judge(lone, "decoded").text == "one tile, nothing met"
    chapters = story(lone, tmp_path)
    assert "('Seams', 'Not measured: one window, nothing met.')" in said(chapters["In short"])
    assert "('seams', 'not measured', 'one window, nothing met')" in said(chapters["In short"])
    table = chapters["Seams"].blocks[0]
    assert table.rows == [["TS-pulmonary", "n/a", "n/a", "n/a", "n/a", "0", "n/a"]]
    judged = goal("Seams found").judge(metrics, "decoded")
    assert judged.met and "2 of 2 within" in judged.text, "only where windows met"


def test_a_shift_test_tells_its_voxels_or_why_there_was_none(metrics, tmp_path):
    chapter = story(metrics, tmp_path)["Seams"]
    (table,) = [block for block in chapter.blocks if isinstance(block, Table) and "voxels" in block.header]
    assert {row[0]: row[-1] for row in table.rows}["LIDC-0001"] == "90,112"
    assert "TS-pulmonary: no shift test, the volume has less than 129 x 129 x 129 voxels" in said(chapter)


@pytest.mark.parametrize(
    "hu_window, said_so", [([-200, 500], True), ([-1000, 1000], False), ([-1000.0, 1000.0], False), (None, False)]
)
def test_another_range_of_the_network_is_said(metrics, tmp_path, hu_window, said_so):
    told = said(tell_story(metrics, {"hu_window": hu_window}, [], tmp_path)[0])
    assert ("Scored on -1000 to 1000 HU; the network sees -200 to 500." in told) is said_so


def test_the_guide_is_told_and_its_baseline_stands_beside_the_model(metrics, tmp_path):
    chapters = story(metrics, tmp_path)
    chapter = chapters["Against other ways"]
    first = str(chapter.blocks[0])
    assert first.index("guide") == first.index("guide: the patch-wise training guide"), "where it is first named"
    assert any(name == "the guide" for name, _ in chapters["What the numbers mean"].blocks[0].items)
    rows = {(row[0], row[1]): row[2:] for row in chapter.blocks[1].rows}
    name = "the guide's baseline, measured here: network on 256 x 256 x 64, LIDC-0001"
    assert rows[name, "small, 256 x 256 x 64"] == ["35.61", "0.9380", "19.2", "88.0%", "391"]
    assert rows[name, "full"][3:] == ["88.0%", "391"]
    assert rows["here: this model, reconstruction, LIDC-0001", "full"][3:] == ["97.0%", "411"]
    assert rows["here: trilinear, LIDC-0001", "full"][3:] == ["", ""]
    assert chapter.blocks[1].header[-2:] == ["codes used", "perplexity"]


def test_losing_to_a_codec_is_said_and_so_is_winning():
    rows = strict(rivals(0.2, 36.0))
    (reconstruction, decoded) = standing(rows)
    assert "loses to HEVC by 5.9 dB (41.90 dB" in reconstruction
    assert "beats trilinear by 5.3 dB (30.70 dB at 0.1905" in reconstruction
    assert "loses to HEVC by 6.0 dB" in decoded
    assert "JPEG 2000" not in reconstruction, "it was not measured"
    assert "coarse grid of 256 x 256 x 64 alone: no point near this rate (its only one is 1.9300" in reconstruction
    for row in rows:
        row["psnr"] = 30.0 if row["kind"] == "codec" and "psnr" in row else row.get("psnr")
    assert "beats HEVC by 6.0 dB (30.00 dB" in standing(rows)[0]
    for row in rows:
        row["psnr"] = 36.02 if row["kind"] == "codec" else row.get("psnr")
    assert "equals HEVC (36.02 dB" in standing(rows)[0]


@pytest.mark.parametrize("rates, which", [((0.2974, 0.5), "lowest is 0.2974"), ((0.01, 0.02), "highest is 0.0200")])
def test_a_rival_that_does_not_go_so_far_is_named(rates, which):
    model = {"name": "model", "kind": "model", "bits_per_voxel": 0.1, "psnr": 30.0}
    rival = [{"name": "JPEG 2000", "kind": "codec", "bits_per_voxel": rate, "psnr": 31.0} for rate in rates]
    assert standing([model, *rival]) == [
        f"model with 30.00 dB at 0.1000 bits/voxel: JPEG 2000: no point near this rate (its {which} bits/voxel)."
    ]
    exact = [{**rival[0], "bits_per_voxel": 0.1, "psnr": "inf"}]
    assert standing([model, *exact])[0].endswith("JPEG 2000: no point with a rate and a finite PSNR.")


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
    assert ["the guide: its baseline", "resized", "35.3", "0.971", "", "", ""] in rows
    assert any(row[0].endswith("network on 256 x 256 x 64, LIDC-0001") and row[1] == "full" for row in rows)


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
    cases = metrics["cases"][:2]
    for case in cases:
        case["codes"] = {name: counts[:9] for name, counts in case["codes"].items()}  # a large book takes time
    whole = {"cases": cases, **{key: metrics[key] for key in ("mean", "phantoms", "refused")}}
    paths = {}  # each kind of place once: entries of a list are alike, but for rivals of another kind

    def walk(entry, path, place):
        if isinstance(entry, dict):
            for key in entry:
                found = (*place, key)
                if len(path) < 5 and key not in NAMES:
                    paths.setdefault(found, [*path, key])
                walk(entry[key], [*path, key], found)
        elif isinstance(entry, list):
            for index, item in enumerate(entry):
                if isinstance(item, dict):
                    walk(item, [*path, index], (*place, item.get("kind")))

    walk(whole, [], ())
    assert len(paths) > 150
    for path in paths.values():
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
