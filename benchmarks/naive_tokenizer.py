"""What does a tokenizer have to beat? Each volume made four times smaller and larger again, trilinearly.

This naive tokenizer keeps one int16 value per 4x4x4 voxels: 0.25 bit per voxel, more than the 0.203 bit of codes.

    python benchmarks/naive_tokenizer.py VOLUME [VOLUME ...] [--json FILE]
"""

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F

from ctpa_vqgan.data import case_name, load_volume
from ctpa_vqgan.inferers.sliding import pad_to_multiple
from ctpa_vqgan.metrics import volume_fidelity
from ctpa_vqgan.provenance import facts

FACTOR = (4, 4, 4)


def naive_reconstruction(volume: torch.Tensor) -> torch.Tensor:
    """[X, Y, Z] in HU -> the same size, from a grid four times coarser; padded with air to multiples of 4."""
    whole = pad_to_multiple(volume[None, None].float().clamp(-1000, 1000), FACTOR, -1000.0)
    small = F.interpolate(whole, scale_factor=0.25, mode="trilinear", align_corners=False)
    large = F.interpolate(small.round(), size=whole.shape[2:], mode="trilinear", align_corners=False)
    return large[0, 0][tuple(slice(s) for s in volume.shape)].round()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("volumes", nargs="+")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    options = parser.parse_args()
    rows = []
    print("| case | PSNR [dB] | SSIM | MAE [HU] |\n|---|---:|---:|---:|")
    for path in options.volumes:
        volume = load_volume()({"image": path})["image"].as_tensor()[0]
        scores = volume_fidelity(naive_reconstruction(volume), volume)
        rows.append({"case": case_name(path), **scores})
        print(
            f"| {case_name(path)} | {scores['psnr']:.2f} | {scores['ssim']:.4f} | {scores['mae_hu']:.2f} |", flush=True
        )
    if options.json:
        options.json.write_text(json.dumps({"cases": rows, **facts()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
