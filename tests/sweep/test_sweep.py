"""A sweep over a small volume: what is measured, what goes wrong on the way, and the command line."""

import csv
import json

import nibabel as nib
import numpy as np
import pytest
import torch

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.cli import workflows
from ctpa_vqgan.cli.knobs import checked, known_knobs, parse_setting
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.inferers import VQGANInferer
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.report.sheet import Sheet
from ctpa_vqgan.sealed import save_sealed
from ctpa_vqgan.sweep import Choices, sweep
from ctpa_vqgan.sweep.figure import save_figure

CONFIGS = workflows.find_bundle() / "configs"
WINDOW = (-1000.0, 1000.0)
STEP_HU = 40.0


def tiny(cls=VQGAN, channels=(4, 8), **options):
    torch.manual_seed(0)
    return cls(channels=channels, num_embeddings=16, embedding_dim=4, **options).eval()


class Stepping(VQGAN):
    """Gives windows back 20 HU too bright and 20 HU too dark in turn."""

    count = 0

    def forward(self, x):
        self.count += 1
        return x + (0.02 if self.count % 2 else -0.02)


class Unsteady(VQGAN):
    """A network whose windows are as much too bright and too dark in turn; its exact tiles are as ever."""

    count = 0

    def forward(self, x):
        self.count += 1
        return super().forward(x) + (0.02 if self.count % 2 else -0.02)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """A soft volume of 64 x 64 x 48 voxels, -700 to 700 HU."""
    path = tmp_path_factory.mktemp("case") / "soft.nii.gz"
    x, y, z = np.meshgrid(*(np.linspace(0, 3, side) for side in (64, 64, 48)), indexing="ij")
    noise = np.random.default_rng(0).normal(0, 5, x.shape)
    hu = (680 * np.sin(2 * x) * np.cos(2 * y) * np.cos(z / 2) + noise).round().astype(np.int16)
    nib.save(nib.Nifti1Image(hu, np.diag([0.7, 0.7, 1.5, 1])), path)
    return [{"image": str(path), "case": "soft"}]


@pytest.fixture
def uncounted(monkeypatch):
    """Without counting memory, which takes seconds."""
    for name in ("window_bytes", "encoding_bytes", "decoding_bytes"):
        monkeypatch.setattr(f"ctpa_vqgan.sweep.bench.{name}", lambda *args: 1e6)


def choices(**changed):
    knobs = {"windows": [[32, 32, 16]], "overlaps": [0.0, 0.25], "blend_modes": ["gaussian", "constant"]}
    knobs |= {"sigma_scales": [0.125], "most": 9, "factor": (4, 4, 4), "patch_size": (32, 32, 16)}
    return Choices(**knobs | {"stride": (24, 24, 12)} | changed)


def run(cases, folder, network, **options):
    options = {"choices": choices(), "hu_window": WINDOW, "progress": False} | options
    return sweep(cases, network, folder, **options)


def row_of(found, blend, overlap=None):
    (row,) = [r for r in found["rows"] if r["blend"] == blend and (overlap is None or r["overlap"] == overlap)]
    return row


@pytest.mark.usefixtures("uncounted")
def test_errors_and_seams_are_those_that_were_planted(cases, tmp_path):
    found = run(cases, tmp_path, tiny(Stepping, channels=(8, 8), norm="group"))  # which has no exact tiles
    row = row_of(found, "gaussian 0.125", 0.0)  # every voxel is of one window, and that is 20 HU off
    assert row["mae_hu"] == pytest.approx(STEP_HU / 2, abs=0.1)
    assert row["psnr"] == pytest.approx(20 * np.log10(2000 / (STEP_HU / 2)), abs=0.05)
    assert row["seams_found"] >= 2
    assert row["seam_hu"] > STEP_HU / 4
    assert row["num_windows"] == 12
    assert found["suggestion"]["number"] != row["number"]


@pytest.mark.usefixtures("uncounted")
def test_seams_are_found_against_exact_tiles_in_errors_that_are_far_larger(cases, tmp_path):
    found = run(cases, tmp_path, tiny(Unsteady))
    exact, row = found["rows"][0], row_of(found, "gaussian 0.125", 0.0)
    assert row["mae_hu"] > 100, "an untrained network decodes noise"
    assert row["seams_found"] >= 2
    assert row["seam_hu"] > STEP_HU / 4
    assert exact["kind"] == "exact tiles" and exact["seam_hu"] == exact["seams_found"] == 0


