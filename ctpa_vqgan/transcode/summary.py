"""What encoding and decoding report: sizes and rates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.tokens import EncodedVolume

SHOWN = {
    "bits_per_voxel": ("bits per voxel, packed codes", ".4f"),
    "compression_ratio": ("times smaller than 16 bits", ".1f"),
    "order0_entropy_bits": ("bits per code, order-0 entropy", ".2f"),
    "lzma_bytes": ("bytes, codes under lzma", ",.0f"),
    "file_bytes": ("bytes, file", ",.0f"),
}


def write_summary(path: Path, done: Mapping[Path, float | None]) -> list[dict[str, Any]]:
    """Write and print what code files hold.

    Args:
        path: JSON file to write.
        done: code files with the seconds that they took; None where nothing was to do.
    """
    rows = [_row(file, seconds) for file, seconds in done.items()]
    write_whole(path, json.dumps({"cases": rows}, indent=1) + "\n")
    skipped = sum(seconds is None for seconds in done.values())
    print(
        f"{len(rows)} cases" + (f", {skipped} of them finished before" if skipped else "") + (", mean:" if rows else "")
    )
    for key, (name, number) in SHOWN.items() if rows else ():
        print(f"  {format(sum(row[key] for row in rows) / len(rows), number):>12}  {name}")
    print(f"  written to {path.parent}", flush=True)
    return rows


def _row(file: Path, seconds: float | None) -> dict[str, Any]:
    encoded = EncodedVolume.load(file)
    return {
        "case": file.name.removesuffix(".npz"),
        **encoded.summary(),
        "lzma_bytes": encoded.lzma_bytes(),
        "file_bytes": file.stat().st_size,
        "seconds": seconds,
    }
