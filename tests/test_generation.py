"""The door to generation: MONAI's own diffusion and transformer inferers take the network as their first stage."""

import runpy
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from monai.inferers import LatentDiffusionInferer, VQVAETransformerInferer
from monai.networks.nets import DecoderOnlyTransformer, DiffusionModelUNet
from monai.networks.schedulers import DDIMScheduler, DDPMScheduler
from monai.utils import Ordering

from ctpa_vqgan.data.projection import project_xray
from ctpa_vqgan.networks import VQGAN, VectorQuantizer
from ctpa_vqgan.tokens import EncodedVolume

GRID = (8, 8, 4)
NUM_CODES, LENGTH = 32, 4


@pytest.fixture(scope="module")
def volumes(phantom):
    """Two patches [2, 1, 32, 32, 16] of a phantom on [-1, 1]."""
    voxels = torch.from_numpy(phantom.volume.astype("float32")).clamp(-1000, 1000) / 1000
    return torch.stack([voxels[None, 8:40, 8:40, z : z + 16] for z in (4, 20)])


@pytest.fixture(scope="module")
def network(volumes):
    """An untrained tokenizer whose codes are the k-means of the phantom's latents, so that all kinds occur."""
    torch.manual_seed(0)
    network = VQGAN(channels=(4, 8), quantizer=VectorQuantizer(NUM_CODES, LENGTH, reservoir_size=1024))
    network.train().autoencode(volumes)
    network.quantizer.step()
    network.eval().requires_grad_(False)
    assert len(network.index_quantize(volumes).unique()) > NUM_CODES // 2
    return network


@pytest.fixture(scope="module")
def scale(network, volumes):
    """Brings latents to a standard deviation of 1, as diffusion models want them."""
    return 1 / network.encode_stage_2_inputs(volumes).std().item()


def falls(losses: list[float]) -> bool:
    return sum(losses[-5:]) < 0.8 * sum(losses[:5])


