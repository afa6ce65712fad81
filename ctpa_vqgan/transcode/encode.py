"""Turn volumes into code files."""

# X Y Z voxels of a volume in RAS, h w d latent positions, E embedding

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor

from ctpa_vqgan import refusals
from ctpa_vqgan.data import load_volume, scale_hu_, to_hu
from ctpa_vqgan.data.cases import Case
from ctpa_vqgan.data.prepared import NAMES_NOTICE, is_prepared
from ctpa_vqgan.data.sizes import check_size
from ctpa_vqgan.data.unreadable import case_key, unreadable
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.files import in_turn
from ctpa_vqgan.inferers import ExactTileInferer, TooLargeForOneTile, latent_grid
from ctpa_vqgan.networks import VQGAN
from ctpa_vqgan.ranks import Shard, is_main
from ctpa_vqgan.tokens import EncodedVolume, bound_error, network_fingerprint
from ctpa_vqgan.tokens.packing import code_dtype
from ctpa_vqgan.tokens.residual import Residual
from ctpa_vqgan.transcode.shares import Refused, go_through
from ctpa_vqgan.transcode.statistics import add_latent_statistics
from ctpa_vqgan.transcode.summary import SUFFIX, all_refused, describe, write_summary

# what a residual is made for must come out again to the last bit: one grid of tiles and one precision for all
BOUNDED = ExactTileInferer(allow_whole=True)


