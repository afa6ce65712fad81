"""How fast do training patches load? MONAI's ways, ours, and the floor, on one volume, each in a process of its own.

    python benchmarks/loading.py [--size 512 512 604] [--patch 256 256 128] [--quick] [--json FILE]

The volume is noise with the histogram of a chest CT: zlib shrinks it to about 60 %, as it does a real one. Every
contender first reads its file from the disk (the page cache is dropped for it), and draws patches of the same size at
random places. A patch counts when it is a float32 tensor in [-1, 1]; ours are moreover collated in batches of four.

Columns: seconds per patch, the loading of the volume shared out over the patches drawn from it; patches per second;
speed against the floor; peak memory above the imports (VmHWM, the largest of the processes, and the memory that ours
share is in it); bytes that came from the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ctpa_vqgan.provenance import facts

WINDOW = (-1000.0, 1000.0)
AFFINE = np.diag([0.7, 0.7, 0.6, 1.0])
BATCH = 4
CONTENDERS = {
    "stock-gz-4": "MONAI, .nii.gz, 4 patches per load",
    "stock-gz-54": "MONAI, .nii.gz, 54 patches per load",
    "stock-nii-4": "MONAI, .nii, 4 patches per load",
    "stock-nii-54": "MONAI, .nii, 54 patches per load",
    "persistent": "MONAI PersistentDataset, 4 patches per load",
    "cache": "MONAI CacheDataset, filled before",
    "ours-0": "ours, no worker",
    "ours-1": "ours, 1 worker",
    "ours-2": "ours, 2 workers",
    "ours-0-plain": "ours, no worker, no flips",
    "ours-1-plain": "ours, 1 worker, no flips",
    "ours-2-plain": "ours, 2 workers, no flips",
    "floor-numpy": "floor: slice, float, scale, clip with numpy",
    "floor-torch": "floor: the same with torch",
}
FLOOR = "floor-numpy"


# -- the volume --------------------------------------------------------------------------------------------------------


def write_volume(folder: Path, size: tuple[int, int, int]) -> None:
    """``volume.nii``, prepared, and ``volume.nii.gz``."""
    from ctpa_vqgan.data import write_prepared

    rng = np.random.default_rng(0)
    voxels = np.empty(size, np.int16, order="F")
    for z in range(size[2]):
        tissue = rng.choice(
            [-1000, -850, 40, 300], p=[0.45, 0.25, 0.27, 0.03], size=[-(-side // 16) for side in size[:2]]
        )
        tissue = tissue.repeat(16, 0).repeat(16, 1)[: size[0], : size[1]]
        voxels[:, :, z] = tissue + rng.normal(0, 20, tissue.shape)
    path = write_prepared(folder / "volume.nii", voxels, AFFINE)
    with path.open("rb") as source, gzip.open(folder / "volume.nii.gz", "wb", compresslevel=1) as target:
        shutil.copyfileobj(source, target, 2**24)


# -- the contenders ----------------------------------------------------------------------------------------------------


def stock(path: Path, patch: list[int], per_load: int, count: int, kind: str = "Dataset") -> Iterator[torch.Tensor]:
    """Load, scale the whole volume, crop: what MONAI's tutorials do."""
    from monai import data
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        Orientationd,
        RandSpatialCropSamplesd,
        ScaleIntensityRanged,
    )

    chain = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            ScaleIntensityRanged("image", *WINDOW, -1.0, 1.0, clip=True),
            RandSpatialCropSamplesd("image", patch, num_samples=per_load, random_size=False),
        ]
    )
    items, options = [{"image": str(path)}], {}
    if kind == "PersistentDataset":
        options = {"cache_dir": path.parent / "cache"}
    if kind == "CacheDataset":
        options = {"progress": False, "copy_cache": False}
    dataset = getattr(data, kind)(items, chain, **options)
    if kind != "Dataset":
        next(iter(dataset))  # filled before the clock runs
    yield None
    for _ in range(-(-count // per_load)):
        for item in dataset[0]:
            # a crop is a view of the volume until a batch is made of it
            yield torch.as_tensor(item["image"]).clone()


def ours(path: Path, patch: list[int], workers: int, flips: bool, count: int) -> Iterator[torch.Tensor]:
    """The bundle's way."""
    from ctpa_vqgan.data import load_volume, patch_dataset, patch_loader, prepare_patch

    cases = [{"image": str(path), "case": "volume"}]
    dataset = patch_dataset(cases, load_volume(), prepare_patch(WINDOW, flips), patch, patch, num_samples=count)
    yield None
    for batch in patch_loader(dataset, BATCH, workers):
        yield from batch["image"]


def floor(path: Path, patch: list[int], count: int, by_torch: bool) -> Iterator[torch.Tensor]:
    """No transforms, no metadata, no batch; the volume stays mapped."""
    from ctpa_vqgan.data import map_prepared

    voxels, _ = map_prepared(path)
    rng = np.random.default_rng(0)
    yield None
    for _ in range(count):
        start = [rng.integers(0, whole - side + 1) for whole, side in zip(voxels.shape, patch[::-1])]
        crop = voxels[tuple(slice(s, s + side) for s, side in zip(start, patch[::-1]))]
        if by_torch:
            values = torch.from_numpy(crop).float()
            yield values.mul_(1e-3).clamp_(-1, 1)
        else:
            values = crop.astype(np.float32)
            values *= 1e-3
            yield torch.from_numpy(np.clip(values, -1, 1, out=values))


def contender(name: str, folder: Path, patch: list[int], quick: bool) -> tuple[Iterator[torch.Tensor], Path]:
    """The stream of patches, after a None when it is ready; and the file that it reads."""
    kind, *rest = name.split("-")
    nii, many = folder / "volume.nii", 8 if quick else 96
    if kind == "stock":
        path = folder / ("volume.nii.gz" if rest[0] == "gz" else "volume.nii")
        per_load = int(rest[1])
        return stock(path, patch, per_load, per_load), path
    if kind in ("persistent", "cache"):
        way = {"persistent": "PersistentDataset", "cache": "CacheDataset"}[kind]
        return stock(nii, patch, 4, 4 if quick else 12, way), nii
    if kind == "ours":
        return ours(nii, patch, int(rest[0]), "plain" not in rest, many), nii
    return floor(nii, patch, many, rest[0] == "torch"), nii


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(name: str, folder: Path, patch: list[int], quick: bool) -> dict[str, float]:
    """One contender, in this process."""
    torch.set_num_threads(1)
    import monai.transforms  # noqa: F401  its import is no part of anyone's memory

    import ctpa_vqgan.data  # noqa: F401

    before = peak_mib("self")
    patches, path = contender(name, folder, patch, quick)
    next(patches)
    drop_from_page_cache(path)
    read, began, count = disk_bytes("self"), time.perf_counter(), 0
    child_peak = 0.0
    for values in patches:
        assert values.dtype == torch.float32 and values.numel() == np.prod(patch)
        count += 1
        for child in child_processes():
            child_peak = max(child_peak, peak_mib(child))
    seconds = time.perf_counter() - began
    return {
        "seconds_per_patch": seconds / count,
        "patches_per_second": count / seconds,
        "peak_mib": max(peak_mib("self"), child_peak) - before,
        "disk_mib": (disk_bytes("self") - read) / 2**20,
        "patches": count,
    }


def peak_mib(process: str) -> float:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) / 1024
    return 0.0


def disk_bytes(process: str) -> int:
    """What the process, and those of its children that are done, had the disk read for them."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{process}/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("read_bytes"))
    return 0


def child_processes() -> list[str]:
    with contextlib.suppress(OSError):
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return []


def drop_from_page_cache(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


# -- the run -----------------------------------------------------------------------------------------------------------


def run_all(names: list[str], folder: Path, options: argparse.Namespace) -> dict[str, dict]:
    """Each contender in a fresh process, so that its peak memory is its own."""
    results = {}
    for name in names:
        command = [sys.executable, __file__, "--contender", name, "--folder", str(folder)]
        command += ["--patch", *map(str, options.patch), *(["--quick"] if options.quick else [])]
        output = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        if output.returncode:
            raise SystemExit(f"{name}: {output.stderr}")
        results[name] = json.loads(output.stdout.splitlines()[-1])
        print(f"{name}: {results[name]['seconds_per_patch'] * 1e3:.1f} ms per patch", file=sys.stderr, flush=True)
    return results


def table(results: dict[str, dict]) -> str:
    floor_seconds = results[FLOOR]["seconds_per_patch"]
    rows = [
        "| way | ms per patch | patches/s | times the floor | peak memory [MiB] | read from disk [MiB] |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, row in results.items():
        seconds = row["seconds_per_patch"]
        rows.append(
            f"| {CONTENDERS[name]} | {seconds * 1e3:.1f} | {row['patches_per_second']:.2f} | "
            f"{seconds / floor_seconds:.1f} | {row['peak_mib']:.0f} | {row['disk_mib']:.0f} |"
        )
    return "\n".join(rows)


def ratios(results: dict[str, dict]) -> dict[str, float]:
    """What the goals are about, for ours with one worker and the bundle's flips."""

    def seconds(name: str) -> float:
        return results[name]["seconds_per_patch"]

    return {
        "times the floor": seconds("ours-1") / seconds(FLOOR),
        "faster than MONAI, .nii.gz, 54 patches per load": seconds("stock-gz-54") / seconds("ours-1"),
        "faster than MONAI, .nii.gz, 4 patches per load": seconds("stock-gz-4") / seconds("ours-1"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs=3, default=[512, 512, 604], metavar=("X", "Y", "Z"))
    parser.add_argument("--patch", type=int, nargs=3, default=[256, 256, 128], metavar=("X", "Y", "Z"))
    parser.add_argument("--quick", action="store_true", help="few patches: to see that it runs")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        print(json.dumps(measure(options.contender, options.folder, options.patch, options.quick)))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_volume(Path(folder), tuple(options.size))
        results = run_all(list(CONTENDERS), Path(folder), options)
    print(table(results))
    goals = ratios(results)
    for what, value in goals.items():
        print(f"ours with 1 worker: {value:.1f} times {what.removeprefix('times ')}")
    if options.json:
        content = {"size": options.size, "patch": options.patch, "contenders": results, "ratios": goals, **facts()}
        options.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
