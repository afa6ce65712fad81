"""Scores, volumes and reports of an evaluation by MONAI's own evaluator."""

import csv
import json
import math

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator

from ctpa_vqgan.data import ReadableCases, ToHUd, find_cases, prepare_volume
from ctpa_vqgan.errors import Stopped, UserError
from ctpa_vqgan.evaluation import CaseFiles
from ctpa_vqgan.files import Claim
from ctpa_vqgan.handlers import CaseScores, CaseWriter
from ctpa_vqgan.inferers import VQGANInferer
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.ranks import Shard

WINDOW = (-1000.0, 1000.0)
SIZE = (37, 34, 33)  # no side is a multiple of the factor


class Identity(torch.nn.Module):
    """Gives back what it gets, and has the codes of a small network."""

    calls = 0

    def __init__(self, offset_hu=0.0):
        super().__init__()
        self.coder, self.offset = VQGAN(channels=(4, 8), num_embeddings=32, embedding_dim=4), offset_hu / 1000
        self.factor, self.halo, self.quantizer = self.coder.factor, self.coder.halo, self.coder.quantizer
        self.num_embeddings, self.embedding_dim, self.out_channels = 32, 4, 1
        self.encode, self.decode_samples = self.coder.encode, self.coder.decode_samples

    def forward(self, x):
        self.calls += 1
        return (x + self.offset).clone()


@pytest.fixture
def folder(tmp_path):
    """Two volumes within the HU window, in an orientation that is not RAS."""
    rng = np.random.default_rng(0)
    affine = np.array([[0, 0, -1.5, 30], [-0.7, 0, 0, 20], [0, 0.8, 0, -10], [0, 0, 0, 1.0]])
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        nib.save(
            nib.Nifti1Image(rng.integers(-1000, 900, SIZE).astype(np.int16), affine), tmp_path / f"in/{name}.nii.gz"
        )
    return tmp_path


def evaluate(folder, network, writer=True, shard=None, made_by="one", **options):
    scores = CaseScores(network, WINDOW)
    cases, handlers = ReadableCases(find_cases(folder / "in"), prepare_volume(WINDOW)), []
    if writer:
        files = CaseFiles(folder / "out", {"network": made_by})
        handlers = [CaseWriter(folder / "out", scores, files, shard=shard, **options)]
        cases.is_done = handlers[0].is_done
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(cases),
        network=network,
        inferer=VQGANInferer(roi_size=(16, 16, 8)),
        postprocessing=ToHUd(keys="pred", hu_window=WINDOW),
        key_val_metric={"psnr": scores},
        val_handlers=handlers,
    )
    evaluator.run()
    return evaluator, scores


