"""Turn code files back into volumes."""

# X Y Z voxels of a volume in RAS

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ctpa_vqgan import refusals
from ctpa_vqgan.data import save_like, to_hu
from ctpa_vqgan.data.cases import safe_name
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.files import in_turn
from ctpa_vqgan.inferers import ExactTileInferer, TooLargeForOneTile
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.ranks import Shard
from ctpa_vqgan.tokens import EncodedVolume, apply_residual, network_fingerprint
from ctpa_vqgan.transcode.encode import decode_bounded, scratch_volume
from ctpa_vqgan.transcode.shares import Refused, go_through
from ctpa_vqgan.transcode.summary import SUFFIX, all_refused, describe, write_summary


def find_code_files(source: str | Path) -> list[Path]:
    """Code files of a folder, or the one that is named.

    Raises:
        UserError: nothing is there.
    """
    source = Path(source)
    if not os.path.exists(source):  # Path.exists raises for names that are too long
        raise UserError(f"{source}: no such file or folder; give a code file, or the folder that encode wrote")
    # a name with a dot in front is a file in the making
    found = (path for path in source.glob(f"*{SUFFIX}") if not path.name.startswith("."))
    files = sorted(found) if source.is_dir() else [source]
    if not files:
        raise UserError(f"{source}: holds no code file; expected files that end in {SUFFIX}, as encode writes them")
    return files


def decode_files(
    source: str | Path,
    network: VQGAN,
    output_dir: str | Path,
    tiles: ExactTileInferer | None = None,
    progress: bool = True,
    shard: Shard | None = None,
) -> list[dict[str, Any]]:
    """Write ``<case>_decoded.nii.gz``, int16 HU on the grid of the encoded file, for every code file, and a summary.

    Volumes that are there and newer than their codes are skipped. A file with a residual gives a volume within its
    bound of the encoded one, or is refused. Refused files are named, listed in the summary and left out. Shards write
    into one folder, and whoever ends merges the summaries of all.

    Args:
        source: a code file or a folder of them.
        network: that encoded them.
        output_dir: folder; made if need be.
        tiles: how; 128^3 voxels in float32 by default. Files with a residual are always decoded so.
        progress: show a bar.
        shard: the part of the files to decode; None for torchrun's, or all.

    Returns:
        One row per file of the shard.

    Raises:
        UserError: every file is damaged, made by another network, or has a residual that does not fit what is decoded
            here; or the disk is full.
        Stopped: at the end, with exit code 3, if some files were left out; under torchrun when all ranks are done.
    """
    folder, tiles, shard = (
        Path(output_dir),
        tiles or ExactTileInferer(allow_whole=True),
        shard or Shard.of_this_process(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    fingerprint = network_fingerprint(network)
    paths = find_code_files(source)

    def work(path: Path) -> dict[str, Any]:
        started, finished = time.perf_counter(), _is_finished(path, folder)
        with _refusing():
            encoded = EncodedVolume.load(path, network=None if finished else fingerprint)
        if not finished:
            _decode(encoded, path, _target(path, folder), network, tiles)
        return describe(path, encoded, None if finished else time.perf_counter() - started)

    rows, refused = go_through(paths, shard, work, "decode", progress)
    with in_turn(folder, shard):
        report = folder / "decode.json"
        others = [path for path in paths if path not in rows and path not in refused]
        done = {path for path in others if _is_finished(path, folder)}
        there = [path for path in paths if path in rows or path in done]
        of_others = {path: path.stat().st_mtime for path in others if path not in done}
        left_out = all_refused(report, refused, of_others)
        write_summary(report, list(rows.values()), there, left_out, len(paths), shard)
    refusals.end(len(refused), len(rows) + len(refused), report, "code files")
    return list(rows.values())


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """A user's error in here is the fault of the code file."""
    try:
        yield
    except UserError as error:
        raise Refused(str(error)) from error


def _target(path: Path, folder: Path) -> Path:
    return folder / f"{safe_name(path.name.removesuffix(SUFFIX))}_decoded.nii.gz"


def _is_finished(path: Path, folder: Path) -> bool:
    target = _target(path, folder)
    return target.is_file() and target.stat().st_mtime >= path.stat().st_mtime


def _decode(encoded: EncodedVolume, path: Path, target: Path, network: VQGAN, tiles: ExactTileInferer) -> None:
    # torch has few functions for unsigned types
    codes = encoded.codes[None].astype(np.int32 if encoded.num_embeddings <= 2**31 else np.int64)
    with tempfile.TemporaryFile() as file:
        volume = scratch_volume(file, encoded.shape)
        if encoded.residual is None:
            try:
                tiles.decode(codes, network, volume[None, None], lambda tile: to_hu(tile, encoded.hu_window))
            except TooLargeForOneTile as error:
                raise Refused(f"{path}: {error}") from error
        else:
            decode_bounded(codes, network, encoded.hu_window, volume)
            with _refusing():
                apply_residual(volume, encoded.residual, out=volume, name=str(path))
        save_like(volume, encoded.meta, target)
