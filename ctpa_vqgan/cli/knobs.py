"""Check what a user sets against the knobs that the bundle has: MONAI takes a misspelt key in silence."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ctpa_vqgan.errors import UserError

SEPARATOR = "::"
BY_LEVEL = ("checkpointing",)  # one value for all levels of the network, or a list with one for each
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a mapping, read safely.

    Raises:
        UserError: the file is absent, not YAML, or not a mapping.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such config file")
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected 'knob: value' lines, found {type(content).__name__}")
    return content


def known_knobs(configs: Sequence[Path]) -> dict[str, Any]:
    """The merged keys of the bundle's own configs."""
    known: dict[str, Any] = {}
    for path in configs:
        known |= read_yaml(path)
    return known


def parse_setting(setting: str) -> tuple[str, Any]:
    """``knob=value`` with the value as YAML: ``patch_size=[64,64,32]``."""
    name, equals, value = setting.partition("=")
    if not equals or not name:
        raise UserError(f"--set {setting}: expected knob=value, for example --set max_epochs=3")
    try:
        return name.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UserError(f"--set {setting}: the value is not YAML ({' '.join(str(error).split())})") from error


def checked(settings: Mapping[str, Any], known: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings, with numbers as numbers.

    Args:
        settings: by key; ``a::b`` reaches into sections and components.
        known: the bundle's keys and their defaults.
        where: file or option that the settings come from, for messages.

    Raises:
        UserError: a key that the bundle does not have (with the nearest one), or a value of the wrong kind.
    """
    return {key: _typed(key, value, _default(key, known, where), where) for key, value in settings.items()}


def _default(key: str, known: Mapping[str, Any], where: str) -> Any:
    section: Any = known
    *parents, last = key.lstrip("+").split(SEPARATOR)
    for depth, part in enumerate([*parents, last]):
        if isinstance(section, Mapping) and part in section:
            section = section[part]
        elif isinstance(section, Mapping) and "_target_" in section:
            return None  # an argument that the component may have, though the config leaves it at its default
        elif isinstance(section, list) and part.isdigit():
            return None
        else:
            names = list(section) if isinstance(section, Mapping) else []
            near = difflib.get_close_matches(part, names, n=1, cutoff=0.5)
            prefix = SEPARATOR.join([*parents, last][:depth])
            hint = f"; did you mean {SEPARATOR.join(filter(None, [prefix, near[0]]))}?" if near else ""
            raise UserError(f"{where}: the bundle has no knob {key}{hint}")
    return section


def _typed(key: str, value: Any, default: Any, where: str) -> Any:
    """The value in the kind of the default; anything goes where the default is an expression or nothing."""
    computed = isinstance(default, str) and default[:1] in ("$", "@")
    if default is None or computed or (isinstance(value, str) and value[:1] in ("$", "@", "%")):
        return value
    if value is None:
        raise UserError(f"{where}: {key} needs a value, {KINDS[type(default)]} such as {default}")
    if key in BY_LEVEL and isinstance(value, list):
        return [_typed(f"{key}[{level}]", entry, default, where) for level, entry in enumerate(value)]
    number = isinstance(default, (int, float)) and not isinstance(default, bool)
    if number and isinstance(value, str):  # YAML reads 1e-4 as text
        with contextlib.suppress(ValueError):
            value = float(value)
    whole = isinstance(value, float) and value.is_integer() and isinstance(default, int)
    value = int(value) if whole else value
    accepted = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, accepted) or isinstance(value, bool) != isinstance(default, bool):
        raise UserError(f"{where}: {key} expects {KINDS[type(default)]} such as {default}, found {value!r}")
    return value
