"""The weights that come with the bundle are what their papers say, and only what fits is shipped."""

import hashlib
import importlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from ctpa_vqgan.data import to_hu
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.handlers import inference_weights, load_weights
from ctpa_vqgan.metrics import volume_fidelity

ROOT = Path(__file__).parents[1]
MODELS = ROOT / "bundles/ctpa_vqgan/models"
#: dB by which the shipped weights beat a grid four times coarser, on a phantom; 4.2 were seen
LEAST_GAIN_DB = 3.5
TRAINED = {"trained_on": "a slide rule", "trained_at": "abc1234"}
needs_weights = pytest.mark.skipif(not (MODELS / "model.pt").is_file(), reason="no weights are shipped yet")


@pytest.fixture(scope="module")
def scripts():
    """The scripts of ``benchmarks``, imported from their folder: (shipped_model, model_card, naive_tokenizer)."""
    sys.path.append(str(ROOT / "benchmarks"))
    yield [importlib.import_module(name) for name in ("shipped_model", "model_card", "naive_tokenizer")]
    sys.path.remove(str(ROOT / "benchmarks"))


# -- what is shipped ---------------------------------------------------------------------------------------------------


@needs_weights
def test_the_weights_agree_with_the_checksum_beside_them():
    digest, name = (MODELS / "model.pt.sha256").read_text().split()
    content = (MODELS / "model.pt").read_bytes()
    assert name == "model.pt"
    assert hashlib.sha256(content).hexdigest() == digest
    told = json.loads((MODELS / "model.json").read_text())["weights"]
    assert (told["sha256"], told["bytes"]) == (digest, len(content))
    assert len(content) <= 8_000_000


@needs_weights
def test_the_weights_fit_the_default_network_and_reconstruct_better_than_a_coarse_grid(scripts):
    from ctpa_vqgan.data.phantom import make_phantom

    ship, _, naive = scripts
    network = load_weights(ship.default_network(ROOT / "bundles/ctpa_vqgan"), MODELS / "model.pt")
    assert bool(network.quantizer.initialized)
    volume = torch.from_numpy(make_phantom((112, 112, 64), (3.2, 3.2, 5.0), seed=2).volume.copy())
    image = (volume.float().clamp(-1000, 1000) / 1000)[None, None]
    with torch.no_grad():
        codes = network.index_quantize(image)
        ours = to_hu(network.decode_samples(codes)[0, 0], (-1000.0, 1000.0))
    rival = naive.naive_reconstruction(volume)
    gain = volume_fidelity(ours, volume)["psnr"] - volume_fidelity(rival, volume)["psnr"]
    assert gain > LEAST_GAIN_DB


def test_the_pages_say_what_the_facts_beside_the_weights_say(scripts):
    _, card, _ = scripts
    shipped = card.shipped_facts()
    for page in (card.CARD, card.RESULTS):
        text = (ROOT / page).read_text()
        assert "<!-- end of " in text
        assert card.filled(text, card.regions(shipped)) == text, f"{page}: python benchmarks/model_card.py mends it"
    metadata = (ROOT / card.METADATA).read_text()
    assert card.with_metrics(metadata, shipped) == metadata


def test_the_card_begins_with_what_model_hubs_read(scripts):
    _, front, card = (ROOT / scripts[1].CARD).read_text().split("---\n", 2)
    front = yaml.safe_load(front)
    assert front["license"] == "apache-2.0" and front["library_name"] == "monai"
    assert {"monai", "computed-tomography", "vq-gan"} <= set(front["tags"])
    assert card.lstrip().startswith("# ")


def test_nothing_is_told_of_weights_that_are_not_there():
    parts = [MODELS / name for name in ("model.pt", "model.pt.sha256", "model.json")]
    assert len({part.is_file() for part in parts}) == 1, "all three or none"


# -- how it is shipped -------------------------------------------------------------------------------------------------


