import math

import numpy as np
import pytest
import torch

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.rivals import CODECS, compare_with_rivals

MODEL = {"name": "this model", "kind": "model", "bits_per_voxel": 0.2}
SPACING_MM = (0.7, 0.7, 2.5)


def identity(volume):
    return volume, {"bits": 45 * 36 * 20 / 2, "usage": 0.9, "perplexity": 100.0}


def compare(scan, reconstruct=identity, codecs=(), small_size=(20, 36, 64), **more):
    return compare_with_rivals(scan, SPACING_MM, reconstruct, [MODEL], codecs, small_size, **more)


def test_what_a_perfect_network_loses_is_the_coarse_grid_alone(scan):
    model, baseline, grid, _ = compare(scan)
    assert model is MODEL and (baseline["kind"], grid["kind"]) == ("baseline", "interpolation")
    assert baseline["small_psnr"] == math.inf and baseline["small_ssim"] == 1 and baseline["small_mae_hu"] == 0
    assert baseline["small_size"] == [20, 36, 20]
    for key in ("psnr", "ssim", "mae_hu", "rmse_hu", "body_psnr", "body_mae_hu", "body_rmse_hu"):
        assert baseline[key] == grid[key] and 0 < grid[key] < math.inf


def test_an_error_of_the_network_shows_on_both_grids(scan):
    flat = np.full_like(scan, 40)  # nothing to lose by shrinking
    off = compare(flat, lambda volume: (volume + 10, None))[1]
    assert off["small_mae_hu"] == off["mae_hu"] == pytest.approx(10, abs=0.01)
    assert off["small_psnr"] == pytest.approx(20 * math.log10(2000 / 10), abs=0.01)


def test_a_volume_that_is_not_larger_than_the_grid_has_no_baseline(scan):
    rows = compare(scan, small_size=(64, 64, 64))
    assert [row["kind"] for row in rows] == ["model", "baseline", "interpolation", "interpolation"]
    for row in rows[1:3]:
        assert row["skipped"] == "the volume is not larger than 64 x 64 x 64, there is nothing to shrink"


def test_bits_are_counted_on_the_full_grid(scan):
    _, baseline, grid, trilinear = compare(scan)
    assert baseline["bits_per_voxel"] == 0.5
    assert grid["bits_per_voxel"] == pytest.approx(16 * 20 / 45)
    assert trilinear["bits_per_voxel"] == pytest.approx(MODEL["bits_per_voxel"], rel=0.2)
    assert (baseline["usage"], baseline["perplexity"]) == (0.9, 100.0)


def test_the_setting_says_which_axes_stayed(scan):
    _, baseline, grid, _ = compare(scan)
    assert "20 x 36 x 20 voxels of 1.57 x 0.70 x 2.50 mm" in baseline["setting"]
    assert "Y, Z as it was" in baseline["setting"] and "16 bits each" in grid["setting"]


def test_codes_are_not_needed(scan):
    baseline = compare(scan, lambda volume: (volume, None))[1]
    assert math.isnan(baseline["bits_per_voxel"]) and "usage" not in baseline


def test_a_network_that_does_not_fit_is_skipped_with_its_reason(scan):
    def refuses(volume):
        raise UserError("no memory for a window; take a smaller one")

    rows = compare(scan, refuses)
    assert rows[1]["skipped"] == "no memory for a window; take a smaller one" and len(rows) == 4


def test_a_codec_has_a_curve_around_the_rate_of_the_model(codec, scan):
    name = next(name for name, codec_class in CODECS.items() if isinstance(codec, codec_class))
    rows = compare(scan, codecs=(name,))[4:]
    rates, scores = ([row[key] for row in rows] for key in ("bits_per_voxel", "psnr"))
    assert len(rows) >= 2 and rates == sorted(rates) and scores == sorted(scores)
    assert {row["kind"] for row in rows} == {"codec"} and all(row["seconds"] > 0 for row in rows)


def test_a_missing_codec_is_skipped_with_the_way_out(scan, monkeypatch):
    def missing():
        raise UserError("HEVC needs PyAV")

    missing.name = "HEVC"
    monkeypatch.setitem(CODECS, "hevc", missing)
    assert compare(scan, codecs=("hevc",))[4:] == [{"name": "HEVC", "kind": "codec", "skipped": "HEVC needs PyAV"}]


def test_texture_is_taken_from_who_has_measured_it(scan):
    class Structure:
        def compare(self, reconstruction):
            assert tuple(reconstruction.shape) == scan.shape
            return {"noise": {"nps_ratio": 0.66}}

    assert {row["nps_ratio"] for row in compare(scan, structure=Structure())[1:]} == {0.66}
    assert all(math.isnan(row["nps_ratio"]) for row in compare(scan)[1:])


def test_tensors_and_arrays_are_alike(scan):
    rows, of_tensor = compare(scan)[1:], compare(torch.from_numpy(scan.astype(np.float32)))[1:]
    assert [r["rmse_hu"] for r in rows] == pytest.approx([r["rmse_hu"] for r in of_tensor], rel=1e-6)


def test_each_rival_is_announced(scan):
    said = []
    compare(scan, progress=said.append)
    assert said == ["network on 20 x 36 x 20", "coarse grid of 20 x 36 x 20 alone", "trilinear interpolation"]


def test_an_unknown_codec_is_refused(scan):
    with pytest.raises(ValueError, match="codecs must be some of hevc, jpeg2000, found vvc"):
        compare(scan, codecs=("vvc",))
