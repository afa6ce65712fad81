"""The folder that an evaluation leaves, also when it is stopped in the middle."""

import contextlib
import csv
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator

from ctpa_vqgan.data import ReadableCases, ToHUd, find_cases, prepare_volume
from ctpa_vqgan.errors import Stopped, UserError
from ctpa_vqgan.evaluation import CaseFiles, Reconstructor
from ctpa_vqgan.files import Claim
from ctpa_vqgan.handlers import CaseJudge, Extent, ReportWriter
from ctpa_vqgan.inferers import VQGANInferer
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.precision import full_precision
from ctpa_vqgan.quality_phantom import measure_phantoms
from ctpa_vqgan.ranks import Shard

WINDOW = (-1000.0, 1000.0)


class Identity(VQGAN):
    """A network whose windows come back as they are, and which counts them."""

    calls = 0

    def forward(self, x):
        self.calls += 1
        return x.clone()


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in "abc":
        values = rng.normal(50, 20, (34, 33, 12)).astype(np.int16)
        values[-3:, -3:], values[-3:, :3] = -900, 400  # some lung and blood, as in a CT
        nib.save(nib.Nifti1Image(values, np.diag([-0.8, -0.8, 1.5, 1.0])), tmp_path / f"in/{name}.nii.gz")
    return tmp_path


NOTHING_LONG = Extent(compared_cases=0, shift_cases=0)


def run(folder, made_by=None, stop_at=None, extent=NOTHING_LONG, **options):
    torch.manual_seed(0)
    network = Identity(channels=(4, 8), num_embeddings=32, embedding_dim=4).eval()
    inferer = VQGANInferer(roi_size=(16, 16, 8))
    scores = CaseJudge(Reconstructor(network, inferer, WINDOW), extent=extent)
    files = CaseFiles(folder / "out", made_by or {"network": "one"})
    transform = prepare_volume(WINDOW)

    def read(case):
        if case["case"] == stop_at:
            raise KeyboardInterrupt
        return transform(case)

    options = {"phantoms": False, "pictured_cases": 0, "progress": False, **options}  # pictures take seconds
    writer = ReportWriter(folder / "out", scores, files, **options)
    cases = ReadableCases(find_cases(folder / "in"), read, writer.is_done)
    evaluator = SupervisedEvaluator(
        device="cpu",
        val_data_loader=DataLoader(cases, batch_size=1),
        network=network,
        inferer=inferer,
        postprocessing=ToHUd(keys="pred", hu_window=WINDOW),
        key_val_metric={"psnr": scores},
        val_handlers=[writer],
    )
    evaluator.run()
    return network.calls


def metrics(folder):
    return json.loads((folder / "out/metrics.json").read_text())


