"""What does a bound on the error of every voxel cost? Sizes beside gzip of the same voxels.

    python benchmarks/residual.py VOLUME [--run FOLDER] [--bounds 0 5 20] [--coders] [--json FILE]

With ``--run`` (a folder with model.pt and model.yaml) the volume is encoded and decoded by that network. Without it, a
stand-in decodes: means over 4 x 4 x 4 voxels of the clipped volume, which is about as coarse.

Every row is checked: the residual is applied again, and the largest error of all voxels of the file is in the table.
With ``--run`` the bytes are those of the code file and the residual in it, without it those of the residual alone.
``--coders`` compares ways to code the same steps, on 16 slices in the middle.
"""

from __future__ import annotations

import argparse
import bz2
import json
import lzma
import math
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np

from ctpa_vqgan.data import read_volume
from ctpa_vqgan.data.volumes import to_ras
from ctpa_vqgan.provenance import facts
from ctpa_vqgan.tokens import EncodedVolume, apply_residual, bound_error, network_fingerprint
from ctpa_vqgan.tokens.steps import quantize, to_planes

WINDOW = (-1000.0, 1000.0)
CELL = 4
CODERS = {
    "zlib 6": lambda data: zlib.compress(data, 6),
    "bz2": bz2.compress,
    "lzma 6": lambda data: lzma.compress(data, preset=6),
}


def stand_in(voxels: np.ndarray) -> np.ndarray:
    """Means over cells of 4 x 4 x 4 voxels, clipped to the window."""
    padding = [(0, -side % CELL) for side in voxels.shape]
    padded = np.pad(np.clip(voxels, *WINDOW), padding, mode="edge")
    cells = padded.reshape([n for side in padded.shape for n in (side // CELL, CELL)]).mean((1, 3, 5), dtype=np.float32)
    for axis in range(3):
        cells = cells.repeat(CELL, axis)
    return np.asfortranarray(np.rint(cells[tuple(map(slice, voxels.shape))]).astype(np.int16))


def by_network(voxels: np.ndarray, grid: dict, run: Path) -> tuple[np.ndarray, EncodedVolume]:
    """What the network of a run makes of it, and the codes."""
    import torch
    import yaml
    from monai.bundle import ConfigParser

    from ctpa_vqgan.data import to_hu
    from ctpa_vqgan.handlers import load_weights
    from ctpa_vqgan.inferers import ExactTileInferer
    from ctpa_vqgan.inferers.sliding import pad_to_multiple

    config = yaml.safe_load((run / "model.yaml").read_text())
    network = ConfigParser(config).get_parsed_content("network_def").eval()
    load_weights(network, run / "model.pt")
    low, high = config["hu_window"]
    scaled = torch.from_numpy(voxels).float().clamp_(low, high).sub_(low).mul_(2 / (high - low)).sub_(1)[None, None]
    inferer = ExactTileInferer()
    codes = inferer.encode(pad_to_multiple(scaled, network.factor, -1.0), network)
    decoded = to_hu(inferer.decode(codes, network), (low, high))[0, 0].numpy()
    encoded = EncodedVolume(
        codes=codes[0].numpy(),
        hu_window=(low, high),
        factor=network.factor,
        num_embeddings=network.num_embeddings,
        network=network_fingerprint(network),
        **grid,
    )
    return np.asfortranarray(decoded[tuple(map(slice, voxels.shape))]), encoded


def gzip_rows(voxels: np.ndarray) -> list[dict]:
    """The voxels as a NIfTI has them, deflated."""
    data, rows = voxels.tobytes(order="F"), []
    for level in (6, 9):
        began = time.perf_counter()
        size = len(zlib.compress(data, level))
        rows.append({"way": f"gzip -{level}", "bytes": size, "seconds": time.perf_counter() - began, "max_error_hu": 0})
    return rows


def bound_rows(voxels: np.ndarray, decoded: np.ndarray, code_bytes: int, bounds: list[int]) -> list[dict]:
    rows = []
    for bound in bounds:
        began = time.perf_counter()
        residual = bound_error(voxels, decoded, bound)
        coded = time.perf_counter()
        bounded = apply_residual(decoded, residual)
        seconds = {"seconds": coded - began, "apply_seconds": time.perf_counter() - coded}
        error = max(int(np.abs(voxels[..., z].astype(int) - bounded[..., z]).max()) for z in range(voxels.shape[2]))
        rows.append({"way": f"E = {bound} HU", "bytes": residual.nbytes + code_bytes, **seconds, "max_error_hu": error})
    return rows


def coder_table(voxels: np.ndarray, decoded: np.ndarray, bounds: list[int]) -> str:
    start = max(0, voxels.shape[2] // 2 - 8)
    part, approximate = voxels[..., start : start + 16], decoded[..., start : start + 16]
    lines = ["| coder | " + " | ".join(f"E = {bound}" for bound in bounds) + " |", "|---" * (len(bounds) + 1) + "|"]
    for name, coder in CODERS.items():
        cells = []
        for bound in bounds:
            planes = to_planes(quantize(part, approximate, bound))
            began = time.perf_counter()
            bits = 8 * len(coder(planes)) / part.size
            cells.append(f"{bits:.2f} bit/voxel, {time.perf_counter() - began:.1f} s")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(rows: list[dict], num_voxels: int) -> str:
    lines = [
        "| stored | bytes | bits per voxel | of gzip -6 | largest error [HU] | code [s] | undo [s] |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        undo = f"{row['apply_seconds']:.1f}" if "apply_seconds" in row else ""
        lines.append(
            f"| {row['way']} | {row['bytes']:,} | {8 * row['bytes'] / num_voxels:.2f} | "
            f"{row['bytes'] / rows[0]['bytes']:.0%} | {row['max_error_hu']} | {row['seconds']:.1f} | {undo} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("volume", type=Path)
    parser.add_argument("--run", type=Path, help="folder with model.pt and model.yaml")
    parser.add_argument("--bounds", type=int, nargs="+", default=[0, 5, 20], metavar="E")
    parser.add_argument("--coders", action="store_true", help="compare coders")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    options = parser.parse_args()
    volume = read_volume(options.volume)
    turned, affine = to_ras(volume.voxels, volume.affine)
    voxels = np.asfortranarray(turned)
    grid = {"shape": voxels.shape, "affine": affine}
    grid |= {"original_shape": volume.voxels.shape, "original_affine": volume.affine}
    summary, code_bytes = {}, 0
    if options.run:
        decoded, encoded = by_network(voxels, grid, options.run)
        with tempfile.TemporaryDirectory() as folder:
            code_bytes = encoded.save(Path(folder) / "codes.npz").stat().st_size
        summary = {**encoded.summary(), "lzma_bytes": encoded.lzma_bytes(), "file_bytes": code_bytes}
        print(json.dumps(summary, indent=2))
    else:
        decoded = stand_in(voxels)
    away = np.abs(np.clip(voxels, *WINDOW).astype(np.float32) - decoded).mean(dtype=np.float64)
    print(f"voxels {voxels.shape}, mean error within the window before the residual: {away:.1f} HU")
    rows = gzip_rows(voxels) + bound_rows(voxels, decoded, code_bytes, options.bounds)
    print(table(rows, math.prod(voxels.shape)))
    if options.coders:
        print(coder_table(voxels, decoded, options.bounds))
    if options.json:
        content = {"rows": rows, "codes": summary, "mean_error_hu": away, **facts()}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
