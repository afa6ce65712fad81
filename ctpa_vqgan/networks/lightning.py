"""Read PyTorch Lightning checkpoints, or plain state_dicts, without running anything that they hold.

A Lightning checkpoint may hold its configuration as a pickled OmegaConf tree, or as what argparse made of a command
line; PyTorch's safe reader refuses both. Here every class of them is replaced by a stand-in that does nothing but keep
what it is given, so that the settings can be read where neither omegaconf nor lightning is installed. Any other class
is refused.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ctpa_vqgan.errors import UserError


class Inert:
    """Stands in for a class of the file: takes anything, keeps its state, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


#: what settings name: OmegaConf's classes, types that its nodes and their metadata refer to, and argparse's result
STAND_INS = {
    name: type(name.rsplit(".", 1)[-1], (Inert,), {})
    for name in (
        "omegaconf.dictconfig.DictConfig",
        "omegaconf.listconfig.ListConfig",
        "omegaconf.base.ContainerMetadata",
        "omegaconf.base.Metadata",
        "omegaconf.nodes.AnyNode",
        "argparse.Namespace",
        "typing.Any",
        "collections.defaultdict",
        "builtins.dict",
        "builtins.list",
        "builtins.int",
    )
}

PLACES = ("state_dict", "model")  # where Lightning, and the diffusion of medicaldiffusion, keep their weights


class Checkpoint(NamedTuple):
    """What a file tells."""

    state_dict: dict[str, Any]
    config: dict[str, Any]  # the hyper-parameters by name, plain values; empty where there are none


def read_checkpoint(path: str | Path) -> Checkpoint:
    """The state_dict of a file, to the CPU, and the configuration beside it.

    Args:
        path: a Lightning checkpoint (``state_dict`` and ``hyper_parameters`` at its top), one of medicaldiffusion's
            diffusion (``model`` at its top), or a state_dict.

    Raises:
        UserError: the file is absent, unreadable or damaged, names a class beyond tensors and settings, or holds no
            state_dict.
    """
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise UserError(f"{path}: expected a checkpoint file, found {found}; give the .ckpt or .pt itself")
    # a list of pairs: torch takes a stand-in by the name that the file knows it by
    stand_ins = [(stand_in, name) for name, stand_in in STAND_INS.items()]
    try:
        with torch.serialization.safe_globals(stand_ins):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except PermissionError as error:
        raise UserError(f"{path}: expected a file that you may read, found none ({error.strerror})") from error
    except Exception as error:
        if foreign := _foreign_classes(path):
            raise UserError(
                f"{path}: expected tensors, plain values and settings, found {', '.join(foreign)}, which could run "
                "code; save its state_dict alone, with torch.save, where you trust it"
            ) from error
        raise UserError(f"{path}: damaged, or no file of torch.save ({type(error).__name__}); copy it again") from error
    state_dict = content
    if isinstance(content, Mapping):
        state_dict = next((content[name] for name in PLACES if name in content), content)
    if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
        raise UserError(
            f"{path}: expected a Lightning checkpoint or a state_dict, found {type(content).__name__} without one"
        )
    config = plain_settings(content.get("hyper_parameters")) if state_dict is not content else None
    return Checkpoint(dict(state_dict), config if isinstance(config, dict) else {})


def plain_settings(tree: Any) -> Any:
    """A tree of settings as dicts, lists and plain values; None for what is neither, or refers to itself."""
    return _plain(tree, ())


def _plain(value: Any, above: tuple[int, ...]) -> Any:
    if id(value) in above:
        return None
    above = (*above, id(value))
    if isinstance(value, Inert):
        state = value.state if isinstance(value.state, Mapping) else {}
        return _plain(state.get("_content", state.get("_val", state)), above)  # containers, values, argparse's result
    if isinstance(value, Mapping):
        return {str(_plain(key, above)): _plain(entry, above) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry, above) for entry in value]
    return value if isinstance(value, (bool, int, float, str)) else None


def _foreign_classes(path: Path) -> list[str]:
    """Names in the file beyond those that can be read, by looking at its pickle and never running it."""
    try:
        found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # not of this format, or not a pickle at all
        return []
    return [name for name in found if name not in STAND_INS][:5]
