"""Bugs of the VQ-GAN of TATS, medicaldiffusion and X-ray2CTPA, one by one: what they did to a run is not done here.

Where a few lines can act as the baseline does, they stand beside ours and fail the same question.
"""

import math

import baseline_state as peer
import numpy as np
import pytest
import torch
from small_training import SIDE, Patches, make_discriminator, make_network, make_trainer, on_iteration
from torch import nn

from ctpa_vqgan.data import RandomPatchDataset, prepare_patch, to_hu
from ctpa_vqgan.handlers import Checkpoints
from ctpa_vqgan.inferers import ExactTileInferer, VQGANInferer
from ctpa_vqgan.losses import LPIPS, lpips
from ctpa_vqgan.losses.lpips_weights import BLOCKS
from ctpa_vqgan.networks import VectorQuantizer
from ctpa_vqgan.report.montage import LEFT, PANEL, WIDTH, draw_montage

# -- a resume wipes the codebook ---------------------------------------------------------------------------------------
# A whole run that is stopped and goes on: test_trainer.py, test_a_resumed_run_leaves_the_codebook_where_it_was.


class BaselineCodebook(nn.Module):
    """Whether it has been filled is a plain attribute, which no state_dict holds."""

    def __init__(self):
        super().__init__()
        self.register_buffer("embedding", torch.randn(16, 4))
        self.needs_codes = True

    def forward(self, latents):
        if self.training and self.needs_codes:
            self.needs_codes = False
            self.embedding.copy_(latents.movedim(1, -1).flatten(0, -2)[:16])

    def step(self):
        """It has moved already."""


class OurCodebook(VectorQuantizer):
    def __init__(self):
        super().__init__(16, 4, init_steps=1, restart_interval=0)  # a restart is meant to move a code


