"""Blended windows: nothing lost, nothing moved, and at home in any MONAI workflow."""

import math

import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor
from monai.data.utils import dense_patch_slices
from monai.engines import SupervisedEvaluator
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import VQVAE, UNet
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from ctpa_vqgan.inferers import BudgetTooSmall, VQGANInferer, sliding
from ctpa_vqgan.inferers.memory import RESERVE, SLACK, window_bytes
from ctpa_vqgan.inferers.sliding import BLEND_MODES, linear_weights
from ctpa_vqgan.networks import VQGAN

WINDOW = (16, 16, 8)


class Recorder(nn.Module):
    """An identity network of factor 4 that remembers what it was given."""

    factor = (4, 4, 4)

    def __init__(self):
        super().__init__()
        self.windows = []

    def forward(self, x):
        self.windows.append(tuple(x.shape))
        assert all(s % f == 0 for s, f in zip(x.shape[2:], self.factor))
        return x


def volume_of(*size: int, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 1, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1


# -- identity ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sw_batch_size", [1, 3])
@pytest.mark.parametrize("mode", BLEND_MODES)
@pytest.mark.parametrize("size", [(33, 30, 17), (16, 16, 8), (5, 40, 3), (1, 1, 1), (32, 32, 16)])
@pytest.mark.parametrize("network", [Recorder(), nn.Identity()], ids=["factor 4", "no factor"])
def test_an_identity_network_returns_the_volume(network, size, mode, sw_batch_size):
    x = volume_of(*size, batch=2)
    before = x.clone()
    y = VQGANInferer(WINDOW, sw_batch_size, mode=mode)(x, network)
    torch.testing.assert_close(y, x, rtol=0, atol=1e-6)
    assert torch.equal(x, before)


@pytest.mark.parametrize("overlap", [0.0, 0.5, (0.25, 0.7, 0.3), 0.9])
@pytest.mark.parametrize("mode", BLEND_MODES)
def test_any_overlap_returns_the_volume(mode, overlap):
    x = volume_of(20, 18, 9)
    y = VQGANInferer(WINDOW, overlap=overlap, mode=mode)(x, nn.Identity())
    torch.testing.assert_close(y, x, rtol=0, atol=1e-5)


def test_a_meta_tensor_stays_one_with_its_affine():
    affine = torch.tensor([[0.7, 0, 0, -10], [0, 0.7, 0, 5], [0, 0, 0.6, 3], [0, 0, 0, 1]], dtype=torch.float64)
    x = MetaTensor(volume_of(33, 30, 17), affine=affine)
    y = VQGANInferer(WINDOW)(x, Recorder())
    assert isinstance(y, MetaTensor)
    assert torch.equal(y.affine, affine)
    torch.testing.assert_close(y.as_tensor(), x.as_tensor(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.int16, torch.bfloat16, torch.float32, torch.float64])
def test_the_result_is_float32_and_float64_stays(dtype):
    x = (volume_of(20, 18, 9) * 100).to(dtype)
    y = VQGANInferer(WINDOW)(x, nn.Identity())
    assert y.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(y, x.to(y), rtol=1e-6, atol=0)


def test_a_network_in_half_precision_is_blended_in_float32():
    x = volume_of(20, 18, 9)
    y = VQGANInferer(WINDOW)(x, lambda window: window.bfloat16())
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, x.bfloat16().float(), rtol=0, atol=1e-6)


# -- windows and weights -----------------------------------------------------------------------------------------------


def test_a_full_resolution_scan_takes_54_windows():
    # a tensor without memory: only its shape counts
    network, scan = Recorder(), torch.empty(1, 1, 512, 512, 604, device="meta")
    assert VQGANInferer(roi_size=(256, 256, 128), overlap=0.25)(scan, network).shape == scan.shape
    assert network.windows == [(1, 1, 256, 256, 128)] * 54
    assert len(dense_patch_slices((512, 512, 604), (256, 256, 128), (192, 192, 96))) == 54


