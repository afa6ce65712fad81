"""The halo that is computed from the layers is the reach that a moved voxel, or a moved latent, shows."""

import itertools

import pytest
import torch

from ctpa_vqgan.networks import VQGAN

# channels, factor, front end, residual blocks in encoder and decoder
ARCHITECTURES = [
    ((4,), (2, 2, 2), "space_to_depth", 0),
    ((4,), (2, 2, 2), "haar", 2),
    ((4, 4), (2, 2, 2), "none", (1, 2)),
    ((4, 4), (4, 4, 4), "space_to_depth", 1),
    ((4, 4), (4, 4, 4), "haar", (2, 0)),
    ((4, 4, 4), (4, 4, 4), "none", 1),
    ((4, 4, 4), (4, 4, 4), "none", (0, 1)),
    ((4, 4, 4), (8, 8, 8), "space_to_depth", (1, 0)),
    ((4, 4, 4), (8, 8, 8), "haar", 1),
    ((4, 4, 4, 4), (8, 8, 8), "none", 0),
    ((4, 4), (4, 4, 2), "space_to_depth", 2),
    ((4, 4), (4, 2, 1), "haar", 1),
    ((4, 4, 4), (2, 4, 1), "none", (0, 2)),
    ((4, 4, 4), (8, 4, 2), "space_to_depth", 1),
    ((4, 4, 4, 4), (4, 8, 2), "none", 1),
]


def make_network(channels, factor, front_end, num_res_blocks) -> VQGAN:
    torch.manual_seed(0)
    architecture = {"channels": channels, "factor": factor, "front_end": front_end, "num_res_blocks": num_res_blocks}
    # float64: what arrives from the far end of the reach is small
    return VQGAN(**architecture, num_embeddings=8, embedding_dim=4).double().eval()


def moved_along(work, x: torch.Tensor, place: list[int], axis: int) -> tuple[int, int]:
    """First and last place along ``axis`` where the output of ``work`` moves with the value at ``place``."""
    other = x.clone()
    other[(..., *place)] += 3.0
    places = (work(other) != work(x)).any(1)[0].nonzero()[:, axis]
    return int(places.min()), int(places.max())


def line(length: int, axis: int, unit: tuple[int, ...]) -> list[int]:
    """A volume that is long along one axis, in multiples of ``unit``, and one unit thin along the others."""
    return [(length if a == axis else 1) * u for a, u in enumerate(unit)]


@torch.no_grad()
def encoder_reach(network: VQGAN, axis: int) -> tuple[int, int]:
    """How many latents before and after its own one voxel moves, the farthest over the voxels of a latent."""
    middle, factor = network.halo.encoder[axis] + 2, network.factor[axis]
    size = line(2 * middle + 1, axis, network.factor)
    x = torch.rand(1, 1, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    before = after = 0
    for voxel in {middle * factor, middle * factor + factor - 1}:  # the first and the last reach farthest
        place = [voxel if a == axis else 0 for a in range(3)]
        low, high = moved_along(network.encode, x, place, axis)
        before, after = max(before, middle - low), max(after, high - middle)
    return before, after


@torch.no_grad()
def decoder_reach(network: VQGAN, axis: int) -> tuple[int, int]:
    """How many latents before and after its own a latent moves voxels in."""
    middle, factor = network.halo.decoder[axis] + 2, network.factor[axis]
    size = line(2 * middle + 1, axis, (1, 1, 1))
    z = torch.rand(1, 4, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    low, high = moved_along(network.decode, z, [middle if a == axis else 0 for a in range(3)], axis)
    return middle - low // factor, high // factor - middle


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_the_halo_is_as_wide_as_the_reach_of_a_voxel_and_no_wider(architecture):
    network = make_network(*architecture)
    for axis in range(3):
        reach = encoder_reach(network, axis)
        assert max(reach) == network.halo.encoder[axis], (axis, reach)
        reach = decoder_reach(network, axis)
        assert max(reach) == network.halo.decoder[axis], (axis, reach)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_both_sides_need_the_same_halo(architecture):
    # kernels are centred, so one number an axis is enough, and tight on either side
    network = make_network(*architecture)
    for axis in range(3):
        for before, after in (encoder_reach(network, axis), decoder_reach(network, axis)):
            assert before == after


def test_the_halo_grows_by_what_a_residual_block_adds():
    # two 3x3x3 convolutions at every level: on the latent grid 2 positions, at half its spacing 1
    halos = [make_network((4, 4), (4, 4, 4), "space_to_depth", n).halo for n in (0, 1, 2)]
    for part in ("encoder", "decoder"):
        widths = [getattr(halo, part)[0] for halo in halos]
        assert [b - a for a, b in itertools.pairwise(widths)] == [3, 3]


# a decoder with widths, blocks, ends and an order of axes of its own
UNLIKE = {
    "num_res_blocks": ([0, 1, 1, 2], [2, 1, 0, 1]),
    "decoder_channels": (6, 4, 6, 4),
    "decoder_kernel": 1,
    "decoder_activation": "first",
    "unstrided_kernel": 4,
    "upsampling": "eager",
}


@pytest.mark.parametrize("factor", [(8, 8, 8), (8, 2, 1)], ids=str)
def test_the_halo_follows_a_decoder_unlike_the_encoder(factor):
    torch.manual_seed(0)
    network = VQGAN(channels=(4, 4, 4, 4), factor=factor, front_end="none", num_embeddings=8, embedding_dim=4, **UNLIKE)
    network = network.double().eval()
    for axis in range(3):
        # a kernel of 4 that leaves the grid reaches farther before than after: the halo is the wider of both
        assert max(encoder_reach(network, axis)) == network.halo.encoder[axis]
        assert max(decoder_reach(network, axis)) == network.halo.decoder[axis]
