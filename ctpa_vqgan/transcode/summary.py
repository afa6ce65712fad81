"""What encoding and decoding report: sizes and rates."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.ranks import Shard
from ctpa_vqgan.tokens import EncodedVolume

SUFFIX = ".npz"
SHOWN = {
    "bits_per_voxel": ("bits per voxel, packed codes", ".4f"),
    "compression_ratio": ("times smaller than 16 bits", ".1f"),
    "order0_entropy_bits": ("bits per code, order-0 entropy", ".2f"),
    "lzma_bytes": ("bytes, codes under lzma", ",.0f"),
    "file_bytes": ("bytes, file", ",.0f"),
}


def describe_files(done: Mapping[Path, float | None]) -> list[dict[str, Any]]:
    """One row of sizes and rates per code file.

    Args:
        done: code files with the seconds that they took; None where nothing was to do.
    """
    return [_row(file, seconds) for file, seconds in done.items()]


def write_summary(
    path: Path, rows: Sequence[Mapping[str, Any]], files: Sequence[Path], num_files: int, shard: Shard
) -> None:
    """Write and print what code files hold, with the rows that other shards have written there; shards do so in turn.

    Args:
        path: JSON file to write.
        rows: of :func:`describe_files`, of this shard.
        files: code files that are done, of all shards, in the order to tell them.
        num_files: how many there will be when all shards are done.
        shard: the part that this process has.
    """
    known = _written(path) | {row["case"]: dict(row) for row in rows}
    # a file grew if statistics of its latents were added since
    found = [known[_case(file)] | {"file_bytes": file.stat().st_size} for file in files if _case(file) in known]
    write_whole(path, json.dumps({"cases": found}, indent=1) + "\n")
    lines = [] if shard.count == 1 else [f"shard {shard}: {_count(rows) if rows else 'no case is left for it'}"]
    if len(found) < num_files:
        lines.append(f"{len(found)} of {num_files} cases are done; the rest is for other shards")
    else:
        lines.append(_count(found) + (", mean:" if found else ""))
        means = {key: sum(row[key] for row in found) / len(found) for key in SHOWN if found}
        lines += [f"  {format(means[key], SHOWN[key][1]):>12}  {SHOWN[key][0]}" for key in means]
    print("\n".join([*lines, f"  written to {path.parent}"]), flush=True)


def _count(rows: Sequence[Mapping[str, Any]]) -> str:
    skipped = sum(row["seconds"] is None for row in rows)
    return f"{len(rows)} cases" + (f", {skipped} of them finished before" if skipped else "")


def _written(path: Path) -> dict[str, dict[str, Any]]:
    """Rows of a summary by case; none of a file that is damaged or of another version."""
    try:
        rows = json.loads(path.read_text())["cases"]
        return {row["case"]: row for row in rows if {"seconds", *SHOWN} <= row.keys()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _case(file: Path) -> str:
    return file.name.removesuffix(SUFFIX)


def _row(file: Path, seconds: float | None) -> dict[str, Any]:
    encoded = EncodedVolume.load(file)
    return {
        "case": _case(file),
        **encoded.summary(),
        "lzma_bytes": encoded.lzma_bytes(),
        "file_bytes": file.stat().st_size,
        "seconds": seconds,
    }