def test_windows_go_through_the_network_in_batches():
    network = Recorder()
    VQGANInferer(WINDOW, sw_batch_size=3)(volume_of(28, 16, 8, batch=2), network)  # two windows per volume
    assert network.windows == [(3, 1, *WINDOW), (1, 1, *WINDOW)]


def test_windows_shrink_to_a_smaller_volume_and_stay_multiples_of_the_factor():
    network = Recorder()
    VQGANInferer(WINDOW)(volume_of(5, 16, 3), network)
    assert network.windows == [(1, 1, 8, 16, 4)]


def test_a_factor_may_be_given_for_a_network_that_does_not_tell_it():
    seen = []
    VQGANInferer(WINDOW, factor=(2, 2, 2))(volume_of(5, 7, 3), lambda x: seen.append(x.shape[2:]) or x)
    assert seen == [(6, 8, 4)]


def test_padding_to_the_factor_is_air_and_goes_to_the_end():
    seen = []
    VQGANInferer((8, 8, 8), factor=(4, 4, 4))(torch.ones(1, 1, 8, 8, 6), lambda x: seen.append(x.clone()) or x)
    assert (seen[0][..., :6] == 1).all() and (seen[0][..., 6:] == -1).all()


def test_a_network_that_tells_no_factor_gets_whole_windows_padded_with_air():
    seen = []
    VQGANInferer((8, 8, 8))(torch.ones(1, 1, 8, 8, 6), lambda x: seen.append(x.clone()) or x)
    assert seen[0].shape == (1, 1, 8, 8, 8)
    assert (seen[0][..., 1:7] == 1).all() and (seen[0][..., [0, 7]] == -1).all()


@pytest.mark.parametrize(("size", "overlap"), [(8, 0.25), (10, 0.3), (16, 0.5), (100, 0.07), (9, 0.25)])
def test_linear_weights_of_neighbours_add_up_to_one(size, overlap):
    step = int(size * (1 - overlap))
    weights = linear_weights((size,), (overlap,))
    total = torch.zeros(size + 2 * step)
    for start in (0, step, 2 * step):
        total[start : start + size] += weights
    torch.testing.assert_close(total[size - step : -(size - step)], torch.ones(3 * step - (size - step)))


def test_blend_modes_differ_where_windows_disagree():
    x, counter = torch.zeros(1, 1, 28, 16, 8), iter([0.0, 1.0] * 3)
    # two windows along the first axis, 0 and 1, that share voxels 12..15
    shared = {m: VQGANInferer(WINDOW, mode=m)(x, lambda w: torch.full_like(w, next(counter))) for m in BLEND_MODES}
    line = {mode: y[0, 0, 12:16, 8, 4].tolist() for mode, y in shared.items()}
    assert line["constant"] == [0.5] * 4
    assert line["linear"] == pytest.approx([1 / 8, 3 / 8, 5 / 8, 7 / 8])
    assert line["gaussian"][0] < line["linear"][0] < line["linear"][3] < line["gaussian"][3]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian_is_monais_where_nothing_is_padded(dtype):
    network = nn.Conv3d(1, 1, 3, padding=1).requires_grad_(False).to(dtype)
    x = volume_of(28, 20, 16).to(dtype)
    theirs = SlidingWindowInferer(WINDOW, sw_batch_size=1, overlap=0.25, mode="gaussian")
    assert torch.equal(VQGANInferer(WINDOW, overlap=0.25)(x, network), theirs(x, network))


# -- windows from a budget ---------------------------------------------------------------------------------------------

GIB = 2**30


def tiny_vqgan():
    torch.manual_seed(0)
    return VQGAN(channels=(4, 8), num_embeddings=16, embedding_dim=4).eval().requires_grad_(False)


def windows_of(network):
    """Shapes that the network's encoder is given from now on."""
    seen = []

    def look(module, x):
        if not isinstance(x[0], FakeTensor):  # those are for counting memory
            seen.append(tuple(x[0].shape))

    network.encoder.register_forward_pre_hook(look)
    return seen


