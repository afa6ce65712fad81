"""Do tiles give what the whole volume gives? Exact tiles, with GroupNorm and Gaussian windows for comparison.

    python benchmarks/exact_tiling.py random [--codes 1000000] [--json FILE]
    python benchmarks/exact_tiling.py trained MODEL_DIR VOLUME [--json FILE] [--figure FILE]
    python benchmarks/exact_tiling.py precisions MODEL_DIR VOLUME [--device cuda --size 256 256 128] [--json FILE]

``random``: networks of random architecture (factors 2 to 8 and mixed ones, every front end, 0 to 2 residual blocks),
volumes of random size, tiles of random size and offset; in float64 on small volumes, then in float32 until there are so
many codes. Codes are drawn from the latents of noise, so that a small error would choose another one.

``trained``: the network of MODEL_DIR (``model.pt``, ``model.yaml``) on the middle of a CT. The GroupNorm network is the
same one with its norms exchanged and trained a little more on that CT, given the same halo by force.

``precisions``: the same network in each precision against float32 in one pass; bf16 takes long on a
CPU without bf16 arithmetic.

1000 HU are 1 on the network's scale. Gap: how much nearer the chosen code is than the whole volume's choice, as a share
of the distance, at the worst code that differs. HU: all voxels of the volume decoded from the same codes, or, for
Gaussian windows, of the two reconstructions.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import yaml
from monai.bundle import ConfigParser

from ctpa_vqgan.data import to_hu
from ctpa_vqgan.data.transforms import prepare_volume
from ctpa_vqgan.handlers import load_weights
from ctpa_vqgan.inferers import ExactTileInferer, VQGANInferer, latent_grid
from ctpa_vqgan.inferers.sliding import pad_to_multiple
from ctpa_vqgan.networks import VQGAN, Halo
from ctpa_vqgan.precision import numerics
from ctpa_vqgan.provenance import facts

HU = 1000.0  # of 1 on the network's scale
FACTORS = [(2, 2, 2), (2, 2, 2), (4, 4, 4), (4, 4, 4), (8, 8, 8), (4, 4, 2), (4, 2, 1), (2, 4, 2), (8, 4, 2)]
FRONT_ENDS = ["none", "space_to_depth", "haar"]


# -- random networks ---------------------------------------------------------------------------------------------------


def random_network(rng: np.random.Generator) -> VQGAN:
    """Small, with a codebook drawn from latents of noise."""
    torch.manual_seed(int(rng.integers(2**31)))
    factor, front_end = FACTORS[rng.integers(len(FACTORS))], FRONT_ENDS[rng.integers(len(FRONT_ENDS))]
    levels = int(math.log2(max(factor))) + (front_end == "none")
    network = VQGAN(
        channels=[int(rng.choice([4, 8])) for _ in range(levels)],
        factor=factor,
        front_end=front_end,
        num_res_blocks=[int(n) for n in rng.integers(0, 3, 2)],
        num_embeddings=64,
        embedding_dim=4,
    ).eval()
    noise = torch.rand(1, 1, *(4 * f for f in factor)) * 2 - 1
    with torch.no_grad():
        network.quantizer.embedding.copy_(network.encode(noise)[0].flatten(1).T)
    return network


def random_tiles(rng: np.random.Generator, network: VQGAN, size: list[int]) -> ExactTileInferer:
    """Cores from a little larger than the halo to half the volume's side, at any offset."""
    halo = network.halo.decoder
    grid = latent_grid(size, network.factor)
    core = [min(g, int(rng.integers(h + 1, max(h + 1, g // 2) + 1))) for h, g in zip(halo, grid)]
    offset = [int(rng.integers(0, c)) for c in core]
    in_voxels = [[n * f for n, f in zip(places, network.factor)] for places in (core, offset)]
    return ExactTileInferer(tile_size=in_voxels[0], offset=in_voxels[1])


def random_case(rng: np.random.Generator, voxels: float) -> tuple[VQGAN, torch.Tensor, ExactTileInferer]:
    """Network, volume [1, 1, H, W, D] of about so many voxels, tiles."""
    network = random_network(rng)
    size = [max(1, int(voxels ** (1 / 3) * s)) for s in rng.uniform(0.8, 1.25, 3)]
    volume = torch.rand(1, 1, *size, generator=torch.Generator().manual_seed(int(rng.integers(2**31)))) * 2 - 1
    return network, volume, random_tiles(rng, network, size)


# -- comparing ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def whole(network: VQGAN, volume: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Latents, codes, and what they decode to, in one pass over the padded volume."""
    latents = network.encode(pad_to_multiple(volume, network.factor, -1.0))
    codes = network.quantizer.quantize(latents)
    return latents, codes, network.decode_samples(codes)


@torch.no_grad()
def relative_gap(network: VQGAN, latents: torch.Tensor, codes: torch.Tensor, others: torch.Tensor) -> float:
    """The largest relative difference of the distances to the two codes, in float64, where they differ."""
    at = codes != others
    if not at.any():
        return 0.0
    book, z = network.quantizer.embedding.double(), latents.movedim(1, -1)[at].double()
    first, second = ((z - book[c[at]]).norm(dim=1) for c in (codes, others))
    return float(((first - second).abs() / torch.minimum(first, second)).max())


def deviation(found: torch.Tensor, expected: torch.Tensor) -> dict[str, float]:
    """Root mean square and largest difference in HU."""
    off = (found - expected).double() * HU
    return {"rms_hu": float(off.square().mean().sqrt()), "max_hu": float(off.abs().max())}


def compare(
    network: VQGAN, volume: torch.Tensor, tiles: ExactTileInferer, reference: tuple[torch.Tensor, ...]
) -> dict[str, float]:
    """Codes and voxels of tiles against those of :func:`whole`."""
    latents, codes, decoded = reference
    found = tiles.encode(volume, network)
    return {
        "codes": codes.numel(),
        "different": int((found != codes).sum()),
        "gap": relative_gap(network, latents, codes, found),
        **deviation(tiles.decode(codes, network), decoded),
    }


def total(rows: list[dict[str, float]]) -> dict[str, float]:
    """Counts added up, and the worst of everything else."""
    return {key: (sum if key in ("codes", "different") else max)(row[key] for row in rows) for key in rows[0]}


def random_campaign(
    seeds: Iterator[int], voxels: float, dtype: torch.dtype, num_codes: float, num_cases: int = 12
) -> dict[str, float]:
    """Random cases until there are so many of them and so many codes."""
    rows: list[dict[str, float]] = []
    for seed in seeds:
        network, volume, tiles = random_case(np.random.default_rng(seed), voxels)
        network, volume = network.to(dtype), volume.to(dtype)
        rows.append(compare(network, volume, tiles, whole(network, volume)))
        print(f"  {seed}: {network.factor}, {tuple(volume.shape[2:])}, {rows[-1]}", flush=True)
        if sum(row["codes"] for row in rows) >= num_codes and len(rows) >= num_cases:
            break
    return {"cases": len(rows), **total(rows)}


# -- a trained network -------------------------------------------------------------------------------------------------


class ForcedHalo(VQGAN):
    """A GroupNorm network that claims the halo of its convolutions; its statistics reach farther."""

    @property
    def halo(self) -> Halo:
        """That of the same network with RMSNorm."""
        return VQGAN(**{**_settings(self.config), "norm": "rms"}).halo


def _settings(config: dict) -> dict:
    settings = {key: value for key, value in config.items() if key not in ("_target_", "quantizer")}
    book = config["quantizer"]
    return {**settings, "num_embeddings": book["num_embeddings"], "embedding_dim": book["embedding_dim"]}


def load_network(folder: Path) -> tuple[VQGAN, list[float]]:
    """The network of a run, and its HU window."""
    knobs = yaml.safe_load((folder / "model.yaml").read_text())
    network = ConfigParser({"network_def": knobs["network_def"]}).get_parsed_content("network_def")
    return load_weights(network, folder / "model.pt").eval(), knobs["hu_window"]


def middle_of(volume: torch.Tensor, size: list[int]) -> torch.Tensor:
    """The middle of [1, X, Y, Z], as [1, 1, ...]."""
    starts = [max(0, (whole - side) // 2) for whole, side in zip(volume.shape[1:], size)]
    return volume[(slice(None), *(slice(a, a + s) for a, s in zip(starts, size)))][None].contiguous()


def with_group_norm(network: VQGAN, volume: torch.Tensor, steps: int, patch: int = 48, batch: int = 2) -> VQGAN:
    """The same network with GroupNorm, trained ``steps`` more on patches of ``volume``, codes fixed."""
    torch.manual_seed(0)
    group = ForcedHalo(**{**_settings(network.config), "norm": "group"})
    group.load_state_dict(network.state_dict(), strict=False)
    optimizer = torch.optim.AdamW(group.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(0)
    group.quantizer.eval()
    for _ in range(steps):
        starts = [[rng.integers(0, side - patch + 1) for side in volume.shape[2:]] for _ in range(batch)]
        x = torch.stack([volume[(0, slice(None), *(slice(a, a + patch) for a in start))] for start in starts])
        result = group.autoencode(x)
        loss = (result.reconstruction - x).abs().mean() + result.commitment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    print(f"  GroupNorm network: L1 {float((result.reconstruction - x).abs().mean()) * HU:.1f} HU at the last step")
    return group.eval()


def psnr(found: torch.Tensor, expected: torch.Tensor) -> float:
    """In dB over 2000 HU."""
    return float(-10 * torch.log10((found.clamp(-1, 1) - expected).square().mean() / 4))


@torch.no_grad()
def gaussian(network: VQGAN, volume: torch.Tensor, window: int, overlap: float) -> torch.Tensor:
    """Windows blended, on the padded grid."""
    return VQGANInferer((window,) * 3, overlap=overlap)(pad_to_multiple(volume, network.factor, -1.0), network)


def against_shifted(blended: torch.Tensor, shifted: torch.Tensor, shift: list[int]) -> dict[str, float]:
    """The same voxels with windows that begin elsewhere, away from the new border."""
    margin = 32
    first = blended[(..., *(slice(s + margin, None) for s in shift))]
    second = shifted[(..., *(slice(margin, None) for _ in shift))]
    return {f"shifted_{key}": value for key, value in deviation(second, first).items()}


@contextlib.contextmanager
def no_halo(network: VQGAN) -> Iterator[None]:
    """The network claims to need none."""
    kind = type(network)
    network.__class__ = type("NoHalo", (kind,), {"halo": Halo((0, 0, 0), (0, 0, 0))})
    try:
        yield
    finally:
        network.__class__ = kind


def trained_rows(name: str, network: VQGAN, volume: torch.Tensor, window: int) -> tuple[list[dict], dict]:
    """All ways of one network, and the voxels that the figure shows."""
    reference = whole(network, volume)
    shown, rows = {"whole": reference[2]}, []
    finer, shift = (window,) * 3, [int(window * s) // f * f for s, f in zip((0.3, 0.6, 0.2), network.factor)]
    ways = {
        f"tiles of {window}, halo": ExactTileInferer(finer),
        f"tiles of {window}, halo, offset {tuple(shift)}": ExactTileInferer(finer, offset=shift),
        f"tiles of {2 * window}, halo": ExactTileInferer([2 * s for s in finer]),
    }
    for way, tiles in ways.items():
        rows.append({"network": name, "way": way, **compare(network, volume, tiles, reference)})
        print(rows[-1], flush=True)
    shown["tiles"] = ExactTileInferer(finer)(volume, network)
    if name == "RMSNorm":
        with no_halo(network):
            way = f"tiles of {window}, no halo"
            rows.append({"network": name, "way": way, **compare(network, volume, ExactTileInferer(finer), reference)})
    for overlap in (0.25, 0.5):
        blended = gaussian(network, volume, window, overlap)
        shifted = gaussian(network, volume[(..., *(slice(s, None) for s in shift))], window, overlap)
        row = {"network": name, "way": f"Gaussian windows of {window}, overlap {overlap}"}
        rows.append({**row, **deviation(blended, reference[2]), **against_shifted(blended, shifted, shift)})
        shown.setdefault("gaussian", blended)
        print(rows[-1], flush=True)
    expected = pad_to_multiple(volume, network.factor, -1.0)
    rows[0]["psnr"] = psnr(reference[2], expected)
    rows[-2]["psnr"] = psnr(shown["gaussian"], expected)
    return rows, shown


def main() -> None:
    """Read the arguments and print, write, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    random = parts.add_parser("random")
    random.add_argument("--codes", type=float, default=1e6, help="in float32")
    random.add_argument("--voxels", type=float, default=1.2e6, help="of a float32 volume")
    trained = parts.add_parser("trained")
    trained.add_argument("model", type=Path)
    trained.add_argument("volume", type=Path)
    trained.add_argument("--size", type=int, nargs=3, default=(254, 250, 101), help="middle of the CT, in voxels")
    trained.add_argument("--window", type=int, default=64, help="side of tiles and windows")
    trained.add_argument("--steps", type=int, default=300, help="of training with GroupNorm")
    trained.add_argument("--figure", type=Path)
    precisions = parts.add_parser("precisions")
    precisions.add_argument("model", type=Path)
    precisions.add_argument("volume", type=Path)
    precisions.add_argument("--size", type=int, nargs=3, default=(32, 32, 32), help="middle of the CT, in voxels")
    precisions.add_argument("--device", default="cpu")
    for part in (random, trained, precisions):
        part.add_argument("--json", type=Path)
    options = parser.parse_args()
    result = {"random": run_random, "trained": run_trained, "precisions": run_precisions}[options.part](options)
    if options.json:
        known = json.loads(options.json.read_text()) if options.json.is_file() else {}
        options.json.write_text(json.dumps({**known, options.part: {**result, **facts()}}, indent=1) + "\n")


def run_random(options: argparse.Namespace) -> dict:
    """Both precisions."""
    result = {
        "float64": random_campaign(itertools.count(), 1.2e5, torch.float64, 2e4),
        "float32": random_campaign(itertools.count(1000), options.voxels, torch.float32, options.codes),
    }
    for precision, row in result.items():
        print(precision, row)
    return result


def run_trained(options: argparse.Namespace) -> dict:
    """The network as it is, and with GroupNorm."""
    network, hu_window = load_network(options.model)
    item = prepare_volume(hu_window)({"image": str(options.volume)})
    volume = middle_of(item["image"].as_tensor(), options.size)
    rows, shown = trained_rows("RMSNorm", network, volume, options.window)
    group = with_group_norm(network, item["image"].as_tensor()[None], options.steps)
    group_rows, group_shown = trained_rows("GroupNorm", group, volume, options.window)
    if options.figure:
        draw(options.figure, volume, shown, group_shown, hu_window, options.window)
    rows += group_rows
    for row in rows:
        print(
            " | ".join(f"{key} {value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items())
        )
    return {"volume": options.volume.name, "size": list(volume.shape[2:]), "rows": rows}


def run_precisions(options: argparse.Namespace) -> dict:
    """Every precision that the device has."""
    network, hu_window = load_network(options.model)
    volume = prepare_volume(hu_window)({"image": str(options.volume)})["image"].as_tensor()
    network, volume = network.to(options.device), middle_of(volume, options.size).to(options.device)
    with torch.no_grad(), numerics("float32", options.device.split(":")[0]):
        reference = whole(network, volume)
    rows = []
    for precision in ("float32", *(["tf32"] if volume.is_cuda else []), "bf16"):
        rows.append(
            {"precision": precision, **compare(network, volume, ExactTileInferer(precision=precision), reference)}
        )
        rows[-1]["share_different"] = rows[-1]["different"] / rows[-1]["codes"]
        print(rows[-1], flush=True)
    return {"volume": options.volume.name, "size": list(volume.shape[2:]), "rows": rows}


# -- the figure --------------------------------------------------------------------------------------------------------


def draw(path: Path, volume: torch.Tensor, rms: dict, group: dict, hu_window: list[float], window: int) -> None:
    """An axial slice, and where tiles differ from the whole; a colour is a power of ten."""
    import matplotlib.pyplot as plt
    from matplotlib.colors import LogNorm

    z = window - 1  # the last slice of the first tiles
    norm = LogNorm(1e-4, 1e3)
    figure, axes = plt.subplots(2, 3, figsize=(15, 10.4), layout="constrained")
    x, y = volume.shape[2:4]

    def plane(values: torch.Tensor) -> np.ndarray:
        return values[0, 0, :x, :y, z].flip(0, 1).T.numpy()

    grey = {"cmap": "gray", "vmin": -160, "vmax": 240}
    titles = ("the CT, W400 L40", "its codes decoded in one pass (RMSNorm)")
    for axis, values, title in zip(axes[:, 0], (volume, rms["whole"]), titles):
        axis.imshow(plane(to_hu(values, hu_window)), **grey)
        axis.set_title(title)
    for row, (name, shown) in zip(axes, (("RMSNorm", rms), ("GroupNorm", group))):
        ways = (f"tiles of {window} with halo", f"Gaussian windows of {window}")
        for axis, kind, way in zip(row[1:], ("tiles", "gaussian"), ways):
            off = (plane(shown[kind]) - plane(shown["whole"])) * HU
            picture = axis.imshow(np.abs(off).clip(1e-4), cmap="magma", norm=norm)
            axis.set_title(
                f"{name}, {way}\nin this slice {np.sqrt((off**2).mean()):.2g} HU rms, {np.abs(off).max():.2g} at most"
            )
    figure.colorbar(picture, ax=axes[:, 1:], label="|tile by tile - one pass over the whole|, HU", shrink=0.8)
    for axis in axes.flat:
        axis.axis("off")
    figure.savefig(path, dpi=75)


if __name__ == "__main__":
    main()
