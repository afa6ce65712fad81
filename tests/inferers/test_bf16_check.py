"""The self-test of bf16: rounding passes, faults do not, and nothing is left behind."""

import logging

import pytest
import torch

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.inferers import bf16_check
from ctpa_vqgan.inferers.bf16_check import BLOCK_LIMIT, WHOLE_LIMIT, Bf16Errors, check_bf16, trusted_precision
from ctpa_vqgan.networks import VQGAN

SIZE = (32, 32, 16)


def make(channels=(4, 8), **options):
    torch.manual_seed(0)
    return VQGAN(channels=channels, num_embeddings=32, embedding_dim=4, **options)


def in_bf16(change):
    """A forward hook that spoils a layer's result under autocast."""

    def hook(module, inputs, output):
        return change(output.clone()) if torch.is_autocast_enabled("cpu") else output

    return hook


def zero_a_corner(y):
    y[..., :4, :4, :4] = 0
    return y


def zero_a_channel(y):
    y[:, 0] = 0
    return y


def move_a_plane(y):
    y[..., 4, :, :] = y[..., 0, :, :]
    return y


def not_a_number(y):
    y[..., 0, 0, 0] = torch.nan
    return y


def faulty(part="encoder", change=zero_a_corner):
    network = make()
    getattr(network, part)[-2 if part == "decoder" else -1].register_forward_hook(in_bf16(change))
    return network


@pytest.mark.parametrize(
    "network",
    [{}, {"channels": (16, 32)}, {"norm": "group", "num_groups": 2}, {"channels": (4, 8, 8), "front_end": "none"}],
    ids=str,
)
@pytest.mark.parametrize("scale", [1.0, 1.5])
def test_rounding_is_far_below_the_limits(network, scale):
    network = make(**network)
    for parameter in network.parameters():
        parameter.data.mul_(scale)
    errors = check_bf16(network, SIZE, batch_size=2)
    assert errors.small
    assert 0 < errors.latents < WHOLE_LIMIT / 2
    assert 0 < errors.reconstruction < WHOLE_LIMIT / 2
    assert errors.latents <= errors.worst_latents < BLOCK_LIMIT / 2
    assert errors.reconstruction <= errors.worst_reconstruction < BLOCK_LIMIT / 2


@pytest.mark.parametrize("change", [zero_a_corner, zero_a_channel, move_a_plane, not_a_number])
def test_a_fault_of_the_encoder_shows_in_latents_and_does_not_spoil_the_reconstruction(change):
    errors = check_bf16(faulty("encoder", change), SIZE)
    assert not errors.small
    assert not errors.worst_latents < 2 * BLOCK_LIMIT
    assert errors.worst_reconstruction < BLOCK_LIMIT, "decoded from the codes of float32"


@pytest.mark.parametrize("change", [zero_a_corner, not_a_number])
def test_a_fault_of_the_decoder_shows_in_the_reconstruction(change):
    errors = check_bf16(faulty("decoder", change), SIZE)
    assert not errors.small
    assert not errors.worst_reconstruction < 2 * BLOCK_LIMIT
    assert errors.worst_latents < BLOCK_LIMIT


def test_a_wrong_corner_shows_though_it_is_little_of_the_whole():
    errors = check_bf16(faulty("decoder"), (128, 64, 64))
    assert errors.reconstruction < WHOLE_LIMIT
    assert errors.worst_reconstruction > 2 * BLOCK_LIMIT
    assert not errors.small


def test_the_reference_of_a_large_patch_is_made_of_small_tiles(monkeypatch):
    network, sizes = make(), []
    network.encoder.register_forward_pre_hook(
        lambda module, x: sizes.append((torch.is_autocast_enabled("cpu"), *x[0].shape[2:]))
    )
    assert check_bf16(network, (256, 32, 16)).small
    assert [size for bf16, *size in sizes if bf16] == [[256, 32, 16]]
    assert max(size[1] for size in sizes if not size[0]) < 256


def test_nothing_is_left_behind():
    network = make().train()
    network.encoder[1].eval()
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    random, flags = torch.get_rng_state(), torch.backends.mkldnn.conv.fp32_precision
    check_bf16(network, SIZE)
    assert torch.equal(random, torch.get_rng_state())
    assert modes == [module.training for module in network.modules()]
    assert flags == torch.backends.mkldnn.conv.fp32_precision
    assert all(torch.equal(value, state[key]) for key, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


# -- what follows ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "expected"), [("auto", "float32"), ("float32", "float32"), ("tf32", "tf32")])
def test_without_bf16_nothing_is_computed(monkeypatch, precision, expected):
    monkeypatch.setattr(bf16_check, "check_bf16", None)
    assert trusted_precision(make(), SIZE, "cpu", precision) == expected


def test_a_passed_test_is_one_line_in_the_log(caplog):
    with caplog.at_level(logging.INFO):
        assert trusted_precision(make(), SIZE, "cpu", "bf16") == "bf16"
    (line,) = caplog.messages
    assert line.startswith("bf16 self-test on cpu, 1 x (32, 32, 16) voxels: latents ")
    assert line.endswith(": ok")


def test_bf16_that_was_asked_for_and_fails_is_refused_with_a_way_out():
    message = (
        r"^bf16 self-test on cpu.*: failed, allowed are 8% and 25% in a block; set precision to float32, or update"
    )
    with pytest.raises(UserError, match=message):
        trusted_precision(faulty(), SIZE, "cpu", "bf16")


def test_auto_falls_back_with_one_warning(monkeypatch, caplog):
    monkeypatch.setattr(bf16_check, "uses_bf16", lambda device, precision: True)  # as on a GPU
    with caplog.at_level(logging.INFO):
        assert trusted_precision(faulty(), SIZE, "cpu", "auto") == "float32"
        assert trusted_precision(make(), SIZE, "cpu", "auto") == "bf16"
    first, _ = caplog.records
    assert first.levelno == logging.WARNING
    assert "failed, allowed are 8% and 25% in a block; computing in float32 instead" in first.getMessage()


def test_nan_is_not_small():
    assert not Bf16Errors(float("nan"), 0.0, 0.0, 0.0).small