def metrics(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads((folder / "out/metrics.json").read_text(), parse_constant=refuse)


def test_a_constant_error_has_the_scores_computed_by_hand(folder):
    evaluate(folder, Identity(offset_hu=20.0))
    for case in metrics(folder)["cases"]:
        assert case["mae_hu"] == pytest.approx(20.0, abs=0.01)
        assert case["psnr"] == pytest.approx(20 * math.log10(2000 / 20), abs=0.01)
        tokens = math.prod(math.ceil(side / 4) for side in SIZE)
        assert case["num_tokens"] == tokens
        assert case["bits_per_voxel"] == pytest.approx(tokens * 5 / math.prod(SIZE))


def test_metrics_hold_what_other_work_relies_on(folder):
    evaluate(folder, Identity(offset_hu=20.0))
    content = metrics(folder)
    assert [case["case"] for case in content["cases"]] == ["a", "b"]
    for key in ("psnr", "ssim", "mae_hu", "bits_per_voxel", "usage", "perplexity"):
        assert content["mean"][key] == pytest.approx(np.mean([case[key] for case in content["cases"]]))
    with (folder / "out/per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["a", "b"]
    assert float(rows[0]["psnr"]) == pytest.approx(content["cases"][0]["psnr"])


def test_a_reconstruction_lies_on_the_grid_of_its_input(folder):
    evaluate(folder, Identity())
    for name in ("a", "b"):
        source = nib.load(folder / f"in/{name}.nii.gz")
        result = nib.load(folder / f"out/{name}_reconstruction.nii.gz")
        assert result.shape == source.shape
        assert result.get_data_dtype() == np.int16
        np.testing.assert_allclose(result.affine, source.affine, atol=1e-5)
        np.testing.assert_array_equal(np.asarray(result.dataobj), np.asarray(source.dataobj))


def test_identical_volumes_break_neither_scores_nor_files(folder):
    evaluator, scores = evaluate(folder, Identity())
    assert all(math.isinf(row["psnr"]) for row in scores.rows)
    content = metrics(folder)
    assert [case["psnr"] for case in content["cases"]] == ["inf", "inf"]
    assert content["mean"]["psnr"] is None
    assert content["mean"]["mae_hu"] == 0
    assert math.isnan(evaluator.state.metrics["psnr"])


def test_one_infinite_score_is_left_out_of_the_mean(folder):
    _, scores = evaluate(folder, Identity(offset_hu=20.0), writer=False)
    scores.rows[0]["psnr"] = math.inf
    assert scores.compute() == pytest.approx(40.0, abs=0.01)


def test_every_mean_is_in_the_state_of_the_engine(folder):
    evaluator, _ = evaluate(folder, Identity(offset_hu=20.0), writer=False)
    assert evaluator.state.metrics["psnr"] == pytest.approx(40.0, abs=0.01)
    assert evaluator.state.metrics["mae_hu"] == pytest.approx(20.0, abs=0.01)
    assert {"ssim", "usage", "perplexity", "body_perplexity"} <= set(evaluator.state.metrics)


def test_a_second_run_forgets_the_cases_of_the_first(folder):
    evaluator, scores = evaluate(folder, Identity(offset_hu=20.0), writer=False)
    evaluator.run()
    assert [row["case"] for row in scores.rows] == ["a", "b"]


def test_a_network_without_exact_tiles_is_scored_without_codes(folder):
    network = VQGAN(channels=(8, 8), num_embeddings=16, embedding_dim=4, norm="group")
    evaluate(folder, network)
    case = metrics(folder)["cases"][0]
    assert "psnr" in case
    assert case["bits_per_voxel"] == pytest.approx(4 / 64, rel=0.5)  # 16 codes for 4x4x4 voxels, and padding
    assert "usage" not in case


def test_volumes_can_be_left_out(folder):
    evaluate(folder, Identity(offset_hu=20.0), volumes=False)
    assert sorted(path.name for path in (folder / "out").iterdir()) == ["cases", "metrics.json", "per_case.csv"]


def damage(folder, name):
    path = folder / f"in/{name}.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    return path


def test_a_damaged_volume_is_told_and_costs_no_other(folder, capsys):
    path = damage(folder, "a")
    with pytest.raises(Stopped, match=r"1 of 2 volumes were left out, see .*metrics\.json") as stopped:
        evaluate(folder, Identity())
    assert stopped.value.code == 3
    assert f"left out: {path}: [gzip]" in capsys.readouterr().err
    assert [case["case"] for case in metrics(folder)["cases"]] == ["b"]
    (refused,) = metrics(folder)["refused"]
    assert refused["case"] == "a" and refused["error"].startswith(str(path))


def test_nothing_but_damaged_volumes_is_an_error(folder):
    damage(folder, "a"), damage(folder, "b")
    with pytest.raises(UserError, match=r"a\.nii\.gz: \[gzip\]"):
        evaluate(folder, Identity())
    assert not (folder / "out/metrics.json").exists()


def test_a_full_disk_ends_the_run_and_the_same_command_goes_on_after_it(folder, monkeypatch):
    save = CaseFiles.save

    def full(self, case, row):
        if case["case"] == "b":
            raise UserError("b.json: could not be written (No space left on device)")
        save(self, case, row)

    monkeypatch.setattr(CaseFiles, "save", full)
    with pytest.raises(UserError, match="No space left"):
        evaluate(folder, Identity())
    monkeypatch.setattr(CaseFiles, "save", save)
    _, scores = evaluate(folder, Identity())
    assert [row["case"] for row in scores.rows] == ["b"], "a was kept"
    assert [case["case"] for case in metrics(folder)["cases"]] == ["a", "b"]


def test_a_case_is_done_again_only_if_its_row_volume_network_or_source_is_another(folder, capsys):
    def calls(made_by="one"):
        network = Identity()
        evaluate(folder, network, made_by=made_by)
        assert [case["case"] for case in metrics(folder)["cases"]] == ["a", "b"]
        return network.calls

    both = calls()
    assert calls() == 0
    (folder / "out/a_reconstruction.nii.gz").unlink()
    assert calls() == both / 2
    (folder / "out/cases/b.json").unlink()
    assert calls() == both / 2
    assert calls(made_by="two") == both
    values = np.asarray(nib.load(folder / "in/b.nii.gz").dataobj)
    nib.save(nib.Nifti1Image(values[::-1], np.diag([0.7, 0.8, 1.5, 1])), folder / "in/b.nii.gz")
    assert calls(made_by="two") == both / 2
    assert "1 of 2 cases were judged before" in capsys.readouterr().out


def test_shards_leave_volumes_and_tables_of_all_cases(folder, capsys):
    evaluate(folder, Identity(), shard=Shard.of("2/3"))
    assert "1 of 2 cases are done; the rest is for other shards" in capsys.readouterr().out
    evaluate(folder, Identity(), shard=Shard.of("3/3"))
    assert "shard 3/3: no case is left for it: there are 2" in capsys.readouterr().out
    evaluate(folder, Identity(), shard=Shard.of("1/3"))
    shared = metrics(folder)
    evaluate(folder, Identity(), made_by="another")
    alone = metrics(folder)
    for row in (*shared["cases"], *alone["cases"], shared["mean"], alone["mean"]):
        del row["seconds"]
    assert shared == alone
    assert all((folder / f"out/{name}_reconstruction.nii.gz").is_file() for name in "ab")


def test_what_a_shard_refused_is_told_by_the_last_one(folder):
    damage(folder, "a")
    with pytest.raises(Stopped):
        evaluate(folder, Identity(), shard=Shard.of("1/2"))
    evaluate(folder, Identity(), shard=Shard.of("2/2"))
    assert [row["case"] for row in metrics(folder)["cases"]] == ["b"]
    assert [row["case"] for row in metrics(folder)["refused"]] == ["a"]


def test_scores_of_another_network_are_not_told_with_those_of_a_shard(folder):
    evaluate(folder, Identity(), shard=Shard.of("2/2"), made_by="one")
    evaluate(folder, Identity(), shard=Shard.of("1/2"), made_by="two")
    assert [case["case"] for case in metrics(folder)["cases"]] == ["a"]


def test_two_processes_do_not_do_the_same_case_at_once(folder):
    busy = Claim(folder / "out/cases")
    with pytest.raises(UserError, match="works there"):
        evaluate(folder, Identity())
    busy.release()
    evaluate(folder, Identity())
