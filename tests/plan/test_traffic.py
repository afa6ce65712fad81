"""What ranks send each other is what the formula says, with numbers that were worked out by hand."""

import pytest
import torch
from torch import nn

from ctpa_vqgan import ranks
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.networks import VQGAN, FiniteScalarQuantizer, ResidualQuantizer, VectorQuantizer
from ctpa_vqgan.plan import StepTraffic, step_traffic

PATCH = (16, 16, 8)  # with a factor of 4, 4 x 4 x 2 = 32 latents
BOOK = {"num_embeddings": 16, "embedding_dim": 4, "reservoir_size": 160, "patches_in_reservoir": 8}  # 20 of a patch


def network(quantizer):
    return VQGAN(channels=(4, 8), quantizer=quantizer)


@pytest.fixture(scope="module")
def one_book():
    return network(VectorQuantizer(**BOOK))


def test_every_part_is_as_worked_out_by_hand(one_book):
    critic = nn.Conv3d(1, 2, 3)  # 2 x 27 weights and 2 biases
    held = nn.Parameter(torch.zeros(1000), requires_grad=False)
    critic.register_parameter("held", held)
    found = step_traffic(one_book, critic, PATCH, batch_size=4, world_size=2)
    assert found.gradients == 8 * sum(weight.numel() for weight in one_book.parameters())
    assert found.discriminator_gradients == 8 * 56, "what does not learn is not sent"
    assert found.codebook == 16 * 5 * 8
    assert found.code_counts == 2 * 16 * 8
    assert found.reservoir == 4 * 20 * 4 * 4
    assert found.small == 160
    assert found.book == 16 * 9 * 4
    assert found.code_list == 0


def test_discriminators_that_have_not_joined_send_nothing(one_book):
    assert step_traffic(one_book, None, PATCH, 4, 2).discriminator_gradients == 0


@pytest.mark.parametrize(("world_size", "shares"), [(1, 0), (2, 1), (4, 1.5), (1000, 1.998)])
def test_a_sum_travels_twice_and_what_is_gathered_once(world_size, shares):
    """2 (N - 1) / N of what is summed, and half as much of what is gathered."""
    assert StepTraffic(world_size, 1000, 0, 0, 0, 0, reservoir=0).sent_per_rank == 1000 * shares
    assert StepTraffic(world_size, 0, 0, 0, 0, 0, reservoir=2000).sent_per_rank == 1000 * shares


def test_sending_takes_bits_over_bandwidth():
    assert StepTraffic(2, 10**9, 0, 0, 0, 0, 0).seconds(gbit=8) == 1


def test_a_patch_gives_no_more_latents_than_it_has(one_book):
    # 4 x 4 x 1 latents, fewer than the 20 that would be drawn
    assert step_traffic(one_book, None, (16, 16, 4), 4, 2).reservoir == 4 * 16 * 4 * 4


def test_ranks_with_a_patch_less_are_padded_in_what_is_gathered(one_book):
    assert step_traffic(one_book, None, PATCH, 5, 2).reservoir == 6 * 20 * 4 * 4


def test_of_more_patches_than_a_reservoir_holds_only_the_last_are_sent(one_book):
    assert step_traffic(one_book, None, PATCH, 200, 2).reservoir == 2 * 160 * 4 * 4


def test_two_books_are_sent_and_codes_beyond_a_table_as_a_list():
    small = step_traffic(network(ResidualQuantizer(**BOOK)), None, PATCH, 4, 2)
    assert (small.codebook, small.reservoir) == (2 * 16 * 5 * 8, 2 * 4 * 20 * 4 * 4)
    assert (small.code_counts, small.code_list) == (2 * 256 * 8, 0)
    large = step_traffic(network(ResidualQuantizer(2048, 4)), None, PATCH, 4, 2)
    assert (large.code_counts, large.code_list) == (0, 4 * 32 * 24), "2**22 codes, of which 128 can occur"


def test_what_has_no_codebook_sends_none():
    found = step_traffic(network(FiniteScalarQuantizer((5, 5))), None, PATCH, 4, 2)
    assert (found.codebook, found.reservoir, found.code_counts) == (0, 0, 2 * 25 * 8)


def test_more_ranks_than_patches_are_refused(one_book):
    with pytest.raises(UserError, match="batch_size: expected at least a patch for each of 8 ranks") as error:
        step_traffic(one_book, None, PATCH, 4, 8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("make", [VectorQuantizer, ResidualQuantizer])
def test_a_quantizer_gives_its_ranks_as_many_bytes_as_the_formula_says(make, monkeypatch):
    """The real quantizer on one of two ranks, the other a stand-in that gives the same."""
    summed, gathered, copied = [], [], []

    class TwoRanks:
        def get_world_size(self):
            return 2

        def get_rank(self):
            return 0

        def all_reduce(self, tensor):
            summed.append(tensor.nbytes)

        def all_gather(self, found, tensor):
            for place in found:
                place.copy_(tensor)
            if tensor.is_floating_point():
                gathered.append(2 * tensor.nbytes)

        def broadcast(self, tensor, src):
            copied.append(tensor.nbytes)

    net = network(make(**BOOK, init="random")).train()
    monkeypatch.setattr(ranks, "_group", TwoRanks)
    net.quantizer.begin_step()
    net.autoencode(torch.rand(2, 1, *PATCH))
    net.quantizer.step()
    found = step_traffic(net, None, PATCH, batch_size=4, world_size=2)
    assert sum(summed) == found.codebook
    assert sum(gathered) == found.reservoir
    assert sum(copied) == found.book
