"""Draw docs/images/phantom.png: the full-size phantom in a lung and in an embolism window. Takes about a minute."""

from pathlib import Path

import matplotlib.pyplot as plt

from ctpa_vqgan.data.phantom import LABELS, make_phantom
from ctpa_vqgan.windows import WINDOWS

SPACING_MM = (0.7, 0.7, 0.6)
SHOWN = {"lung, W 1500 L -600": WINDOWS["lung"], "embolism, W 700 L 100": WINDOWS["pe"]}


def main() -> None:
    """Cut planes through the largest clots and through heart and spine; axial as read: patient's right on the left."""
    phantom = make_phantom(spacing_mm=SPACING_MM, seed=4)
    volume = phantom.volume[::-1, ::-1, ::-1]
    clots = (phantom.labels == LABELS["embolus"])[::-1, ::-1, ::-1]
    area = clots.sum(axis=(0, 1))
    clot_z, clot_y = int(area.argmax()), int(clots.sum(axis=(0, 2)).argmax())
    planes = {
        "axial, embolus": volume[:, :, clot_z].T,
        "axial, heart": volume[:, :, 372].T,
        "coronal, embolus": volume[:, clot_y].T,
        "sagittal, spine": volume[256].T,
    }
    figure, axes = plt.subplots(2, 4, figsize=(16, 8), facecolor="black", layout="constrained")
    for row, (window, (level, width)) in zip(axes, SHOWN.items()):
        for ax, (plane, image) in zip(row, planes.items()):
            aspect = 1 if "axial" in plane else SPACING_MM[2] / SPACING_MM[0]
            ax.imshow(image, cmap="gray", vmin=level - width / 2, vmax=level + width / 2, aspect=aspect)
            ax.set_title(f"{plane} ({window})", color="white", fontsize=10)
            ax.axis("off")
    figure.savefig(Path(__file__).parent / "images" / "phantom.png", dpi=100)


if __name__ == "__main__":
    main()