def kept_by_a_resume(make):
    """Share of the codes that stay where a checkpoint has them, after the first step on latents of another kind."""
    latents = torch.randn(2, 4, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    first, resumed = make().train(), make().train()
    first(latents)
    first.step()
    resumed.load_state_dict(first.state_dict())
    resumed(latents + 3)
    resumed.step()
    return (resumed.embedding == first.embedding).all(dim=1).float().mean().item()


def test_a_resume_leaves_codes_where_they_were():
    assert kept_by_a_resume(OurCodebook) > 0.5, "but those that the new latents take, a little"
    assert kept_by_a_resume(BaselineCodebook) == 0


# -- the moving average acts twice a batch -----------------------------------------------------------------------------


def test_the_codebook_follows_a_batch_once_with_the_discriminators_on():
    network, data = make_network(init_steps=1), Patches(8)
    quantizer = network.quantizer
    quantizer.restart_interval = 0
    make_trainer(network, data, max_epochs=1).run()  # makes the codes
    before, steps = quantizer.ema_count.clone(), int(quantizer.num_steps)
    found = network.index_quantize(data.patches[:4].float())
    counted = torch.bincount(found.flatten(), minlength=16).float()
    trainer = make_trainer(network, Patches(4), discriminator=make_discriminator(), micro_batch_size=2)
    trainer.run()
    assert "discriminator" in trainer.terms and trainer.state.iteration == 1
    weight = 1 - min(0.99, (2 + steps) / (11 + steps))
    torch.testing.assert_close(quantizer.ema_count, before.lerp(counted, weight))
    assert int(quantizer.num_steps) == steps + 1


# -- half precision overflows in the sums of the codebook --------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_patch_of_air_does_not_overflow_the_sum_of_its_code(dtype):
    positions = (64, 64, 32)  # of a patch of 256 x 256 x 128 voxels
    air = torch.full((1, 1, *positions), 1.5, dtype=dtype)
    air[0, 0, 0, 0, :3] = 1.0  # so that the sum is no round number
    quantizer = VectorQuantizer(2, 1, init="random", restart_interval=0).train()
    quantizer.embedding.copy_(torch.tensor([[1.2], [50.0]]))
    with torch.autocast("cpu", dtype):
        assert not quantizer(air).codes.any()
        assert quantizer.ema_pending_sum.tolist() == [[1.5 * 131069 + 3], [0]]
        quantizer.step()
    assert all(buffer.isfinite().all() for buffer in quantizer.buffers() if buffer.is_floating_point())
    assert 1.2 < float(quantizer.embedding[0]) < 1.5


def test_in_the_baselines_half_precision_that_sum_is_infinite():
    air, one_hot = torch.full((131072, 1), 1.5), torch.ones(131072, 1)
    with torch.autocast("cpu", torch.float16):
        assert math.isinf(air.t() @ one_hot)


# -- the counter of steps counts both optimizers -----------------------------------------------------------------------


def test_a_batch_is_one_step_for_the_discriminators_start_for_checkpoints_and_for_schedules(tmp_path):
    network, critics = make_network(), make_discriminator()
    trainer = make_trainer(
        network, batch_size=2, max_epochs=2, discriminator=critics, adversarial_start=4, adversarial_ramp=0
    )
    trainer.g_scheduler = torch.optim.lr_scheduler.ConstantLR(trainer.g_optimizer)
    Checkpoints(tmp_path, {"network": network}, save_interval=6, keep_last=10).attach(trainer)
    joined = []
    on_iteration(trainer, lambda engine: joined.append("discriminator" in engine.terms))
    trainer.run()
    assert joined == [False] * 4 + [True] * 4, "adversarial_start=4: after four batches, not after two"
    assert trainer.g_scheduler.last_epoch == int(network.quantizer.num_steps) == 8
    saved = [int(path.stem.split("_")[1]) for path in sorted(tmp_path.glob("*.pt"))]
    assert saved == [4, 6, 8], "the sixth batch, not the third; and the ends of two epochs of four"


# -- the order of training is never shuffled ---------------------------------------------------------------------------


def make_dataset(shape=(SIDE,) * 3, patch_size=(SIDE,) * 3, number=20):
    cases = [{"image": f"volume_{i:03}.nii.gz", "case": f"volume_{i:03}"} for i in range(number)]
    air = torch.full((1, *shape), -1000, dtype=torch.int16)
    transform = prepare_patch((-1000, 1000), flips=False)
    return RandomPatchDataset(cases, lambda item: {"image": air}, transform, patch_size, num_samples=1)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "prepared"])
def test_every_epoch_has_all_volumes_in_an_order_of_its_own(raw):
    dataset = make_dataset()
    dataset.raw[:] = raw
    orders = [dataset.epoch_order(epoch)[:, 0].tolist() for epoch in range(3)]
    files = list(range(20))
    assert all(sorted(order) == files for order in orders)
    assert all(one != other for one in (files, *orders) for other in orders if one is not other)


# -- sides that are no multiple of the factor shrink in silence --------------------------------------------------------

ODD = (15, 18, 75)


@torch.no_grad()
def test_the_baseline_gives_smaller_volumes_back():
    state, volume = peer.make_state((4, 4, 4)), torch.zeros(1, 1, *ODD)
    found = peer.decode(state, peer.codes(state, peer.encode(state, volume, (4, 4, 4))), (4, 4, 4))
    assert tuple(found.shape[2:]) == (12, 16, 72)


@torch.no_grad()
@pytest.mark.parametrize("inferer", [VQGANInferer, ExactTileInferer])
def test_a_reconstruction_has_every_voxel_of_an_odd_volume(inferer):
    network, volume = make_network().eval(), torch.rand(1, 1, *ODD) * 2 - 1
    assert inferer((16, 16, 16))(volume, network).shape == volume.shape


