"""The layers: sizes and borders, the norm, the invertible front ends, and what checkpointing leaves as it is."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ctpa_vqgan.networks.blocks import (
    ChannelRMSNorm,
    ReplicateConv3d,
    ReplicateConvTranspose3d,
    ResidualBlock,
    SpaceToDepth,
    UnboundedReceptiveField,
    input_range,
    make_norm,
)

# (kernel, stride): a plain convolution, the half-size step, and a step that leaves the last axis alone
CONVOLUTIONS = [((3, 3, 3), (1, 1, 1)), ((4, 4, 4), (2, 2, 2)), ((4, 4, 3), (2, 2, 1)), ((1, 1, 1), (1, 1, 1))]
TRANSPOSED = CONVOLUTIONS[1:3]


@pytest.mark.parametrize(("kernel", "stride"), CONVOLUTIONS)
def test_a_convolution_divides_the_size_by_its_stride(kernel, stride):
    y = ReplicateConv3d(2, 3, kernel, stride)(torch.randn(1, 2, 8, 6, 4))
    assert y.shape == (1, 3, 8 // stride[0], 6 // stride[1], 4 // stride[2])


@pytest.mark.parametrize(("kernel", "stride"), TRANSPOSED)
def test_a_transposed_convolution_multiplies_the_size_by_its_stride(kernel, stride):
    y = ReplicateConvTranspose3d(2, 3, kernel, stride)(torch.randn(1, 2, 4, 3, 2))
    assert y.shape == (1, 3, 4 * stride[0], 3 * stride[1], 2 * stride[2])


@pytest.mark.parametrize(("kernel", "stride"), CONVOLUTIONS)
def test_a_convolution_of_a_constant_is_constant_to_the_borders(kernel, stride):
    conv = ReplicateConv3d(1, 1, kernel, stride).double()
    y = conv(torch.full((1, 1, 8, 8, 8), -1.0, dtype=torch.float64))
    torch.testing.assert_close(y, (conv.bias - conv.weight.sum()).expand_as(y))


@pytest.mark.parametrize(("kernel", "stride"), TRANSPOSED)
def test_a_transposed_convolution_of_a_constant_repeats_one_cell_to_the_borders(kernel, stride):
    conv = ReplicateConvTranspose3d(1, 1, kernel, stride).double()
    y = conv(torch.full((1, 1, 4, 4, 4), -1.0, dtype=torch.float64))
    # each of the 2x2x2 places of a cell has taps of its own; all cells are alike
    cell = y[..., : stride[0], : stride[1], : stride[2]]
    torch.testing.assert_close(y, cell.repeat(1, 1, 4, 4, 4))


def test_a_convolution_equals_pytorchs_with_replicate_padding():
    conv, theirs = ReplicateConv3d(2, 3, (3, 3, 3)), nn.Conv3d(2, 3, 3, padding=1, padding_mode="replicate")
    theirs.load_state_dict(conv.state_dict())
    x = torch.randn(1, 2, 5, 4, 3)
    torch.testing.assert_close(conv(x), theirs(x))


def test_a_transposed_convolution_is_pytorchs_on_a_padded_input():
    conv = ReplicateConvTranspose3d(2, 3, (4, 4, 4), (2, 2, 2))
    x = torch.randn(1, 2, 3, 3, 3)
    padded = F.pad(x, (1,) * 6, mode="replicate")
    wide = F.conv_transpose3d(padded, conv.weight, conv.bias, stride=2, padding=1)
    torch.testing.assert_close(conv(x), wide[..., 2:-2, 2:-2, 2:-2])


def test_the_norm_divides_each_voxel_by_its_root_mean_square():
    norm = ChannelRMSNorm(2)
    norm.weight.data = torch.tensor([1.0, 10.0])
    voxel = torch.tensor([3.0, 4.0])  # root mean square: sqrt((9 + 16) / 2)
    y = norm(voxel.view(1, 2, 1, 1, 1)).flatten()
    torch.testing.assert_close(y, torch.tensor([3.0, 40.0]) / math.sqrt(12.5))


def test_the_norm_of_a_voxel_depends_on_that_voxel_alone():
    norm, x = ChannelRMSNorm(4), torch.randn(1, 4, 3, 3, 3)
    other = x.clone()
    other[..., 1, 1, 1] *= -100
    changed = (norm(x) != norm(other)).any(1)[0]
    assert changed.nonzero().tolist() == [[1, 1, 1]]


def test_the_norm_of_zeros_is_zero():
    assert not ChannelRMSNorm(4)(torch.zeros(1, 4, 2, 2, 2)).any()


def test_the_norm_keeps_bfloat16_and_float64():
    x = torch.ones(1, 4, 1, 1, 1)
    assert ChannelRMSNorm(4)(x.bfloat16()).dtype == torch.bfloat16
    assert ChannelRMSNorm(4)(x.double()).dtype == torch.float64


@pytest.mark.parametrize("haar", [False, True])
@pytest.mark.parametrize("block", [(2, 2, 2), (2, 2, 1), (1, 2, 1)])
def test_a_front_end_and_its_inverse_return_the_volume(block, haar):
    x = torch.randn(2, 3, 4, 6, 8, dtype=torch.float64)
    there, back = SpaceToDepth(block, haar).double(), SpaceToDepth(block, haar, inverse=True).double()
    y = there(x)
    assert y.shape == (2, 3 * math.prod(block), 4 // block[0], 6 // block[1], 8 // block[2])
    torch.testing.assert_close(back(y), x, rtol=0, atol=1e-6)


@pytest.mark.parametrize("haar", [False, True])
def test_a_front_end_keeps_the_length_of_every_block(haar):
    x = torch.randn(1, 1, 4, 4, 4)
    y = SpaceToDepth((2, 2, 2), haar)(x)
    torch.testing.assert_close(y.square().sum(1, keepdim=True), F.avg_pool3d(x.square(), 2) * 8)


@pytest.mark.parametrize("haar", [False, True])
def test_a_front_end_keeps_blocks_apart(haar):
    x = torch.zeros(1, 1, 4, 4, 4)
    x[..., 3, 2, 0] = 1
    y = SpaceToDepth((2, 2, 2), haar)(x)
    assert y.any(1)[0].nonzero().tolist() == [[1, 1, 0]]


def test_the_first_haar_channel_is_the_scaled_mean_and_the_others_ignore_it():
    x = torch.randn(1, 1, 4, 4, 4)
    front = SpaceToDepth((2, 2, 2), haar=True)
    torch.testing.assert_close(front(x)[:, :1], F.avg_pool3d(x, 2) * math.sqrt(8))
    torch.testing.assert_close(front(x + 5)[:, 1:], front(x)[:, 1:])


def test_space_to_depth_lists_the_voxels_of_a_block_in_order():
    x = torch.arange(8.0).reshape(1, 1, 2, 2, 2)
    assert SpaceToDepth((2, 2, 2))(x).flatten().tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize(
    ("layer", "outputs", "inputs"),
    [
        (ReplicateConv3d(1, 1, (3, 3, 3)), (5, 6), (4, 7)),
        (ReplicateConv3d(1, 1, (4, 4, 4), (2, 2, 2)), (5, 5), (9, 12)),
        # two taps per output: voxel 10 lies between latents 4 and 5, voxel 11 between 5 and 6
        (ReplicateConvTranspose3d(1, 1, (4, 4, 4), (2, 2, 2)), (10, 10), (4, 5)),
        (ReplicateConvTranspose3d(1, 1, (4, 4, 4), (2, 2, 2)), (11, 11), (5, 6)),
        (SpaceToDepth((2, 2, 2)), (5, 5), (10, 11)),
        (SpaceToDepth((2, 2, 2), inverse=True), (10, 13), (5, 6)),
        (ResidualBlock(8, "rms", 8, checkpointing=False), (5, 5), (3, 7)),
        (nn.SiLU(), (5, 6), (5, 6)),
        (nn.Sequential(ReplicateConv3d(1, 1, (3, 3, 3)), SpaceToDepth((2, 2, 2))), (5, 5), (9, 12)),
    ],
)
def test_a_layer_knows_which_inputs_an_output_depends_on(layer, outputs, inputs):
    assert input_range(layer, *outputs, axis=0) == inputs


def test_group_norm_has_no_finite_range():
    with pytest.raises(UnboundedReceptiveField, match="use norm='rms' for exact tiles"):
        input_range(ResidualBlock(8, "group", 4, checkpointing=False), 0, 0, axis=0)


def test_a_norm_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="norm must be 'rms' or 'group', found 'batch'"):
        make_norm("batch", 8, 8)
    with pytest.raises(ValueError, match="multiples of num_groups=8, found 12"):
        make_norm("group", 12, 8)


@pytest.mark.parametrize("norm", ["rms", "group"])
def test_checkpointing_changes_neither_values_nor_gradients(norm):
    plain, saving = (ResidualBlock(8, norm, 4, checkpointing=c) for c in (False, True))
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(1, 8, 4, 4, 4)
    gradients = []
    for block in (plain, saving):
        leaf = x.clone().requires_grad_()
        y = block.train()(leaf)
        y.square().sum().backward()
        gradients.append([y.detach(), leaf.grad, *(p.grad for p in block.parameters())])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
