"""Run the bundle's workflows, and print the ``monai.bundle`` command that does the same."""

from __future__ import annotations

import logging
import re
import shlex
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctpa_vqgan.cli.code import SEPARATOR
from ctpa_vqgan.cli.knobs import checked, known_knobs, parse_setting, read_yaml
from ctpa_vqgan.errors import UserError
from ctpa_vqgan.manifest import MANIFEST, changed, read_manifest
from ctpa_vqgan.ranks import Shard, is_main

SOURCE_TREE = Path(__file__).parents[2]


@dataclass(frozen=True)
class Workflow:
    """A workflow of the bundle: what ``monai.bundle run`` is told."""

    run_id: str
    configs: tuple[str, ...]
    data_knob: str
    help: str


WORKFLOWS = {
    "train": Workflow("training", ("train.yaml",), "dataset_dir", "train on patches of CT volumes"),
    "replay": Workflow("replay", ("train.yaml",), "dataset_dir", "do a training step again that gave bad numbers"),
    "evaluate": Workflow("evaluate", ("train.yaml", "evaluate.yaml"), "input", "score whole volumes, with a report"),
    "inference": Workflow("inference", ("inference.yaml",), "input", "reconstruct whole volumes as NIfTI"),
    "encode": Workflow("encode", ("inference.yaml", "encode.yaml"), "input", "turn whole volumes into code files"),
    "decode": Workflow("decode", ("inference.yaml", "decode.yaml"), "input", "turn code files back into NIfTI"),
}
#: workflows that can take a part of the cases
SHARED = ("evaluate", "inference", "encode", "decode")
#: what a flag of another command asks for
BY_FLAG = {"sweep": Workflow("sweep", ("inference.yaml", "sweep.yaml"), "input", "compare settings of the windows")}


def find_bundle(given: str | None = None) -> Path:
    """The bundle's folder: the given one, the one of the source tree, or the one below the current folder.

    Raises:
        UserError: if there is none.
    """
    places = [Path(given)] if given else [SOURCE_TREE / "bundles/ctpa_vqgan", Path("bundles/ctpa_vqgan")]
    for place in places:
        if (place / "configs/train.yaml").is_file():
            return place
    raise UserError(f"{places[0]}: no bundle there; give the folder that holds configs/train.yaml with --bundle")


def run_workflow(
    name: str,
    data: str | None = None,
    output: str | None = None,
    checkpoint: str | None = None,
    overlays: Sequence[str] = (),
    settings: Sequence[str] = (),
    bundle: str | None = None,
    trust: bool = False,
) -> None:
    """Run a workflow of the bundle in this process.

    Args:
        name: one of ``WORKFLOWS`` or ``BY_FLAG``.
        data: volume, folder or datalist.
        output: folder for all that is written.
        checkpoint: inference weights; the ``model.yaml`` beside them is merged by itself.
        overlays: further config files, flat knobs only.
        settings: ``knob=value`` overrides, the last word.
        bundle: folder of the bundle.
        trust: let the overlays hold expressions and components, which can run any code. ``settings`` and ``model.yaml``
            never may.

    Raises:
        UserError: a key, file or value that does not fit, or code where none may be.
    """
    workflow = (WORKFLOWS | BY_FLAG)[name]
    for option, value in {"--data": data, "--output": output, "--checkpoint": checkpoint, "--bundle": bundle}.items():
        check_plain(option, value)
    root = find_bundle(bundle)
    shared_training = ("multi_gpu_train.yaml",) if name == "train" and Shard.of_this_process().count > 1 else ()
    configs = [root / "configs" / config for config in (*workflow.configs, *shared_training)]
    known = known_knobs(configs)
    given = checked(dict(map(parse_setting, settings)), known, "--set")
    _check_shard(name, given.get("shard"))
    trains = workflow.data_knob == "dataset_dir"
    own = given.get("init_path") if trains else checkpoint or given.get("ckpt_path", root / "models/model.pt")
    named = list(map(Path, overlays))
    files = [*configs, *_model_config(own), *named]
    overrides: dict[str, Any] = {"bundle_root": str(root)}
    overrides |= _mended(files[len(configs) :], known, trusted=named if trust else ())
    for model in _model_config(own):
        _check_network_knobs(model, known, given, named)
    overrides |= {workflow.data_knob: data} if data else {}
    overrides |= {"output_dir": output} if output else {}
    overrides |= {"ckpt_path": checkpoint} if checkpoint else {}
    overrides |= {key: "$None" if value is None else value for key, value in given.items()}  # MONAI drops a None

    if is_main():
        print(f"$ {_command(workflow, files, overrides)}", flush=True)
    _run(workflow.run_id, [str(f) for f in files], root, overrides)


