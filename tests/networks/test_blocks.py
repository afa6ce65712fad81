"""The layers: sizes and borders, the norm, the invertible front ends, and what checkpointing leaves as it is."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ctpa_vqgan.networks.blocks import (
    ReplicateConv3d,
    ReplicateConvTranspose3d,
    ResidualBlock,
    RMSNormSiLU,
    SpaceToDepth,
    UnboundedReceptiveField,
    input_range,
    make_activation,
    replicate_pad,
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


def plain_rms_norm_silu(x, weight):
    """As written in the papers, one operation at a time."""
    length = x.square().sum(1, keepdim=True).sqrt()
    return F.silu(x / ((length + 1e-6) / math.sqrt(x.shape[1])) * weight.view(-1, 1, 1, 1))


def test_the_norm_divides_each_voxel_by_its_root_mean_square():
    activation = RMSNormSiLU(2)
    activation.weight.data = torch.tensor([1.0, 10.0])
    voxel = torch.tensor([3.0, 4.0])  # root mean square: sqrt((9 + 16) / 2)
    y = activation(voxel.view(1, 2, 1, 1, 1)).flatten()
    torch.testing.assert_close(y, F.silu(torch.tensor([3.0, 40.0]) / math.sqrt(12.5)))


def test_the_activation_of_a_voxel_depends_on_that_voxel_alone():
    activation, x = RMSNormSiLU(4), torch.randn(1, 4, 3, 3, 3)
    other = x.clone()
    other[..., 1, 1, 1] *= -100
    changed = (activation(x) != activation(other)).any(1)[0]
    assert changed.nonzero().tolist() == [[1, 1, 1]]


def test_a_voxel_of_zeros_stays_zero_and_has_a_finite_gradient():
    x = torch.zeros(1, 4, 2, 2, 2, requires_grad=True)
    y = RMSNormSiLU(4)(x)
    y.sum().backward()
    assert not y.any()
    assert x.grad.isfinite().all()


def test_the_activation_keeps_bfloat16_and_float64():
    x = torch.ones(1, 4, 1, 1, 1)
    assert RMSNormSiLU(4)(x.bfloat16()).dtype == torch.bfloat16
    assert RMSNormSiLU(4)(x.double()).dtype == torch.float64


def test_the_fused_activation_has_the_values_and_gradients_of_the_plain_one():
    x = torch.randn(2, 5, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    activation = RMSNormSiLU(5).double()
    activation.weight.data.normal_()
    upstream = torch.randn_like(x)
    results = []
    for run in (activation, lambda x: plain_rms_norm_silu(x, activation.weight)):
        y = run(x)
        results.append([y, *torch.autograd.grad(y, [x, activation.weight], upstream)])
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(activation(x).detach(), activation.eval()(x.detach()))
    assert torch.autograd.gradcheck(activation, x)


def test_the_activation_leaves_its_input_as_it_was():
    x = torch.randn(1, 4, 2, 2, 2)
    before = x.clone()
    with torch.no_grad():
        RMSNormSiLU(4)(x)
        ResidualBlock(4, "group", 4, checkpointing=False)(x)
    assert torch.equal(x, before)


def kept_for_backward(run, x):
    """Bytes of distinct tensors that the graph of run(x) keeps, the input not counted."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = run(x)
    parameters = {p.untyped_storage()._cdata for p in run.parameters()} | {x.untyped_storage()._cdata}
    return sum(t.untyped_storage().nbytes() for key, t in kept.items() if key not in parameters), y


def test_a_block_keeps_one_tensor_of_its_size_for_the_backward_pass():
    block = ResidualBlock(8, "rms", 8, checkpointing=False)
    x = torch.randn(1, 8, 8, 8, 8, requires_grad=True)
    held, _ = kept_for_backward(block, x)  # the output of the first convolution
    assert held == x.nbytes


@pytest.mark.parametrize("borders", [[(1, 1), (1, 1), (1, 1)], [(2, 1), (0, 0), (0, 3)]])
@pytest.mark.parametrize("sides", [(4, 3, 2), (1, 1, 1)])
def test_padding_has_pytorchs_values_and_gradient(sides, borders):
    x = torch.randn(2, 3, *sides, dtype=torch.float64, requires_grad=True)
    theirs = F.pad(x, [n for pair in reversed(borders) for n in pair], mode="replicate")
    ours, upstream = replicate_pad(x, borders), torch.randn_like(theirs)
    assert torch.equal(ours, theirs)
    gradients = (torch.autograd.grad(y, x, upstream)[0] for y in (ours, theirs))
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kind", [ReplicateConv3d, ReplicateConvTranspose3d])
def test_making_the_padded_input_again_changes_no_gradient(kind):
    conv, x = kind(2, 3, (4, 4, 4), (2, 2, 2)), torch.randn(1, 2, 4, 4, 4, requires_grad=True)
    y = conv(x)
    padded = F.pad(x, (1,) * 6, mode="replicate")
    theirs = (
        F.conv3d(padded, conv.weight, conv.bias, stride=2)
        if kind is ReplicateConv3d
        else F.conv_transpose3d(padded, conv.weight, conv.bias, stride=2, padding=3)
    )
    upstream, inputs = torch.randn_like(y), [x, conv.weight, conv.bias]
    ours, expected = (torch.autograd.grad(result, inputs, upstream) for result in (y, theirs))
    torch.testing.assert_close(ours, expected)


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
    with pytest.raises(ValueError, match="norm must be 'rms', 'group' or 'fixed_batch', found 'batch'"):
        make_activation("batch", 8, 8)
    with pytest.raises(ValueError, match="multiples of num_groups=8, found 12"):
        make_activation("group", 12, 8)


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
