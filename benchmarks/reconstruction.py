"""Whole volumes side by side: Gaussian windows and exact tiles, ours and MONAI's, against one pass without overlap.

    python benchmarks/reconstruction.py [--device cuda] [--plane 512 512] [--lengths 152 304 604] [--json FILE]

Networks: ours, and MONAI's VQVAE of the same widths (see training_step.py), untrained, in evaluation mode, without
gradients. Stock is MONAI's ``SlidingWindowInferer(mode="gaussian", overlap=0.25)``. Exact tiles encode the volume to
codes and decode the codes; the others encode and decode window by window.

The yardstick is one pass of the same network over the same voxels without overlap: the whole volume at once where that
fits, else (on CUDA) windows that do not overlap. Peak memory counts the result, not the volume that is given.

On CUDA the last table has a row per precision for the longest volume; the goals for encoding and decoding 512x512x604
are 10 s and 20 GB. The other tables are in float32 without TensorFloat-32.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence

import torch
from monai.inferers import SlidingWindowInferer
from side_by_side import (
    GIB,
    OK,
    Row,
    Work,
    argument_parser,
    by_name,
    compare,
    mib,
    number,
    paired,
    parsed,
    provenance,
    report,
    status_or,
    table,
)
from training_step import monai_vqvae, our_network

from ctpa_vqgan.inferers import ExactTileInferer, VQGANInferer
from ctpa_vqgan.precision import numerics

SIZES = {
    "smoke": {"plane": (16, 16), "lengths": [8, 16], "roi": (16, 16, 8), "tile": (16, 16, 8), "width": 8, "codes": 32},
    # windows large enough for oneDNN: PyTorch gives it no convolution of a single patch whose channels x H x W stay
    # below 20 480, and its own way is four times slower
    "cpu": {
        "plane": (192, 192),
        "lengths": [24, 48, 96],
        "roi": (128, 128, 24),
        "tile": (96, 96, 48),
        "width": 16,
        "codes": 1024,
    },
    "cuda": {
        "plane": (512, 512),
        "lengths": [152, 304, 604],
        "roi": (256, 256, 128),
        "tile": (128, 128, 128),
        "width": 64,
        "codes": 8192,
    },
}
SIZES["smoke"] |= {"repeats": 1, "memory_gib": 0.25}
SIZES["cpu"] |= {"repeats": 3, "memory_gib": 0.15}
SIZES["cuda"] |= {"repeats": 2, "memory_gib": 18.0}
OVERLAP = 0.25
SECONDS_GOAL, BYTES_GOAL = 10.0, 20e9
OURS, RIVAL = "ours", "MONAI VQVAE"
WHOLE, APART = "one pass", "windows without overlap"
LARGER = "Gaussian windows from a memory budget"
GOAL_SIZE = [512, 512, 604]
Infer = Callable[[torch.Tensor], torch.Tensor]


# -- the contenders ----------------------------------------------------------------------------------------------------


def inferers(options: argparse.Namespace, network: torch.nn.Module) -> dict[str, Infer]:
    """Ways to take a volume through our network, by name."""
    gaussian = VQGANInferer(options.roi, overlap=OVERLAP)
    tiles = ExactTileInferer(options.tile)
    ways = {
        WHOLE: network,
        APART: lambda x: stock(options.roi, 0.0)(x, network),
        "Gaussian windows": lambda x: gaussian(x, network),
        "stock SlidingWindowInferer": lambda x: stock(options.roi, OVERLAP)(x, network),
        "exact tiles, encode and decode": lambda x: tiles(x, network),
        "exact tiles from a memory budget": lambda x: ExactTileInferer(memory_bytes=budget(options))(x, network),
    }
    larger = VQGANInferer(options.roi, overlap=OVERLAP, memory_bytes=budget(options))
    ways[LARGER] = lambda x: larger(x, network)
    return {f"{OURS}, {way}": infer for way, infer in ways.items() if way != APART or options.device == "cuda"}


def rival_inferers(options: argparse.Namespace, network: torch.nn.Module) -> dict[str, Infer]:
    """The same for MONAI's network, which knows stock windows."""

    def predict(window: torch.Tensor) -> torch.Tensor:
        return network(window)[0]

    ways = {
        WHOLE: predict,
        APART: lambda x: stock(options.roi, 0.0)(x, predict),
        "stock SlidingWindowInferer": lambda x: stock(options.roi, OVERLAP)(x, predict),
    }
    return {f"{RIVAL}, {way}": infer for way, infer in ways.items() if way != APART or options.device == "cuda"}


