"""How much memory and time does a volume of any length take, from a memory map to a memory map?

    python benchmarks/stream_memory.py [--size 512 512 604] [--lengths 151 302 604] [--json FILE]

The tiny network (channels 16 and 32, 512 codes of dimension 4) encodes int16 HU that lie in a file, and decodes the
codes to int16 HU in another file; codes are kept in memory. Each size runs in a process of its own: once the size that
is given, then 128 x 128 in plane at each of the lengths.

Memory is RssAnon of /proc/self/status, which leaves mapped files out, sampled every 2 ms, above what it was before the
first tile (imports and weights are in there). Seconds are those of the clock and those of the processor: the latter
count where other work shares the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

MIB = 2**20
TINY = {"channels": [16, 32], "num_embeddings": 512, "embedding_dim": 4}


class AnonymousMemory(threading.Thread):
    """Peak of RssAnon within a block, in bytes above its beginning: ``above``; and ``left`` at its end."""

    def __enter__(self) -> AnonymousMemory:
        self.began = self.peak = rss_anon()
        self.running = True
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.running = False
        self.join()
        self.above, self.left = self.peak - self.began, rss_anon() - self.began

    def run(self) -> None:
        """Sample."""
        while self.running:
            self.peak = max(self.peak, rss_anon())
            time.sleep(0.002)


def rss_anon() -> int:
    """Bytes of anonymous memory that this process holds."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("RssAnon:")[1].split()[0]) * 1024


def measure(folder: Path, size: list[int], network: dict = TINY, tiles: dict | None = None) -> dict[str, float]:
    """Encode and decode in this process."""
    import torch

    from ctpa_vqgan.data import to_hu, window_hu
    from ctpa_vqgan.inferers import ExactTileInferer
    from ctpa_vqgan.networks import VQGAN

    window, hu_window = window_hu((-1000, 1000)), (-1000, 1000)
    torch.manual_seed(0)
    network = VQGAN(**network).eval()
    hu = write_noise(folder / "hu.raw", size)
    decoded = np.memmap(folder / "decoded.raw", np.int16, "w+", shape=tuple(size), order="F")
    inferer = ExactTileInferer(**tiles or {}, progress=True)
    # the first tile loads libraries: that is no part of a volume's memory
    inferer(torch.zeros(1, 1, 16, 16, 16), network)
    result: dict[str, float] = {"voxels": int(np.prod(size))}
    with AnonymousMemory() as memory:
        began, cpu = time.perf_counter(), time.process_time()
        codes = inferer.encode(
            hu[None, None], network, before=lambda tile: window({"image": tile})["image"].as_tensor()
        )
        result |= {"encode_seconds": time.perf_counter() - began, "encode_cpu_seconds": time.process_time() - cpu}
    result |= {"encode_peak_mib": memory.above / MIB, "encode_left_mib": memory.left / MIB}
    result |= {"codes_mib": codes.nbytes / MIB}
    with AnonymousMemory() as memory:
        began, cpu = time.perf_counter(), time.process_time()
        inferer.decode(codes, network, out=decoded[None, None], after=lambda tile: to_hu(tile, hu_window))
        result |= {"decode_seconds": time.perf_counter() - began, "decode_cpu_seconds": time.process_time() - cpu}
    return result | {"decode_peak_mib": memory.above / MIB, "decode_left_mib": memory.left / MIB}


def write_noise(path: Path, size: list[int]) -> np.memmap:
    """Blocks of air and tissue with noise, x fastest as in NIfTI; opened again to be read."""
    rng = np.random.default_rng(0)
    volume = np.memmap(path, np.int16, "w+", shape=tuple(size), order="F")
    for z in range(size[2]):
        volume[:, :, z] = (-1000, 40)[z // 16 % 2] + rng.integers(-30, 30, size[:2], np.int16)
    volume.flush()
    return np.memmap(path, np.int16, "r", shape=tuple(size), order="F")


def in_process(*jobs: dict, **environment: str) -> list[dict[str, float]]:
    """:func:`measure` for each of the jobs, one after the other in one process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--worker", json.dumps({"folder": folder, "jobs": jobs})]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environment})
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Read the arguments, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 604))
    parser.add_argument("--lengths", type=int, nargs="*", default=(151, 302, 604))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work = json.loads(options.worker)
        print(json.dumps([measure(Path(work["folder"]), **job) for job in work["jobs"]]))
        return
    from ctpa_vqgan.provenance import facts

    rows = []
    for size in [tuple(options.size), *((128, 128, length) for length in options.lengths)]:
        rows.append({"size": size, **in_process({"size": size})[0]})
        print(" | ".join(f"{key} {value:.4g}" if key != "size" else str(value) for key, value in rows[-1].items()))
    if options.json:
        known = json.loads(options.json.read_text()) if options.json.is_file() else {}
        options.json.write_text(json.dumps({**known, "memory": {"rows": rows, **facts()}}, indent=1) + "\n")


if __name__ == "__main__":
    main()
