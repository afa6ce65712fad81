"""What an evaluation writes, read back the way its readers do: json, csv, eyes."""

import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from ctpa_vqgan.metrics import volume_fidelity
from ctpa_vqgan.report import format_summary, write_metrics, write_report
from ctpa_vqgan.report.columns import heading, show
from ctpa_vqgan.report.planes import body_centre, plane_image

CASES = [
    {"case": "a|b", "psnr": 30.0, "ssim": 0.9, "mae_hu": 10.0, "decoded_psnr": 29.0, "grid": [4, 4, 4]},
    {"case": "identical", "psnr": math.inf, "ssim": 1.0, "mae_hu": 0.0, "decoded_psnr": 31.0, "grid": [4, 4, 4]},
    {"case": "thin", "psnr": np.float32(40), "ssim": math.nan, "mae_hu": torch.tensor(2.0), "decoded_psnr": 33.0},
]


def strictly(text):
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_metrics_json_is_strict_and_is_what_was_returned(tmp_path):
    metrics = write_metrics(
        tmp_path / "new" / "eval", CASES, extra={"codebook": {"usage": 0.5, "body_usage": math.nan}}
    )
    assert strictly((tmp_path / "new" / "eval" / "metrics.json").read_text()) == metrics
    assert [case["psnr"] for case in metrics["cases"]] == [30, "inf", 40]
    assert metrics["cases"][2]["ssim"] is None
    assert metrics["codebook"] == {"usage": 0.5, "body_usage": None}


def test_means_are_over_finite_values_and_say_what_they_leave_out(tmp_path):
    metrics = write_metrics(tmp_path, CASES)
    assert metrics["mean"] == pytest.approx({"psnr": 35, "ssim": 0.95, "mae_hu": 4, "decoded_psnr": 31})
    assert metrics["num_infinite"] == {"psnr": 1}
    assert metrics["num_missing"] == {"ssim": 1}


def test_a_volume_compared_with_itself_goes_all_the_way_to_the_summary(tmp_path):
    volume = np.zeros((8, 8, 8), np.int16)
    metrics = write_metrics(tmp_path, [{"case": "same", **volume_fidelity(volume, volume)}])
    assert metrics["cases"][0]["psnr"] == "inf"
    assert metrics["mean"]["psnr"] is None
    summary = format_summary(metrics)
    assert "PSNR [dB]: 1 of 1 cases infinite (identical volumes), left out of the mean." in summary
    assert "n/a (under 11 voxels)" in summary


def test_per_case_csv_has_a_row_a_case_and_only_single_values(tmp_path):
    write_metrics(tmp_path, CASES)
    with open(tmp_path / "per_case.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case", "psnr", "ssim", "mae_hu", "decoded_psnr"]
    assert [float(row["psnr"]) for row in rows] == [30, math.inf, 40]
    assert rows[2]["ssim"] == ""


def test_a_failed_write_leaves_the_earlier_files(tmp_path):
    write_metrics(tmp_path, CASES)
    before = (tmp_path / "metrics.json").read_text()
    with pytest.raises(ValueError, match="no name"):
        write_metrics(tmp_path, [{"psnr": 1.0}])
    with pytest.raises(ValueError, match="must not hold"):
        write_metrics(tmp_path, CASES, extra={"mean": {}})
    assert (tmp_path / "metrics.json").read_text() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "per_case.csv"]


def test_the_report_tells_results_definitions_and_how_it_was_run(tmp_path):
    metrics = strictly(json.dumps(write_metrics(tmp_path, CASES)))
    settings = {"command": "python -m ctpa_vqgan evaluate", "hardware": "1 GPU\n16 cores"}
    path = write_report(tmp_path, metrics, "Evaluation", settings, [str(tmp_path / "my montage.png"), "b.png"])
    text = path.read_text()
    assert path == tmp_path / "report.md"
    assert text.startswith("# Evaluation\n")
    assert "| case | PSNR [dB] | SSIM | MAE [HU] | decoded PSNR [dB] |" in text
    assert "| a\\|b | 30.00 | 0.9000 | 10.00 | 29.00 |" in text
    assert "| identical | ∞ | 1.0000 | 0.00 | 31.00 |" in text
    assert "| thin | 40.00 | n/a (under 11 voxels) | 2.00 | 33.00 |" in text
    assert "| **mean of 3** | **35.00** | **0.9500** | **4.00** | **31.00** |" in text
    assert text.count("- **PSNR [dB]**: ") == 1
    assert text.count("columns that begin with decoded") == 1
    assert "- **command**: `python -m ctpa_vqgan evaluate`" in text
    assert "  16 cores\n" in text
    assert "![my montage](my%20montage.png)" in text and "![b](b.png)" in text


def test_the_summary_names_the_worst_case(tmp_path):
    summary = format_summary(write_metrics(tmp_path, CASES))
    assert summary.startswith("3 cases, mean:")
    assert "lowest PSNR: a|b (30.00 dB)" in summary


def test_headings_read_as_words_and_counts_as_counts():
    assert heading("decoded_body_ssim") == "decoded body SSIM"
    assert heading("second_try_psnr") == "second try PSNR [dB]"
    assert heading("decoded_seconds") == "decoded time [s]"
    assert [show("seams_found", value) for value in (0, 2, 20, 1 / 3, 12.5)] == ["0", "2", "20", "0.33", "12.5"]
    assert show("seams_found", None) == "n/a"


def test_planes_are_turned_the_radiological_way():
    volume = np.zeros((3, 4, 5))
    volume[-1, -1, -1] = 1  # right, front, head
    assert plane_image(volume, "axial", 4).shape == (4, 3)
    assert plane_image(volume, "axial", 4)[0, 0] == 1  # front on top, right on the left
    assert plane_image(volume, "coronal", 3).shape == (5, 3)
    assert plane_image(volume, "coronal", 3)[0, 0] == 1  # head on top, right on the left
    assert plane_image(volume, "sagittal", 2).shape == (5, 4)
    assert plane_image(volume, "sagittal", 2)[0, 0] == 1  # head on top, front on the left


def test_the_slices_go_through_the_body_and_not_through_the_air_beside_it():
    volume = np.full((300, 40, 20), -1000, np.int16)
    volume[200:261, 5:16, 10] = 40
    assert body_centre(volume) == (230, 10, 10)
    assert body_centre(np.full((8, 6, 4), -1000)) == (4, 3, 2)


def test_importing_the_report_loads_neither_matplotlib_nor_torch():
    code = "import sys, ctpa_vqgan.report; print({'matplotlib', 'torch', 'monai'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