@pytest.fixture
def project(tmp_path) -> Path:
    """A copy of what the script reads and writes, whose default network is tiny."""
    root = tmp_path / "project"
    for folder in ("bundles/ctpa_vqgan/configs", "bundles/ctpa_vqgan/docs"):
        shutil.copytree(ROOT / folder, root / folder)
    (root / "docs").mkdir()
    shutil.copy(ROOT / "docs/results.md", root / "docs")
    for name in ("inference", "train"):
        config = root / f"bundles/ctpa_vqgan/configs/{name}.yaml"
        text = config.read_text()
        tiny = {"channels: [64, 128]": "channels: [4, 8]", "num_embeddings: 8192": "num_embeddings: 16"}
        for knob, value in tiny.items():
            assert knob in text
            text = text.replace(knob, value)
        config.write_text(text)
    return root


@pytest.fixture
def run(project, tmp_path, scripts) -> Path:
    """What a training of that network leaves: untrained weights and two starts of 30 s and 60 s, an hour apart."""
    folder, ship = tmp_path / "run", scripts[0]
    network = ship.default_network(project / "bundles/ctpa_vqgan")
    network.quantizer.initialized.fill_(True)
    network.quantizer.num_steps.fill_(7)
    network.half().float()  # rounded already: half precision then costs exactly nothing
    folder.mkdir()
    torch.save(inference_weights(network), folder / "model.pt")
    overlay = {"network_def": network.config, "hu_window": [-1000.0, 1000.0], "patch_size": [16, 16, 16]}
    (folder / "model.yaml").write_text(yaml.safe_dump(overlay))
    for suffix, times in ((".first", (1000, 1010, 1030)), (".second", (4600, 4660, 9000))):
        with SummaryWriter(folder / "tensorboard", filename_suffix=suffix) as writer:
            for step, time in enumerate(times):
                writer.add_scalar("loss", 0.0, step, walltime=time)
    return folder


@pytest.fixture
def data(phantom_folder, tmp_path) -> Path:
    """A data set of two small phantoms, one of them listed twice for training."""
    first, second, _ = sorted(phantom_folder.glob("*.nii.gz"))
    split = {"training": [{"image": str(first)}] * 2, "validation": [{"image": str(second)}]}
    (tmp_path / "data").mkdir()
    (tmp_path / "data/dataset.json").write_text(json.dumps(split))
    return tmp_path / "data"


def change_model_yaml(run, **knobs):
    content = yaml.safe_load((run / "model.yaml").read_text())
    (run / "model.yaml").write_text(yaml.safe_dump({**content, **knobs}))


def test_one_command_leaves_weights_facts_picture_and_pages(project, run, data, scripts):
    ship, card, _ = scripts
    shipped = ship.ship(run, data, **TRAINED, root=project)
    models = project / "bundles/ctpa_vqgan/models"
    assert json.loads((models / "model.json").read_text()) == shipped
    assert {path.name for path in models.iterdir()} == {"model.pt", "model.pt.sha256", "model.json"}
    weights = torch.load(models / "model.pt", weights_only=True)
    assert {value.dtype for value in weights.values()} == {torch.float16, torch.int64, torch.bool}
    load_weights(ship.default_network(project / "bundles/ctpa_vqgan"), models / "model.pt")

    assert shipped["training"]["iterations"] == 7
    assert [volume["listed"] for volume in shipped["data"]["training"]] == [2]
    (held_out,) = shipped["data"]["held_out"]
    assert held_out["shape"] == [48, 44, 40] and held_out["licence"] == "not named"
    assert set(shipped["scores"]) == {"float32", "float16", "trilinear"}
    assert "decoded_psnr" in shipped["scores"]["float16"]["mean"]

    picture = project / "docs/images/shipped_model.png"
    assert picture.stat().st_size <= ship.MAX_PICTURE_BYTES
    assert Image.open(picture).mode == "P"
    page = (project / card.CARD).read_text()
    assert shipped["weights"]["sha256"] in page and "a slide rule" in page and "abc1234" in page
    assert card.EMPTY not in page and card.EMPTY not in (project / card.RESULTS).read_text()
    assert str(project) not in page + json.dumps(shipped), "no path of a machine"
    metrics = json.loads((project / card.METADATA).read_text())["eval_metrics"]
    assert metrics["psnr"] == pytest.approx(shipped["scores"]["float16"]["mean"]["psnr"], abs=1e-4)


