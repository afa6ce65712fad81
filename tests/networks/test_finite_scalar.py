"""Finite scalar quantization: cells and vectors known by hand, and vectors that are quantized to themselves."""

import itertools
import math

import pytest
import torch
from torch import nn

from ctpa_vqgan.networks import VQGAN, FiniteScalarQuantizer

ALL_LEVELS = [(2,), (3,), (2, 2), (5, 4), (8, 8, 8, 4, 4), (8, 5, 5, 5), (16, 7), (64, 3), (1000,)]


def column(*values: float) -> torch.Tensor:
    """Latents [1, 1, 1, 1, N] of one channel."""
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 1, -1)


def quantized(levels: int, *values: float) -> list[int]:
    return FiniteScalarQuantizer((levels,)).quantize(column(*values)).flatten().tolist()


def test_an_even_number_of_levels_has_an_edge_at_zero():
    # cells of tanh(z): [-1, -0.5), [-0.5, 0), [0, 0.5), [0.5, 1); atanh(0.5) = 0.5493
    assert quantized(4, -9, -0.55, -0.54, -0.01, 0.01, 0.54, 0.55, 9) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_an_odd_number_of_levels_has_zero_in_the_middle():
    # cells of tanh(z): [-1, -1/3), [-1/3, 1/3), [1/3, 1); atanh(1/3) = 0.3466
    assert quantized(3, -9, -0.35, -0.34, 0, 0.34, 0.35, 9) == [0, 0, 1, 1, 1, 2, 2]


def test_infinite_latents_take_the_outermost_levels():
    assert quantized(8, -math.inf, -1e30, 1e30, math.inf) == [0, 0, 7, 7]


def test_vectors_are_the_middles_of_their_cells():
    vectors = FiniteScalarQuantizer((4,)).double().embed(torch.arange(4).view(1, 4, 1, 1))
    expected = [math.atanh(middle) for middle in (-0.75, -0.25, 0.25, 0.75)]
    assert vectors.shape == (1, 1, 4, 1, 1)
    assert vectors.flatten().tolist() == pytest.approx(expected, abs=1e-7)


def test_a_code_counts_the_first_channel_in_ones():
    quantizer = FiniteScalarQuantizer((3, 4, 2))
    low, high = -9.0, 9.0
    for digits in itertools.product((0, 2), (0, 3), (0, 1)):
        z = torch.tensor([high if digit else low for digit in digits]).view(1, 3, 1, 1, 1)
        assert quantizer.quantize(z).item() == digits[0] + 3 * digits[1] + 12 * digits[2]


@pytest.mark.parametrize("levels", ALL_LEVELS)
@pytest.mark.parametrize("kind", [torch.float64, torch.float32, torch.bfloat16])
def test_every_vector_is_quantized_to_its_own_code(levels, kind):
    if kind == torch.bfloat16 and max(levels) > 64:
        pytest.skip("eight bits cannot tell a thousand levels apart")
    quantizer = FiniteScalarQuantizer(levels).to(kind)
    codes = torch.arange(quantizer.num_embeddings).view(1, -1, 1, 1)
    vectors = quantizer.embed(codes)
    assert vectors.dtype == kind
    assert torch.equal(quantizer.quantize(vectors), codes)
    assert torch.equal(quantizer.eval()(vectors).codes, codes)
    assert vectors.movedim(1, -1).view(-1, len(levels)).unique(dim=0).shape[0] == quantizer.num_embeddings


def test_the_vector_of_a_latent_is_near_it_inside_the_outermost_cells():
    """The widest of those cells reaches from atanh(0.5) to atanh(0.75), with its vector at atanh(0.625)."""
    quantizer = FiniteScalarQuantizer((8, 8))
    z = (torch.rand(1, 2, 20, 20, 20) * 2 - 1) * math.atanh(0.75)
    farthest = math.atanh(0.75) - math.atanh(0.625)
    assert 0.9 * farthest < (quantizer(z).latents - z).abs().max() <= farthest


def test_a_latent_may_move_without_leaving_its_code():
    """What a generative model's small errors do: nothing, up to half a cell."""
    quantizer = FiniteScalarQuantizer((8, 8, 8, 4, 4))
    codes = torch.arange(8192).view(1, -1, 1, 1)
    noise = torch.rand(1, 5, 8192, 1, 1, generator=torch.Generator().manual_seed(0)) * 0.2 - 0.1
    assert torch.equal(quantizer.quantize(quantizer.embed(codes) + noise), codes)


def test_two_codes_of_32_bits_do_not_overflow():
    quantizer = FiniteScalarQuantizer((256,) * 4)
    assert quantizer.num_embeddings == 2**32
    codes = torch.tensor([0, 2**31 - 1, 2**31, 2**32 - 1]).view(1, 4, 1, 1)
    assert torch.equal(quantizer.quantize(quantizer.embed(codes)), codes)


def test_there_is_nothing_to_lose_so_the_loss_is_zero():
    z = torch.randn(1, 2, 3, 3, 3, requires_grad=True)
    result = FiniteScalarQuantizer((5, 5))(z)
    assert result.loss == 0
    (result.latents.sum() + result.loss).backward()
    assert (z.grad > 0).all()


def test_the_gradient_is_one_at_a_vector_and_fades_far_out():
    quantizer = FiniteScalarQuantizer((8,))
    z = torch.cat([quantizer.embed(torch.arange(8).view(1, 8, 1, 1)), torch.full((1, 1, 1, 1, 1), 3.0)], 2)
    z.requires_grad_()
    quantizer(z).latents.sum().backward()
    # beyond the outermost vector, tanh of which is 7 / 8
    far = (1 - math.tanh(3) ** 2) / (1 - (7 / 8) ** 2)
    assert z.grad.flatten().tolist() == pytest.approx([1] * 8 + [far], abs=1e-5)


@pytest.mark.parametrize("levels", [(), (1,), (8, 0), (2**17, 2**16)])
def test_levels_that_name_nothing_are_refused(levels):
    with pytest.raises(ValueError, match="levels must be whole numbers from 2"):
        FiniteScalarQuantizer(levels)


def test_weights_for_other_levels_are_refused_though_the_shapes_agree():
    network = VQGAN(channels=(4, 4), quantizer=FiniteScalarQuantizer((8, 5)))
    other = VQGAN(channels=(4, 4), quantizer=FiniteScalarQuantizer((5, 8)))
    with pytest.raises(RuntimeError, match=r"quantizer\.levels: expected \[5, 8\], found \[8, 5\]"):
        other.load_state_dict(network.state_dict())


def test_training_fills_the_levels():
    """Points of a square, coded by 8 x 8 levels: most of the 64 are used, and the points come back."""
    torch.manual_seed(0)
    quantizer = FiniteScalarQuantizer((8, 8))
    encoder = nn.Linear(2, 2)
    decoder = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 2))
    optimizer = torch.optim.AdamW([*encoder.parameters(), *decoder.parameters()], lr=1e-2)
    losses = []
    for _ in range(800):
        points = torch.rand(256, 2) * 2 - 1
        latents = encoder(points)
        result = quantizer(latents[..., None, None, None])
        loss = (decoder(result.latents.flatten(1)) - points).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # an ideal grid of 8 x 8 cells leaves (2 / 8)**2 / 12 = 0.0052, one cell for all 1 / 3
    assert sum(losses[-20:]) / 20 < 0.012
    assert result.codes.unique().numel() >= 40
    assert latents.abs().max() < 3  # with a gradient of 1 everywhere they drift to 27 within 1500 steps
