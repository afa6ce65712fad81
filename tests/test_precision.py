"""Arithmetic is chosen for a while and put back."""

import pytest
import torch

from ctpa_vqgan.precision import full_precision, numerics, uses_bf16


def flags():
    backends = torch.backends
    knobs = (backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul)
    return [knob.fp32_precision for knob in knobs]


@pytest.mark.parametrize(("convolutions", "expected"), [("ieee", ["ieee"] * 4), ("tf32", ["tf32"] + ["ieee"] * 3)])
def test_flags_are_set_for_a_while_and_put_back_after_an_error_too(convolutions, expected):
    before = flags()
    with pytest.raises(RuntimeError, match="stop"), full_precision(convolutions):
        assert flags() == expected
        raise RuntimeError("stop")
    assert flags() == before


def test_bf16_around_float32_arithmetic_has_no_effect_within():
    x = torch.rand(8, 8)
    with torch.autocast("cpu", torch.bfloat16), numerics("float32", "cpu"):
        assert (x @ x).dtype == torch.float32
    with numerics("bf16", "cpu"):
        assert (x @ x).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("device", "precision", "expected"),
    [("cpu", "auto", False), ("cpu", "bf16", True), ("cuda", "bf16", True), ("cuda:1", "float32", False)],
)
def test_bf16_is_used_where_it_is_asked_for(device, precision, expected):
    assert uses_bf16(device, precision) == expected


@pytest.mark.parametrize("native", [False, True])
def test_auto_uses_bf16_where_a_gpu_computes_in_it_natively(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert uses_bf16(torch.device("cuda", 0), "auto") == native