def test_another_network_is_not_shipped(project, run, data, scripts):
    network = yaml.safe_load((run / "model.yaml").read_text())["network_def"]
    change_model_yaml(run, network_def={**network, "channels": [8, 16]})
    with pytest.raises(UserError, match=r"network_def::channels: expected \[4, 8\], found \[8, 16\]"):
        scripts[0].ship(run, data, **TRAINED, root=project)
    assert not (project / "bundles/ctpa_vqgan/models").exists()


def test_another_hu_window_is_not_shipped(project, run, data, scripts):
    change_model_yaml(run, hu_window=[-1024.0, 3071.0])
    with pytest.raises(UserError, match="hu_window: expected"):
        scripts[0].ship(run, data, **TRAINED, root=project)


def test_a_file_that_is_too_large_is_refused_before_anything_is_scored(project, run, data, scripts, monkeypatch):
    monkeypatch.setattr(scripts[0], "MAX_WEIGHTS_BYTES", 1000)
    monkeypatch.setattr(scripts[0], "run_workflow", lambda *_, **__: pytest.fail("scored"))
    with pytest.raises(UserError, match=r"found .* MB in half precision"):
        scripts[0].ship(run, data, **TRAINED, root=project)


def test_a_folder_without_a_run_is_refused_in_one_line(data, tmp_path, scripts, monkeypatch, capsys):
    told = ["--trained-on", "a slide rule", "--trained-at", "abc1234"]
    monkeypatch.setattr(sys, "argv", ["shipped_model.py", str(tmp_path / "nowhere"), "--data", str(data), *told])
    assert scripts[0].main() == 1
    error = capsys.readouterr().err
    assert "expected the folder of a training with model.pt" in error
    assert error.count("\n") == 1


def test_a_scan_that_was_trained_on_is_not_held_out(project, run, data, scripts):
    trained = json.loads((data / "dataset.json").read_text())["training"][0]["image"]
    with pytest.raises(UserError, match="trained on and held out"):
        scripts[0].ship(run, data, held_out=Path(trained), **TRAINED, root=project)
    with pytest.raises(UserError, match=r"expected a data set with dataset\.json"):
        scripts[0].ship(run, Path(trained).parent, **TRAINED, root=project)


def test_half_precision_is_chosen_only_where_the_tables_do_not_show_it(scripts):
    choose, large = scripts[0].chosen_precision, scripts[0].MAX_WEIGHTS_BYTES + 1
    full = {"psnr": 30.0, "ssim": 0.9, "decoded_psnr": 29.0, "seconds": 5.0}
    assert choose(full, {**full, "psnr": 29.995, "seconds": 50.0}, large) == "float16"
    assert choose(full, {**full, "decoded_psnr": 28.9}, 1000) == "float32"
    with pytest.raises(UserError, match=r"decoded_psnr by 0\.1, and expected at most 8 MB"):
        choose(full, {**full, "decoded_psnr": 28.9}, large)


def test_what_half_precision_cannot_hold_is_refused(scripts):
    assert scripts[0].halved({"a": torch.tensor([60000.0])})["a"].dtype == torch.float16
    assert scripts[0].halved({"steps": torch.tensor(100000)})["steps"] == 100000
    with pytest.raises(UserError, match="beyond the range"):
        scripts[0].halved({"a": torch.tensor([70000.0])})


def test_hours_are_those_between_the_points_of_a_log_without_pauses(run, scripts):
    # the file's own first record carries the time of now: a step back or a pause, neither of which counts
    time = scripts[0].training_time(run / "tensorboard")
    assert time["hours"] == pytest.approx(90 / 3600)
    assert time["starts"] == 2
    with pytest.raises(UserError, match="event files"):
        scripts[0].training_time(run / "nowhere")


def test_the_same_weights_give_the_same_file(scripts):
    weights = {"a": torch.arange(3.0), "b": torch.tensor(True)}
    assert scripts[0].serialized(weights) == scripts[0].serialized(dict(weights))
