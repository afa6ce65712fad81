"""Steps that are counted are those that are made; what is too much for the GPU is marked."""

import guide_memory
import pytest

from ctpa_vqgan.plan import StepMemory

PATCH = (32, 32, 16)
TINY = ["factor=[2,2,2]", "channels=[8]", "num_res_blocks=[0,0]", "num_embeddings=64", "embedding_dim=4"]
TINY += ["discriminator_channels=4", "discriminator_layers=1"]


@pytest.fixture
def told(monkeypatch):
    """What is asked of the counting; it counts a hundred for each patch at once, and one for each in the batch."""

    def count(parser, device_type, precision, discriminators):
        assert (device_type, discriminators) == ("cuda", True)
        batch, micro = parser["batch_size"], parser["micro_batch_size"]
        peak = (100 * micro + batch) * (2 if precision == "float32" else 1)
        return StepMemory(weights=0, gradients=0, optimizer=0, ema=0, activations=0, peak=peak)

    monkeypatch.setattr(guide_memory, "step_memory", count)


def test_a_real_step_takes_what_was_counted_for_a_cpu():
    parser = guide_memory.config(guide_memory.OURS, PATCH, TINY, "cpu").parser(batch_size=1, micro_batch_size=1)
    counted = guide_memory.step_memory(parser, "cpu", "float32", True).peak
    found = guide_memory.real_step(guide_memory.OURS, PATCH, TINY)
    assert found["live_bytes"] == pytest.approx(counted, rel=0.03)


def test_every_batch_is_counted_in_both_precisions(told):
    row = guide_memory.counted(guide_memory.OURS, PATCH, TINY)
    peaks = {(step["precision"], step["batch"], step["micro_batch"]): step["peak_bytes"] for step in row["steps"]}
    bf16 = {(1, 1): 101, (2, 2): 202, (4, 4): 404, (4, 1): 104}
    assert peaks == {(p, *sizes): n * times for p, times in (("bf16", 1), ("float32", 2)) for sizes, n in bf16.items()}
    assert guide_memory.one_patch_bytes(row) == 202
    positions, codes = 16 * 16 * 8, 64
    assert row["textbook_bytes"] == positions * codes * (4 + 8 + 4)


def test_the_network_of_the_preset_is_counted_with_its_own_codes(told):
    assert guide_memory.counted(guide_memory.BASELINE, (256, 256, 128), [])["textbook_bytes"] == 32 * 2**30


def test_only_what_a_gpu_of_24_gb_has_no_room_for_is_bold():
    step = {"batch": 1, "micro_batch": 1, "precision": "bf16", "peak_bytes": 20 * 2**30, "device_bytes": 24 * 10**9}
    assert guide_memory.cell(step) == "20"
    assert guide_memory.cell({**step, "device_bytes": 24 * 10**9 + 1}) == "**20**"