def stock(roi: Sequence[int], overlap: float) -> SlidingWindowInferer:
    """As MONAI's tutorials have it."""
    return SlidingWindowInferer(roi, sw_batch_size=1, overlap=overlap, mode="gaussian" if overlap else "constant")


def budget(options: argparse.Namespace) -> int:
    """Bytes that windows and tiles may take where they are chosen by it."""
    return int(options.memory_gib * GIB)


def works(ways: dict[str, Infer], volume: torch.Tensor, precision: str) -> dict[str, Work]:
    """Each way as a call that leaves nothing behind."""

    def make(infer: Infer) -> Work:
        def work() -> None:
            with torch.no_grad(), numerics(precision, volume.device.type):
                infer(volume)

        return work

    return {name: make(infer) for name, infer in ways.items()}


def make_volume(options: argparse.Namespace, length: int) -> torch.Tensor:
    """Noise [1, 1, X, Y, length] on the network's scale."""
    generator = torch.Generator().manual_seed(0)
    return (torch.rand((1, 1, *options.plane, length), generator=generator) * 2 - 1).to(options.device)


# -- the run -----------------------------------------------------------------------------------------------------------


def run(options: argparse.Namespace) -> tuple[list[Row], list[Row]]:
    """Rows by length, and rows by precision of the longest volume (CUDA alone)."""
    torch.manual_seed(0)
    ours = our_network(options.width, options.codes).eval().to(options.device)
    ours.quantizer.initialized.fill_(True)
    rival = monai_vqvae(options.width, options.codes).eval().to(options.device)
    ways = inferers(options, ours) | rival_inferers(options, rival)
    rows = []
    for length in options.lengths:
        volume = make_volume(options, length)
        # after the first length the call that takes the memory is warm-up enough
        calls = works(ways, volume, "float32")
        results = compare(calls, options.device, options.repeats, warm_ups=int(length == options.lengths[0]))
        for row in results:
            row |= {"size": [*options.plane, length], **against_one_pass(row, by_name(results))}
        rows += results
        del volume
    precisions = []
    if options.device == "cuda":
        volume = make_volume(options, options.lengths[-1])
        entrants = {}
        for precision in ("float32", "tf32", "bf16"):
            entrants |= works(by_precision(options, ours, precision), volume, precision)
        precisions = compare(entrants, options.device, options.repeats)
    return rows, precisions


def by_precision(options: argparse.Namespace, network: torch.nn.Module, precision: str) -> dict[str, Infer]:
    """Ours, named with the precision."""
    gaussian = VQGANInferer(options.roi, overlap=OVERLAP)
    tiles = ExactTileInferer(options.tile, precision=precision)
    large = ExactTileInferer(memory_bytes=budget(options), precision=precision)
    return {
        f"exact tiles of {'x'.join(map(str, options.tile))}, {precision}": lambda x: tiles(x, network),
        f"exact tiles within {options.memory_gib:g} GiB, {precision}": lambda x: large(x, network),
        f"Gaussian windows, {precision}": lambda x: gaussian(x, network),
    }


def against_one_pass(row: Row, rows: dict[str, Row]) -> dict:
    """The ratio to one pass of the same network, and which pass that is."""
    network = row["name"].split(", ")[0]
    for way in (WHOLE, APART):
        one_pass = rows.get(f"{network}, {way}")
        if one_pass and one_pass["status"] == OK:
            return {"times_one_pass": paired(row, one_pass), "one_pass": way}
    return {"times_one_pass": None, "one_pass": "-"}


