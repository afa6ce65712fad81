"""What a run leaves on disk: whole or absent, safe to load, and enough to go on or to build the network again."""

import logging

import pytest
import torch
import yaml
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.handlers import Checkpoints, ModelExport, Progress, inference_weights, load_weights
from ctpa_vqgan.handlers.checkpoints import save_atomically
from ctpa_vqgan.networks import VQGAN, VectorQuantizer


class Counting(Engine):
    """An engine that does nothing but count, and can be resumed like the trainer."""

    def __init__(self):
        super().__init__(lambda engine, batch: {"loss": 0.0})
        self.state.epoch_length, self.state.max_epochs = 5, 2

    def resume_from(self, iteration):
        self.state.iteration, self.state.epoch = iteration, iteration // self.state.epoch_length

    def go(self):
        self.run(range(5), max_epochs=2)
        return self


def run(folder, *handlers, **options):
    model = torch.nn.Linear(1, 1)
    engine = Counting()
    checkpoints = Checkpoints(folder, {"model": model}, **options)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: model.weight.data.fill_(e.state.iteration))
    checkpoints.attach(engine)
    for handler in handlers:
        handler.attach(engine)
    engine.go()
    return model, checkpoints


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_follows_each_epoch_and_the_last_two_stay(tmp_path):
    run(tmp_path)
    assert names(tmp_path) == ["checkpoint_000000005.pt", "checkpoint_000000010.pt"]


def test_checkpoints_within_an_epoch_come_as_often_as_asked(tmp_path):
    run(tmp_path, save_interval=2, keep_last=100)
    assert [int(name[11:20]) for name in names(tmp_path)] == [2, 4, 5, 6, 8, 10]


def test_old_checkpoints_are_removed_after_the_new_one_is_written(tmp_path, monkeypatch):
    found = []

    def save(content, path):
        save_atomically(content, path)
        found.append(names(tmp_path))

    monkeypatch.setattr("ctpa_vqgan.handlers.checkpoints.save_atomically", save)
    run(tmp_path, keep_last=1)
    assert found == [["checkpoint_000000005.pt"], ["checkpoint_000000005.pt", "checkpoint_000000010.pt"]]
    assert names(tmp_path) == ["checkpoint_000000010.pt"]


def test_the_newest_checkpoint_is_resumed_from_and_the_log_says_so(tmp_path, caplog):
    run(tmp_path)
    with caplog.at_level(logging.INFO):
        model, _ = run(tmp_path)
    assert model.weight.item() == 10
    assert "resumed at iteration 10 of 10 from checkpoint_000000010.pt" in caplog.messages


def test_a_checkpoint_is_whole_or_absent(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_atomically({"good": 1}, path)

    def die(content, file):
        file.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", die)
    with pytest.raises(KeyboardInterrupt):
        save_atomically({"bad": 2}, path)
    assert names(tmp_path) == ["state.pt"]
    assert torch.load(path) == {"good": 1}


def test_a_full_disk_is_named_and_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "state.pt"
    save_atomically({"good": 1}, path)

    def fail(content, file):
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fail)
    with pytest.raises(UserError, match=r"state\.pt: could not be written .*No space left on device"):
        save_atomically({"bad": 2}, path)
    assert names(tmp_path) == ["state.pt"]
    assert torch.load(path) == {"good": 1}


@pytest.mark.parametrize("handlers", [[], [Progress()]])
def test_a_damaged_checkpoint_is_named_with_a_way_out(tmp_path, handlers):
    run(tmp_path)
    newest = tmp_path / "checkpoint_000000010.pt"
    newest.write_bytes(newest.read_bytes()[:100])
    with pytest.raises(UserError) as error:
        run(tmp_path, *handlers)
    assert str(error.value).startswith(f"{newest}: a damaged checkpoint")
    assert "delete it" in str(error.value)
    newest.unlink()
    run(tmp_path, *handlers)


def test_a_checkpoint_of_another_network_is_named_with_a_way_out(tmp_path):
    run(tmp_path)
    other = Checkpoints(tmp_path, {"model": torch.nn.Linear(2, 1)})
    with pytest.raises(UserError, match=r"checkpoint_000000010.pt: does not fit this run .*choose a new output_dir"):
        other.resume(Counting())


def test_a_file_on_its_way_is_no_checkpoint(tmp_path):
    (tmp_path / ".checkpoint_000000099.pt.123").write_bytes(b"half")
    assert Checkpoints(tmp_path, {}).files() == []


def test_keeping_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="keep_last: expected at least 1, found 0"):
        Checkpoints(tmp_path, {}, keep_last=0)


# -- model.pt and model.yaml -------------------------------------------------------------------------------------------


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


def test_both_files_are_left_and_nothing_else(exported):
    assert names(exported) == ["model.pt", "model.yaml"]


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


def test_loading_gives_the_network_of_the_weights(exported, trained):
    network = load_weights(build(exported), exported / "model.pt")
    for key, value in inference_weights(trained).items():
        assert torch.equal(network.state_dict()[key], value), key


def test_the_export_follows_each_epoch_and_the_end(trained, tmp_path):
    written = []
    engine = Counting()
    export = ModelExport(tmp_path, trained, KNOBS)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: written.append(names(tmp_path)))
    export.attach(engine)
    engine.go()
    assert written == [[], ["model.pt", "model.yaml"]]
    (tmp_path / "model.pt").unlink()
    done = Counting()
    done.resume_from(10)
    export.attach(done)
    done.add_event_handler(Events.STARTED, lambda: done.resume_from(10))
    done.go()
    assert names(tmp_path) == ["model.pt", "model.yaml"], "a run that is done leaves its weights all the same"


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
