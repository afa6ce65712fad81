"""Draw docs/images/reconstruction.png: a full-size phantom before and after the shipped weights, and the error.

    python docs/make_reconstruction_figure.py

Takes five minutes of one CPU core: two planes, each with the voxels around it that its codes depend on.
"""

from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from PIL import Image

from ctpa_vqgan.data import scale_hu_, to_hu
from ctpa_vqgan.data.phantom import LABELS, make_phantom
from ctpa_vqgan.handlers import load_weights
from ctpa_vqgan.inferers import ExactTileInferer
from ctpa_vqgan.metrics import volume_fidelity
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.report.montage import ERROR_COLOURS, ERROR_MAX_HU
from ctpa_vqgan.report.planes import PLANES, plane_image
from ctpa_vqgan.report.sheet import INK, PAPER
from ctpa_vqgan.windows import WINDOWS

WEIGHTS = Path(__file__).parents[1] / "bundles/ctpa_vqgan/models/model.pt"
PICTURE = Path(__file__).parent / "images" / "reconstruction.png"
SPACING_MM, HU_WINDOW = (0.7, 0.7, 0.6), (-1000.0, 1000.0)
SHOWN = {"axial": "pe", "coronal": "lung"}  # planes, and the window of each


def main() -> None:
    """Reconstruct two planes through the largest clot from their codes; lay each out as it is read."""
    phantom = make_phantom(spacing_mm=SPACING_MM, seed=4)
    clots = phantom.labels == LABELS["embolus"]
    network = load_weights(VQGAN(), WEIGHTS).eval()
    figure, axes = plt.subplots(2, 3, figsize=(15, 10.2), facecolor=PAPER, layout="constrained")
    for row, (plane, window) in zip(axes, SHOWN.items()):
        axis, across, up, *_ = PLANES[plane]
        index = int(clots.sum(axis=tuple({0, 1, 2} - {axis})).argmax())
        planes = plane_image(phantom.volume, plane, index), decoded_around(phantom.volume, plane, index, network)
        original, decoded = (image.clip(*HU_WINDOW).astype(np.float32) for image in planes)
        error = decoded - original
        low, high = (WINDOWS[window].level + sign * WINDOWS[window].width / 2 for sign in (-1, 1))
        grey = {"cmap": "gray", "vmin": low, "vmax": high}
        colours = LinearSegmentedColormap.from_list("signed error", ERROR_COLOURS)
        signed = {"cmap": colours, "vmin": -ERROR_MAX_HU, "vmax": ERROR_MAX_HU}
        psnr = volume_fidelity(*(torch.from_numpy(image.copy())[None] for image in (decoded, original)))["psnr"]
        titles = (
            f"original, {plane}, W {WINDOWS[window].width:g} L {WINDOWS[window].level:g}",
            f"from its codes, {psnr:.1f} dB in this plane",
            f"error, mean {np.abs(error).mean():.0f} HU",
        )
        for ax, image, title, style in zip(row, (original, decoded, error), titles, (grey, grey, signed)):
            shown = ax.imshow(image, aspect=SPACING_MM[up] / SPACING_MM[across], **style)
            ax.set_title(title, color=INK, fontsize=13)
            ax.axis("off")
        bar = figure.colorbar(shown, ax=row[-1], shrink=0.8, extend="both", ticks=[-ERROR_MAX_HU, 0, ERROR_MAX_HU])
        bar.ax.tick_params(colors=INK)
        bar.set_label("HU", color=INK)
    figure.savefig(PICTURE, dpi=80)
    with Image.open(PICTURE) as image:
        image.convert("RGB").quantize(160).save(PICTURE, optimize=True)  # a third of the bytes


def decoded_around(volume: np.ndarray, plane: str, index: int, network: VQGAN) -> np.ndarray:
    """Encode and decode the slab that a plane depends on; int16 HU as `plane_image` gives it."""
    axis, factor = PLANES[plane][0], network.factor[PLANES[plane][0]]
    reach = (network.halo.encoder[axis] + network.halo.decoder[axis] + 1) * factor
    start = max(0, index // factor * factor - reach)
    slab = np.moveaxis(np.moveaxis(volume, axis, 0)[start : index + reach + factor], 0, axis)
    hu = torch.from_numpy(np.ascontiguousarray(slab))[None, None]
    after = partial(to_hu, hu_window=HU_WINDOW)
    decoded = ExactTileInferer()(hu, network, before=lambda tile: scale_hu_(tile.float(), HU_WINDOW), after=after)
    return plane_image(decoded[0, 0].numpy(), plane, index - start)


if __name__ == "__main__":
    main()
