"""Codes take ceil(log2 K) bits each, and come back."""

import time

import numpy as np
import pytest

from ctpa_vqgan.tokens.packing import bits_per_code, code_dtype, pack_codes, packed_size, unpack_codes


@pytest.mark.parametrize("num_embeddings", [2, 3, 8, 255, 256, 257, 5000, 8192, 65536, 65537, 2**20, 2**26, 2**32])
@pytest.mark.parametrize("num_codes", [0, 1, 7, 8, 9, 65535, 65536, 65537])
def test_codes_come_back_and_take_the_stated_bytes(num_embeddings, num_codes):
    rng = np.random.default_rng(num_codes)
    codes = rng.integers(0, num_embeddings, num_codes).astype(code_dtype(num_embeddings))
    codes[:1] = num_embeddings - 1
    packed = pack_codes(codes, num_embeddings)
    assert len(packed) == packed_size(num_codes, num_embeddings)
    back = unpack_codes(packed, num_codes, num_embeddings)
    assert back.dtype == codes.dtype and np.array_equal(back, codes)


def test_bits_stand_highest_first_without_gaps():
    """1, 2, 7, 0, 5 at 3 bits: 001 010 111 000 101, and a zero to fill the byte."""
    packed = pack_codes(np.array([1, 2, 7, 0, 5], np.uint16), num_embeddings=8)
    assert [f"{byte:08b}" for byte in packed] == ["00101011", "10001010"]


def test_a_codebook_that_is_no_power_of_two_takes_the_next_whole_bit():
    assert [bits_per_code(k) for k in (2, 3, 4, 5, 5000, 8192, 8193)] == [1, 2, 2, 3, 13, 13, 14]


@pytest.mark.parametrize("num_embeddings", [0, 1, 2**32 + 1])
def test_a_codebook_without_choice_or_end_is_refused(num_embeddings):
    with pytest.raises(ValueError, match="2 to 2"):
        bits_per_code(num_embeddings)


def test_too_few_or_too_many_bytes_are_refused():
    packed = pack_codes(np.arange(100, dtype=np.uint16), 8192)
    for wrong in (packed[:-1], np.append(packed, np.uint8(0))):
        with pytest.raises(ValueError, match="expected 163 bytes of 100 codes"):
            unpack_codes(wrong, 100, 8192)


def test_a_whole_ct_packs_in_a_moment():
    codes = np.random.default_rng(0).integers(0, 8192, (128, 128, 151)).astype(np.uint16)
    began = time.process_time()
    packed = pack_codes(codes, 8192)
    back = unpack_codes(packed, codes.size, 8192)
    assert time.process_time() - began < 2  # 0.3 s on an idle core
    assert len(packed) == 4_020_224 and np.array_equal(back, codes.reshape(-1))
