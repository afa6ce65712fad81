"""Both reconstructions of a case, in every respect."""

import math
import time

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.transforms import Compose

from ctpa_vqgan.data import ReadableCases, ToHUd, find_cases, prepare_volume
from ctpa_vqgan.evaluation import LabelMaps, Reconstructor
from ctpa_vqgan.handlers import CaseJudge, Extent
from ctpa_vqgan.inferers import ExactTileInferer, VQGANInferer
from ctpa_vqgan.networks import VQGAN

WINDOW = (-1000.0, 1000.0)
SIZE = (37, 34, 33)  # no side is a multiple of the factor
NOTHING_LONG = Extent(compared_cases=0, shift_cases=0)
AFFINE = np.diag([-0.8, -0.8, 1.5, 1.0])


class Brighter(VQGAN):
    """A network whose windows come back 20 HU brighter, and whose codes decode to what they do."""

    def forward(self, x):
        return (x + 0.02).clone()


class Stepped(VQGAN):
    """A network whose windows come back brighter by 40 HU in their first quarter."""

    def forward(self, x):
        x = x.clone()
        x[:, :, : x.shape[2] // 4] += 0.04
        return x


def network(kind=VQGAN, **options):
    torch.manual_seed(0)
    return kind(channels=(4, 8), num_embeddings=32, embedding_dim=4, **options).eval()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name, size in (("a", SIZE), ("b", SIZE), ("thin", (40, 36, 8))):
        values = rng.normal(50, 20, size).astype(np.int16)
        values[-3:, -3:], values[-3:, :3] = -900, 400  # some lung and blood, as in a CT
        nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / f"in/{name}.nii.gz")
    return tmp_path


def judge(folder, net, extent=NOTHING_LONG, labels=None, only=None):
    tiles = ExactTileInferer(tile_size=(16, 16, 16))
    inferer = VQGANInferer(roi_size=(16, 16, 8), overlap=0.0, mode="constant")
    labels = labels or LabelMaps(None)
    scores = CaseJudge(Reconstructor(net, inferer, WINDOW, tiles), labels, extent)
    read = Compose([prepare_volume(WINDOW), labels])
    cases = [case for case in find_cases(folder / "in") if only is None or case["case"] in only]
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(ReadableCases(cases, read), batch_size=1),
        network=net,
        inferer=inferer,
        postprocessing=ToHUd(keys="pred", hu_window=WINDOW),
        key_val_metric={"psnr": scores},
    )
    evaluator.run()
    return scores.rows, evaluator


@pytest.fixture
def brighter(folder):
    rows, evaluator = judge(folder, network(Brighter))
    return {row["case"]: row for row in rows}, evaluator


def test_a_known_bias_is_found_everywhere(brighter):
    row = brighter[0]["a"]
    assert row["mae_hu"] == pytest.approx(20, abs=0.5)
    assert row["psnr"] == pytest.approx(20 * math.log10(2000 / 20), abs=0.2)
    details = row["reconstruction"]
    assert details["tissues"]["soft_tissue"]["bias_hu"] == pytest.approx(20, abs=0.5)
    assert details["windows"]["mediastinum"]["mae_hu"] == pytest.approx(20, abs=0.5)
    assert details["regions"]["body"]["bias_hu"] == pytest.approx(20, abs=0.5)
    assert details["by_slice"]["bias_hu"] == pytest.approx([20] * SIZE[2], abs=0.5)
    assert row["body_mae_hu"] == details["regions"]["body"]["mae_hu"]


def test_both_reconstructions_have_the_same_measures(brighter):
    row = brighter[0]["a"]
    assert set(row["decoded"]) == set(row["reconstruction"])
    assert row["decoded_psnr"] < row["psnr"], "codes of an untrained network decode to noise"
    flat = {key for key in row if not isinstance(row[key], (dict, list))}
    scores = {"psnr", "ssim", "mae_hu", "rmse_hu", "body_psnr", "seam_hu", "vessel_dice", "nps_ratio"}
    assert scores | {f"decoded_{key}" for key in scores} <= flat


def test_how_far_windows_are_from_the_whole_is_told(brighter):
    row = brighter[0]["a"]
    assert 0 < row["tile_mean_hu"] <= row["tile_max_hu"]
    assert row["tiles"] == {"max_hu": row["tile_max_hu"], "mean_hu": row["tile_mean_hu"]}


def test_codes_are_counted_and_cost_bits(brighter):
    row = brighter[0]["a"]
    tokens = math.prod(math.ceil(side / 4) for side in SIZE)
    assert sum(row["codes"]["counts"]) == row["num_tokens"] == tokens
    assert row["usage"] == sum(count > 0 for count in row["codes"]["counts"]) / 32
    assert row["bits_per_voxel"] == pytest.approx(tokens * 5 / math.prod(SIZE))


def test_a_case_too_small_for_ssim_has_all_other_scores(brighter):
    row = brighter[0]["thin"]
    assert math.isnan(row["ssim"])
    assert row["mae_hu"] == pytest.approx(20, abs=0.5)


