"""The fingerprint tells networks apart, and nothing else."""

import copy
import re

import pytest
import torch

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.handlers import inference_weights
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.tokens import EncodedVolume, network_fingerprint


@pytest.fixture
def network():
    torch.manual_seed(0)
    return VQGAN(channels=(8, 16), num_embeddings=32, embedding_dim=4)


def test_it_is_a_sha256(network):
    assert re.fullmatch("[0-9a-f]{64}", network_fingerprint(network))


def test_mode_memory_format_and_copies_do_not_count(network):
    expected = network_fingerprint(network)
    assert network_fingerprint(network.eval()) == expected
    assert network_fingerprint(network.to(memory_format=torch.contiguous_format)) == expected
    assert network_fingerprint(copy.deepcopy(network).requires_grad_(False)) == expected


def test_weights_that_went_through_a_file_give_the_same(network, tmp_path):
    network.train()(torch.zeros(1, 1, 16, 16, 16))
    network.quantizer.step()
    torch.save(inference_weights(network), tmp_path / "model.pt")
    torch.manual_seed(1)
    other = VQGAN(channels=(8, 16), num_embeddings=32, embedding_dim=4)
    assert network_fingerprint(other) != network_fingerprint(network)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert network_fingerprint(other) == network_fingerprint(network)


def test_what_only_training_needs_does_not_count(network):
    expected = network_fingerprint(network)
    network.quantizer.reservoir.fill_(3)
    network.quantizer.ema_count.fill_(3)
    assert network_fingerprint(network) == expected


def test_the_last_bit_of_any_weight_counts(network):
    expected = network_fingerprint(network)
    for name, weights in inference_weights(network).items():
        before = weights.clone()
        flat = weights.reshape(-1) if weights.is_contiguous() else weights.permute(0, 2, 3, 4, 1).reshape(-1)
        flat.view(torch.uint8)[0] ^= 1
        assert network_fingerprint(network) != expected, name
        weights.copy_(before)
    assert network_fingerprint(network) == expected


def test_type_and_config_count(network):
    expected = network_fingerprint(network)
    assert network_fingerprint(copy.deepcopy(network).double()) != expected
    network.config["norm"] = "group"
    assert network_fingerprint(network) != expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_device_does_not_count(network):
    assert network_fingerprint(copy.deepcopy(network).cuda()) == network_fingerprint(network)


def test_a_code_file_is_read_for_its_network_alone(network, make_volume, tmp_path):
    path = make_volume(network=network_fingerprint(network)).save(tmp_path / "case.npz")
    EncodedVolume.load(path, network)
    network.quantizer.embedding[0, 0] += 1
    with pytest.raises(UserError, match=r"case\.npz: expected codes of the network"):
        EncodedVolume.load(path, network)