# -- diffusion ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheduler_type", [DDPMScheduler, DDIMScheduler])
def test_latent_diffusion_learns_and_samples(scheduler_type, network, volumes, scale):
    torch.manual_seed(0)
    # clip_sample=False: MONAI's default clips samples to [-1, 1], which is for images and cuts latents
    scheduler = scheduler_type(num_train_timesteps=20, schedule="cosine", clip_sample=False)
    unet = DiffusionModelUNet(
        spatial_dims=3,
        in_channels=LENGTH,
        out_channels=LENGTH,
        channels=(8, 16),
        attention_levels=(False, True),
        num_res_blocks=1,
        num_head_channels=8,
        norm_num_groups=8,
    )
    inferer = LatentDiffusionInferer(scheduler, scale_factor=scale)
    optimizer = torch.optim.Adam(unet.parameters(), lr=1e-2)
    noise, timesteps = torch.randn(2, LENGTH, *GRID), torch.tensor([4, 12])
    losses = []
    for _ in range(20):
        predicted = inferer(volumes, network, unet, noise, timesteps)
        loss = F.mse_loss(predicted, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert falls(losses)
    sample = inferer.sample(torch.randn(2, LENGTH, *GRID), network, unet.eval(), verbose=False)
    assert_decoded_codes(sample, volumes, network)


def assert_decoded_codes(sample: torch.Tensor, like: torch.Tensor, network: VQGAN) -> None:
    """Shape and range of volumes that some grid of codes decodes to."""
    assert sample.shape == like.shape
    assert sample.isfinite().all()
    any_codes = torch.randint(NUM_CODES, (8, *GRID), generator=torch.Generator().manual_seed(0))
    reached = network.decode_samples(any_codes).abs().max()
    assert 0 < sample.abs().max() < 1.5 * reached


@pytest.mark.parametrize("scheduler_type", [DDPMScheduler, DDIMScheduler])
def test_a_denoiser_that_knows_the_truth_samples_the_reconstruction(scheduler_type, network, volumes, scale):
    """Nothing is lost on the way from latents through the sampler to voxels: scale, code search and decoder fit."""
    scheduler = scheduler_type(num_train_timesteps=20, schedule="cosine", clip_sample=False)
    truth = network.encode_stage_2_inputs(volumes) * scale

    def knowing(x, timesteps, context=None):
        share = scheduler.alphas_cumprod[timesteps.long()]
        return (x - share.sqrt() * truth) / (1 - share).sqrt()

    inferer = LatentDiffusionInferer(scheduler, scale_factor=scale)
    sample = inferer.sample(torch.randn(2, LENGTH, *GRID), network, knowing, verbose=False)
    torch.testing.assert_close(sample, network(volumes))


# -- autoregressive transformer ----------------------------------------------------------------------------------------


def small(volumes: torch.Tensor) -> torch.Tensor:
    """Corners of 16 x 16 x 8 voxels: 32 tokens, one forward pass each when sampled."""
    return volumes[:, :, :16, :16, :8]


def test_a_transformer_learns_the_codes_and_samples(network, volumes):
    torch.manual_seed(0)
    images, grid = small(volumes), (4, 4, 2)
    ordering = Ordering("raster_scan", spatial_dims=3, dimensions=(1, *grid))
    transformer = DecoderOnlyTransformer(
        NUM_CODES + 1, 32, attn_layers_dim=16, attn_layers_depth=1, attn_layers_heads=2
    )
    inferer = VQVAETransformerInferer()
    optimizer = torch.optim.Adam(transformer.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        logits, target, latent_size = inferer(images, network, transformer, ordering, return_latent=True)
        loss = F.cross_entropy(logits.movedim(-1, 1), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert latent_size == grid
    assert falls(losses)
    begin = torch.full((2, 1), NUM_CODES)  # one token more than codes: it begins a sequence
    sample = inferer.sample(grid, begin, network, transformer.eval(), ordering, verbose=False)
    assert_decoded_codes(sample, images, network)


@pytest.mark.parametrize("order", ["raster_scan", "s_curve", "random"])
def test_a_transformer_that_knows_the_truth_samples_the_reconstruction(order, network, volumes):
    images, grid = small(volumes), (4, 4, 2)
    ordering = Ordering(order, spatial_dims=3, dimensions=(1, *grid))
    truth = network.index_quantize(images).flatten(1)[:, ordering.get_sequence_ordering()]

    class Knowing(torch.nn.Module):
        max_seq_len = 32

        def forward(self, x, context=None):
            return torch.where(F.one_hot(truth[:, : x.shape[1]], NUM_CODES + 1) > 0, 0.0, -torch.inf)

    begin = torch.full((2, 1), NUM_CODES)
    sample = VQVAETransformerInferer().sample(grid, begin, network, Knowing(), ordering, verbose=False)
    torch.testing.assert_close(sample, network(images))


# -- the tutorial ------------------------------------------------------------------------------------------------------

TUTORIAL = Path(__file__).parents[1] / "docs/tutorials/latent_diffusion.py"


@pytest.fixture(scope="module")
def tutorial():
    return runpy.run_path(str(TUTORIAL))


@pytest.fixture(scope="module")
def finished(tutorial, tmp_path_factory):
    """Where the tutorial has run with two steps of training on one phantom, the other held out."""
    folder = tmp_path_factory.mktemp("tutorial")
    tutorial["main"](str(folder), steps=2, volumes=2)
    return folder


def test_the_tutorial_has_at_most_120_lines():
    assert len(TUTORIAL.read_text().splitlines()) <= 120


def test_the_tutorial_samples_a_ct_on_the_grid_of_the_held_out_one(finished):
    truth = nib.load(finished / "phantoms/phantom_01.nii.gz")
    sampled = nib.load(finished / "sampled_decoded.nii.gz")
    assert (sampled.shape, sampled.get_data_dtype()) == (truth.shape, np.int16)
    np.testing.assert_allclose(sampled.affine, truth.affine)
    hu = np.asarray(sampled.dataobj)
    assert -1000 <= hu.min() < hu.max() <= 1000


def test_the_tutorials_sample_is_a_code_file_of_its_tokenizer(finished):
    sampled, truth = (EncodedVolume.load(finished / name) for name in ("sampled.npz", "codes/phantom_01.npz"))
    assert sampled.network == truth.network
    assert sampled.codes.shape == truth.codes.shape
    assert (sampled.codes != truth.codes).any()


def test_the_tutorial_draws_its_picture(finished):
    image = plt.imread(finished / "xray_to_ct.png")
    assert image.shape[0] > 300 and image.std() > 0.1


def test_the_tutorials_condition_of_a_crop_is_the_crop_of_the_condition(tutorial):
    """A crop learns from the same rays that it will be sampled for."""
    xray = np.random.default_rng(0).random((48, 64), np.float32)
    whole = tutorial["condition"](xray)
    assert whole.shape == (17, 16, 16, 12)
    crop = tutorial["condition"](xray, (3, 1, 4), (8, 5, 8))
    assert torch.equal(crop, whole[:, 3:11, 1:6, 4:12])


def test_the_tutorials_condition_lies_over_its_voxels(tutorial):
    """The latent above a bright voxel sees it, and no other does."""
    volume = np.full(tutorial["SIZE"], -1000, np.int16)
    volume[21, 30, 9] = 1000
    seen = tutorial["condition"](project_xray(volume, (1, 1, 1), normalize=True))[:16] > 0
    assert seen.any(0).nonzero().tolist() == [[21 // 4, y, 9 // 4] for y in range(16)]
