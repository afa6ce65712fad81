"""What encoding and decoding report: sizes and rates, and what they left out."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctpa_vqgan.errors import UserError
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


def describe(file: Path, encoded: EncodedVolume, seconds: float | None) -> dict[str, Any]:
    """Sizes and rates of a code file.

    Args:
        file: where it is.
        encoded: what it holds.
        seconds: that it took; None where nothing was to do.
    """
    return {
        "case": _case(file),
        **encoded.summary(),
        "lzma_bytes": encoded.lzma_bytes(),
        "file_bytes": file.stat().st_size,
        "seconds": seconds,
    }


def all_refused(path: Path, refused: Mapping[Path, str], others: Mapping[Path, float]) -> list[dict[str, Any]]:
    """Cases that were left out and why: those of this shard, and those that others have written into the summary.

    Args:
        path: JSON file of the summary.
        refused: code files of this shard with the reason.
        others: code files that are not done and of other shards, with the time at which their source was modified, in
            seconds since 1970: what was refused before that may be sound now.
    """
    mine = [{"case": _case(file), "error": error, "time": time.time()} for file, error in refused.items()]
    changed = {_case(file): seconds for file, seconds in others.items()}
    known = _written(path, "refused", {"error", "time"}).items()
    theirs = [row for name, row in known if name in changed and row["time"] > changed[name]]
    return sorted(mine + theirs, key=lambda row: row["case"])


def write_summary(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    files: Sequence[Path],
    refused: Sequence[Mapping[str, Any]],
    num_files: int,
    shard: Shard,
) -> None:
    """Write and print what code files hold, with the rows that other shards have written there; shards do so in turn.

    Args:
        path: JSON file to write.
        rows: of :func:`describe`, of this shard.
        files: code files that are done, of all shards, in the order to tell them.
        refused: of :func:`all_refused`.
        num_files: how many there will be when all shards are done, refused ones too.
        shard: the part that this process has.

    Raises:
        UserError: if all were refused, that of the first.
    """
    if refused and len(refused) == num_files:
        raise UserError(refused[0]["error"])
    known = _written(path, "cases", {"seconds", *SHOWN}) | {row["case"]: dict(row) for row in rows}
    # a file grew if statistics of its latents were added since
    found = [known[_case(file)] | {"file_bytes": file.stat().st_size} for file in files if _case(file) in known]
    write_whole(path, json.dumps({"cases": found, "refused": list(refused)}, indent=1) + "\n")
    lines = [] if shard.count == 1 else [f"shard {shard}: {_count(rows) if rows else 'no case is left for it'}"]
    if len(found) + len(refused) < num_files:
        lines.append(f"{len(found)} of {num_files} cases are done; the rest is for other shards")
    else:
        lines.append(_count(found) + (", mean:" if found else ""))
        means = {key: sum(row[key] for row in found) / len(found) for key in SHOWN if found}
        lines += [f"  {format(means[key], SHOWN[key][1]):>12}  {SHOWN[key][0]}" for key in means]
    print("\n".join([*lines, f"  written to {path.parent}"]), flush=True)


def _count(rows: Sequence[Mapping[str, Any]]) -> str:
    skipped = sum(row["seconds"] is None for row in rows)
    return f"{len(rows)} cases" + (f", {skipped} of them finished before" if skipped else "")


def _written(path: Path, key: str, fields: set[str]) -> dict[str, dict[str, Any]]:
    """Entries of a summary by case; none of a file that is damaged or of another version."""
    try:
        rows = json.loads(path.read_text())[key]
        return {row["case"]: row for row in rows if fields <= row.keys()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _case(file: Path) -> str:
    return file.name.removesuffix(SUFFIX)
