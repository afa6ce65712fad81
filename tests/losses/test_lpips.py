"""LPIPS without a download: weights written by the test, distances known in advance or computed the plain way."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ctpa_vqgan.losses import LPIPS, GradientLoss, WeightedLosses

CONVOLUTIONS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]  # places in torchvision's vgg16().features
CHANNELS = [64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
HEADS = [64, 128, 256, 512, 512]


def weights_by(convolution, head):
    """The 31 tensors under torchvision's and lpips' names."""
    tensors, before = {}, 3
    for place, channels in zip(CONVOLUTIONS, CHANNELS):
        weight, bias = convolution(channels, before)
        tensors |= {f"features.{place}.weight": weight, f"features.{place}.bias": bias}
        before = channels
    return tensors | {f"lin{i}.model.1.weight": head(channels) for i, channels in enumerate(HEADS)}


def random_weights():
    generator = torch.Generator().manual_seed(0)

    def convolution(out, channels):
        # He scaling keeps activations alive through 13 layers.
        scale = (2 / (9 * channels)) ** 0.5
        return torch.randn(out, channels, 3, 3, generator=generator) * scale, torch.full((out,), 0.01)

    return weights_by(convolution, lambda channels: torch.rand(1, channels, 1, 1, generator=generator) / channels)


def hollow_weights():
    """The right names and shapes, each tensor one stored number: small files for the tests of reading."""
    one = torch.ones(1)
    return weights_by(lambda o, i: (one.expand(o, i, 3, 3), one.expand(o)), lambda c: one.expand(1, c, 1, 1))


@pytest.fixture(scope="module")
def tensors():
    return random_weights()


@pytest.fixture(scope="module")
def loss(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("lpips") / "vgg.pt"
    torch.save(tensors, path)
    return LPIPS(path, slices_per_axis=2)


@pytest.fixture
def volumes():
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 1, 1, 16, 24, 20, generator=generator) * 2 - 1


def plain_lpips(tensors, x, y):
    """LPIPS v0.1 of two batches of slices [N, 1, a, b], as the paper writes it."""
    shift = torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1)
    scale = torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1)
    x, y = ((v.repeat(1, 3, 1, 1) - shift) / scale for v in (x, y))
    total, head = torch.zeros(len(x)), 0
    for place in range(30):
        if place in CONVOLUTIONS:
            weight, bias = tensors[f"features.{place}.weight"], tensors[f"features.{place}.bias"]
            x, y = (F.conv2d(v, weight, bias, padding=1) for v in (x, y))
        elif place in (4, 9, 16, 23):
            x, y = F.max_pool2d(x, 2), F.max_pool2d(y, 2)
        else:
            x, y = x.relu(), y.relu()
        if place in (3, 8, 15, 22, 29):
            unit_x, unit_y = (v / (v.square().sum(1, keepdim=True).sqrt() + 1e-10) for v in (x, y))
            total += ((unit_x - unit_y) ** 2 * tensors[f"lin{head}.model.1.weight"]).sum(1).mean(dim=(1, 2))
            head += 1
    return total


def test_equal_volumes_cost_nothing(loss, volumes):
    assert loss(volumes[0], volumes[0].clone()) == 0


def test_it_is_the_mean_of_plain_lpips_over_six_slices(loss, tensors, volumes):
    x, y = volumes
    # Two slices per axis stand at a quarter and three quarters of sides 16, 24, 20.
    planes = [
        [(v[:, :, 4], v[:, :, 12]) for v in (x, y)],
        [(v[:, :, :, 6], v[:, :, :, 18]) for v in (x, y)],
        [(v[..., 5], v[..., 15]) for v in (x, y)],
    ]
    expected = torch.stack([plain_lpips(tensors, torch.cat(a), torch.cat(b)).mean() for a, b in planes]).mean()
    assert expected > 0.001
    torch.testing.assert_close(loss(x, y), expected, rtol=1e-4, atol=0)


def test_black_against_white_by_hand(tmp_path):
    # Channel 0 keeps what is bright, channel 1 what is dark; all later layers pass both on. White is then the unit
    # vector (1, 0) and black (0, 1) in each of five blocks: squared differences (1, 1), heads of 0.1, 5 x 0.2 in all.
    def pass_on(out, channels):
        weight = torch.zeros(out, channels, 3, 3)
        weight[0, 0, 1, 1], weight[1, 0 if channels == 3 else 1, 1, 1] = 1, -1 if channels == 3 else 1
        return weight, torch.zeros(out)

    torch.save(weights_by(pass_on, lambda channels: torch.full((1, channels, 1, 1), 0.1)), tmp_path / "hand.pt")
    white = torch.ones(1, 1, 16, 16, 16)
    loss = LPIPS(tmp_path / "hand.pt", slices_per_axis=1)
    torch.testing.assert_close(loss(white, -white), torch.tensor(1.0))
    # Halfway the normalisation has nothing to show: grey is as white as white.
    assert loss(0.5 * white, white) == 0
    # Where every feature is 0 (the scaling layer's own shift), the gradient is a number and not NaN.
    neutral = torch.full_like(white, -0.030).requires_grad_()
    loss(neutral, white).backward()
    assert neutral.grad.isfinite().all()


def test_gradients_reach_the_prediction_and_nothing_else(loss, volumes):
    prediction, target = volumes[0].clone().requires_grad_(), volumes[1].clone().requires_grad_()
    loss(prediction, target).backward()
    assert prediction.grad.isfinite().all()
    assert prediction.grad.abs().sum() > 0
    assert target.grad is None
    assert not list(loss.parameters())


def test_train_mode_changes_nothing_and_no_random_number_is_drawn(loss, volumes):
    state = torch.get_rng_state()
    assert loss.train()(*volumes) == loss.eval()(*volumes)
    assert torch.equal(torch.get_rng_state(), state)


def test_its_weights_stay_out_of_checkpoints_and_its_value_out_of_bfloat16(loss, volumes):
    losses = WeightedLosses({"lpips": loss, "gradient": GradientLoss()}, {"lpips": 1.0, "gradient": 0.0})
    assert not losses.state_dict()
    prediction, target = volumes[..., :16, :16]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = losses(prediction, target)["lpips"]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, loss(prediction, target), rtol=1e-5, atol=0)


@pytest.mark.parametrize("prefix", ["", "perceptual_model."])
def test_medicaldiffusion_names_load_the_same_tensors(prefix, tmp_path):
    slices = dict(zip(CONVOLUTIONS, [1, 1, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5]))
    state = {"encoder.conv_first.conv.weight": torch.zeros(1)}
    for name, tensor in hollow_weights().items():
        place = name.split(".")[1]
        name = name.replace("features.", f"net.slice{slices[int(place)]}.") if name.startswith("features") else name
        state[prefix + name] = tensor
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    loss = LPIPS(tmp_path / "last.ckpt")
    assert loss.features_28_weight.shape == (512, 512, 3, 3)
    assert loss.lin4_model_1_weight.shape == (1, 512, 1, 1)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no LPIPS weights file .*absent\.pt"):
        LPIPS(tmp_path / "absent.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("lin2.model.1.weight"),
            r"odd\.pt lacks 1 of 31 LPIPS tensors, first 'lin2\.model\.1\.weight'",
        ),
        (lambda t: t.clear(), r"odd\.pt lacks 31 of 31 .* it holds 0 tensors"),
        (
            lambda t: t.update({"features.0.bias": torch.zeros(3)}),
            r"odd\.pt: features\.0\.bias has shape \(3,\), .*\(64,\)",
        ),
        (lambda t: t.update({"cfg": nn.ReLU()}), r"odd\.pt is not a file of tensors only"),
    ],
)
def test_a_file_with_other_contents_is_refused(change, message, tmp_path):
    tensors = hollow_weights()
    change(tensors)
    torch.save(tensors, tmp_path / "odd.pt")
    with pytest.raises(ValueError, match=message):
        LPIPS(tmp_path / "odd.pt")


def test_a_file_that_is_no_torch_file_is_refused(tmp_path):
    (tmp_path / "page.html").write_text("<html>404</html>")
    with pytest.raises(ValueError, match=r"page\.html is not a file of tensors only"):
        LPIPS(tmp_path / "page.html")


def test_volumes_it_cannot_look_at_are_refused(loss):
    for shape in [(1, 1, 32, 32, 15), (1, 2, 32, 32, 32)]:
        with pytest.raises(ValueError, match="sides of at least 16 voxels"):
            loss(torch.zeros(shape), torch.zeros(shape))
    with pytest.raises(ValueError, match="slices_per_axis is 0"):
        LPIPS("unused.pt", slices_per_axis=0)
