"""One interface, three kinds: what holds for every quantizer, by itself, in a network and in a config."""

import copy
import io

import pytest
import torch
from monai.bundle import ConfigParser

from ctpa_vqgan.handlers import inference_weights
from ctpa_vqgan.networks import (
    VQGAN,
    FiniteScalarQuantizer,
    Quantized,
    ResidualQuantizer,
    VectorQuantizer,
    make_quantizer,
)
from ctpa_vqgan.tokens import network_fingerprint

KINDS = {"vq": VectorQuantizer, "fsq": FiniteScalarQuantizer, "residual": ResidualQuantizer}
LEVELS = (4, 3, 5)
SIZES = {"vq": 12, "fsq": 4 * 3 * 5, "residual": 12 * 12}


def make(kind: str, **changes) -> torch.nn.Module:
    """A small quantizer of length 3 whose codebook is there from the start."""
    changes = {"init": "random", "patches_in_reservoir": 2, **changes}
    return make_quantizer(kind, num_embeddings=12, embedding_dim=3, levels=LEVELS, **changes)


def latents_of(seed: int = 0, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 4, 3, 2, generator=torch.Generator().manual_seed(seed))


def state_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All buffers, also those that no state_dict holds."""
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def assert_same_state(one: dict, other: dict) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        assert torch.equal(values, other[name]), name


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


# -- by itself ---------------------------------------------------------------------------------------------------------


def test_the_factory_gives_the_class_itself(kind):
    quantizer = make(kind)
    assert type(quantizer) is KINDS[kind]
    assert (quantizer.num_embeddings, quantizer.embedding_dim) == (SIZES[kind], 3)
    assert quantizer.config["_target_"] == f"ctpa_vqgan.networks.{KINDS[kind].__name__}"


def test_an_unknown_kind_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="quantizer must be one of vq, fsq, residual, found 'lfq'"):
        make_quantizer("lfq")


@pytest.mark.parametrize("training", [True, False])
def test_shapes_and_types(kind, training):
    result = make(kind).train(training)(latents_of())
    assert type(result) is Quantized
    assert result.latents.shape == (2, 3, 4, 3, 2) and result.latents.dtype == torch.float32
    assert result.codes.shape == (2, 4, 3, 2) and result.codes.dtype == torch.int64
    assert result.loss.shape == () and result.loss.dtype == torch.float32
    assert 0 <= int(result.codes.min()) <= int(result.codes.max()) < SIZES[kind]


def test_forward_quantize_and_embed_agree(kind):
    quantizer, z = make(kind).eval(), latents_of()
    result = quantizer(z)
    assert torch.equal(result.codes, quantizer.quantize(z))
    assert torch.equal(result.latents, quantizer.embed(result.codes))
    assert result.latents.is_contiguous()


def test_the_latents_stay_as_they_were_given(kind):
    z = latents_of()
    make(kind).train()(z)
    assert torch.equal(z, latents_of())


def test_evaluation_and_no_grad_change_no_buffer(kind):
    quantizer, z = make(kind), latents_of()
    before = state_of(quantizer)
    quantizer.eval()(z)
    quantizer.quantize(z)
    quantizer.embed(quantizer.quantize(z))
    with torch.no_grad():
        quantizer.train()(z)
    quantizer.step()
    assert_same_state(state_of(quantizer), before)


def test_nothing_is_a_parameter(kind):
    """What an optimizer would move, or weight decay shrink, behind the codebook's back."""
    assert not list(make(kind).parameters())


def test_arithmetic_is_float32_inside_bfloat16_autocast(kind):
    quantizer, z = make(kind).eval(), latents_of()
    expected = quantizer(z)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = quantizer(z)
        assert torch.equal(quantizer.quantize(z), expected.codes)
        assert quantizer(z.bfloat16()).latents.dtype == torch.float32
    assert torch.equal(result.codes, expected.codes)
    assert torch.equal(result.latents, expected.latents)
    assert result.loss.dtype == torch.float32 and torch.equal(result.loss, expected.loss)


def test_float64_latents_stay_float64(kind):
    for quantizer in (make(kind).eval(), make(kind).double().eval()):
        result = quantizer(latents_of().double())
        assert result.latents.dtype == result.loss.dtype == torch.float64
        assert torch.equal(result.latents, quantizer.embed(result.codes).double())


def test_the_gradient_passes_the_codes_position_by_position(kind):
    z, weights = latents_of().requires_grad_(), latents_of(seed=1)
    quantizer = make(kind).train()
    vectors = quantizer(z).latents
    (vectors * weights).sum().backward()
    slope = torch.ones_like(z)
    if kind == "fsq":  # what its bound does to a latent far out
        slope = (1 - z.detach().tanh() ** 2) / (1 - vectors.detach().tanh() ** 2)
    torch.testing.assert_close(z.grad, weights * slope)


def test_the_loss_takes_part_in_a_graph_and_cannot_be_negative(kind):
    z = latents_of().requires_grad_()
    result = make(kind).train()(z)
    assert result.loss >= 0
    (result.latents.sum() + 0.25 * result.loss).backward()
    assert z.grad.isfinite().all()


def test_a_step_without_a_forward_pass_does_nothing(kind):
    quantizer = make(kind)
    before = state_of(quantizer)
    quantizer.step()
    assert_same_state(state_of(quantizer), before)


