"""Turn a checkpoint of the baseline into weights of ours, with the ``model.yaml`` that every workflow takes."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from ctpa_vqgan.errors import UserError, printable
from ctpa_vqgan.files import write_whole
from ctpa_vqgan.handlers import ModelExport
from ctpa_vqgan.networks import VQGAN, PatchDiscriminators
from ctpa_vqgan.networks.baseline import Baseline, read_baseline
from ctpa_vqgan.sealed import save_sealed, seal_of

WRITTEN = ("model.pt", "model.yaml", "discriminators.pt", "discriminators.yaml")
PATCH_SIZE = (256, 256, 128)
# HU at -1 and 1: what X-ray2CTPA's preparation of its CTPA clips to. The other data sets of the baseline scale every
# volume by its own least and largest value, or come scaled.
HU_WINDOWS = {"CTPA": (-200.0, 500.0), "XRAY_CTPA": (-200.0, 500.0)}
DEFAULT_HU_WINDOW = (-1000.0, 1000.0)


def import_checkpoint(
    checkpoint: str,
    output: str,
    factor: Sequence[int] | None = None,
    num_groups: int | None = None,
    hu_window: Sequence[float] | None = None,
    patch_size: Sequence[int] | None = None,
) -> list[str]:
    """Write ``model.pt``, its SHA-256 and ``model.yaml``; ``discriminators.pt`` and ``.yaml`` if the file has any.

    Args:
        checkpoint: a Lightning checkpoint of the baseline, or a state_dict.
        output: folder that has none of these files yet.
        factor: voxels per code along x, y, z, where the file does not tell.
        num_groups: of the norm, where they are not 32.
        hu_window: HU at -1 and 1 in what the network was trained on.
        patch_size: voxels x, y, z of the windows, multiples of the factor.

    Returns:
        What was assumed because the file does not tell it.

    Raises:
        UserError: the file is refused, a setting does not fit, or weights are there already.
    """
    folder = Path(output)
    if there := [name for name in WRITTEN if (folder / name).exists()]:
        raise UserError(f"{folder}: expected a folder without weights, found {there[0]}; choose another --output")
    found = read_baseline(checkpoint, factor=factor, num_groups=num_groups)
    assumed = [*found.assumptions, "orientation: the axes z, y, x became x, y, z; nothing is mirrored"]
    window = tuple(hu_window) if hu_window else _hu_window(found, assumed)
    patch = list(patch_size) if patch_size else _patch_size(found, assumed)
    _check(found.network, window, patch, checkpoint)
    knobs = {"factor": found.network.factor, "hu_window": window, "patch_size": patch}
    with _all_or_none(folder):
        if found.discriminators is not None:
            _write_discriminators(found.discriminators, folder)
        ModelExport(folder, found.network, knobs).save()
    return assumed


@contextlib.contextmanager
def _all_or_none(folder: Path) -> Iterator[None]:
    """Weights without the rest would stand in the way of the next attempt."""
    try:
        yield
    except BaseException:
        for name in WRITTEN:
            for file in (folder / name, seal_of(folder / name)):
                with contextlib.suppress(OSError):
                    file.unlink()
        raise


def _write_discriminators(critics: PatchDiscriminators, folder: Path) -> None:
    """Weights, and the overlay with which training begins from them."""
    weights, own = folder / "discriminators.pt", dict(critics.config)
    save_sealed(critics.state_dict(), weights)
    overlay = {"discriminator_init_path": str(weights.resolve())}
    overlay |= {"discriminator_channels": own.pop("channels"), "discriminator_layers": own.pop("num_layers")}
    overlay |= {f"discriminator_def::{name}": value for name, value in own.items()}
    text = "# The discriminators of discriminators.pt; merge it after train.yaml.\n"
    write_whole(folder / "discriminators.yaml", text + yaml.safe_dump(overlay, sort_keys=False))


def run_import(checkpoint: str, output: str, **options: Sequence[float] | int | None) -> None:
    """:func:`import_checkpoint`, and tell what it did, what it assumed, and how to go on."""
    assumed = import_checkpoint(checkpoint, output, **options)
    for file in sorted((*Path(output).glob("model.*"), *Path(output).glob("discriminators.*"))):
        print(printable(str(file)))
    for assumption in assumed:
        print(f"assumed: {printable(assumption)}")
    command = shlex.join(["python", "-m", "ctpa_vqgan", "evaluate", "--checkpoint", f"{output}/model.pt"])
    print(f"next: {printable(command)} --data VOLUMES --output SCORES")


def _hu_window(found: Baseline, assumed: list[str]) -> tuple[float, float]:
    data = found.settings.get("dataset")
    name = data.get("name") if isinstance(data, dict) else None
    known = HU_WINDOWS.get(name) if isinstance(name, str) else None
    low, high = window = known or DEFAULT_HU_WINDOW
    why = f"as X-ray2CTPA prepares its {name}" if known else "for the baseline keeps no HU"
    assumed.append(
        f"hu_window: {low:g} to {high:g} HU is -1 to 1, {why}; give that of your data (--hu-window LOW HIGH)"
    )
    return window


def _patch_size(found: Baseline, assumed: list[str]) -> list[int]:
    patch = [max(1, side // f) * f for side, f in zip(PATCH_SIZE, found.network.factor)]
    sides = " x ".join(map(str, patch))
    looks = "group norm looks at a whole window" if found.network.config["norm"] == "group" else "they are blended"
    assumed.append(f"patch_size: windows of {sides}; {looks}, so give that of the training (--patch-size)")
    return patch


def _check(network: VQGAN, window: Sequence[float], patch: Sequence[int], checkpoint: str) -> None:
    if network.in_channels != 1:
        raise UserError(
            f"{checkpoint}: expected a network of 1 channel, as CT has, found {network.in_channels}; no workflow here "
            "can use it, load_baseline in Python can"
        )
    if not -1e6 < window[0] < window[1] < 1e6:
        raise UserError(f"--hu-window: expected LOW HIGH in HU with LOW < HIGH, found {window[0]:g} {window[1]:g}")
    if any(side < 1 or side % f for side, f in zip(patch, network.factor)):
        raise UserError(f"--patch-size: expected multiples of the factor {network.factor}, found {tuple(patch)}")