def test_a_report_comes_with_tables_pictures_and_volumes(folder):
    run(folder, settings={"weights": "none"}, pictured_cases=2)
    written = {path.name for path in (folder / "out").iterdir()}
    assert {"report.html", "report.md", "metrics.json", "per_case.csv", "montage.png", "tissues.png"} <= written
    assert {f"{kind}_{case}.png" for kind in ("montage", "slices", "codes") for case in "ab"} <= written
    assert {f"{case}_reconstruction.nii.gz" for case in "abc"} <= written
    assert "weights" in (folder / "out/report.html").read_text()
    with (folder / "out/per_case.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == ["a", "b", "c"]
    assert float(rows[0]["reconstruction.tissues.soft_tissue.bias_hu"]) == 0


def test_an_identical_reconstruction_is_told_and_leaves_a_report(folder):
    run(folder)
    found = metrics(folder)
    assert [case["psnr"] for case in found["cases"]] == ["inf"] * 3
    assert found["mean"]["psnr"] is None and found["num_infinite"]["psnr"] == 3
    assert found["mean"]["mae_hu"] == 0
    for page in ("report.md", "report.html"):
        assert "∞" in (folder / "out" / page).read_text()


def test_only_the_worst_cases_are_pictured(folder):
    run(folder, pictured_cases=1)
    pictured = sorted(path.name for path in (folder / "out").glob("montage_*.png"))
    assert len(pictured) == 1
    assert (folder / "out/montage.png").read_bytes() == (folder / "out" / pictured[0]).read_bytes()


def test_none_need_be_pictured(folder):
    run(folder)
    assert not list((folder / "out").glob("montage*.png"))


def test_a_stopped_evaluation_goes_on_with_the_next_case(folder, capsys):
    with pytest.raises(KeyboardInterrupt):
        run(folder, stop_at="c")
    assert sorted(path.name for path in (folder / "out/cases").iterdir()) == ["a.json", "b.json"]
    whole = run(folder, made_by={"network": "two"})
    assert run(folder, made_by={"network": "two"}) == 0, "nothing is left to reconstruct"
    assert "3 of 3 cases were judged before" in capsys.readouterr().out
    assert run(folder) == whole, "the other network's files were overwritten"


def test_the_rest_of_a_stopped_evaluation_makes_it_whole(folder):
    with pytest.raises(KeyboardInterrupt):
        run(folder, stop_at="c")
    rest = run(folder)
    resumed = metrics(folder)
    again = {"network": "two"}
    assert rest * 3 == run(folder, made_by=again)
    expected = metrics(folder)
    for found in (resumed, expected):
        for case in found["cases"]:
            del case["seconds"], case["decoded_seconds"]
        del found["mean"]["seconds"], found["mean"]["decoded_seconds"]
    assert resumed == expected


def test_a_damaged_volume_is_told_and_costs_no_other(folder):
    (folder / "in/b.nii.gz").write_bytes((folder / "in/b.nii.gz").read_bytes()[:200])
    with pytest.raises(Stopped) as stopped:
        run(folder)
    assert stopped.value.code == 3
    found = metrics(folder)
    assert [case["case"] for case in found["cases"]] == ["a", "c"]
    assert [refused["case"] for refused in found["refused"]] == ["b"]
    assert "b.nii.gz" in found["refused"][0]["error"]
    for page in ("report.md", "report.html"):
        assert found["refused"][0]["error"].split(":")[1][:20] in (folder / "out" / page).read_text()


def test_nothing_but_damaged_volumes_is_an_error(folder):
    for path in (folder / "in").iterdir():
        path.write_bytes(b"no volume")
    with pytest.raises(UserError, match=r"a\.nii\.gz"):
        run(folder)
    assert not (folder / "out/metrics.json").exists()


def test_use_of_the_codebook_is_told_over_all_cases(folder):
    run(folder)
    found = metrics(folder)
    counts = np.sum([case["codes"]["counts"] for case in found["cases"]], axis=0)
    assert found["codebook"]["num_tokens"] == counts.sum()
    assert found["codebook"]["usage"] == (counts > 0).sum() / 32


def test_phantoms_are_measured_once_for_a_network(folder, monkeypatch):
    measured = []

    def coarse(reconstruct, progress):
        measured.append(reconstruct)
        return measure_phantoms(reconstruct, spacing_mm=(1.4, 1.4, 4.0), progress=progress)  # few voxels

    monkeypatch.setattr("ctpa_vqgan.handlers.reporting.measure_phantoms", coarse)
    run(folder, phantoms=True)
    run(folder, phantoms=True)
    assert len(measured) == 2, "by windows and by codes, in the first run only"
    found = metrics(folder)["phantoms"]
    assert found["reconstruction"]["linearity"]["slope"] == pytest.approx(1, abs=0.01), "windows come back as they are"
    assert abs(found["decoded"]["linearity"]["slope"] - 1) > 0.1
    assert "phantoms.png" in (folder / "out/report.md").read_text()


def test_more_comparisons_than_before_judge_so_many_cases_anew(folder, capsys):
    run(folder)
    one = run(folder, extent=Extent(compared_cases=1, shift_cases=0, codecs=()))
    assert "a: judged anew, as what an earlier run found lacks against" in capsys.readouterr().err
    assert one > 0
    assert ["against" in case for case in metrics(folder)["cases"]] == [True, False, False]
    assert run(folder, extent=Extent(compared_cases=1, shift_cases=0, codecs=())) == 0
    (folder / "in/a.nii.gz").unlink()
    run(folder, extent=Extent(compared_cases=1, shift_cases=0, codecs=()))
    assert ["against" in case for case in metrics(folder)["cases"]] == [True, False], "another case takes its place"


def test_a_damaged_case_does_not_use_up_the_comparison(folder):
    (folder / "in/a.nii.gz").write_bytes(b"no volume")
    with pytest.raises(Stopped):
        run(folder, extent=Extent(compared_cases=1, shift_cases=0, codecs=()))
    assert ["against" in case for case in metrics(folder)["cases"]] == [True, False]


def test_volumes_that_an_earlier_run_left_out_are_made(folder):
    run(folder, volumes=False)
    assert not list((folder / "out").glob("*.nii.gz"))
    assert run(folder) > 0
    assert len(list((folder / "out").glob("*.nii.gz"))) == 3


def test_pictures_that_are_missing_are_told(folder, capsys):
    run(folder)
    run(folder, pictured_cases=1)
    assert "no pictures of a: the run that judged them drew none" in capsys.readouterr().err


def test_a_picture_of_an_earlier_run_is_not_taken_for_one_of_this(folder):
    run(folder, extent=Extent(compared_cases=1, shift_cases=0, codecs=()), pictured_cases=1)
    assert (folder / "out/rates_a.png").is_file()
    run(folder, made_by={"network": "two"}, pictured_cases=1)
    assert "rates_a.png" not in (folder / "out/report.md").read_text()
    assert not (folder / "out/rates_a.png").exists()


def test_a_row_of_another_commit_is_told_so(folder):
    run(folder, settings={"commit": "abc", "date": "then"})
    run(folder, settings={"commit": "def", "date": "now"})
    assert "a was judged" in (folder / "out/report.md").read_text()
    assert metrics(folder)["settings"]["a was judged"] == "abc, then"


# -- shards ------------------------------------------------------------------------------------------------------------


def shard(text):
    return Shard.of(text)


def alone(folder, **options):
    """A folder of the same volumes in which one process judges all."""
    shutil.copytree(folder / "in", folder / "alone/in")
    with contextlib.suppress(Stopped):
        run(folder / "alone", **options)
    return folder / "alone"


def without_times(folder):
    found = metrics(folder)
    for row in (*found["cases"], found["mean"]):
        del row["seconds"], row["decoded_seconds"]
    return found


COMPARED = Extent(compared_cases=2, shift_cases=1, codecs=())


@pytest.mark.parametrize("parts", [("1/2", "2/2"), ("2/2", "1/2"), ("3/4", "4/4", "1/4", "2/4")])
def test_shards_leave_the_numbers_of_one_process_in_any_order(folder, parts):
    for part in parts:
        run(folder, shard=shard(part))
    assert without_times(folder) == without_times(alone(folder))
    with (folder / "out/per_case.csv").open() as one, (folder / "alone/out/per_case.csv").open() as other:
        assert [row["case"] for row in csv.DictReader(one)] == [row["case"] for row in csv.DictReader(other)]
    assert {path.name for path in (folder / "out").iterdir()} == {
        path.name for path in (folder / "alone/out").iterdir()
    }


def test_shards_tell_what_is_left_for_others(folder, capsys):
    run(folder, shard=shard("2/2"))
    assert "1 of 3 cases are done; the rest is for other shards" in capsys.readouterr().out
    assert [case["case"] for case in metrics(folder)["cases"]] == ["b"]
    run(folder, shard=shard("1/2"))
    assert "3 cases, mean:" in capsys.readouterr().out


def test_a_share_without_cases_ends_well(folder, capsys):
    (folder / "in/c.nii.gz").unlink()
    run(folder, shard=shard("3/3"))
    told = capsys.readouterr().out
    assert "shard 3/3: no case is left for it: there are 2" in told
    assert "0 of 2 cases are done" in told
    assert not (folder / "out/metrics.json").exists()


def test_long_parts_are_for_the_first_cases_of_the_whole_list(folder):
    for part in ("3/3", "2/3", "1/3"):
        run(folder, extent=COMPARED, shard=shard(part))
    cases = metrics(folder)["cases"]
    assert ["against" in case for case in cases] == [True, True, False]
    assert ["shift" in case for case in cases] == [True, False, False]


def test_a_killed_shard_goes_on_with_its_own_cases(folder, capsys):
    with pytest.raises(KeyboardInterrupt):
        run(folder, stop_at="c", shard=shard("1/2"))
    one = run(folder, shard=shard("2/2"))
    assert "2 of 3 cases are done; the rest" in capsys.readouterr().out, "what the killed one has judged counts"
    assert run(folder, shard=shard("1/2")) == one, "c alone"
    assert "shard 1/2: 1 of 2 cases were judged before" in capsys.readouterr().out
    assert run(folder, shard=shard("3/3")) == 0, "nor does another division judge anything anew"


def test_volumes_that_any_shard_refused_are_told_and_cost_that_shard_its_exit_code(folder, capsys):
    (folder / "in/b.nii.gz").write_bytes(b"no volume")
    with pytest.raises(Stopped) as stopped:
        run(folder, shard=shard("2/2"))
    assert stopped.value.code == 3
    assert "1 of 1 volumes were left out" in str(stopped.value)
    run(folder, shard=shard("1/2"))
    assert "2 cases, mean:" in capsys.readouterr().out, "no case is left"
    assert [refused["case"] for refused in metrics(folder)["refused"]] == ["b"]
    found, expected = without_times(folder), without_times(alone(folder))
    assert found.pop("refused")[0]["error"].split(":")[1:] == expected.pop("refused")[0]["error"].split(":")[1:]
    assert found == expected


def test_a_volume_that_was_mended_is_not_refused_any_more(folder):
    whole = (folder / "in/b.nii.gz").read_bytes()
    (folder / "in/b.nii.gz").write_bytes(b"no volume")
    with pytest.raises(Stopped):
        run(folder, shard=shard("2/2"))
    (folder / "in/b.nii.gz").write_bytes(whole)
    run(folder, shard=shard("2/2"))
    assert metrics(folder)["refused"] == []


def test_a_replaced_volume_of_another_shard_does_not_count_as_done(folder, capsys):
    run(folder, shard=shard("1/2"))
    shutil.copyfile(folder / "in/a.nii.gz", folder / "in/c.nii.gz")
    run(folder, shard=shard("2/2"))
    assert "2 of 3 cases are done; the rest" in capsys.readouterr().out
    assert [case["case"] for case in metrics(folder)["cases"]] == ["a", "b"]


def test_shards_that_end_together_leave_whole_pages(folder, monkeypatch):
    both = threading.Barrier(2)
    finish = ReportWriter.write_all

    def finish_together(self):
        both.wait(timeout=60)
        finish(self)

    monkeypatch.setattr(ReportWriter, "write_all", finish_together)
    # around the threads, which would put back what others of them have set
    with full_precision(), ThreadPoolExecutor() as pool:
        list(pool.map(lambda part: run(folder, shard=shard(part)), ("1/2", "2/2")))
    assert [case["case"] for case in metrics(folder)["cases"]] == ["a", "b", "c"]


def test_the_worst_of_all_shards_stay_pictured(folder, monkeypatch):
    monkeypatch.setattr("ctpa_vqgan.handlers.reporting.save_montage", draw_nothing)
    monkeypatch.setattr("ctpa_vqgan.handlers.reporting.save_slices_figure", draw_nothing)
    monkeypatch.setattr("ctpa_vqgan.handlers.reporting.save_codes_figure", draw_nothing)
    for part in ("2/2", "1/2"):
        run(folder, pictured_cases=2, shard=shard(part))
    assert sorted(path.name for path in (folder / "out").glob("montage_*.png")) == ["montage_a.png", "montage_b.png"]
    report = (folder / "out/report.md").read_text()
    assert "montage_a.png" in report and "montage_b.png" in report


def draw_nothing(path, *args, **kwargs):
    path.write_bytes(b"a picture")


def test_the_first_shard_measures_the_phantoms(folder, monkeypatch):
    measured = []
    monkeypatch.setattr(
        "ctpa_vqgan.handlers.reporting.ReportWriter._measure_phantoms", lambda self: measured.append(self.shard)
    )
    for part in ("2/2", "1/2"):
        run(folder, phantoms=True, shard=shard(part))
    assert measured == [shard("1/2")]


def test_a_case_is_not_judged_by_two_processes_at_once(folder):
    busy = Claim(folder / "out/cases", shard("1/2"))
    for part in (None, shard("1/2"), shard("1/3")):
        with pytest.raises(UserError, match="works there"):
            run(folder, shard=part)
    run(folder, shard=shard("2/2"))
    busy.release()
    assert [case["case"] for case in metrics(folder)["cases"]] == ["b"]