def _check_shard(name: str, shard: str | None) -> None:
    """Refuse a part that there is not, before anything is loaded."""
    if shard is not None and name not in SHARED:
        raise UserError(f"shard: {name} takes no part of the cases, found {shard}; only {', '.join(SHARED)} do")
    Shard.of(shard)


def _check_network_knobs(model: Path, known: dict[str, Any], given: dict[str, Any], overlays: Sequence[Path]) -> None:
    """Refuse settings that ``network_def`` of a ``model.yaml`` passes over, and name those of overlays."""
    network = read_yaml(model).get("network_def")
    if not isinstance(network, dict):
        return
    built_of = set(re.findall(r"'@(\w+)'", str(known["network_def"])))
    told = {**(network.get("quantizer") or {}), **network}

    def idle(settings: Mapping[str, Any]) -> list[str]:
        return [name for name in settings if name in built_of and (name not in told or told[name] != settings[name])]

    for name in idle(given):
        raise UserError(
            f"--set {name}={given[name]}: expected no other network than that of {model}, found a knob of it; leave it "
            f"out, or change an argument by --set network_def{SEPARATOR}NAME=..."
        )
    for overlay in overlays:
        content = read_yaml(overlay)
        if "network_def" not in content and (names := idle(content)) and is_main():
            print(f"{overlay}: the network is that of {model}; without effect: {', '.join(names)}", file=sys.stderr)


def check_plain(option: str, value: str | None) -> None:
    """Refuse a name that MONAI would take for an expression, a reference or a macro.

    Raises:
        UserError: names the option.
    """
    if value and value[0] in "$@%":
        raise UserError(f"{option} {value}: expected a path, found code by its first letter; write ./ before it")


def _mended(overlays: Sequence[Path], known: dict[str, Any], trusted: Sequence[Path] = ()) -> dict[str, Any]:
    """What the overlays mean but MONAI would read otherwise (YAML takes 1e-4 for text); refuses what does not fit."""
    mended: dict[str, Any] = {}
    for overlay in overlays:
        content = read_yaml(overlay)
        for key, value in checked(content, known, str(overlay), overlay in trusted).items():
            entries = [f"{key[1:]}{SEPARATOR}{name}" for name in value] if key[0] == "+" else [key]
            for entry in entries:  # the later word counts
                mended = {k: v for k, v in mended.items() if not f"{k}{SEPARATOR}".startswith(f"{entry}{SEPARATOR}")}
            mended |= _differing(key, content[key], value, overlay)
    return mended


def _differing(key: str, written: Any, meant: Any, overlay: Path) -> dict[str, Any]:
    """The entries of a knob that are not meant as they are written, by their full keys."""
    if meant is written:
        return {}
    knob = key.removeprefix("+")
    if isinstance(meant, dict):
        entries = [_differing(f"{knob}{SEPARATOR}{name}", written[name], meant[name], overlay) for name in meant]
        return {name: value for entry in entries for name, value in entry.items()}
    if knob != key:
        raise UserError(f"{overlay}: {key}: expected numbers as YAML knows them, such as 1.0e-4, found {written}")
    return {knob: meant}


def _run(run_id: str, files: list[str], root: Path, overrides: dict[str, Any]) -> None:
    from monai.bundle import run

    _tell_of_changes(root)
    # MONAI warns that overlays lie elsewhere than the bundle: they are meant to
    logging.getLogger("monai.bundle.workflows").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # MONAI warns that a config may run any code; these are the bundle's own
        warnings.filterwarnings("ignore", message="parsing config_file")
        run(
            run_id=run_id,
            config_file=files,
            meta_file=str(root / "configs/metadata.json"),
            logging_file=str(root / "configs/logging.conf"),
            **overrides,
        )


def _tell_of_changes(root: Path) -> None:
    """Name the configs that are not those of the bundle's manifest: their expressions are about to run."""
    if is_main() and (root / MANIFEST).is_file():
        told = read_manifest(root)
        there = [path.relative_to(root).as_posix() for path in sorted((root / "configs").iterdir()) if path.is_file()]
        if names := changed(root, told, there) + [name for name in there if name not in told]:
            way_out = "python -m ctpa_vqgan verify --write accepts this"
            print(f"warning: {root}: changed since its manifest: {', '.join(names)}; {way_out}", file=sys.stderr)


def _model_config(weights: str | Path | None) -> list[Path]:
    """``model.yaml`` beside the weights that a workflow begins with, if it is there."""
    if weights is None:
        return []
    beside = Path(weights).with_name("model.yaml")
    return [beside] if beside.is_file() else []


def _command(workflow: Workflow, files: Sequence[Path], overrides: dict[str, Any]) -> str:
    config_file = str(files[0]) if len(files) == 1 else "[" + ",".join(f"'{f}'" for f in files) + "]"
    words = ["python", "-m", "monai.bundle", "run", workflow.run_id, "--config_file", config_file]
    for key, value in overrides.items():
        words += [f"--{key}", str(value)]
    return shlex.join(words)
