"""The generator: MONAI's VQVAE interface, its factors and front ends, and a halo that is as wide as it must be."""

import pytest
import torch
from monai.bundle import ConfigParser
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ctpa_vqgan.handlers import inference_weights
from ctpa_vqgan.networks import VQGAN, Halo, VectorQuantizer
from ctpa_vqgan.networks.blocks import ResidualBlock, UnboundedReceptiveField

SMALL = {"num_embeddings": 32, "embedding_dim": 4}

# channels, factor, front_end, residual blocks in encoder and decoder
ARCHITECTURES = [
    ((4, 4), (2, 2, 2), "none", 1),
    ((4,), (2, 2, 2), "space_to_depth", 1),
    ((4, 4, 4), (4, 4, 4), "none", 1),
    ((4, 4), (4, 4, 4), "space_to_depth", 1),
    ((4, 4), (4, 4, 4), "haar", 2),
    ((4, 4), (4, 4, 4), "space_to_depth", (0, 3)),
    ((4, 4, 4, 4), (8, 8, 8), "none", 1),
    ((4, 4, 4), (8, 8, 8), "haar", 1),
    ((4, 4), (4, 4, 2), "space_to_depth", 1),
    ((4, 4, 4), (4, 4, 2), "none", 1),
    ((4, 4, 4), (8, 8, 4), "haar", 1),
    ((4, 4, 4, 4), (8, 8, 4), "none", 0),
    ((4, 4), (4, 2, 1), "haar", 1),
    ((4, 4, 4), (4, 2, 1), "none", (2, 1)),
]


def make_network(channels=(4, 4), factor=(4, 4, 4), front_end="space_to_depth", num_res_blocks=1, **kwargs):
    torch.manual_seed(0)
    kwargs = {**SMALL, **kwargs}
    return VQGAN(channels=channels, factor=factor, front_end=front_end, num_res_blocks=num_res_blocks, **kwargs).eval()


@pytest.fixture(scope="module")
def network():
    return make_network()