def test_the_files_hold_every_row_and_the_case(cases, tmp_path, capsys):
    found = run(cases, tmp_path, tiny())
    assert {path.name for path in tmp_path.iterdir()} == {"sweep.json", "sweep.csv", "sweep.md", "sweep.png"}
    assert json.loads((tmp_path / "sweep.json").read_text()) == found
    assert (found["case"], found["shape"], found["part"]["shape"]) == ("soft", [64, 64, 48], [64, 64, 48])
    assert [row["blend"] for row in found["rows"]] == [
        "exact tiles",
        "gaussian 0.125",
        "constant",
        "gaussian 0.125",
    ]
    with (tmp_path / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["psnr"]) for row in rows] == [row["psnr"] for row in found["rows"]]
    page, printed = (tmp_path / "sweep.md").read_text(), capsys.readouterr().out
    for text in (page, printed):
        assert found["suggestion"]["set"] in text
        assert all(f"{row['psnr']:.2f}" in text for row in found["rows"])
    assert "![PSNR over time](sweep.png)" in page
    assert "counted on the shapes of tensors" in page, "a CPU has no peak of its own to tell"
    windows, tiles = (
        {row["memory_mb"] for row in found["rows"] if row["kind"] == kind} for kind in ("windows", "exact tiles")
    )
    assert len(windows) == 1, "blending changes nothing"
    assert min(tiles) > max(windows) > 0.1, "tiles have a halo"


