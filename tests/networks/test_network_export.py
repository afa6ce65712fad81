"""torch.export gives a graph that holds for every size, and the numbers of the network."""

import pytest
import torch
from torch.export import Dim

from ctpa_vqgan.networks import VQGAN, make_quantizer
from ctpa_vqgan.networks.quantizers import vector


@pytest.mark.parametrize("kind", ["vq", "fsq", "residual"])
def test_an_exported_network_gives_the_same_numbers_at_sizes_that_it_was_not_exported_at(kind, monkeypatch):
    monkeypatch.setattr(vector, "CODES_AT_A_TIME", 10)  # the book is no multiple of it
    torch.manual_seed(0)
    quantizer = make_quantizer(kind, num_embeddings=24, embedding_dim=3, levels=(5, 5, 5), init="random")
    network = VQGAN(channels=(4, 8), quantizer=quantizer).eval().requires_grad_(False)
    h, w, d = (4 * Dim(name, min=2, max=64) for name in "hwd")
    exported = torch.export.export(network, (torch.rand(1, 1, 24, 16, 20),), dynamic_shapes=({2: h, 3: w, 4: d},))
    for size in [(24, 16, 20), (8, 12, 16), (32, 32, 8)]:
        volume = torch.rand(1, 1, *size) * 2 - 1
        torch.testing.assert_close(exported.module()(volume), network(volume), atol=1e-5, rtol=0)