def bytes_for(*window, batch=1):
    return math.ceil(SLACK * window_bytes(tiny_vqgan(), (batch, 1, *window), torch.float32, "cpu") + RESERVE)


def test_with_memory_for_the_whole_volume_the_result_is_that_of_one_pass():
    network, x = tiny_vqgan(), volume_of(32, 24, 20)
    expected = network(x)
    seen = windows_of(network)
    y = VQGANInferer(WINDOW, memory_bytes=GIB)(x, network)
    assert seen == [x.shape]
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)


def test_with_memory_for_no_more_than_the_window_nothing_changes():
    network, x = tiny_vqgan(), volume_of(33, 30, 17)
    expected = VQGANInferer(WINDOW)(x, network)
    assert torch.equal(VQGANInferer(WINDOW, memory_bytes=bytes_for(*WINDOW))(x, network), expected)


@pytest.mark.parametrize("mode", BLEND_MODES)
def test_larger_windows_share_as_many_voxels_as_small_ones(monkeypatch, mode):
    network, x = tiny_vqgan(), volume_of(60, 16, 8)
    grids = []
    monkeypatch.setattr(
        sliding, "dense_patch_slices", lambda *grid: grids.append(grid) or dense_patch_slices(*map(tuple, grid))
    )
    seen = windows_of(network)
    y = VQGANInferer(WINDOW, mode=mode, memory_bytes=bytes_for(32, 16, 8))(x, network)
    assert y.isfinite().all()
    ((size, roi, steps),) = grids
    assert (size, roi, steps[0]) == ((60, 16, 8), (32, 16, 8), 28), "32 and 32 share 4, as 16 and 16 do at 0.25"
    assert seen.count((1, 1, *roi)) == 2


def test_an_identity_is_returned_whatever_the_windows(monkeypatch):
    network, x = tiny_vqgan(), volume_of(61, 30, 17)
    monkeypatch.setattr(VQGAN, "forward", lambda self, windows: windows)
    for budget in (bytes_for(16, 16, 16), bytes_for(24, 24, 20), bytes_for(48, 32, 20)):
        for mode in BLEND_MODES:
            y = VQGANInferer(WINDOW, mode=mode, memory_bytes=budget)(x, network)
            torch.testing.assert_close(y, x, rtol=0, atol=1e-5)


def test_more_windows_at_once_are_smaller_windows():
    budget, sizes = bytes_for(32, 32, 32), []
    for count in (1, 4):
        network = tiny_vqgan()
        seen = windows_of(network)
        VQGANInferer(WINDOW, sw_batch_size=count, memory_bytes=budget)(volume_of(64, 64, 32), network)
        sizes.append(math.prod(seen[-1][2:]))
    assert sizes[1] < sizes[0]


def test_a_budget_without_a_vqgan_or_below_one_window_is_refused():
    with pytest.raises(ValueError, match="memory_bytes needs a VQGAN, of which memory can be foretold, found Recorder"):
        VQGANInferer(WINDOW, memory_bytes=GIB)(volume_of(20, 18, 9), Recorder())
    with pytest.raises(BudgetTooSmall, match=rf"they need {bytes_for(*WINDOW)} "):
        VQGANInferer(WINDOW, memory_bytes=bytes_for(*WINDOW) - 1)(volume_of(20, 18, 9), tiny_vqgan())


def test_windows_that_are_wrong_in_bf16_are_not_used(caplog):
    network, inferer = tiny_vqgan(), VQGANInferer(WINDOW, memory_bytes=GIB)

    def wrong_where_large(module, inputs, output):
        return output * 0 if torch.is_autocast_enabled("cpu") and output.shape[-1] > 4 else output

    hook = network.encoder.register_forward_hook(wrong_where_large)
    seen = windows_of(network)
    with torch.autocast("cpu", torch.bfloat16):
        inferer(volume_of(32, 24, 20), network)
        inferer(volume_of(32, 24, 20), network)
    assert seen[-1] == (1, 1, *WINDOW)
    assert seen.count((1, 1, 32, 24, 20)) == 2, "tried once, in bf16 and in float32"
    (line,) = (record.getMessage() for record in caplog.records if record.levelname == "WARNING")
    assert line.startswith("windows of (32, 24, 20) are wrong in bf16 (latents 100.00%")
    hook.remove()
    inferer = VQGANInferer(WINDOW, memory_bytes=GIB)
    with torch.autocast("cpu", torch.bfloat16):
        inferer(volume_of(32, 24, 20), network)
    assert seen[-1] == (1, 1, 32, 24, 20)


