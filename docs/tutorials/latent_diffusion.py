"""From an X-ray to a CT by latent diffusion on tokens: the whole way at the smallest size, explained in the .md beside.

Correct, not good: tiny networks, minutes of training, blurred pictures. Needs einops, as MONAI's diffusion networks do.
X Y Z voxels towards patient Right, Anterior, Superior; E embedding; h w d latent positions (h = X / 4).
"""

from dataclasses import replace
from pathlib import Path

import matplotlib.pyplot as plt
import nibabel as nib
import numpy as np
import torch
import torch.nn.functional as F
from fire import Fire
from monai.inferers import DiffusionInferer
from monai.networks.nets import DiffusionModelUNet
from monai.networks.schedulers import RFlowScheduler
from monai.transforms import RandSpatialCrop

from ctpa_vqgan.data import find_cases, prepare_volume
from ctpa_vqgan.data.phantom import write_phantom_dataset
from ctpa_vqgan.data.projection import project_xray, xray_along_grid
from ctpa_vqgan.networks import VQGAN, VectorQuantizer
from ctpa_vqgan.tokens import EncodedVolume
from ctpa_vqgan.tokens.dataset import CodesDataset
from ctpa_vqgan.transcode import decode_files, encode_cases

SIZE, SPACING_MM, HU_WINDOW = (64, 64, 48), (5.6, 5.6, 7.5), (-1000.0, 1000.0)
CROP = (8, 16, 8)  # latent positions: the whole of Y, along which the X-ray looks
FLOW = RFlowScheduler()  # its steps fit together for any number of them; see latent_diffusion.md


def train_tokenizer(images: list[torch.Tensor], steps: int) -> VQGAN:
    """Stage 1 in its shortest form, on volumes [1, X, Y, Z]; `python -m ctpa_vqgan train` is the real one."""
    network = VQGAN(channels=(16, 32), quantizer=VectorQuantizer(256, 4, init_steps=min(20, steps)))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    crop = RandSpatialCrop(roi_size=(32, 32, 32), random_size=False).set_random_state(seed=0)
    for step in range(steps):
        batch = torch.stack([crop(images[(2 * step + k) % len(images)]) for k in range(2)])
        result = network.autoencode(batch)
        optimizer.zero_grad()
        (F.l1_loss(result.reconstruction, batch) + 0.25 * result.commitment).backward()
        optimizer.step()
        network.quantizer.step()
    return network.eval().requires_grad_(False)


def condition(image, position=(0, 0, 0), size=tuple(side // 4 for side in SIZE), depths=SIZE[1] // 4) -> torch.Tensor:
    """What the diffusion network sees of an X-ray within a crop: [17, h, w, d], each pixel all along its ray."""
    (x, y, z), (h, w, d) = position, size
    pixels = torch.from_numpy(xray_along_grid(image).copy())[None] * 2 - 1
    pixels = F.pixel_unshuffle(pixels, 4)[:, x : x + h, None, z : z + d]  # 16 channels: the 4 x 4 pixels of a latent
    depth = torch.linspace(-1, 1, depths)[None, None, y : y + w, None]  # where on its ray a latent lies
    return torch.cat([pixels.expand(-1, h, w, d), depth.expand(-1, h, w, d)])


def train_diffusion(data: CodesDataset, xrays: dict, steps: int) -> DiffusionModelUNet:
    """Stage 2: rectified flow on standardised latents, with the X-ray as further input channels."""
    shape = {"channels": (32, 64), "num_res_blocks": 1, "attention_levels": (False, False), "norm_num_groups": 8}
    channels = len(data.statistics.mean)
    unet = DiffusionModelUNet(3, channels + 17, channels, num_head_channels=32, **shape)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-3)
    loader = torch.utils.data.DataLoader(data, batch_size=3, shuffle=True)
    for epoch in range(-(-steps // len(loader))):
        data.set_epoch(epoch)  # draws other crops
        for batch in loader:
            places = zip(batch["case"], batch["position"].tolist())
            given = torch.stack([condition(xrays[case], position, data.crop) for case, position in places])
            latents, noise = batch["latents"], torch.randn_like(batch["latents"])
            flow = DiffusionInferer(FLOW)(latents, unet, noise, FLOW.sample_timesteps(latents), given, "concat")
            optimizer.zero_grad()
            F.mse_loss(flow, latents - noise).backward()
            optimizer.step()
    return unet.eval()


def sample(unet: DiffusionModelUNet, data: CodesDataset, xray: np.ndarray) -> torch.Tensor:
    """Latents [1, E, h, w, d] of a whole volume for an X-ray, on the network's scale."""
    given = condition(xray)[None]
    noise = torch.randn(1, len(data.statistics.mean), *given.shape[2:])
    FLOW.set_timesteps(20)
    return data.statistics.restore(DiffusionInferer(FLOW).sample(noise, unet, conditioning=given, mode="concat"))


def main(output: str, steps: int = 300, volumes: int = 7) -> None:
    """Train both stages on all phantoms but the last, then ask for the last one's CT by its X-ray."""
    torch.manual_seed(0)
    output = Path(output)
    write_phantom_dataset(output / "phantoms", volumes, SIZE, SPACING_MM)
    cases = find_cases(output / "phantoms")
    items = {case["case"]: prepare_volume(HU_WINDOW)(case) for case in cases}
    xrays = {name: project_xray(item["hu"][0], SPACING_MM, normalize=True) for name, item in items.items()}
    *training, held_out = items
    network = train_tokenizer([items[name]["image"].as_tensor() for name in training], steps)
    encode_cases(cases, network, output / "codes", HU_WINDOW)
    data = CodesDataset([output / f"codes/{name}.npz" for name in training], CROP, latents=True, embed=network)
    unet = train_diffusion(data, xrays, steps)
    codes = network.quantizer.quantize(sample(unet, data, xrays[held_out]))[0].numpy()
    truth = EncodedVolume.load(output / f"codes/{held_out}.npz")  # lends its grid, and nothing else
    replace(truth, codes=codes).save(output / "sampled.npz")
    for file in ("sampled.npz", f"codes/{held_out}.npz"):
        decode_files(output / file, network, output)
    files = {"sampled CT": "sampled_decoded", "true CT": f"phantoms/{held_out}", "its tokens": f"{held_out}_decoded"}
    volumes = {name: nib.load(output / f"{file}.nii.gz").get_fdata() for name, file in files.items()}
    draw(xrays[held_out], volumes, output / "xray_to_ct.png")


def draw(xray: np.ndarray, volumes: dict, path: Path) -> None:
    """The X-ray and middle coronal slices, as one reads them: the patient's right on the left."""
    slices = {name: hu[:, SIZE[1] // 2].clip(-1000, 600).T[::-1, ::-1] for name, hu in volumes.items()}
    figure, axes = plt.subplots(1, 1 + len(slices), figsize=(16, 5), layout="constrained")
    for ax, (name, image) in zip(axes, {"X-ray": xray, **slices}.items()):
        ax.imshow(image, cmap="gray", aspect=SPACING_MM[2] / SPACING_MM[0])
        ax.set_title(name)
    figure.savefig(path, dpi=80)


if __name__ == "__main__":
    Fire(main)