def test_exact_tiles_have_no_colour_of_a_seam_and_the_legend_none_at_all(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("ctpa_vqgan.sweep.figure.write_whole", lambda path, content: path)
    monkeypatch.setattr(Sheet, "png", lambda sheet: drawn.append(sheet))
    row = {"number": 1, "case_seconds": 2.0, "psnr": 30.0, "front": False, "seam_hu": 3.0}
    save_figure(tmp_path / "a.png", [row | {"blend": "exact tiles"}, row | {"blend": "constant", "seam_hu": 0.5}], "a")
    sheet = drawn[0]
    axes, bar = sheet.figure.axes
    sheet.pixels(640)  # colours are settled when a figure is drawn
    windows, tiles = axes.collections[:2]
    assert tiles.get_array() is None and list(windows.get_array()) == [0.5]
    assert bar.get_ylim() == (0, 1), "the tiles' 3 HU are no seam"
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["constant", "exact tiles (seam: n/a)"]
    colours = {tuple(handle.get_facecolor()[0]) for handle in legend.legend_handles}
    assert colours == {tuple(tiles.get_facecolor()[0])}


@pytest.mark.usefixtures("uncounted")
def test_a_row_is_what_the_inferer_gives_with_the_suggested_knobs(cases, tmp_path):
    network = tiny()
    found = run(
        cases, tmp_path, network, choices=choices(overlaps=[0.5], sigma_scales=[0.25], blend_modes=["gaussian"])
    )
    knobs = row_of(found, "gaussian 0.25")["knobs"]
    assert knobs == {"patch_size": [32, 32, 16], "stride": [16, 16, 8], "blend_mode": "gaussian", "sigma_scale": 0.25}
    hu = torch.tensor(nib.load(cases[0]["image"]).get_fdata(), dtype=torch.float32)
    inferer = VQGANInferer((32, 32, 16), overlap=0.5, mode="gaussian", sigma_scale=0.25)
    with torch.no_grad():
        error = inferer((hu / 1000)[None, None], network)[0, 0].clamp(-1, 1) * 1000 - hu
    assert row_of(found, "gaussian 0.25")["mae_hu"] == pytest.approx(float(error.abs().mean()), abs=0.02)


@pytest.mark.usefixtures("uncounted")
def test_exact_tiles_have_no_seams_and_are_left_out_where_there_are_none(cases, tmp_path):
    assert row_of(run(cases, tmp_path / "rms", tiny()), "exact tiles")["seams_found"] == 0
    found = run(cases, tmp_path / "group", tiny(norm="group", num_groups=2))
    assert "exact tiles" not in [row["blend"] for row in found["rows"]]


@pytest.mark.usefixtures("uncounted")
def test_a_part_is_measured_and_its_time_is_told_for_the_whole_case(cases, tmp_path):
    found = run(cases, tmp_path, tiny(), voxels=30000, choices=choices(windows=[[64, 64, 32], [16, 16, 8]]))
    part = found["part"]["shape"]
    assert np.prod(part) <= 30000 and part != found["shape"]
    assert found["too_large"] == [[64, 64, 32]]
    for row in found["rows"]:
        if row["kind"] == "windows" and row["num_windows"] > 1:
            assert row["case_seconds"] > 4 * row["seconds"]
    alone = row_of(found, "one window")
    assert not alone["front"] and not alone["comparable"], "in a whole case such windows have neighbours"
    assert found["suggestion"]["knobs"]["patch_size"] == [16, 16, 8]


class Bounded(VQGAN):
    """Has memory for windows of 16 voxels."""

    def forward(self, x):
        if x.shape[2] > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nand so on")
        return x


@pytest.mark.usefixtures("uncounted")
def test_a_setting_that_memory_runs_out_for_is_listed_and_the_sweep_goes_on(cases, tmp_path):
    found = run(cases, tmp_path, tiny(Bounded), choices=choices(windows=[[32, 32, 16], [16, 16, 16]], overlaps=[0.25]))
    failed = [row for row in found["rows"] if "failed" in row]
    assert {row["window"] for row in failed} == {"32x32x16"}
    assert {row["failed"] for row in failed} == {"out of memory (CUDA out of memory. Tried to allocate 2 GiB.)"}
    good = [row for row in found["rows"] if row["window"] == "16x16x16"]
    assert good and all(row["mae_hu"] < 1 for row in good)
    assert found["suggestion"]["knobs"]["patch_size"] == [16, 16, 16]
    assert "out of memory" in (tmp_path / "sweep.md").read_text()


class Interrupted(VQGAN):
    """Is stopped by the user at the 40th window."""

    count = 0

    def forward(self, x):
        self.count += 1
        if self.count == 40:
            raise KeyboardInterrupt
        return x


@pytest.mark.usefixtures("uncounted")
def test_an_interruption_leaves_the_rows_that_were_done(cases, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        run(cases, tmp_path, tiny(Interrupted))
    rows = json.loads((tmp_path / "sweep.json").read_text())["rows"]
    assert 1 < len(rows) < 4
    assert all("psnr" in row for row in rows)
    assert f"{len(rows) - 1} so far of 3 settings" in (tmp_path / "sweep.md").read_text()
    assert f"{len(rows)} of 4 settings were measured: {tmp_path}/sweep.md" in capsys.readouterr().out


@pytest.mark.usefixtures("uncounted")
def test_bf16_that_fails_its_test_for_some_windows_costs_only_those(cases, tmp_path):
    def precision_of(window):
        if window == (32, 32, 16):
            raise UserError("bf16 self-test on cpu: failed; set precision to float32")
        return "float32"

    found = run(
        cases,
        tmp_path,
        tiny(),
        choices=choices(windows=[[32, 32, 16], [16, 16, 16]], overlaps=[0.25], blend_modes=["constant"]),
        precision_of=precision_of,
    )
    told = {row["window"]: row.get("failed", "") for row in found["rows"] if row["kind"] == "windows"}
    assert told["32x32x16"].startswith("bf16 self-test on cpu: failed")
    assert told["16x16x16"] == ""


# -- the knob sigma_scale ----------------------------------------------------------------------------------------------


class Disagreeing(torch.nn.Module):
    """Windows are -1 and 1 in turn."""

    count = 0

    def forward(self, x):
        self.count += 1
        return torch.full_like(x, (-1.0) ** self.count)


def test_a_smaller_sigma_gives_the_middle_of_a_window_more_weight():
    inferers = (VQGANInferer((16, 16, 16), overlap=0.5, sigma_scale=sigma) for sigma in (0.125, 0.5))
    narrow, wide = (inferer(torch.zeros(1, 1, 16, 16, 24), Disagreeing()) for inferer in inferers)
    # voxel 8 is in the middle of the first window and at the border of the second
    assert narrow[0, 0, 8, 8, 8] < wide[0, 0, 8, 8, 8] < 0


@pytest.mark.parametrize("sigma", [0, -0.125, float("nan"), float("inf"), (0.125, 0.0, 0.125)])
def test_a_sigma_that_is_not_above_zero_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma_scale must be above 0, found"):
        VQGANInferer((16, 16, 16), sigma_scale=sigma)


# -- the command line --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The weights of a small network with the description that a run leaves."""
    folder = tmp_path_factory.mktemp("weights")
    save_sealed(tiny().state_dict(), folder / "model.pt")
    knobs = {"channels": [4, 8], "num_embeddings": 16, "embedding_dim": 4, "patch_size": [32, 32, 16]}
    (folder / "model.yaml").write_text("".join(f"{name}: {value}\n" for name, value in knobs.items()))
    return folder / "model.pt"


def command(*arguments):
    return main(["evaluate", "--sweep", *map(str, arguments), "--set", "progress=false", "--set", "device=cpu"])


@pytest.mark.usefixtures("python_as_it_was")
def test_the_command_sweeps_and_its_suggestion_is_taken_by_inference(weights, cases, tmp_path, capsys):
    output = tmp_path / "out"
    lists = ["--set", "sweep_overlaps=[0.25,0.5]", "--set", "sweep_blend_modes=[gaussian]"]
    lists += ["--set", "sweep_windows=[[32,32,16]]"]
    assert command("--checkpoint", weights, "--data", cases[0]["image"], "--output", output, *lists) == 0
    found = json.loads((output / "sweep.json").read_text())
    assert [row["kind"] for row in found["rows"]].count("windows") == 2 * 3, "two overlaps, three sigmas"
    assert found["settings"]["weights"] == str(weights)
    words = found["suggestion"]["set"].split()
    assert found["suggestion"]["set"] in capsys.readouterr().out
    given = dict(map(parse_setting, words[1::2]))
    assert words[::2] == ["--set"] * len(given)
    assert checked(given, known_knobs([CONFIGS / "inference.yaml"]), "--set") == found["suggestion"]["knobs"]
    quiet = ["--set", "progress=false", "--set", "device=cpu", "--output", str(tmp_path / "again"), *words]
    assert main(["inference", "--checkpoint", str(weights), "--data", cases[0]["image"], *quiet]) == 0
    (again,) = json.loads((tmp_path / "again/metrics.json").read_text())["cases"]
    assert again["psnr"] == pytest.approx(found["rows"][found["suggestion"]["number"] - 1]["psnr"], abs=1e-6)


@pytest.mark.usefixtures("python_as_it_was")
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["sweep_voxels=10"], "sweep_voxels: expected null or at least the 64 voxels of one code, found 10"),
        (["sweep_voxels=1000"], "sweep_voxels: 12x12x4 voxels of this case have no room for two windows of 8x8x4"),
        (["sweep_overlaps=0.5"], "--set: sweep_overlaps expects a list such as [0.0, 0.125, 0.25, 0.5], found 0.5"),
        (["sweep_windows=[64,64,32]"], "sweep_windows: expected a list of windows whose sides are multiples of"),
        (["sweep_overlap=[0.5]"], "--set: the bundle has no knob sweep_overlap; did you mean sweep_overlaps?"),
        (["sigma_scale=-1"], "sigma_scale: expected a number that is not negative, found -1"),
    ],
)
def test_a_knob_that_cannot_work_is_refused_in_one_line(weights, cases, tmp_path, capsys, settings, message):
    options = [word for setting in settings for word in ("--set", setting)]
    output = tmp_path / "out"
    assert command("--checkpoint", weights, "--data", cases[0]["image"], "--output", output, *options) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {message}")
    assert not output.exists()


@pytest.mark.usefixtures("python_as_it_was")
def test_data_that_is_not_there_is_refused_in_one_line(weights, tmp_path, capsys):
    assert command("--checkpoint", weights, "--data", tmp_path / "none", "--output", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith(f"error: {tmp_path / 'none'}: no such file or folder")


def test_the_flag_chooses_the_workflow(monkeypatch):
    calls = []
    monkeypatch.setattr(workflows, "_run", lambda *args: calls.append(args))
    assert main(["evaluate", "--sweep", "--data", "ct"]) == main(["evaluate", "--data", "ct"]) == 0
    assert [call[0] for call in calls] == ["sweep", "evaluate"]
    assert calls[0][1] == [str(CONFIGS / name) for name in ("inference.yaml", "sweep.yaml")]
