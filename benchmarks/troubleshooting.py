"""What do the ways out of docs/troubleshooting.md bring in reconstruction? Time, memory, quality and seams of each.

    python benchmarks/troubleshooting.py CT [--scale 4] [--json FILE]

The shipped weights reconstruct the middle of a CT with every setting, one after the other. To end in minutes on a CPU,
volume, windows and strides are ``--scale`` times smaller than those of a volume of 512x512x604 along every axis: the
grid of windows is the same where the CT is long enough. Small windows show more of their borders than large ones, so
seams and losses are worse than at full size; time is compared with that of the defaults in the same run, by seconds of
the processor. Windows, voxels computed and memory are those of the full size: counted, the memory as
``ctpa_vqgan.inferers.memory`` does it, in float32 for a CPU. What blending holds besides is measured on a volume of
zeros of full size.

Seams are jumps of the difference from exact tiles on window planes, as ``evaluate --sweep`` has them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from side_by_side import GIB, LiveBytes, count_parser, number, provenance, report, table

from ctpa_vqgan.data import load_volume
from ctpa_vqgan.data.patches import grid_windows
from ctpa_vqgan.evaluation import Reconstructor
from ctpa_vqgan.handlers import load_weights
from ctpa_vqgan.inferers import VQGANInferer
from ctpa_vqgan.inferers.memory import window_bytes
from ctpa_vqgan.inferers.sliding import overlap_of
from ctpa_vqgan.metrics import seam_index, volume_fidelity, window_planes
from ctpa_vqgan.networks import VQGAN

WEIGHTS = Path(__file__).parents[1] / "bundles/ctpa_vqgan/models/model.pt"
VOLUME = (512, 512, 604)
HU_WINDOW, WRONG_WINDOW = (-1000.0, 1000.0), (-200.0, 500.0)
Size = tuple[int, ...]


class Setting(NamedTuple):
    """One way to reconstruct, at full size."""

    name: str
    patch: Size = (256, 256, 128)
    stride: Size = (192, 192, 96)
    blend: str = "gaussian"
    batch: int = 1
    hu_window: tuple[float, float] = HU_WINDOW

    def scaled(self, scale: int) -> Setting:
        """So many times smaller along every axis."""
        smaller = {key: tuple(side // scale for side in getattr(self, key)) for key in ("patch", "stride")}
        return self._replace(**smaller)

    def windows(self, size: Sequence[int]) -> int:
        """How many a volume takes."""
        return len(grid_windows(size, self.patch, self.stride))


SETTINGS = (
    Setting("the defaults"),
    Setting("`stride=[224,224,112]`", stride=(224, 224, 112)),
    Setting("`stride=[256,256,128]`, no overlap", stride=(256, 256, 128)),
    Setting("`stride=[128,128,64]`, half", stride=(128, 128, 64)),
    Setting("`patch_size=[192,192,96]`", (192, 192, 96), (144, 144, 72)),
    Setting("`patch_size=[128,128,64]`", (128, 128, 64), (96, 96, 48)),
    Setting("`blend_mode=linear`", blend="linear"),
    Setting("`sw_batch_size=4`", batch=4),
    Setting("`hu_window=[-200,500]`, not that of the training", hu_window=WRONG_WINDOW),
)


def reconstructor(network: VQGAN, setting: Setting) -> Reconstructor:
    """The package's own way to a reconstruction, with this setting as it is."""
    overlap = overlap_of(setting.patch, setting.stride)
    inferer = VQGANInferer(setting.patch, setting.batch, overlap, setting.blend)
    return Reconstructor(network, inferer, setting.hu_window)


@torch.no_grad()
def counted(network: VQGAN, setting: Setting) -> dict[str, float]:
    """Windows, work and memory at full size."""
    windows = setting.windows(VOLUME)
    batch = torch.Size((setting.batch, network.in_channels, *setting.patch))
    return {
        "windows": windows,
        "work": windows * math.prod(setting.patch) / math.prod(VOLUME),
        "window_bytes": window_bytes(network, batch, torch.float32, "cpu"),
    }


