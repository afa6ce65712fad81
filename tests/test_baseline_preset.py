"""``configs/baseline_256.yaml`` is the baseline: its network, optimizers and weights of losses; and it trains."""

from pathlib import Path

import baseline_state as peer
import nibabel as nib
import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from ctpa_vqgan.__main__ import main
from ctpa_vqgan.losses import feature_matching_loss, hinge_generator_loss
from ctpa_vqgan.networks.baseline import read_baseline
from ctpa_vqgan.prepare import prepare

ROOT = Path(__file__).parents[1]
PRESET = ROOT / "configs/baseline_256.yaml"
OF_PEER = {"num_embeddings": peer.CODES, "embedding_dim": peer.EMBEDDING}
SIZE = [32, 32, 8]
SMALL = {"volume_size": SIZE, "patch_size": SIZE, "num_embeddings": 32, "codebook_init_steps": 1}
SMALL |= {"adversarial_start": 0, "discriminator_channels": 4, "discriminator_layers": 1, "num_workers": 0}
SMALL |= {"val_interval": 100, "progress": "false"}

pytestmark = pytest.mark.usefixtures("python_as_it_was")


@pytest.fixture
def config():
    """The bundle's training with the preset, on the CPU; nothing is built yet."""
    parser = ConfigParser()
    parser.read_config([str(ROOT / "bundles/ctpa_vqgan/configs/train.yaml"), str(PRESET)])
    parser["device"], parser["epoch_length"] = "cpu", 100
    parser.get_parsed_content("imports")
    return parser


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A baseline of the preset's widths, 16 and twice doubled, as its users have it."""
    path = tmp_path_factory.mktemp("peer") / "peer.ckpt"
    torch.save(peer.make_state((4, 4, 4), width=16), path)
    return read_baseline(path).network


@torch.no_grad()
def test_its_network_takes_an_imported_checkpoint_and_gives_the_same(config, imported):
    for knob, value in OF_PEER.items():
        config[knob] = value
    network, state = config.get_parsed_content("network_def").eval(), imported.state_dict()
    shapes = {key: value.shape for key, value in network.state_dict().items()}
    assert shapes == {key: value.shape for key, value in state.items()}
    network.load_state_dict(state)
    x = torch.rand(1, 1, 16, 16, 8) * 2 - 1
    assert torch.equal(network(x), imported(x))


def test_it_has_as_many_weights_as_the_baseline_of_that_size(config):
    network = config.get_parsed_content("network_def")
    assert sum(weight.numel() for weight in network.parameters()) == 1_391_081
    assert (network.num_embeddings, network.embedding_dim, network.factor) == (16384, 8, (4, 4, 4))


def test_its_optimizers_are_adam_of_one_rate_for_ever(config):
    for name in ("g_optimizer", "d_optimizer"):
        [group] = config.get_parsed_content(name).param_groups
        assert (tuple(group["betas"]), group["weight_decay"]) == ((0.5, 0.9), 0.0)
        schedule = config.get_parsed_content(name.replace("optimizer", "scheduler"))
        for step in (1, 10_000, 29_000, 40_000):
            schedule.load_state_dict({"last_epoch": step})
            assert group["lr"] == pytest.approx(3e-4 * 1 / 8 * 2 / 4), step


def test_its_weights_of_means_are_the_baselines_weights_of_sums_in_total(config):
    """4 x the sum over 4 layers and 2 critics of mean distances, and 1 x each critic's score.

    Ours are means over four views, so that each has a quarter of the total.
    """
    weights, random = config["loss_weights"], torch.Generator().manual_seed(0)
    real, fake = ([[torch.randn(3, generator=random) for _ in range(4)] for _ in range(2)] for _ in range(2))
    theirs = 4 * sum((r - f).abs().mean() for one, other in zip(real, fake) for r, f in zip(one, other))
    torch.testing.assert_close(weights["feature_matching"] * feature_matching_loss(real, fake), theirs)
    logits = [torch.randn(5, generator=random), torch.randn(7, generator=random)]
    theirs = 1 * -logits[0].mean() + 1 * -logits[1].mean()
    torch.testing.assert_close(weights["adversarial"] * hinge_generator_loss(logits), theirs)
    config["discriminator_channels"] = 4
    judged = config.get_parsed_content("discriminator")(torch.zeros(1, 1, 32, 32, 24))
    assert [len(layers) for layers in judged.features] == [4] * 4, "layers of four views: the volume and three planes"


@pytest.fixture(scope="module")
def trained(phantom_folder, tmp_path_factory):
    """A training of three steps that was stopped after two, and its data."""
    folder = tmp_path_factory.mktemp("preset")
    prepare([phantom_folder], folder / "data", workers=0, size=SIZE)
    for epochs in (2, 3):  # of one step: two volumes
        settings = [f"--set={knob}={value}" for knob, value in (SMALL | {"max_epochs": epochs}).items()]
        command = ["train", "--data", folder / "data", "--output", folder / "run", "--overlay", PRESET, *settings]
        assert main([str(word) for word in command]) == 0
    return folder


def test_it_trains_with_the_discriminators_and_goes_on_when_it_was_stopped(trained):
    from ctpa_vqgan.sealed import load_sealed

    content = load_sealed(max((trained / "run/checkpoints").glob("*.pt")))
    assert content["trainer"]["iteration"] == 3
    assert {"adversarial", "feature_matching", "discriminator"} <= content["trainer"]["terms"].keys()
    assert bool(content["network"]["quantizer.initialized"])
    overlay = yaml.safe_load((trained / "run/model.yaml").read_text())
    assert overlay["volume_size"] == SIZE
    assert overlay["network_def"]["decoder_channels"] == [32, 64, 64]


def test_its_weights_reconstruct_encode_and_decode(trained):
    volume = min((trained / "data/volumes").iterdir())
    options = ["--checkpoint", trained / "run/model.pt", "--set", "progress=false"]
    for name, data in (("inference", volume), ("encode", volume), ("decode", trained / "encode")):
        assert main([str(word) for word in (name, "--data", data, "--output", trained / name, *options)]) == 0
    for result in (*(trained / "inference").glob("*.nii.gz"), *(trained / "decode").glob("*.nii.gz")):
        assert nib.load(result).shape == tuple(SIZE)
    assert len(list((trained / "decode").glob("*.nii.gz"))) == 1


def test_its_weights_refuse_a_volume_of_another_size(trained, phantom_folder, capsys):
    command = ["inference", "--data", phantom_folder / "phantom_00.nii.gz", "--output", trained / "other"]
    assert main([str(word) for word in (*command, "--checkpoint", trained / "run/model.pt")]) == 1
    assert "prepare VOLUMES --size 32 32 8 --output DATA, or set volume_size=null" in capsys.readouterr().err
