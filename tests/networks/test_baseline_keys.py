"""The keys of a checkpoint: told apart from what is around them, and refused together where they do not fit."""

import baseline_state as peer
import pytest
import torch

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.networks.baseline import load_baseline, read_baseline


def test_unknown_missing_and_misshapen_keys_are_listed_together(tmp_path):
    state = peer.make_state()
    state["decoder.attention.weight"] = torch.zeros(3)
    del state["post_vq_conv.conv.bias"]
    state["codebook.N"] = torch.zeros(3)
    state["pre_vq_conv.conv.bias"] = 5
    with pytest.raises(UserError) as caught:
        load_baseline(peer.write(tmp_path, state), num_groups=peer.GROUPS)
    told = str(caught.value)
    assert "\n" not in told
    assert "unknown: decoder.attention.weight; missing: post_vq_conv.conv.bias; misshapen: " in told
    assert "pre_vq_conv.conv.bias (expected (3,), found int)" in told
    assert "codebook.N (expected (32,), found (3,))" in told


def test_numbers_that_are_not_finite_are_named(tmp_path):
    state = peer.make_state()
    state["codebook.embeddings"][3] = torch.nan
    with pytest.raises(
        UserError, match=r"finite numbers, found others in codebook\.embeddings: its training broke down"
    ):
        load_baseline(peer.write(tmp_path, state), num_groups=peer.GROUPS)


def test_sums_that_overflowed_are_not_needed(tmp_path):
    state = peer.make_state()
    state["codebook.z_avg"][3] = torch.inf
    quantizer = load_baseline(peer.write(tmp_path, state), num_groups=peer.GROUPS).quantizer
    assert torch.isfinite(quantizer.ema_sum).all()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "first_stage_model."])
def test_names_of_wrappers_do_not_matter(prefix, tmp_path):
    state = peer.make_state()
    path = peer.write(tmp_path, {f"{prefix}{key}": value for key, value in state.items()}, settings={})
    found = read_baseline(path, "zyx", num_groups=peer.GROUPS)
    assert torch.equal(found.network.quantizer.embedding, state["codebook.embeddings"])
    assert not any(text.startswith("weights") for text in found.assumptions)


def test_the_network_inside_of_a_diffusion_is_taken(tmp_path):
    state = peer.make_state()
    inside = {f"vqgan.{key}": value for key, value in state.items()}
    content = {"step": 700, "model": inside | {"betas": torch.ones(3)}, "ema": dict(inside), "scaler": {"scale": 1.0}}
    found = read_baseline(peer.write(tmp_path, content), "zyx", num_groups=peer.GROUPS)
    assert torch.equal(found.network.quantizer.embedding, state["codebook.embeddings"])
    assert found.assumptions[0] == "weights: those below 'vqgan.'; the rest (1 keys) is around the VQ-GAN"


def test_half_precision_becomes_single(tmp_path):
    state = {key: value.half() for key, value in peer.make_state().items()}
    network = load_baseline(peer.write(tmp_path, state), "zyx", num_groups=peer.GROUPS)
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
    assert torch.equal(network.quantizer.embedding, state["codebook.embeddings"].float())
