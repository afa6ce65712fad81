"""Settings are measured as they are named."""

import pytest
import torch
import troubleshooting
from troubleshooting import Setting

from ctpa_vqgan.networks import VQGAN


def test_only_a_stride_that_saves_a_window_along_an_axis_saves_any():
    windows = {setting.stride: setting.windows(troubleshooting.VOLUME) for setting in troubleshooting.SETTINGS[:4]}
    assert windows == {(192, 192, 96): 54, (224, 224, 112): 54, (256, 256, 128): 20, (128, 128, 64): 81}


def test_a_quarter_of_the_size_has_the_same_grid():
    setting = Setting("the defaults").scaled(4)
    assert (setting.patch, setting.stride) == ((64, 64, 32), (48, 48, 24))
    assert setting.windows([side // 4 for side in troubleshooting.VOLUME]) == 54


def test_windows_show_seams_and_one_window_is_what_exact_tiles_give():
    torch.manual_seed(0)
    network = VQGAN(channels=(4, 8), num_embeddings=64, embedding_dim=4).eval()
    hu = torch.rand(48, 48, 32) * 2000 - 1000
    network.quantizer.embedding.copy_(network.encode(hu[None, None] / 1000)[0].flatten(1)[:, :64].T.detach())
    whole = Setting("one window", (48, 48, 32), (48, 48, 32))
    touching = Setting("windows that touch", (16, 16, 16), (16, 16, 16))
    one, many, exact = troubleshooting.measured(network, hu, [whole, touching])
    assert (one["windows_here"], many["windows_here"]) == (1, 18)
    assert one["psnr"] == pytest.approx(exact["psnr"], abs=1e-3)
    assert many["seam_hu"] > 1
    assert exact["seams_found"] == 0


def test_the_middle_is_the_middle():
    volume = torch.arange(10.0).reshape(10, 1, 1)
    assert troubleshooting.middle(volume, (4, 8, 1)).flatten().tolist() == [3, 4, 5, 6]
