"""Every script runs, at its smallest; what is compared gives the same."""

import json

import pytest
import quantizer
import startup
import torch
import training_step

ROWS = {
    "quantizer": {quantizer.OURS, quantizer.MONAI, quantizer.ONE_HOT},
    "training_step": {"ours", "MONAI VQVAE", "MONAI AutoencoderKlMaisi", "ours, checkpointing", "ours, no front end"},
    "reconstruction": {"ours, Gaussian windows", "ours, exact tiles, encode and decode", "MONAI VQVAE, one pass"},
    "startup": {startup.HELP, "import ctpa_vqgan"},
}


@pytest.mark.parametrize("name", ROWS)
def test_every_contender_of_a_script_runs(smoke, name):
    content = json.loads(smoke(name).read_text())
    assert {row["name"] for row in content["rows"]} >= ROWS[name]
    assert {row["status"] for row in content["rows"]} == {"ok"}
    assert all(row["seconds"] > 0 for row in content["rows"])


def test_every_quantizer_finds_the_same_codes_and_moves_the_codebook_alike():
    for rival, values in quantizer.agreement(2048, 256, 8, "cpu").items():
        assert values["same_codes"] > 0.999, rival
        assert values["gap"] < 1e-5, rival  # where codes differ they are ties within rounding
        assert values["codebook"] < 1e-5, rival


def test_a_quantizer_that_rounds_shows_in_the_agreement(monkeypatch):
    exact = quantizer.OneHotQuantizer.distances
    monkeypatch.setattr(quantizer.OneHotQuantizer, "distances", lambda self, flat: exact(self, flat.bfloat16().float()))
    values = quantizer.agreement(2048, 256, 8, "cpu")[quantizer.ONE_HOT]
    assert values["same_codes"] < 1
    assert values["gap"] > 1e-5


def test_the_quantizers_get_the_same_gradient():
    latents, book = quantizer.sample(512, 32, 8, "cpu")
    ours, monai, one_hot = quantizer.contenders(book, 16.0)
    gradients = []
    # MONAI's loss has a weight of 0.25 in it
    for forward, weight in ((lambda x: ours(x)[::2], 1.0), (lambda x: monai(x)[::-1], 4.0), (one_hot, 1.0)):
        x = latents.clone().requires_grad_()
        vectors, loss = forward(x)
        (vectors.square().mean() + weight * loss).backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[1], gradients[0], atol=1e-7, rtol=1e-4)
    torch.testing.assert_close(gradients[2], gradients[0], atol=1e-7, rtol=1e-4)


def test_our_step_is_one_optimizer_step_of_the_trainer():
    torch.manual_seed(0)
    network = training_step.our_network(8, 32)
    before = [weight.clone() for weight in network.parameters()]
    step = training_step.our_step(network, torch.rand(2, 1, 16, 16, 16), "float32")
    step.work()
    assert int(network.quantizer.num_steps) == 1
    assert any(not torch.equal(old, new) for old, new in zip(before, network.parameters()))
    assert all(weight.grad is None for weight in network.parameters())  # they count as memory of the step
    held = step.state_bytes()
    step.work()
    assert int(network.quantizer.num_steps) == 2
    assert step.state_bytes() == held


def test_networks_that_are_compared_are_of_one_size():
    networks = [training_step.our_network(64, 8192), training_step.monai_vqvae(64, 8192), training_step.monai_maisi(64)]
    sizes = [sum(p.numel() for p in network.parameters() if p.requires_grad) for network in networks]
    assert max(sizes) < 1.15 * min(sizes)


def test_a_volume_is_one_pass_of_its_windows():
    assert training_step.windows((256, 256, 128)) == 3 * 3 * 6
    assert training_step.windows((192, 192, 96)) == 4 * 4 * 9


def test_help_loads_nothing_heavy():
    assert startup.loaded(startup.RUNS[startup.HELP]) == []


def test_a_heavy_module_is_seen():
    assert "matplotlib" in startup.loaded(["-c", "import matplotlib"])