# -- in MONAI's company ------------------------------------------------------------------------------------------------


def monai_vqvae():
    return VQVAE(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        channels=(4, 4),
        num_res_layers=1,
        num_res_channels=(4, 4),
        downsample_parameters=((2, 4, 1, 1), (2, 4, 1, 1)),
        upsample_parameters=((2, 4, 1, 1, 0), (2, 4, 1, 1, 0)),
        num_embeddings=8,
        embedding_dim=4,
    )


@pytest.mark.parametrize("size", [(33, 30, 17), (7, 20, 5)])
@pytest.mark.parametrize(
    "make",
    [lambda: UNet(3, 1, 1, (4, 8, 8), (2, 2)), monai_vqvae, lambda: VQGAN(channels=(4, 4), num_embeddings=8)],
    ids=["UNet", "VQVAE", "VQGAN"],
)
def test_a_plain_evaluator_runs_it_with_any_network(make, size):
    torch.manual_seed(0)
    network = make().eval()
    x = MetaTensor(volume_of(*size)[0])
    evaluator = SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset([{"image": x, "label": x}]), batch_size=1),
        network=network,
        inferer=VQGANInferer(WINDOW),
        decollate=False,
    )
    evaluator.run()
    prediction = evaluator.state.output["pred"]
    assert prediction.shape == (1, 1, *size)
    assert prediction.isfinite().all()
    with torch.no_grad():
        # the first of the outputs of MONAI's VQVAE is the image
        alone = VQGANInferer(WINDOW)(x[None].as_tensor(), network)
    torch.testing.assert_close(prediction.as_tensor(), alone)


def test_further_arguments_reach_the_network():
    x = volume_of(20, 18, 9)
    y = VQGANInferer(WINDOW)(x, lambda window, gain, offset=0.0: window * gain + offset, 2.0, offset=1.0)
    torch.testing.assert_close(y, x * 2 + 1)


def test_a_result_is_stitched_where_it_is_asked_for():
    # "meta" stands for another device than the one of the windows
    x = volume_of(20, 18, 9)
    assert VQGANInferer(WINDOW)(x, Recorder()).device.type == "cpu"
    assert VQGANInferer(WINDOW, device="meta")(x, Recorder()).device.type == "meta"
    assert VQGANInferer(WINDOW)(x, Recorder(), device="meta").device.type == "meta"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cpu_stitching_equals_stitching_on_the_gpu():
    x, network = volume_of(33, 30, 17), Recorder()
    y = VQGANInferer(WINDOW, sw_device="cuda", device="cpu")(x, network)
    assert y.device.type == "cpu"
    torch.testing.assert_close(y, VQGANInferer(WINDOW)(x.cuda(), network).cpu())


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"mode": "cubic"}, "mode must be one of gaussian, linear, constant, found 'cubic'"),
        ({"overlap": 1.0}, "overlap must be at least 0 and less than 1, found 1.0"),
        ({"overlap": (0.25, 0.25, -0.1)}, "overlap must be at least 0 and less than 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        VQGANInferer(WINDOW, **kwargs)


def test_a_window_that_is_no_multiple_of_the_factor_is_refused():
    message = r"roi_size \(16, 16, 6\) must be a multiple of the compression factor \(4, 4, 4\)"
    with pytest.raises(ValueError, match=message):
        VQGANInferer((16, 16, 6))(volume_of(20, 18, 9), Recorder())
