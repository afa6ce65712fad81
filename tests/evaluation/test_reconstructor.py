"""Both ways from HU to HU, for volumes of any size."""

import pytest
import torch

from ctpa_vqgan.errors import BadNumbers
from ctpa_vqgan.evaluation import Reconstructor, shift_test
from ctpa_vqgan.inferers import ExactTileInferer, VQGANInferer
from ctpa_vqgan.networks import VQGAN

WINDOW = (-1000.0, 1000.0)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return VQGAN(channels=(4, 8), num_embeddings=32, embedding_dim=4).eval()


def build(network, **options):
    tiles = ExactTileInferer(tile_size=(16, 16, 16))
    return Reconstructor(network, VQGANInferer(roi_size=(16, 16, 8)), WINDOW, tiles, **options)


class Identity(torch.nn.Module):
    factor = (4, 4, 4)

    def __init__(self):
        super().__init__()
        self.unused = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return x.clone()


def test_windows_of_an_identity_give_the_volume_back():
    hu = torch.randint(-1000, 1000, (21, 18, 9), dtype=torch.int16)
    kept = hu.clone()
    assert torch.equal(build(Identity()).by_windows(hu), hu)
    assert torch.equal(hu, kept)


def test_a_volume_of_floats_is_left_as_it_is():
    hu = torch.randn(17, 16, 8) * 100
    kept = hu.clone()
    build(Identity()).by_windows(hu)
    assert torch.equal(hu, kept)


def test_codes_of_a_volume_decode_to_its_size(network):
    hu = torch.randint(-1000, 1000, (21, 18, 9), dtype=torch.int16)
    reconstructor = build(network)
    codes = reconstructor.encode(hu)
    assert codes.shape == (6, 5, 3)
    assert reconstructor.decode(codes, hu.shape).shape == hu.shape
    assert torch.equal(reconstructor.by_codes(hu), reconstructor.decode(codes, hu.shape))


def test_a_network_in_training_is_used_as_in_evaluation_and_left_in_training(network):
    hu = torch.randint(-1000, 1000, (16, 16, 8), dtype=torch.int16)
    expected = build(network).by_windows(hu)
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert torch.equal(build(network).by_windows(hu), expected)
    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_scores_of_a_small_volume_come_with_its_reconstruction(network):
    hu = torch.zeros(16, 16, 8, dtype=torch.int16)
    volume, scores = build(network).with_codes(hu)
    assert volume.shape == hu.shape
    assert scores["bits"] == 4 * 4 * 2 * 5
    assert scores["usage"] == 1 / 32
    assert scores["perplexity"] == pytest.approx(1)


def test_a_network_without_exact_tiles_has_windows_only():
    network = VQGAN(channels=(8, 8), num_embeddings=16, embedding_dim=4, norm="group").eval()
    reconstructor = build(network)
    assert not reconstructor.has_codes
    assert reconstructor.with_codes(torch.zeros(16, 16, 8))[1] == {"bits": 4 * 4 * 2 * 4}


def test_a_network_that_gives_no_numbers_is_refused_in_one_line():
    class Broken(Identity):
        def forward(self, x):
            return x * torch.nan

    with pytest.raises(BadNumbers, match="2048 of 2048 voxels that are NaN or infinite") as caught:
        build(Broken()).by_windows(torch.zeros(16, 16, 8))
    assert caught.value.exit_code == 4


def test_an_identity_does_not_depend_on_where_windows_lie():
    hu = torch.randint(-1000, 1000, (40, 18, 9), dtype=torch.int16)
    found = shift_test(build(Identity()).by_windows, hu, (16, 16, 8), (12, 12, 8), (4, 4, 4), (2, 2, 2))
    assert found["mean_hu"] == found["p95_hu"] == 0
    assert found["offsets"] == [[0, 0, 0], [4, 4, 4]]
    assert found["box"] == [20, 20, 12]
    assert found["num_voxels"] == 12 * 12 * 4


def test_windows_that_differ_are_seen_by_the_shift_test():
    class Ramp(Identity):
        def forward(self, x):  # an error that begins anew in each window
            return x + torch.linspace(0, 0.1, x.shape[2])[:, None, None]

    shifted = shift_test(
        build(Ramp()).by_windows, torch.zeros(40, 18, 9), (16, 16, 8), (12, 12, 8), (4, 4, 4), (2,) * 3
    )
    assert shifted["mean_hu"] > 5


def test_the_air_around_the_box_is_not_taken_for_windows():
    class Blur(Identity):
        def forward(self, x):  # depends on 2 voxels on either side
            return torch.nn.functional.avg_pool3d(torch.nn.functional.pad(x, (2,) * 6, mode="replicate"), 5, stride=1)

    hu = torch.randn(16, 16, 16) * 100
    whole = Reconstructor(Blur(), VQGANInferer(roi_size=(64, 64, 64)), WINDOW)
    found = shift_test(whole.by_windows, hu, (16, 16, 16), (16, 16, 16), (4, 4, 4), (2, 2, 2))
    assert found["mean_hu"] == 0
    assert shift_test(whole.by_windows, hu, (16, 16, 16), (16, 16, 16), (4, 4, 4), (0, 0, 0))["mean_hu"] > 5


def test_a_volume_that_is_all_border_has_no_shift_test_and_says_so():
    hu = torch.zeros(16, 16, 8)
    found = shift_test(build(Identity()).by_windows, hu, (16, 16, 8), (12, 12, 8), (4, 4, 4), (4, 4, 4))
    assert found == {"skipped": "the volume has less than 9 x 9 x 9 voxels: its border reaches all of it"}


def test_a_small_window_is_tested_on_more_of_the_volume():
    hu = torch.zeros(64, 64, 64)
    found = shift_test(build(Identity()).by_windows, hu, (16, 16, 8), (12, 12, 8), (4, 4, 4), (20, 20, 20))
    assert found["num_voxels"] == 8 * 8 * 4


def test_windows_without_bound_must_lie_wholly_in_the_volume():
    class Mean(Identity):
        def forward(self, x):  # every voxel depends on all of its window
            return x.mean(dim=(2, 3, 4), keepdim=True).expand_as(x).clone()

    hu = torch.full((40, 40, 40), 500.0)  # the same wherever a window lies, but for the air around the box
    found = shift_test(build(Mean()).by_windows, hu, (16, 16, 8), (12, 12, 8), (4, 4, 4), None)
    assert found["mean_hu"] == 0
    assert found["num_voxels"] == 8 * 8 * 4


def test_a_reconstructed_voxel_depends_on_nothing_beyond_the_reach(network):
    reach, (i, j, k) = build(network).reach, (24, 24, 24)
    torch.manual_seed(1)
    hu = torch.randn(96, 96, 96) * 100
    other = hu.clone()
    other[i + reach[0] + 1 :], other[:, j + reach[1] + 1 :], other[..., k + reach[2] + 1 :] = 900, 900, 900
    whole = Reconstructor(network, VQGANInferer(roi_size=(96, 96, 96)), WINDOW)
    assert whole.by_windows(hu)[i, j, k] == whole.by_windows(other)[i, j, k]
