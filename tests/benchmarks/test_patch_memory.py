"""Counting without computing: against an answer known in advance, and in the order that the design promises."""

import patch_memory
import torch
from torch import nn


def test_a_convolution_keeps_its_input_and_nothing_else():
    conv = nn.Conv3d(1, 4, 1)
    found = patch_memory.counted(conv, lambda x: conv(x).mean(1, keepdim=True), (8, 8, 8), torch.float32)
    voxels = 8**3 * 4
    # image, its reconstruction, and a scalar; the mean needs no tensor to go backward
    assert found["kept_bytes"] == 2 * voxels + 4
    assert found["peak_bytes"] >= found["kept_bytes"] + 4 * voxels


def test_the_front_end_and_the_remade_activations_pay():
    rows = {row["name"]: row for row in patch_memory.main(["--patch", "32", "32", "16", "--width", "16"])["rows"]}
    kept = {name: row["float32"]["kept_bytes"] for name, row in rows.items()}
    assert kept["ours, checkpointing"] < kept["ours, checkpointing the finest level"] < kept["ours"]
    assert kept["ours"] < kept["ours, GroupNorm"]
    assert 3 * kept["ours"] < kept["ours, no front end"]
    assert kept["ours"] < kept["MONAI AutoencoderKlMaisi"] / 5
    assert rows["ours"]["bf16"]["kept_bytes"] < kept["ours"]