@torch.no_grad()
def test_codes_of_an_odd_volume_give_all_its_voxels_back():
    network, volume, tiles = make_network().eval(), torch.rand(1, 1, *ODD) * 2 - 1, ExactTileInferer((16, 16, 16))
    codes = tiles.encode(volume, network)
    assert tuple(codes.shape[1:]) == (4, 5, 19)
    whole = tiles.decode(codes, network)
    assert tuple(whole.shape[2:]) == (16, 20, 76)
    expected = tiles(volume, network)
    torch.testing.assert_close(whole[..., :15, :18, :75], expected, rtol=0, atol=1e-5)


def test_the_network_itself_refuses_an_odd_volume_and_says_what_to_do():
    with pytest.raises(ValueError, match=r"\(15, 18, 75\) must be a multiple of the compression factor .* pad with"):
        make_network()(torch.zeros(1, 1, *ODD))


def test_a_patch_of_an_odd_volume_is_padded_with_air_to_what_the_network_takes():
    [patch] = [make_dataset(ODD, (16, 20, 76), number=1)[0]["image"]]
    assert patch.shape == (1, 16, 20, 76)
    assert (patch == -1).all(), "air, not the middle of the window"


# -- logged pictures wrap around ---------------------------------------------------------------------------------------


def test_what_overshoots_is_white_and_what_undershoots_is_black():
    values = torch.tensor([-1.2, -1.0, 1.0, 1.1])
    wrapped = ((values + 1) * 127.5).to(torch.int64).numpy().astype(np.uint8)  # clamp's result thrown away
    assert wrapped[0] > 200 and wrapped[3] < 50, "undershoot white, overshoot black"
    assert to_hu(values, (-1000, 1000)).tolist() == [-1000, -1000, 1000, 1000]


def test_no_value_wraps_in_a_picture():
    original = np.full((32, 32, 32), -1400, np.int16)  # black in each of the windows, as 1000 is white
    original[8:24, 8:24, 8:24] = 1000
    beyond = np.where(original > 0, 32767, -32768).astype(np.int16)
    windows = slice(0, int(600 * (LEFT + 3 * PANEL) / WIDTH))  # right of them are close-up and error
    right, wrong = (draw_montage(original, volume, (1, 1, 1)).pixels(600)[:, windows] for volume in (original, beyond))
    assert np.array_equal(right, wrong)


# -- a single NaN poisons every code -----------------------------------------------------------------------------------
# Of both networks and the average, at six places and in two precisions: test_bad_numbers.py.


def test_a_voxel_that_is_no_number_costs_one_step_and_no_code():
    network, data = make_network(init_steps=1), Patches(8)
    make_trainer(network, data).run()
    before = network.quantizer.embedding.clone()
    data.patches[0, 0, 3, 3, 3] = math.nan
    trainer = make_trainer(network, data, batch_size=8)
    trainer.run()
    assert trainer.skipped_steps == 1
    assert torch.equal(network.quantizer.embedding, before)


def test_in_the_baselines_sum_it_reaches_all_of_them():
    latents, one_hot = torch.ones(32, 4), torch.eye(16).repeat(2, 1)
    latents[0] = math.nan
    sums = latents.t() @ one_hot  # 0 x NaN is NaN
    assert sums.isnan().all()


# -- LPIPS is trained against with dropout on --------------------------------------------------------------------------


def test_lpips_gives_one_number_in_training_as_in_evaluation(monkeypatch):
    random, before, weights = torch.Generator().manual_seed(0), 3, {}
    for block, (places, _) in enumerate(BLOCKS):  # VGG16 with four channels everywhere
        for place in places:
            weights[f"features.{place}.weight"] = torch.randn(4, before, 3, 3, generator=random) / 3
            weights[f"features.{place}.bias"], before = torch.ones(4), 4
        weights[f"lin{block}.model.1.weight"] = torch.ones(1, 4, 1, 1)
    monkeypatch.setattr(lpips, "load_lpips_weights", lambda path: weights)
    loss, volumes = LPIPS("any"), torch.rand(2, 1, 1, 16, 16, 16, generator=random)
    evaluated = loss.eval()(*volumes)
    assert evaluated > 0
    assert evaluated == loss.train()(*volumes) == loss(*volumes)
