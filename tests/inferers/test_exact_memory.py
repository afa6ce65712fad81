"""Tiles from a budget of bytes, and memory that does not grow with the volume. Short form of a benchmark."""

import math
import re

import pytest
import torch
from stream_memory import MIB, in_process
from torch import nn

from ctpa_vqgan.inferers import BudgetTooSmall, ExactTileInferer
from ctpa_vqgan.inferers.memory import RESERVE, SLACK, largest_core, peak_bytes
from ctpa_vqgan.networks import VQGAN

SMALL = {"channels": (4, 8), "num_embeddings": 64, "embedding_dim": 4}


def test_a_peak_is_counted_without_computing():
    # a float32 MiB comes in, its copy, and a copy of that before the first copy goes; then all but the last are gone
    def work(x):
        return x.add(1).add(1).sum()

    assert peak_bytes(work, (2**18,), torch.float32, "cpu") == 3 * MIB


def test_a_convolution_counts_its_input_its_result_and_room_for_both_in_another_layout():
    layer = nn.Conv3d(2, 6, 1).requires_grad_(False)
    assert peak_bytes(layer, (1, 2, 32, 32, 32), torch.float32, "cpu") == 2 * (2 + 6) * 2**15 * 4


def test_a_volume_that_no_machine_could_hold_is_counted_too():
    network = VQGAN(**SMALL).eval().requires_grad_(False)
    assert peak_bytes(network.encode, (1, 1, 8192, 8192, 8192), torch.float32, "cpu") > 2**40


def budget_for(counted: int) -> int:
    """Bytes that a tile needs of which so many are counted."""
    return math.ceil(SLACK * counted + RESERVE)


def positions(around, core) -> int:
    """A byte per position with halo: only reserve and slack lie on top."""
    return around[0] * around[1] * around[2]


def test_a_larger_budget_gives_larger_tiles_up_to_the_volume():
    def largest(budget):
        return largest_core(budget_for(budget), (32, 32, 9), (4, 4, 4), (1, 1, 1), positions)

    assert largest(27) == (1, 1, 1)
    assert largest(10 * 10 * 9) == (8, 8, 5)  # 8 x 8 x 8, and two equal cores of 5 and 4 instead of 8 and 1
    assert largest(18 * 18 * 9) == (16, 16, 9)
    assert largest(10**9) == (32, 32, 9)


def test_cores_of_an_uneven_factor_are_cubes_in_voxels():
    core = largest_core(budget_for(8 * 8 * 32), (64, 64, 256), (8, 8, 2), (0, 0, 0), positions)
    assert core == (8, 8, 32)


def test_the_smallest_possible_budget_is_named_and_works():
    network, volume = VQGAN(**SMALL).eval(), torch.zeros(1, 1, 12, 12, 12)
    with pytest.raises(BudgetTooSmall, match=r"memory_bytes=1000000 is too little .* needs \d+ \(\d+ MiB\)") as error:
        ExactTileInferer(memory_bytes=1_000_000).encode(volume, network)
    needed = int(re.search(r"needs (\d+)", str(error.value))[1])
    assert ExactTileInferer(memory_bytes=needed).encode(volume, network).shape == (1, 3, 3, 3)
    with pytest.raises(BudgetTooSmall):
        ExactTileInferer(memory_bytes=needed - 1).encode(volume, network)


def test_tiles_from_a_budget_give_the_same_codes():
    network = VQGAN(**SMALL).double().eval()
    volume = torch.rand(1, 1, 41, 30, 20, dtype=torch.float64) * 2 - 1
    codes = ExactTileInferer(memory_bytes=160 * MIB).encode(volume, network)
    assert torch.equal(codes, ExactTileInferer((64, 64, 64)).encode(volume, network))


def test_a_tile_size_and_a_budget_together_are_refused():
    with pytest.raises(ValueError, match=r"give tile_size or memory_bytes, not both; found \(64, 64, 64\) and 1000"):
        ExactTileInferer((64, 64, 64), memory_bytes=1000)


# -- in processes of their own -----------------------------------------------------------------------------------------

NETWORK = {"channels": [8, 16], "num_embeddings": 512, "embedding_dim": 4}


def test_real_memory_stays_within_the_budget():
    budget = {"memory_bytes": 120 * MIB}
    (found,) = in_process({"size": [104, 96, 88], "network": NETWORK, "tiles": budget})
    assert 10 < found["encode_peak_mib"] < 120, found
    assert 10 < found["decode_peak_mib"] < 120, found


def test_four_times_the_slices_take_no_more_memory_than_their_codes():
    narrow = {"network": NETWORK, "tiles": {"tile_size": [48, 48, 32]}}
    jobs = [{"size": [48, 48, slices], **narrow} for slices in (128, 128, 512)]  # the first one warms up
    # without the gaps in the C library's heap, which come and go by some ten MiB
    _, short, long = in_process(*jobs, MALLOC_MMAP_THRESHOLD_=str(2**18))
    for task in ("encode", "decode"):
        assert long[f"{task}_peak_mib"] < short[f"{task}_peak_mib"] + 2 + long["codes_mib"], (short, long)
        assert long[f"{task}_left_mib"] < 2 + long["codes_mib"], long