def test_means_of_all_scores_reach_the_engine(brighter):
    metrics = brighter[1].state.metrics
    assert metrics["psnr"] == pytest.approx(40, abs=0.2)
    assert {"decoded_psnr", "body_mae_hu", "usage"} <= set(metrics)


def test_seams_between_windows_are_found_where_they_are(folder):
    row = judge(folder, network(Stepped), only=["a"])[0][0]
    seams = row["reconstruction"]["seams"]
    assert row["window_planes"][0] == [16, 24, 32], "MONAI moves the last window inwards"
    assert row["seams_found"] == len(seams["found"])
    assert {(plane["axis"], plane["plane"]) for plane in seams["found"]} <= {(0, 16), (0, 24), (0, 32)}
    assert seams["axis_hu"][0] > 20 > 2 > seams["axis_hu"][1]


def test_label_maps_tell_the_mean_before_and_after(folder):
    values = np.zeros(SIZE, np.uint8)
    values[4:12, 4:12, 4:12] = 3  # soft tissue
    (folder / "labels").mkdir()
    nib.save(nib.Nifti1Image(values, AFFINE), folder / "labels/a.nii.gz")
    rows, _ = judge(folder, network(Brighter), labels=LabelMaps(folder / "labels", {"artery": 3}), only=["a", "b"])
    artery = rows[0]["reconstruction"]["labels"]["artery"]
    source = np.asarray(nib.load(folder / "in/a.nii.gz").dataobj)
    assert artery["original_mean_hu"] == pytest.approx(source[values == 3].mean())
    assert artery["mean_hu"] - artery["original_mean_hu"] == pytest.approx(20, abs=0.5)
    assert artery["num_voxels"] == 512
    assert "labels" not in rows[1]["reconstruction"]


def test_the_first_cases_are_set_against_rivals_and_shifted(folder):
    rows, _ = judge(folder, network(Brighter), Extent(compared_cases=1, shift_cases=2, codecs=()))
    assert ["against" in row for row in rows] == [True, False, False]
    assert ["shift_sd_hu" in row for row in rows] == [True, True, False]
    assert "skipped" in rows[0]["shift"] and math.isnan(rows[0]["shift_sd_hu"]), "a small volume is all border"
    kinds = [rival["kind"] for rival in rows[0]["against"]]
    assert kinds[:2] == ["model", "model"]
    assert {"baseline", "interpolation"} <= set(kinds)
    assert rows[0]["against"][0]["psnr"] == rows[0]["psnr"]
    baseline = next(rival for rival in rows[0]["against"] if rival["kind"] == "baseline")
    assert "not larger than 256 x 256 x 64" in baseline["skipped"]


def test_a_network_without_exact_tiles_is_judged_by_its_windows(folder):
    torch.manual_seed(0)
    net = VQGAN(channels=(8, 8), num_embeddings=16, embedding_dim=4, norm="group").eval()
    rows, _ = judge(folder, net, Extent(compared_cases=1, shift_cases=1, codecs=()), only=["a"])
    assert "reconstruction" in rows[0]
    assert "decoded" not in rows[0] and "codes" not in rows[0] and "tiles" not in rows[0]
    assert rows[0]["bits_per_voxel"] == pytest.approx(4 / 64, rel=0.5)


def test_a_label_map_of_another_grid_costs_its_case_alone(folder):
    (folder / "labels").mkdir()
    nib.save(nib.Nifti1Image(np.ones((8, 8, 8), np.uint8), AFFINE), folder / "labels/a.nii.gz")
    rows, evaluator = judge(folder, network(Brighter), labels=LabelMaps(folder / "labels"), only=["a", "b"])
    assert [row["case"] for row in rows] == ["b"]
    assert "(37, 34, 33)" in evaluator.data_loader.dataset.refused["a"]


def test_the_time_is_that_of_the_reconstruction(folder, monkeypatch):
    def slow(*_):
        time.sleep(0.5)
        return 0.0

    monkeypatch.setattr("ctpa_vqgan.handlers.judging.headline", lambda details: {"slow": slow()})
    rows, _ = judge(folder, network(Brighter), only=["a"])
    assert 0 < rows[0]["seconds"] < 0.5
    assert rows[0]["decoded_seconds"] > 0


def test_a_large_volume_goes_through_the_network_on_the_coarse_grid_too(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(50, 20, (33, 33, 72)).astype(np.int16)
    values[-3:, -3:], values[-3:, :3] = -900, 400
    (tmp_path / "in").mkdir()
    nib.save(nib.Nifti1Image(values, AFFINE), tmp_path / "in/long.nii.gz")
    rows, _ = judge(tmp_path, network(Brighter), Extent(compared_cases=1, shift_cases=0, codecs=()))
    baseline = next(rival for rival in rows[0]["against"] if rival["kind"] == "baseline")
    assert baseline["small_size"] == [33, 33, 64]
    assert baseline["small_mae_hu"] == pytest.approx(20, abs=1)
    assert baseline["mae_hu"] > baseline["small_mae_hu"] - 1
    assert 0 < baseline["usage"] <= 1
