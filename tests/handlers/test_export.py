"""The weights that a run leaves: safe to load, checked, and with all that it takes to build the network again."""

import pytest
import torch
import yaml
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from ctpa_vqgan.errors import BadNumbers, UserError
from ctpa_vqgan.events import TrainerEvents
from ctpa_vqgan.handlers import ModelExport, inference_weights, load_weights
from ctpa_vqgan.networks import VQGAN, VectorQuantizer
from ctpa_vqgan.sealed import save_sealed

FILES = ["model.pt", "model.pt.sha256", "model.yaml"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def trained():
    """A network whose codebook and statistics are not those of a fresh one."""
    torch.manual_seed(0)
    network = VQGAN(channels=(4, 8), factor=(4, 4, 2), quantizer=VectorQuantizer(16, 4, decay=0.9, normalize=True))
    for _ in range(3):
        network.autoencode(torch.rand(1, 1, 16, 16, 16) * 2 - 1)
        network.quantizer.step()
    return network.eval()


KNOBS = {"hu_window": (-1000.0, 1000.0), "patch_size": (16, 16, 16), "stride": (12, 12, 12)}


@pytest.fixture
def exported(trained, tmp_path):
    ModelExport(tmp_path, trained, KNOBS).save()
    return tmp_path


def build(folder):
    parser = ConfigParser(yaml.safe_load((folder / "model.yaml").read_text()))
    return parser.get_parsed_content("network_def")


def test_three_files_are_left_and_nothing_else(exported):
    assert names(exported) == FILES


def test_the_weights_are_a_plain_state_dict_that_is_safe_to_load(exported):
    weights = torch.load(exported / "model.pt", weights_only=True)
    assert all(type(value) is torch.Tensor for value in weights.values())
    assert not any("reservoir" in key or "ema" in key for key in weights), "what only training needs stays behind"


def test_the_description_builds_the_network_of_the_weights(exported, trained):
    network = build(exported).eval()
    network.load_state_dict(torch.load(exported / "model.pt", weights_only=True), strict=True)
    image = torch.rand(1, 1, 16, 16, 16) * 2 - 1
    assert network.factor == (4, 4, 2)
    assert torch.equal(network(image), trained(image))
    assert network.config == trained.config


def test_the_description_holds_flat_knobs(exported):
    text = (exported / "model.yaml").read_text()
    assert text.startswith("# ")
    content = yaml.safe_load(text)
    assert content.pop("network_def")["_target_"] == "ctpa_vqgan.networks.VQGAN"
    assert content == {key: list(value) for key, value in KNOBS.items()}


def test_knobs_that_were_left_alone_are_left_out(trained, tmp_path):
    ModelExport(tmp_path, trained, {"patch_size": (16, 16, 16), "stride": None, "volume_size": None}).save()
    assert yaml.safe_load((tmp_path / "model.yaml").read_text()).keys() == {"network_def", "patch_size"}


def test_loading_gives_the_network_of_the_weights(exported, trained):
    network = load_weights(build(exported), exported / "model.pt")
    for key, value in inference_weights(trained).items():
        assert torch.equal(network.state_dict()[key], value), key


def test_the_export_follows_each_epoch(trained, tmp_path):
    written = []
    engine = Engine(lambda engine, batch: None)
    engine.register_events(*TrainerEvents)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: written.append(names(tmp_path)))
    ModelExport(tmp_path, trained, KNOBS).attach(engine)
    engine.run(range(2), max_epochs=2)
    assert written == [[], FILES]


@pytest.mark.parametrize("lost", [*"abc", "changed"])
def test_a_run_that_was_finished_before_completes_what_is_missing_and_touches_nothing_else(exported, trained, lost):
    missing = dict(zip("abc", FILES)).get(lost)
    if missing:
        (exported / missing).unlink()
    else:  # the weights of an earlier epoch
        save_sealed({"other": torch.zeros(1)}, exported / "model.pt")
    engine = Engine(lambda engine, batch: None)
    engine.register_events(*TrainerEvents)
    ModelExport(exported, trained, KNOBS).attach(engine)
    engine.fire_event(TrainerEvents.NOTHING_LEFT)
    assert names(exported) == FILES
    load_weights(build(exported), exported / "model.pt")
    before = [path.stat().st_mtime_ns for path in sorted(exported.iterdir())]
    engine.fire_event(TrainerEvents.NOTHING_LEFT)
    assert [path.stat().st_mtime_ns for path in sorted(exported.iterdir())] == before


def test_a_full_disk_costs_a_line_and_at_the_end_an_error(trained, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise UserError("model.pt: could not be written (No space left on device)")

    engine = Engine(lambda engine, batch: None)
    engine.register_events(*TrainerEvents)
    ModelExport(tmp_path, trained, KNOBS).attach(engine)
    monkeypatch.setattr("ctpa_vqgan.handlers.export.save_sealed", fail)
    with pytest.raises(UserError, match=r"training is done, but its weights are not: .*No space left"):
        engine.run(range(1), max_epochs=2)
    assert engine.state.epoch == 2
    assert capsys.readouterr().err.count("training goes on") == 2


def test_weights_that_do_not_fit_their_sha256_are_refused(exported, trained):
    content = bytearray((exported / "model.pt").read_bytes())
    content[len(content) // 2] ^= 4
    (exported / "model.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.pt: damaged: expected the SHA-256 [0-9a-f]{12}\.\.\., found"):
        load_weights(trained, exported / "model.pt")


def test_weights_without_a_sha256_load_and_a_line_says_that_they_are_not_checked(exported, trained, capsys):
    (exported / "model.pt.sha256").unlink()
    load_weights(trained, exported / "model.pt")
    assert "has no model.pt.sha256 beside it, so damage would not show" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_neither_written_nor_read(exported, trained, tmp_path):
    before = (exported / "model.pt").read_bytes()
    good = trained.encoder[1].weight.detach().clone()
    trained.encoder[1].weight.data[0] = float("nan")
    with pytest.raises(BadNumbers, match=r"model\.pt: not written: encoder\.1\.weight holds numbers"):
        ModelExport(exported, trained, KNOBS).save()
    assert (exported / "model.pt").read_bytes() == before
    torch.save(inference_weights(trained), tmp_path / "bad.pt")
    trained.encoder[1].weight.data = good
    with pytest.raises(UserError, match=r"bad\.pt: encoder\.1\.weight holds numbers that are not finite"):
        load_weights(trained, tmp_path / "bad.pt")


def test_missing_weights_are_named_with_a_way_out(tmp_path, trained):
    with pytest.raises(UserError, match=r"model.pt: no such weights; train first, or give the model.pt of a run"):
        load_weights(trained, tmp_path / "model.pt")


def test_weights_of_another_network_are_named_with_a_way_out(exported):
    with pytest.raises(UserError) as error:
        load_weights(VQGAN(channels=(8, 8), num_embeddings=16, embedding_dim=4), exported / "model.pt")
    assert str(error.value).startswith(f"{exported / 'model.pt'}: these weights do not fit network_def")
    assert "model.yaml" in str(error.value)
    assert "\n" not in str(error.value)


def test_damaged_weights_are_named(exported, trained):
    (exported / "model.pt").write_bytes(b"these are no weights")
    with pytest.raises(UserError, match=r"model\.pt: "):
        load_weights(trained, exported / "model.pt")
