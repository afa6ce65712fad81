"""Run the bundle's workflows, and print the ``monai.bundle`` command that does the same."""

from __future__ import annotations

import logging
import shlex
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ctpa_vqgan.cli.knobs import checked, known_knobs, parse_setting, read_yaml
from ctpa_vqgan.errors import UserError

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
    "evaluate": Workflow("evaluate", ("train.yaml", "evaluate.yaml"), "input", "score whole volumes, with a report"),
    "inference": Workflow("inference", ("inference.yaml",), "input", "reconstruct whole volumes as NIfTI"),
    "encode": Workflow("encode", ("inference.yaml", "encode.yaml"), "input", "turn whole volumes into code files"),
    "decode": Workflow("decode", ("inference.yaml", "decode.yaml"), "input", "turn code files back into NIfTI"),
}


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
) -> None:
    """Run a workflow of the bundle in this process.

    Args:
        name: one of ``WORKFLOWS``.
        data: volume, folder or datalist.
        output: folder for all that is written.
        checkpoint: inference weights; the ``model.yaml`` beside them is merged by itself.
        overlays: further config files, flat knobs only.
        settings: ``knob=value`` overrides, the last word.
        bundle: folder of the bundle.

    Raises:
        UserError: a key, file or value that does not fit.
    """
    workflow = WORKFLOWS[name]
    root = find_bundle(bundle)
    configs = [root / "configs" / config for config in workflow.configs]
    known = known_knobs(configs)
    given = checked(dict(map(parse_setting, settings)), known, "--set")
    own = given.get("init_path") if name == "train" else checkpoint or given.get("ckpt_path", root / "models/model.pt")
    files = [*configs, *_model_config(own), *map(Path, overlays)]
    overrides: dict[str, Any] = {"bundle_root": str(root)} | _mended(files[len(configs) :], known)
    overrides |= {workflow.data_knob: data} if data else {}
    overrides |= {"output_dir": output} if output else {}
    overrides |= {"ckpt_path": checkpoint} if checkpoint else {}
    overrides |= given

    print(f"$ {_command(workflow, files, overrides)}", flush=True)
    _run(workflow.run_id, [str(f) for f in files], root, overrides)


def _mended(overlays: Sequence[Path], known: dict[str, Any]) -> dict[str, Any]:
    """What the overlays mean but MONAI would read otherwise (YAML takes 1e-4 for text); refuses what does not fit."""
    mended: dict[str, Any] = {}
    for overlay in overlays:
        content = read_yaml(overlay)
        for key, value in checked(content, known, str(overlay)).items():
            mended.pop(key, None)
            if value is not content[key]:
                mended[key] = value
    return mended


def _run(run_id: str, files: list[str], root: Path, overrides: dict[str, Any]) -> None:
    from monai.bundle import run

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