@pytest.fixture(scope="module")
def volume():
    return torch.rand(2, 1, 16, 16, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


# -- MONAI's VQVAE interface -------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_the_vqvae_interface(architecture):
    network = make_network(*architecture)
    x = torch.rand(2, 1, 16, 8, 8) * 2 - 1
    grid = tuple(s // f for s, f in zip(x.shape[2:], network.factor))
    codes = network.index_quantize(images=x)
    latents = network.encode(images=x)
    quantized, loss = network.quantize(encodings=latents)
    assert (codes.shape, codes.dtype) == ((2, *grid), torch.int64)
    assert latents.shape == quantized.shape == (2, 4, *grid)
    assert loss.shape == ()
    reconstruction = network(x)
    assert (reconstruction.shape, reconstruction.dtype) == (x.shape, torch.float32)
    torch.testing.assert_close(network.decode(quantizations=quantized), reconstruction)
    torch.testing.assert_close(network.decode_samples(embedding_indices=codes), reconstruction)


@torch.no_grad()
def test_stage_2_goes_out_and_comes_back(network, volume):
    z = network.encode_stage_2_inputs(volume)
    torch.testing.assert_close(z, network.quantize(network.encode(volume))[0])
    torch.testing.assert_close(network.decode_stage_2_outputs(z), network(volume))
    # a diffusion model's sample is near a code, seldom on it
    torch.testing.assert_close(network.decode_stage_2_outputs(z + 1e-5), network(volume))


@torch.no_grad()
def test_stage_2_latents_lie_in_plain_order_for_monais_views(network, volume):
    assert network.encode(volume).is_contiguous()
    assert network.encode_stage_2_inputs(volume).is_contiguous()


@torch.no_grad()
def test_a_training_pass_returns_what_forward_does_and_what_it_came_from(network, volume):
    result = network.autoencode(volume)
    torch.testing.assert_close(result.reconstruction, network(volume))
    assert torch.equal(result.codes, network.index_quantize(volume))
    torch.testing.assert_close(result.commitment, network.quantize(result.latents)[1])


@torch.no_grad()
def test_volumes_of_a_batch_do_not_see_each_other(network, volume):
    torch.testing.assert_close(network(volume[1:]), network(volume)[1:])


@torch.no_grad()
def test_channels_in_and_out_may_differ():
    network = make_network(in_channels=2, out_channels=3, front_end="haar")
    assert network(torch.zeros(1, 2, 8, 8, 8)).shape == (1, 3, 8, 8, 8)


@torch.no_grad()
def test_group_norm_is_an_option():
    assert make_network(channels=(8, 16), norm="group")(torch.zeros(1, 1, 8, 8, 8)).shape == (1, 1, 8, 8, 8)


@torch.no_grad()
@pytest.mark.parametrize("upsampling", ["mirrored", "eager"])
def test_the_order_in_which_axes_grow_leaves_the_size_alone(upsampling):
    network = make_network((4, 4, 4, 4), (8, 2, 1), "none", upsampling=upsampling)
    strides = [layer.stride for layer in network.decoder if getattr(layer, "transposed", False)]
    assert strides == [(2, 2, 1), (2, 1, 1), (2, 1, 1)][:: 1 if upsampling == "eager" else -1]
    assert network(torch.zeros(1, 1, 16, 4, 3)).shape == (1, 1, 16, 4, 3)


def test_residual_blocks_go_by_level():
    network = make_network((4, 6, 8), front_end="none", num_res_blocks=([0, 1, 2], [3, 0, 1]))
    blocks = [
        [layer.body[0].in_channels for layer in part if isinstance(layer, ResidualBlock)]
        for part in (network.encoder, network.decoder)
    ]
    assert blocks == [[6, 8, 8], [8, 4, 4, 4]]


def test_what_is_usual_is_not_named_in_the_config():
    # code files carry a hash of it
    usual = {"decoder_channels": (4, 4), "decoder_kernel": 3, "decoder_activation": "last", "unstrided_kernel": 3}
    assert make_network(**usual, upsampling="mirrored").config == make_network().config
    assert "decoder_kernel" not in make_network().config
    assert make_network(decoder_kernel=1).config["decoder_kernel"] == 1


def test_a_quantizer_of_ones_own_sets_the_size_of_the_codebook():
    network = VQGAN(channels=(4, 4), quantizer=VectorQuantizer(48, 6))
    assert (network.num_embeddings, network.embedding_dim) == (48, 6)
    assert network.encode(torch.zeros(1, 1, 8, 8, 8)).shape[1] == 6


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (
            {"channels": (8, 16, 32)},
            r"must have 2 entries for factor \(4, 4, 4\) and front_end='space_to_depth'",
        ),
        ({"channels": (8, 16), "front_end": "none"}, r"channels must have 3 entries.*found \(8, 16\)"),
        ({"factor": (3, 3, 3)}, r"factor must be three powers of two.*found \(3, 3, 3\)"),
        ({"factor": (4, 4)}, r"factor must be three powers of two.*found \(4, 4\)"),
        ({"factor": (1, 1, 1)}, "at least one above 1"),
        ({"front_end": "fft"}, "front_end must be one of none, space_to_depth, haar, found 'fft'"),
        ({"norm": "batch"}, "norm must be 'rms', 'group' or 'fixed_batch', found 'batch'"),
        ({"norm": "group", "channels": (12, 16)}, "multiples of num_groups=8, found 12"),
        ({"spatial_dims": 2}, "spatial_dims must be 3, found 2"),
        ({"decoder_channels": (8,)}, r"decoder_channels must have 2 entries as channels has, found \(8,\)"),
        ({"num_res_blocks": ([1, 1, 1], 1)}, r"one number or 2 for a part, found \[1, 1, 1\]"),
        ({"decoder_kernel": 2}, "decoder_kernel must be 1 or 3 and unstrided_kernel 3 or 4, found 2 and 3"),
        ({"decoder_activation": "middle"}, "decoder_activation must be one of last, first, found 'middle'"),
        ({"upsampling": "late"}, "upsampling must be one of mirrored, eager, found 'late'"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_the_way_out(kwargs, message):
    with pytest.raises(ValueError, match=message):
        VQGAN(**{"channels": (8, 16), **SMALL, **kwargs})


def test_a_volume_that_is_no_multiple_of_the_factor_is_refused_with_the_way_out(network):
    message = r"\(16, 16, 15\) must be a multiple of the compression factor \(4, 4, 4\); pad with DivisiblePadd"
    with pytest.raises(ValueError, match=message):
        network(torch.zeros(1, 1, 16, 16, 15))


# -- the halo ----------------------------------------------------------------------------------------------------------


def line_of_cells(network, halo: int, axis: int) -> tuple[list[int], int, int]:
    """Latent grid that is long enough along one axis and one cell thin along the others; its middle; the factor."""
    length = 2 * halo + 3
    return [length if a == axis else 1 for a in range(3)], length // 2, network.factor[axis]


def reach(moved: torch.Tensor, axis: int) -> tuple[int, int]:
    """First and last place along an axis that moved."""
    places = moved.nonzero()[:, axis]
    return int(places.min()), int(places.max())


@torch.no_grad()
def measured_encoder_halo(network, axis: int) -> int:
    """How many latents beyond its own cell a voxel moves, the farthest over the voxels of the cell."""
    grid, middle, factor = line_of_cells(network, network.halo.encoder[axis], axis)
    halo = 0
    for voxel in (middle * factor, middle * factor + factor - 1):  # the first and the last reach farthest
        x = torch.zeros(1, 1, *(g * f for g, f in zip(grid, network.factor)), dtype=torch.float64)
        # NaN spreads exactly as far as the layers reach, however small their weights
        x.select(2 + axis, voxel).fill_(torch.nan)
        low, high = reach(network.encode(x).isnan().any(1)[0], axis)
        halo = max(halo, middle - low, high - middle)
    return halo


@torch.no_grad()
def measured_decoder_halo(network, axis: int) -> int:
    """How many cells beyond its own a latent moves voxels in."""
    grid, middle, factor = line_of_cells(network, network.halo.decoder[axis], axis)
    z = torch.zeros(1, network.embedding_dim, *grid, dtype=torch.float64)
    z.select(2 + axis, middle).fill_(torch.nan)
    low, high = reach(network.decode(z).isnan().any(1)[0], axis)
    return max(middle - low // factor, high // factor - middle)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_halo_is_the_measured_receptive_field(architecture):
    network = make_network(*architecture).double()
    assert network.halo.encoder == tuple(measured_encoder_halo(network, axis) for axis in range(3))
    assert network.halo.decoder == tuple(measured_decoder_halo(network, axis) for axis in range(3))


@torch.no_grad()
def test_a_small_change_reaches_no_farther_than_the_halo_either():
    network = make_network().double()
    x = torch.rand(1, 1, 44, 44, 44, dtype=torch.float64)
    moved = x.clone()
    moved[..., 20, 20, 20] += 0.5  # the first voxel of latent 5
    low, high = reach((network.encode(moved) != network.encode(x)).any(1)[0], axis=0)
    assert 5 - network.halo.encoder[0] <= low < 5 < high <= 5 + network.halo.encoder[0]


def test_the_default_halo_is_known():
    assert VQGAN().halo == Halo(encoder=(4, 4, 4), decoder=(5, 5, 5))


def test_group_norm_has_no_halo():
    with pytest.raises(UnboundedReceptiveField, match="use norm='rms' for exact tiles"):
        _ = make_network(channels=(8, 8), norm="group").halo


# -- building, sizes, precision ----------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("front_end", ["none", "haar"])
def test_the_config_of_a_network_builds_an_equal_one(front_end, volume):
    channels = (4, 4, 4) if front_end == "none" else (4, 4)
    quantizer = VectorQuantizer(32, 4, decay=0.9, normalize=True, init="data", reservoir_size=64, seed=5)
    network = make_network(channels, (4, 4, 2), front_end, (1, 2), quantizer=quantizer)
    parser = ConfigParser({"network_def": network.config})
    again = parser.get_parsed_content("network_def").eval()
    again.load_state_dict(network.state_dict(), strict=True)
    assert again.config == network.config
    assert torch.equal(again(volume), network(volume))


def test_the_default_has_two_to_four_million_parameters_and_fits_in_8_mb():
    network = VQGAN()
    assert 2e6 < sum(p.numel() for p in network.parameters()) < 4e6
    halves = [v.half() if v.is_floating_point() else v for v in inference_weights(network).values()]
    assert sum(v.numel() * v.element_size() for v in halves) < 8e6


@torch.no_grad()
def test_inference_weights_load_strictly_and_reconstruct_the_same(volume):
    network = make_network()
    other = VQGAN(channels=(4, 4), **SMALL).eval()
    other.load_state_dict(inference_weights(network), strict=True)
    assert torch.equal(other(volume), network(volume))


def test_weights_without_a_codebook_do_not_load(network):
    weights = {name: w for name, w in inference_weights(network).items() if name != "quantizer.embedding"}
    with pytest.raises(RuntimeError, match=r"Missing key.*quantizer\.embedding"):
        make_network().load_state_dict(weights, strict=True)


@torch.no_grad()
def test_the_memory_layout_does_not_change_values(network, volume):
    plain = make_network().to(memory_format=torch.contiguous_format).double()
    x = volume.double()
    fast = make_network().double()
    assert fast.encoder[1].weight.is_contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(fast(x), plain(x), rtol=0, atol=1e-12)
    torch.testing.assert_close(fast(x.contiguous(memory_format=torch.channels_last_3d)), plain(x), rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("front_end", ["space_to_depth", "haar"])
def test_bfloat16_autocast_returns_float32_close_to_float32(front_end, volume):
    network = make_network(front_end=front_end)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        latents, result = network.encode(volume), network.autoencode(volume)
    assert latents.dtype == torch.bfloat16
    assert result.reconstruction.dtype == result.commitment.dtype == torch.float32
    torch.testing.assert_close(latents.float(), network.encode(volume), rtol=0, atol=0.05)


def test_checkpointing_changes_no_gradient(volume):
    gradients = []
    for checkpointing in (False, True, [True, False]):
        network = make_network(checkpointing=checkpointing).train()
        result = network.autoencode(volume)
        (result.reconstruction.square().mean() + result.commitment).backward()
        gradients.append([p.grad for p in network.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
    torch.testing.assert_close(gradients[0], gradients[2], rtol=0, atol=0)
    assert all(g.isfinite().all() for g in gradients[0])


def test_checkpointing_goes_by_level():
    network = make_network(checkpointing=[True, False])
    blocks = [(m.body[0].in_channels, m.checkpointing) for m in network.modules() if isinstance(m, ResidualBlock)]
    assert blocks == [(4, True), (4, False), (4, False), (4, True)]  # encoder, then decoder
    with pytest.raises(ValueError, match="checkpointing must be true, false or 2 of them, found \\[True\\]"):
        make_network(checkpointing=[True])


@pytest.mark.parametrize("front_end", ["none", "haar"])
def test_the_largest_activation_is_the_largest_tensor_inside(front_end):
    channels = (4, 6, 6) if front_end == "none" else (4, 6)
    network, largest = make_network(channels, front_end=front_end), 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            largest = max([largest, *(t.numel() for t in tree_leaves(result) if isinstance(t, torch.Tensor))])
            return result

    with torch.no_grad(), Largest():
        network.decode(network.encode(torch.zeros(1, 1, 32, 24, 16)))
    assert largest == network.largest_activation((32, 24, 16))


@torch.no_grad()
@pytest.mark.parametrize("downsample", [(4, 4, 4), (4, 2, 1)], ids=str)
def test_the_largest_activation_counts_a_wider_decoder(downsample):
    shape = {"decoder_channels": (12, 8, 6), "unstrided_kernel": 4, "upsampling": "eager"}
    network, largest = make_network((4, 6, 6), downsample, "none", **shape), 0

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            result = func(*args, **(kwargs or {}))
            largest = max([largest, *(t.numel() for t in tree_leaves(result) if isinstance(t, torch.Tensor))])
            return result

    with Largest():
        network.decode(network.encode(torch.zeros(1, 1, 32, 24, 16)))
    assert largest <= network.largest_activation((32, 24, 16)) <= 1.1 * largest


def test_a_tensor_beyond_32_bits_is_refused_before_it_is_made():
    network = make_network((8, 8, 8), front_end="none")
    volume = torch.zeros(1, 1, 1, 1, 1).expand(1, 1, 1024, 1024, 512)  # takes no memory
    with pytest.raises(ValueError, match=r"elements, and beyond 2147483647 .* use ExactTileInferer"):
        network.encode(volume)
    with pytest.raises(ValueError, match="use ExactTileInferer"):
        network.decode(torch.zeros(1, 1, 1, 1, 1).expand(1, 4, 256, 256, 128))


def test_the_gradient_passes_the_codes_to_the_encoder(volume):
    network = make_network(quantizer=VectorQuantizer(32, 4, init="random"))
    network(volume).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.encoder.parameters())
