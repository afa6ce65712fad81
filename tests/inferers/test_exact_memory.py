"""Tiles from a budget of bytes, and memory that does not grow with the volume. Short form of a benchmark."""

import math
import re

import pytest
import torch
from stream_memory import MIB, in_process
from torch import nn

from ctpa_vqgan.inferers import BudgetTooSmall, ExactTileInferer
from ctpa_vqgan.inferers.memory import (
    RESERVE,
    SLACK,
    decoding_bytes,
    encoding_bytes,
    largest_core,
    largest_window,
    peak_bytes,
    window_bytes,
)
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
    assert peak_bytes(network.encoder, (1, 1, 8192, 8192, 8192), torch.float32, "cpu") > 2**40


def test_no_budget_gives_a_tile_or_window_with_tensors_that_convolutions_cannot_count():
    network = VQGAN(**SMALL).eval().requires_grad_(False)
    core, halo = (512, 512, 512), (515, 515, 515)
    run = call_plainly
    assert encoding_bytes(network, run, halo, core) == decoding_bytes(network, run, halo, core) == math.inf
    assert window_bytes(network, (1, 1, 2048, 2048, 2048), torch.float32, "cpu") == math.inf
    assert window_bytes(network, (64, 1, 512, 512, 512), torch.float32, "cpu") == math.inf, "the batch counts"
    assert window_bytes(network, (1, 1, 512, 512, 512), torch.float32, "cpu") < math.inf


def call_plainly(work, tensor):
    return work(tensor)


def test_counting_under_autocast_leaves_no_weights_without_values_behind():
    network, x = VQGAN(**SMALL).eval(), torch.rand(1, 1, 16, 16, 16)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        window_bytes(network, (1, 1, 16, 16, 16), torch.float32, "cpu")
        assert network(x).isfinite().all()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.is_autocast_cache_enabled()


# -- windows -----------------------------------------------------------------------------------------------------------


def voxels(window) -> int:
    """A byte per voxel."""
    return math.prod(window)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [
        (16 * 16 * 8, (16, 16, 8)),
        (24 * 24 * 24, (20, 20, 20)),  # 3 x 2 windows of 20 instead of 3 x 2 of 24
        (36 * 36 * 20, (28, 36, 20)),  # two along the first axis: 28 + 28 - 4 = 52, not 36 and a rest
        (10**9, (52, 36, 20)),
    ],
)
def test_windows_grow_to_the_volume_and_become_equal(budget, expected):
    window = largest_window(budget_for(budget), (16, 16, 8), (4, 4, 2), (52, 36, 20), (4, 4, 4), voxels)
    assert window == expected


def test_a_budget_below_the_configured_window_is_refused_with_the_least_one():
    with pytest.raises(BudgetTooSmall, match=rf"windows of \(16, 16, 8\) voxels: they need {budget_for(2048)} "):
        largest_window(budget_for(2048) - 1, (16, 16, 8), (4, 4, 2), (52, 36, 20), (4, 4, 4), voxels)


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
    with pytest.raises(
        BudgetTooSmall, match=r"memory_bytes=1000000 is too little .* needs \d+ \(memory_gb=0\.\d+\)"
    ) as error:
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
