"""Usage, perplexity, body tokens and bits against answers counted by hand."""

import math

import numpy as np
import pytest
import torch

from ctpa_vqgan.metrics import CodeCounter, bits_per_voxel, body_tokens, compression_ratio


def test_uniform_codes_have_the_perplexity_of_the_codebook():
    counter = CodeCounter(512)
    counter.update(torch.arange(512).reshape(1, 8, 8, 8))
    assert counter.perplexity() == pytest.approx(512)
    assert counter.usage() == 1.0


def test_one_code_has_a_perplexity_of_one():
    counter = CodeCounter(512)
    counter.update(torch.full((1, 4, 4, 4), 7))
    assert counter.perplexity() == pytest.approx(1)
    assert counter.usage() == 1 / 512


def test_perplexity_of_three_to_one():
    counter = CodeCounter(2)
    counter.update(torch.tensor([0, 0, 0, 1]))
    assert counter.perplexity() == pytest.approx(4 / 27**0.25)  # exp of -(3/4 ln 3/4 + 1/4 ln 1/4)


def test_air_is_left_out_of_the_body_numbers():
    codes, body = torch.tensor([[0, 0, 0, 0, 1, 2]]), torch.tensor([[0, 0, 0, 0, 1, 1]], dtype=torch.bool)
    counter = CodeCounter(4)
    counter.update(codes, body)
    summary = counter.summary()
    assert list(summary) == ["usage", "perplexity", "body_usage", "body_perplexity", "num_tokens"]
    assert (summary["usage"], summary["body_usage"], summary["num_tokens"]) == (0.75, 0.5, 6)
    assert summary["body_perplexity"] == pytest.approx(2)


def test_counters_of_two_volumes_merge_to_the_counter_of_both():
    codes, body = torch.randint(32, (2, 4, 4, 4)), torch.rand(2, 4, 4, 4) > 0.5
    both, first, second = CodeCounter(32), CodeCounter(32), CodeCounter(32)
    both.update(codes, body)
    first.update(codes[0], body[0])
    second.update(codes[1].to(torch.int16), body[1])
    assert torch.equal(first.merge(second).counts, both.counts)
    both.reset()
    assert not both.counts.any()
    with pytest.raises(ValueError, match="cannot merge"):
        first.merge(CodeCounter(16))


def test_nothing_counted_is_not_a_number_rather_than_zero():
    counter = CodeCounter(8)
    assert math.isnan(counter.usage()) and math.isnan(counter.perplexity())
    counter.update(torch.tensor([1, 2]))
    assert counter.usage() == 0.25
    assert math.isnan(counter.usage(body=True))


def test_codes_of_another_codebook_are_refused():
    with pytest.raises(ValueError, match="from 3 to 8, the codebook from 0 to 7"):
        CodeCounter(8).update(torch.tensor([3, 8]))
    with pytest.raises(ValueError, match="shape of codes"):
        CodeCounter(8).update(torch.tensor([3]), torch.tensor([True, False]))


MANY = 2**26  # two books of 8192


def test_counts_of_many_codes_keep_those_that_occurred():
    counter = CodeCounter(MANY)
    codes = torch.tensor([MANY - 1, 5, 5, 2**31 % MANY, MANY - 1, 5])
    counter.update(codes, torch.tensor([True, True, False, False, True, False]))
    assert counter.codes.tolist() == [0, 5, MANY - 1]
    assert counter.counts.tolist() == [[1, 3, 2], [0, 1, 2]]


def test_many_codes_are_counted_as_few_ones_are(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    table, sparse, parts = CodeCounter(500), CodeCounter(500), []
    monkeypatch.setattr("ctpa_vqgan.metrics.codebook.LARGEST_TABLE", 499)
    monkeypatch.setattr("ctpa_vqgan.metrics.sparse_counts.SETTLE", 100)
    sparse.reset()
    for _ in range(20):
        codes = torch.randint(500, (2, 4, 4, 4), generator=generator) ** 2 // 500
        body = torch.rand(codes.shape, generator=generator) > 0.5
        table.update(codes, body)
        sparse.update(codes, body)
        parts.append(CodeCounter(500))
        parts[-1].update(codes.to(torch.int16), body)
    assert sparse.summary() == pytest.approx(table.summary(), rel=1e-12)
    assert torch.equal(sparse.counts, table.counts[:, sparse.codes])
    merged = CodeCounter(500)
    for part in parts:
        merged.merge(part)
    assert torch.equal(merged.counts, sparse.counts) and torch.equal(merged.codes, sparse.codes)
    sparse.reset()
    assert math.isnan(sparse.usage()) and sparse.summary()["num_tokens"] == 0


def test_perplexity_and_usage_of_many_codes_by_hand():
    counter = CodeCounter(MANY)
    counter.update(torch.arange(MANY - 4096, MANY))
    assert counter.usage() == 4096 / MANY
    assert counter.perplexity() == pytest.approx(4096)
    assert math.isnan(counter.perplexity(body=True))


def test_many_codes_take_no_memory_for_those_that_do_not_occur():
    counter = CodeCounter(MANY)
    counter.update(torch.tensor([3, MANY - 1]))
    counter.merge(CodeCounter(MANY))
    assert counter.counts.numel() == 4
    with pytest.raises(ValueError, match=f"from 3 to {MANY}"):
        counter.update(torch.tensor([3, MANY]))


def hand_made_volume():
    """Four cells of 4 x 4 x 4 voxels along z: air, lung, padding, and padding with a quarter of muscle."""
    volume = np.full((4, 4, 16), -1000, np.int16)
    volume[..., 4:8] = -860
    volume[..., 8:16] = -3024
    volume[..., 12] = 50
    return volume


def test_lung_and_tissue_are_body_and_air_and_padding_are_not():
    expected = torch.tensor([[[False, True, False, True]]])
    volume = hand_made_volume()
    assert torch.equal(body_tokens(volume, 4), expected)
    assert torch.equal(body_tokens(volume.clip(-1000, 1000), 4), expected)  # as the network sees it
    assert torch.equal(body_tokens(volume, (4, 4, 8)), torch.tensor([[[True, True]]]))


def test_body_tokens_of_a_batch_are_those_of_its_volumes():
    batch = torch.randint(-1100, -800, (2, 1, 8, 12, 300), dtype=torch.int16)  # 300: more than one slab
    mask = body_tokens(batch, 4)
    assert mask.shape == (2, 2, 3, 75)
    assert 0 < mask.float().mean() < 1
    for volume, expected in zip(batch, mask):
        assert torch.equal(body_tokens(volume[0], 4), expected)


def test_body_tokens_refuse_what_does_not_fit_the_factor():
    with pytest.raises(ValueError, match="multiple of the compression factor"):
        body_tokens(torch.zeros(8, 8, 7), 4)
    with pytest.raises(ValueError, match=r"\[X, Y, Z\]"):
        body_tokens(torch.zeros(1, 8, 8, 8), 4)


def test_factor_four_and_8192_codes_cost_a_fifth_of_a_bit():
    rate = bits_per_voxel(num_tokens=128 * 128 * 151, num_embeddings=8192, num_voxels=512 * 512 * 604)
    assert rate == 13 / 64
    assert compression_ratio(rate) == pytest.approx(78.77, abs=0.01)
    assert compression_ratio(bits_per_voxel(10, 1, 640)) == math.inf
