"""Two books: the second quantizes what the first left, is made with it, and never sees a book that is not there."""

import copy

import pytest
import torch

from ctpa_vqgan.handlers import inference_weights
from ctpa_vqgan.networks import ResidualQuantizer, VectorQuantizer


def latents_of(values) -> torch.Tensor:
    """Numbers as latents of length 1, one position each: [1, 1, 1, 1, N]."""
    return torch.as_tensor(values, dtype=torch.float32).view(1, 1, 1, 1, -1)


def random_latents(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def books_at(coarse, fine, **kwargs) -> ResidualQuantizer:
    """A quantizer in training with codes of length 1 at known places; nothing restarts unless asked for."""
    quantizer = ResidualQuantizer(len(coarse), 1, **{"init": "random", "restart_interval": 0, **kwargs})
    quantizer.first.embedding.copy_(torch.tensor(coarse).view(-1, 1))
    quantizer.second.embedding.copy_(torch.tensor(fine).view(-1, 1))
    return quantizer.train()


def learn(quantizer, latents: torch.Tensor) -> None:
    """One optimizer step as the codebooks see it."""
    quantizer(latents)
    quantizer.step()


def assert_same_state(one, other) -> None:
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


# -- codes and vectors -------------------------------------------------------------------------------------------------


def test_codes_and_vectors_by_hand():
    quantizer = books_at([0.0, 10.0, 20.0], [-1.0, 0.0, 2.0])
    result = quantizer(latents_of([-1.2, 0.9, 1.1, 9, 21.5]))
    # 0 - 1, 0 + 0, 0 + 2, 10 - 1, 20 + 2
    assert result.codes.flatten().tolist() == [0, 1, 2, 3, 8]
    assert result.latents.flatten().tolist() == [-1, 0, 2, 9, 22]
    assert quantizer.embed(result.codes).flatten().tolist() == [-1, 0, 2, 9, 22]


def test_the_loss_is_the_sum_of_both_commitments():
    result = books_at([0.0, 10.0], [-1.0, 1.0])(latents_of([2, 9]))
    # the first book leaves 2 and -1, the second of these 1 and 0
    assert result.loss == pytest.approx((2**2 + 1**2) / 2 + (1**2 + 0**2) / 2)


def test_the_commitments_pull_latents_to_both_books():
    z = latents_of([2, 9]).requires_grad_()
    books_at([0.0, 10.0], [-1.0, 1.0])(z).loss.backward()
    # 2 * distance / 2 latents, for each book
    assert z.grad.flatten().tolist() == pytest.approx([2 + 1, -1 + 0])


def test_the_second_book_averages_what_the_first_left():
    quantizer = books_at([0.0, 10.0], [-1.0, 1.0], decay=0.0)
    quantizer.first.num_steps.fill_(10**6)
    quantizer.second.num_steps.fill_(10**6)
    learn(quantizer, latents_of([1.5, 0.5, 8, 9]))
    assert quantizer.first.embedding.flatten().tolist() == pytest.approx([1, 8.5])
    assert quantizer.second.embedding.flatten().tolist() == pytest.approx([-1.5, 1], abs=1e-5)


def test_a_second_book_makes_the_error_smaller():
    z = random_latents(0, 1, 3, 10, 10, 10)
    both = ResidualQuantizer(16, 3)
    alone = VectorQuantizer(16, 3)
    for quantizer in (both, alone):
        for _ in range(5):
            learn(quantizer, z)
    both_error, error = ((q.eval()(z).latents - z).square().mean() for q in (both, alone))
    # 4 more bits for 3 channels are worth a factor of 2**(2 * 4 / 3) = 6.3 at best; greedy books reach about half
    assert both_error < error / 2.5


def test_many_codes_do_not_overflow():
    quantizer = ResidualQuantizer(2**16, 1, init="random", reservoir_size=8)
    assert quantizer.num_embeddings == 2**32
    codes = torch.tensor([0, 2**31, 2**32 - 1]).view(1, 3, 1, 1)
    vectors = quantizer.embed(codes).flatten()
    first, second = quantizer.first.embedding.flatten(), quantizer.second.embedding.flatten()
    assert vectors.tolist() == [first[0] + second[0], first[2**15] + second[0], first[-1] + second[-1]]
    assert int(quantizer.quantize(latents_of([9.0]))) >= 0


def test_the_two_books_start_differently():
    quantizer = ResidualQuantizer(16, 3, init="random")
    assert not torch.equal(quantizer.first.embedding, quantizer.second.embedding)


def test_on_the_sphere_the_second_book_corrects_the_first():
    quantizer = ResidualQuantizer(32, 4, normalize=True)
    z = random_latents(0, 1, 4, 8, 8, 8) * 7
    for _ in range(5):
        learn(quantizer, z)
    quantizer.eval()
    torch.testing.assert_close(quantizer.first.embedding.norm(dim=1), torch.ones(32))
    assert torch.equal(quantizer.quantize(z), quantizer.quantize(z * 100))  # only the direction counts
    goal = torch.nn.functional.normalize(z, dim=1)
    coarse = quantizer.first(z).latents
    assert (quantizer(z).latents - goal).square().mean() < 0.5 * (coarse - goal).square().mean()


def test_the_size_of_a_chunk_changes_nothing():
    z = random_latents(0, 1, 4, 8, 8, 8)
    whole, chunked = (ResidualQuantizer(64, 4, chunk_elements=size) for size in (None, 7 * 64))
    for _ in range(3):
        learn(whole, z)
        learn(chunked, z)
    assert_same_state(whole, chunked)
    assert torch.equal(whole.quantize(z), chunked.quantize(z))


# -- how the books begin -----------------------------------------------------------------------------------------------


def test_latents_pass_unquantized_until_both_books_are_made_together():
    quantizer = ResidualQuantizer(8, 4, init_steps=3)
    for step in range(3):
        assert not quantizer.initialized and not quantizer.first.initialized
        z = random_latents(step, 1, 4, 4, 4, 4)
        result = quantizer(z)
        assert torch.equal(result.latents, z) and result.loss == 0
        assert torch.equal(result.codes, quantizer.quantize(z))
        quantizer.step()
    assert quantizer.initialized and quantizer.first.initialized
    result = quantizer(z)
    assert not torch.equal(result.latents, z) and result.loss > 0


def test_the_second_book_is_made_from_what_the_first_leaves():
    quantizer = ResidualQuantizer(8, 4, init_steps=2, patches_in_reservoir=4)
    for step in range(2):
        learn(quantizer, random_latents(step, 2, 4, 4, 4, 4))
    first, second = quantizer.first, quantizer.second
    left = first.reservoir - first.embedding[torch.cdist(first.reservoir, first.embedding).argmin(1)]
    kept = left[left.any(1)]
    assert second.num_in_reservoir == len(kept) > 50 and second.num_steps == first.num_steps
    torch.testing.assert_close(second.reservoir[: len(kept)], kept)
    assert len(second.embedding.unique(dim=0)) == 8


@pytest.mark.parametrize("init", ["kmeans", "data"])
def test_latents_that_became_codes_leave_no_zeros_to_the_second_book(init):
    """With ``init="data"`` every code of the first book is a latent of its reservoir: one residual in eight is 0."""
    quantizer = ResidualQuantizer(8, 4, init=init, init_steps=2, patches_in_reservoir=4)
    for step in range(2):
        learn(quantizer, random_latents(step, 2, 4, 4, 4, 4))
    assert quantizer.second.embedding.abs().amax(1).min() > 0
    assert len(quantizer.second.embedding.unique(dim=0)) == 8


def test_a_constant_volume_makes_books_too():
    """Air alone: the first book holds it, and nothing is left for the second."""
    quantizer = ResidualQuantizer(4, 2)
    for _ in range(3):
        learn(quantizer, torch.ones(1, 2, 4, 4, 4))
    assert quantizer.initialized
    assert torch.equal(quantizer.eval()(torch.ones(1, 2, 4, 4, 4)).latents, torch.ones(1, 2, 4, 4, 4))


def test_both_books_are_used_to_the_full():
    quantizer = ResidualQuantizer(16, 3, init_steps=2)
    for step in range(10):
        learn(quantizer, random_latents(step, 2, 3, 8, 8, 8))
    codes = quantizer.eval().quantize(random_latents(99, 4, 3, 12, 12, 12))
    assert (codes // 16).unique().numel() == 16
    assert (codes % 16).unique().numel() == 16
    assert codes.unique().numel() > 0.9 * 256


@pytest.mark.parametrize("stopped_after", [0, 1, 2, 4])
def test_a_run_that_stopped_in_the_beginning_goes_on_bit_identically(stopped_after):
    first, second = (ResidualQuantizer(8, 4, init_steps=3, patches_in_reservoir=3) for _ in range(2))
    for step in range(stopped_after):
        learn(first, random_latents(step, 2, 4, 3, 3, 3))
    first(random_latents(99, 2, 4, 3, 3, 3))  # stopped between forward and step
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for step in range(10, 16):
        for quantizer in (first, second):
            quantizer.step()
            quantizer(random_latents(step, 2, 4, 3, 3, 3))
    assert first.initialized
    assert_same_state(first, second)


def test_micro_batches_of_one_and_four_give_the_same_books():
    one, four = (ResidualQuantizer(16, 4, init_steps=2) for _ in range(2))
    for step in range(5):
        z = random_latents(step, 4, 4, 4, 4, 4)
        for micro in z.split(1):
            one(micro)
        four(z)
        one.step()
        four.step()
    assert_same_state(one, four)


def test_fine_tuning_from_inference_weights_keeps_codes_that_are_not_hit_at_once():
    trained = books_at([0.0, 10.0, 20.0, 30.0], [-3.0, -1.0, 1.0, 3.0], restart_interval=1)
    for _ in range(50):
        learn(trained, latents_of([-3, 9, 21, 33]))
    tuned = ResidualQuantizer(4, 1)
    tuned.load_state_dict(inference_weights(trained), strict=True)
    before = tuned.quantize(latents_of([-3, 9, 21, 33]))
    for _ in range(3):
        learn(tuned, latents_of([9, 9, 9, 9]))
    assert torch.equal(tuned.quantize(latents_of([-3, 9, 21, 33])), before)


# -- greedy search -----------------------------------------------------------------------------------------------------


def test_a_vector_nearer_to_another_first_code_gets_another_code():
    """0 + 7 lies nearer to 10 than to 0: greedily it is 10 - 3."""
    quantizer = books_at([0.0, 10.0], [-3.0, 7.0])
    codes = torch.tensor(1).view(1, 1, 1, 1)
    assert quantizer.embed(codes).item() == 7
    assert quantizer.quantize(quantizer.embed(codes)).item() == 2
    assert quantizer.embed(torch.tensor(2).view(1, 1, 1, 1)).item() == 7


def test_vectors_that_are_quantized_again_stay_near():
    """Of latents that occur, most keep their code; those that do not move by less than the quantizer's own error."""
    quantizer = ResidualQuantizer(64, 4, init_steps=2)
    for step in range(20):
        learn(quantizer, random_latents(step, 2, 4, 8, 8, 8))
    quantizer.eval()
    z = random_latents(99, 2, 4, 12, 12, 12)
    codes = quantizer.quantize(z)
    vectors = quantizer.embed(codes)
    again = quantizer.quantize(vectors)
    moved = (quantizer.embed(again) - vectors).square().mean().sqrt()
    assert (again == codes).double().mean() > 0.8
    assert moved < 0.5 * (vectors - z).square().mean().sqrt()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_embeddings": 2**16 + 1}, "at most 65536, found 65537"),
        ({"num_embeddings": 0}, "must be positive, found 0, 4, 32"),
        ({"init": "zeros"}, "init must be one of"),
    ],
)
def test_settings_that_do_not_fit_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        ResidualQuantizer(**{"num_embeddings": 8, "embedding_dim": 4, **arguments})