def markdown(content: dict) -> str:
    """Tables for the screen and for docs/performance.md."""
    shortest = by_name([row for row in content["rows"] if row["size"] == content["rows"][0]["size"]])
    parts = []
    for size, rows in itertools.groupby(content["rows"], lambda row: row["size"]):
        lines = []
        for row in rows:
            first = shortest[row["name"]]
            growth = row["seconds"] / first["seconds"] if row["status"] == first["status"] == OK else None
            cells = [row["name"], status_or(row, number(row.get("seconds"))), number(row["times_one_pass"])]
            lines.append([*cells, number(growth), status_or(row, mib(row)), row["one_pass"]])
        voxels = size[2] / content["rows"][0]["size"][2]
        head = ["way", "s", "times its one pass", f"times the shortest volume ({voxels:.3g} x the voxels)"]
        head += ["peak memory [MiB]", "which one pass"]
        parts.append(f"{'x'.join(map(str, size))}, float32:\n\n" + table(head, lines))
    if content["precisions"]:
        size = content["rows"][-1]["size"]
        head = ["way", "s", "peak memory [GB]", f"goals: {SECONDS_GOAL:g} s, {BYTES_GOAL / 1e9:g} GB"]
        lines = [precision_line(row, size) for row in content["precisions"]]
        parts.append(f"{'x'.join(map(str, size))}, ours, encode and decode:\n\n" + table(head, lines))
    foot = f"Windows of {'x'.join(map(str, content['roi']))}, tiles of {'x'.join(map(str, content['tile']))}, budget "
    foot += f"{content['memory_gib']:g} GiB, C = {content['width']}, {content['codes']} codes, "
    return "\n\n".join([*parts, f"{foot}rounds: {content['repeats']}. {provenance(content)}"])


def precision_line(row: Row, size: list[int]) -> list[str]:
    """With the verdict, where the volume is that of the goals."""
    if row["status"] != OK:
        return [row["name"], row["status"], "-", "not met" if size == GOAL_SIZE else "-"]
    reached = (row["seconds"] <= SECONDS_GOAL, row["peak_bytes"] <= BYTES_GOAL)
    verdict = ", ".join("met" if good else "not met" for good in reached) if size == GOAL_SIZE else "another size"
    return [row["name"], number(row["seconds"]), number(row["peak_bytes"] / 1e9), verdict]


def main(argv: Sequence[str] | None = None) -> dict:
    """Read the arguments, measure, print and write."""
    parser = argument_parser(__doc__)
    parser.add_argument("--plane", type=int, nargs=2, metavar=("X", "Y"), help="voxels of the volume in plane")
    parser.add_argument("--lengths", type=int, nargs="+", metavar="Z", help="slices, the shortest volume first")
    parser.add_argument("--roi", type=int, nargs=3, metavar=("X", "Y", "Z"), help="window in voxels")
    parser.add_argument("--tile", type=int, nargs=3, metavar=("X", "Y", "Z"), help="core of an exact tile in voxels")
    parser.add_argument("--memory-gib", type=float, help="budget from which windows and tiles are chosen")
    parser.add_argument("--width", type=int, help="channels C at half the resolution")
    parser.add_argument("--codes", type=int, help="size of the codebook")
    options = parsed(parser, argv, SIZES)
    if any(side % 4 for side in (*options.plane, *options.lengths, *options.roi, *options.tile)):
        parser.error("volumes, windows and tiles must have sides that are multiples of 4")
    rows, precisions = run(options)
    sizes = {name: getattr(options, name) for name in ("roi", "tile", "memory_gib", "width", "codes", "repeats")}
    return report(options, markdown, **sizes, rows=rows, precisions=precisions)


if __name__ == "__main__":
    main()