def measured(network: VQGAN, hu: torch.Tensor, settings: Sequence[Setting]) -> Iterator[dict[str, Any]]:
    """Rows of the settings, and a last one of exact tiles; ``hu`` [X, Y, Z]."""
    padded = [math.ceil(side / factor) * factor for side, factor in zip(hu.shape, network.factor)]
    exact = reconstructor(network, settings[0]).by_codes(hu)
    reconstructor(network, settings[0]).by_windows(hu[: padded[0] // 2])  # kernels are chosen at the first call
    for setting in settings:
        seconds, result = timed(lambda setting=setting: reconstructor(network, setting).by_windows(hu))
        row = {"name": setting.name, "windows_here": setting.windows(padded), "cpu_seconds": seconds}
        if setting.hu_window == HU_WINDOW:  # else they differ from the tiles everywhere
            seams = seam_index(result, exact, window_planes(padded, setting.patch, setting.stride))
            row |= {"seam_hu": seams.hu, "seams_found": len(seams.found)}
        yield row | volume_fidelity(result, hu)
    yield {"name": "exact tiles, `encode` and `decode`", **volume_fidelity(exact, hu), "seam_hu": 0.0, "seams_found": 0}


def timed(work: Callable[[], torch.Tensor]) -> tuple[float, torch.Tensor]:
    """Seconds of the processor, all threads together, and the result."""
    began = time.process_time()
    result = work()
    return time.process_time() - began, result


def blending_bytes(size: Sequence[int] = VOLUME) -> int:
    """What blending a volume holds besides its windows and the volume itself: the result, its weights, copies."""
    volume = torch.zeros(1, 1, *size)
    with LiveBytes() as live, torch.no_grad():
        VQGANInferer()(volume, torch.nn.Identity())
    return live.peak


def middle(volume: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
    """The middle of [X, Y, Z], no larger than this."""
    starts = [max(0, (there - side) // 2) for there, side in zip(volume.shape, size)]
    return volume[tuple(slice(start, start + side) for start, side in zip(starts, size))].contiguous()


def markdown(content: dict[str, Any]) -> str:
    """Table for the screen and for docs/troubleshooting.md."""
    head = ["setting", "windows", "voxels computed", "memory [GiB]", "windows here", "time"]
    head += ["PSNR [dB]", "seam [HU]", "seams"]
    first, lines = content["rows"][0]["cpu_seconds"], []
    for row in content["rows"]:
        cells = [str(row.get("windows", "-")), number(row.get("work")), "-", str(row.get("windows_here", "-")), "-"]
        if "window_bytes" in row:
            cells[2], cells[4] = number(row["window_bytes"] / GIB), number(row["cpu_seconds"] / first)
        cells += [f"{row['psnr']:.2f}", number(row.get("seam_hu"), digits=2), str(row.get("seams_found", "-"))]
        lines.append([row["name"], *cells])
    foot = (
        f"Left, a volume of {_by(VOLUME)}: windows, voxels computed as a multiple of the volume's, memory of one batch "
        f"of windows; blending holds {content['blending_bytes'] / GIB:.2f} GiB besides, the volume itself "
        f"{4 * math.prod(VOLUME) / GIB:.2f}. Right, {_by(content['shape'])} voxels of {content['case']}, windows "
        f"{content['scale']} times smaller along every axis: time of the processor as a multiple of the first row's "
        f"({number(content['rows'][0]['cpu_seconds'], digits=2)} s)."
    )
    return f"{table(head, lines)}\n\n{foot} {provenance(content)}"


def _by(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def main(argv: Sequence[str] | None = None) -> dict:
    """Measure, print and write."""
    parser = count_parser(__doc__)
    parser.add_argument("ct", type=Path, help="a CT, such as LIDC-0001.nii.gz")
    parser.add_argument("--scale", type=int, default=4, choices=(1, 2, 4), help="how much smaller than 512x512x604")
    options = parser.parse_args(argv)
    network = load_weights(VQGAN(), WEIGHTS).eval()
    hu = load_volume()({"image": str(options.ct)})["image"].as_tensor()[0]
    hu = middle(hu, [side // options.scale for side in VOLUME])
    at_full_size = {setting.name: counted(network, setting) for setting in SETTINGS}
    settings = [setting.scaled(options.scale) for setting in SETTINGS]
    rows = [at_full_size.get(row["name"], {}) | row for row in measured(network, hu, settings)]
    measure = {"shape": list(hu.shape), "scale": options.scale, "rows": rows, "blending_bytes": blending_bytes()}
    return report(options, markdown, case=options.ct.name.partition(".")[0], **measure)


if __name__ == "__main__":
    main()