def encode_cases(
    cases: Sequence[Case],
    network: VQGAN,
    output_dir: str | Path,
    hu_window: Sequence[float],
    tiles: ExactTileInferer | None = None,
    latents: bool = False,
    max_error_hu: int | None = None,
    progress: bool = True,
    shard: Shard | None = None,
    volume_size: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Write ``<case>.npz`` for every case, and a summary.

    Cases whose file is there, made by the same network with the same settings and newer than the volume, are skipped.
    A volume that cannot be used is named, listed in the summary and left out. Shards write into one folder: whoever
    ends merges the summaries of all, and the last one adds the statistics.

    Args:
        cases: of :func:`ctpa_vqgan.data.find_cases`.
        network: on the device that computes.
        output_dir: folder; made if need be.
        hu_window: HU at -1 and 1.
        tiles: how; by default 128^3 voxels in float32, or the whole volume for a network without a finite halo.
        latents: store the continuous latents too (float16), with mean and standard deviation over the cases.
        max_error_hu: store a residual so that every decoded voxel is within so many HU of the file's; 0 is lossless.
        progress: show a bar.
        shard: the part of the cases to encode; None for torchrun's, or all.
        volume_size: X, Y, Z that a volume must have; None for any.

    Returns:
        One row of sizes and rates per case of the shard.

    Raises:
        UserError: no volume can be used, a setting does not fit, or the disk is full; files that are done stay.
        Stopped: at the end, with exit code 3, if some volumes were left out; under torchrun when all ranks are done.
    """
    if max_error_hu is not None and (not isinstance(max_error_hu, int) or not 0 <= max_error_hu <= 32767):
        raise UserError(f"max_error_hu: expected a whole number from 0 to 32767, found {max_error_hu!r}")
    folder, tiles, shard = (
        Path(output_dir),
        tiles or ExactTileInferer(allow_whole=True),
        shard or Shard.of_this_process(),
    )
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "network": network_fingerprint(network),
        "hu_window": [float(v) for v in hu_window],
        "has_latents": latents,
        "max_error_hu": max_error_hu,
    }
    if is_main() and not all(is_prepared(case["image"]) for case in cases):
        print(NAMES_NOTICE, flush=True)
    paths = {_path(folder, case): case for case in cases}

    def work(path: Path) -> dict[str, Any]:
        started = time.perf_counter()
        if _is_finished(path, paths[path], settings):
            return describe(path, EncodedVolume.load(path), None)
        volume = _load(paths[path], volume_size)
        try:
            encoded = _encode(volume, network, settings, tiles)
        except TooLargeForOneTile as error:
            raise Refused(f"{case_key(paths[path])}: {error}") from error
        encoded.save(path)
        return describe(path, encoded, time.perf_counter() - started)

    rows, refused = go_through(list(paths), shard, work, "encode", progress)
    with in_turn(folder, shard):
        report = folder / "encode.json"
        others = {path: case for path, case in paths.items() if path not in rows and path not in refused}
        done = {path for path, case in others.items() if _is_finished(path, case, settings, whole=False)}
        there = [path for path in paths if path in rows or path in done]
        of_others = {path: _changed(case) for path, case in others.items() if path not in done}
        left_out = all_refused(report, refused, of_others)
        if latents and len(there) + len(left_out) == len(paths):
            add_latent_statistics(there)
        write_summary(report, list(rows.values()), there, left_out, len(paths), shard)
    refusals.end(len(refused), len(rows) + len(refused), report)
    return list(rows.values())


def _path(folder: Path, case: Case) -> Path:
    return folder / f"{case['case']}{SUFFIX}"


def _is_finished(path: Path, case: Case, settings: dict[str, Any], whole: bool = True) -> bool:
    """Whether a file is newer than its volume, and of these settings; ``whole`` looks for damage too."""
    if not path.is_file():
        return False
    if _changed(case) > path.stat().st_mtime:
        return False
    try:
        if whole:
            EncodedVolume.load(path, network=settings["network"])  # every byte checked: a damaged file is made anew
        header = EncodedVolume.header(path)
    except UserError:
        return False
    found = {name: header[name] for name in ("network", "hu_window", "has_latents")}
    return found | {"max_error_hu": header.get("residual_max_error_hu")} == settings


def _changed(case: Case) -> float:
    """When the newest file of a volume was modified, in seconds since 1970; 0 if there is none."""
    files = [case["image"]] if isinstance(case["image"], str) else case["image"]
    return max((Path(file).stat().st_mtime for file in files if Path(file).is_file()), default=0.0)


def _load(case: Case, volume_size: Sequence[int] | None) -> MetaTensor:
    try:
        volume = load_volume()({"image": case["image"]})["image"]
    except Exception as error:
        if (found := unreadable(error, case_key(case))) is None:
            raise
        raise Refused(found.message) from error
    try:
        check_size(volume.shape[1:], volume_size, case_key(case))
    except UserError as error:
        raise Refused(str(error)) from error
    return volume


def _encode(volume: MetaTensor, network: VQGAN, settings: dict[str, Any], tiles: ExactTileInferer) -> EncodedVolume:
    hu, window = volume.as_tensor()[None], settings["hu_window"]
    grid = latent_grid(hu.shape[2:], network.factor)
    codes = np.empty((1, *grid), _writable_type(network.num_embeddings))
    latents = np.empty((1, network.embedding_dim, *grid), np.float16) if settings["has_latents"] else None
    tiles.encode(hu, network, out=codes, before=lambda tile: scale_hu_(tile.float(), window), latents=latents)
    return EncodedVolume(
        codes=codes[0].astype(code_dtype(network.num_embeddings)),
        shape=tuple(hu.shape[2:]),
        affine=np.asarray(volume.affine),
        original_shape=tuple(int(side) for side in volume.meta["original_shape"]),
        original_affine=np.asarray(volume.meta["original_affine"]),
        hu_window=tuple(window),
        factor=network.factor,
        num_embeddings=network.num_embeddings,
        network=settings["network"],
        latents=None if latents is None else latents[0],
        residual=_residual(volume, codes, network, settings),
    )


def _writable_type(num_embeddings: int) -> type[np.integer]:
    """The smallest type that holds every code and that torch can write to: two bytes for 8192 of them."""
    return next(kind for kind in (np.int16, np.int32, np.int64) if num_embeddings - 1 <= np.iinfo(kind).max)


def _residual(volume: MetaTensor, codes: np.ndarray, network: VQGAN, settings: dict[str, Any]) -> Residual | None:
    if settings["max_error_hu"] is None:
        return None
    hu = volume.as_tensor()[0].numpy()
    with tempfile.TemporaryFile() as file:
        decoded = scratch_volume(file, hu.shape)
        decode_bounded(codes, network, settings["hu_window"], decoded)
        return bound_error(hu, decoded, settings["max_error_hu"])


def scratch_volume(file: Any, shape: Sequence[int]) -> np.ndarray:
    """[X, Y, Z] int16 in a temporary file, x fastest: memory that the system may write out."""
    return np.memmap(file, np.int16, "w+", shape=tuple(shape), order="F")


def decode_bounded(codes: np.ndarray, network: VQGAN, hu_window: Sequence[float], out: np.ndarray) -> None:
    """Decode codes [1, h, w, d] to int16 HU [X, Y, Z], always in the same way."""
    BOUNDED.decode(codes, network, out=out[None, None], after=lambda tile: to_hu(tile, hu_window))