@pytest.mark.parametrize("init", ["random", "kmeans"])
def test_a_restored_quantizer_goes_on_bit_identically(kind, init):
    def train(quantizer, seeds):
        for seed in seeds:
            quantizer(latents_of(seed))
            quantizer.step()

    first, second = (make(kind, init=init, init_steps=2).train() for _ in range(2))
    train(first, range(3))
    first(latents_of(99))  # stopped between forward and step
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second.load_state_dict(torch.load(file, weights_only=True), strict=True)
    for quantizer in (first, second):
        quantizer.step()
        train(quantizer, range(10, 14))
    assert_same_state(state_of(first), state_of(second))


def test_inference_weights_load_strictly_and_quantize_the_same(kind):
    quantizer = make(kind).train()
    for seed in range(3):
        quantizer(latents_of(seed))
        quantizer.step()
    other = make(kind, init="kmeans")
    other.load_state_dict(inference_weights(quantizer), strict=True)
    assert torch.equal(other.quantize(latents_of(5)), quantizer.quantize(latents_of(5)))
    assert getattr(other, "initialized", True)


def test_the_config_builds_the_same_one_through_monai(kind):
    quantizer = make(kind, init="random", decay=0.9, normalize=True, seed=7)
    parser = ConfigParser({"quantizer": copy.deepcopy(quantizer.config)})
    again = parser.get_parsed_content("quantizer")
    assert type(again) is type(quantizer) and again.config == quantizer.config
    assert_same_state(state_of(again), state_of(quantizer))


def test_codes_do_not_depend_on_the_rest_of_the_batch(kind):
    quantizer, z = make(kind).eval(), latents_of(batch=3)
    assert torch.equal(quantizer.quantize(z), torch.cat([quantizer.quantize(each) for each in z.split(1)]))


def test_a_copy_of_it_is_independent(kind):
    quantizer = make(kind).train()
    clone = copy.deepcopy(quantizer)
    before = state_of(clone)
    quantizer(latents_of() + 3)
    quantizer.step()
    assert_same_state(state_of(clone), before)


# -- in a network ------------------------------------------------------------------------------------------------------


@pytest.fixture
def network(kind):
    torch.manual_seed(0)
    return VQGAN(channels=(4, 4), quantizer=make(kind))


@pytest.fixture
def volume():
    return torch.rand(2, 1, 12, 8, 8, generator=torch.Generator().manual_seed(2)) * 2 - 1


def test_a_network_trains_through_it(network, volume):
    optimizer, losses = torch.optim.AdamW(network.parameters(), lr=1e-2), []
    for _ in range(15):
        result = network.autoencode(volume)
        loss = (result.reconstruction - volume).abs().mean()
        optimizer.zero_grad()
        (loss + 0.25 * result.commitment).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        assert all(p.grad.any() for p in network.encoder[-1].parameters())
        optimizer.step()
        network.quantizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]


@torch.no_grad()
def test_the_methods_of_monais_vqvae_agree(network, volume):
    network.eval()
    codes, (latents, loss) = network.index_quantize(volume), network.quantize(network.encode(volume))
    assert network.num_embeddings == network.quantizer.num_embeddings and network.embedding_dim == 3
    assert codes.shape == (2, 3, 2, 2) and loss.ndim == 0
    assert torch.equal(network.decode_samples(codes), network(volume))
    assert torch.equal(network.decode(latents), network(volume))
    assert torch.equal(network.encode_stage_2_inputs(volume), latents)
    assert network.decode_stage_2_outputs(latents).shape == volume.shape


@torch.no_grad()
def test_the_config_of_a_network_builds_an_equal_one(network, volume):
    network.eval()
    again = ConfigParser({"network_def": network.config}).get_parsed_content("network_def").eval()
    again.load_state_dict(inference_weights(network), strict=True)
    assert again.config == network.config
    assert torch.equal(again(volume), network(volume))
    assert network_fingerprint(again) == network_fingerprint(network)


@torch.no_grad()
def test_all_types_of_a_network_decode(network, volume):
    codes = network.index_quantize(volume)
    double = copy.deepcopy(network).double()
    assert double.decode_samples(codes).dtype == torch.float64
    assert network.bfloat16().quantizer.embed(codes).dtype == torch.bfloat16


@pytest.mark.parametrize("config", ["train.yaml", "inference.yaml"])
def test_one_knob_of_the_bundle_chooses_it(kind, config, request):
    parser = ConfigParser()
    parser.read_config(str(request.config.rootpath / "bundles/ctpa_vqgan/configs" / config))
    parser.update({"quantizer": kind, "num_embeddings": 16, "channels": [4, 4], "fsq_levels": list(LEVELS)})
    parser.update({"codebook_decay": 0.8, "codebook_init_steps": 3})
    quantizer = parser.get_parsed_content("network_def").quantizer
    assert type(quantizer) is KINDS[kind]
    size = {"vq": (16, 8), "fsq": (60, 3), "residual": (256, 8)}[kind]
    assert (quantizer.num_embeddings, quantizer.embedding_dim) == size
    if kind != "fsq":
        assert (quantizer.config["decay"], quantizer.config["init_steps"]) == (0.8, 3)
