"""Check what a user sets against the knobs that the bundle has: MONAI takes a misspelt key in silence."""

from __future__ import annotations

import contextlib
import difflib
import inspect
import pydoc
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ctpa_vqgan.cli.code import SEPARATOR, TARGET, at, is_directive, refuse_code
from ctpa_vqgan.errors import UserError

SUFFIXES = (".yaml", ".yml", ".json")  # MONAI's
BY_LEVEL = ("checkpointing", "num_res_blocks")  # whose value for all levels of a part may be a list, one for each
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML in which a key stands once and nothing stands for something else."""

    def compose_node(self, parent: Any, index: Any) -> yaml.Node:
        """Refuse aliases: ten lines of them make a thousand million entries."""
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem=f"write out *{event.anchor}", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Refuse a key that stands twice: the later one would win in silence."""
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"the key {key.value} stands twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def _load(text: str, where: str) -> Any:
    """YAML as plain data; UserError that begins with ``where`` otherwise."""
    loader = None
    try:
        loader = _PlainLoader(text)
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: the 31st of February
        mark = getattr(error, "problem_mark", None)
        reason = f"{error.problem}, line {mark.line + 1}" if mark else " ".join(str(error).split())
        raise UserError(f"{where} not YAML ({reason})") from error
    finally:
        if loader:
            loader.dispose()


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file as a mapping, read safely.

    Raises:
        UserError: the file is absent, not YAML (a key that stands twice, an alias), or not a mapping.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such config file")
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}, found {path.suffix!r}; rename it")
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a text file, found one that cannot be read ({error})") from error
    content = _load(text, f"{path}:")
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected 'knob: value' lines, found {type(content).__name__}")
    return content


def known_knobs(configs: Sequence[Path]) -> dict[str, Any]:
    """The merged keys of the bundle's own configs; ``a::b`` replaces what section ``a`` holds, as MONAI does."""
    known: dict[str, Any] = {}
    for path in configs:
        for key, value in read_yaml(path).items():
            *parents, last = key.split(SEPARATOR)
            section = at(parents, known)
            (section if isinstance(section, dict) else known)[last if isinstance(section, dict) else key] = value
    return known


def parse_setting(setting: str) -> tuple[str, Any]:
    """``knob=value`` with the value as YAML: ``patch_size=[64,64,32]``."""
    name, equals, value = setting.partition("=")
    # MONAI appends (+) in files only
    if not equals or not name or name.startswith("+"):
        raise UserError(f"--set {setting}: expected knob=value, for example --set max_epochs=3")
    return name.strip(), _load(value, f"--set {setting}: the value is")


def checked(settings: Mapping[str, Any], known: Mapping[str, Any], where: str, trusted: bool = False) -> dict[str, Any]:
    """The settings, with numbers as numbers.

    Args:
        settings: by key; ``a::b`` reaches into sections and components.
        known: the bundle's keys and their defaults.
        where: file or option that the settings come from, for messages.
        trusted: take expressions and components too, see :func:`ctpa_vqgan.cli.code.refuse_code`.

    Raises:
        UserError: a key that the bundle does not have (with the nearest one), a value of the wrong kind, or code.
    """
    taken = {}
    for key, value in settings.items():
        default = _default(str(key), known, where)
        if not trusted:
            refuse_code(key, value, known, where)
        taken[key] = _typed(key, value, default, where)
    return taken


def _default(key: str, known: Mapping[str, Any], where: str) -> Any:
    section: Any = known
    parts = key.removeprefix("+").split(SEPARATOR)
    for depth, part in enumerate(parts):
        if isinstance(section, Mapping) and part in section:
            section = section[part]
        elif isinstance(section, list) and part.isdecimal() and int(part) < len(section):
            section = section[int(part)]
        elif isinstance(section, Mapping) and _takes(section.get(TARGET), part, section):
            return None  # an argument that the config leaves at the component's default
        else:
            names = _names(section.get(TARGET), section) if isinstance(section, Mapping) else []
            raise _unknown(key, parts[:depth], part, names, where)
    return section


def _unknown(key: str, parents: Sequence[str], part: str, names: Iterable[str], where: str) -> UserError:
    near = difflib.get_close_matches(part, names, n=1, cutoff=0.5)
    hint = f"; did you mean {SEPARATOR.join([*parents, near[0]])}?" if near else ""
    return UserError(f"{where}: the bundle has no knob {key}{hint}")


def _takes(target: Any, name: str, section: Mapping[str, Any]) -> bool:
    """Whether a component has such an argument; where that cannot be told, unless it looks like one of its section."""
    if not isinstance(target, str):
        return False
    arguments = _arguments(target)
    if arguments is None:
        return is_directive(name) or not difflib.get_close_matches(name, section, n=1, cutoff=0.8)
    return is_directive(name) or name in arguments


def _names(target: Any, section: Mapping[str, Any]) -> list[str]:
    return [*section, *((_arguments(target) or ()) if isinstance(target, str) else ())]


def _arguments(target: str) -> list[str] | None:
    """Names of a component's arguments; None where it takes any, or goes by one of MONAI's short names."""
    try:
        parameters = inspect.signature(pydoc.locate(target)).parameters.values()
    except (TypeError, ValueError, pydoc.ErrorDuringImport):
        return None
    open_ended = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return None if open_ended else [parameter.name for parameter in parameters]


def _typed(key: str, value: Any, default: Any, where: str) -> Any:
    """The value in the kind of the default; anything goes where the default is an expression or nothing."""
    computed = isinstance(default, str) and default[:1] in ("$", "@")
    if default is None or computed or (isinstance(value, str) and value[:1] in ("$", "@", "%")):
        return value
    if value is None:
        raise UserError(f"{where}: {key} needs a value, {KINDS[type(default)]} such as {default}")
    if key.partition("[")[0] in BY_LEVEL and isinstance(value, list) and not isinstance(default, list):
        return _unless_equal(value, [_typed(f"{key}[{i}]", entry, default, where) for i, entry in enumerate(value)])
    number = isinstance(default, (int, float)) and not isinstance(default, bool)
    if number and isinstance(value, str):  # YAML reads 1e-4 as text
        with contextlib.suppress(ValueError):
            value = float(value)
    whole = isinstance(value, float) and value.is_integer() and isinstance(default, int)
    value = int(value) if whole else value
    accepted = (int, float) if isinstance(default, float) else type(default)
    if not isinstance(value, accepted) or isinstance(value, bool) != isinstance(default, bool):
        raise UserError(f"{where}: {key} expects {KINDS[type(default)]} such as {default}, found {value!r}")
    if isinstance(value, dict) and default:  # an empty one takes any names
        return _unless_equal(value, {name: _entry(key, name, value, default, where) for name in value})
    if isinstance(value, list) and len({type(entry) for entry in default} & {bool, int, float}) == 1:
        typed = [_typed(f"{key}[{index}]", entry, default[0], where) for index, entry in enumerate(value)]
        return _unless_equal(value, typed)
    return value


def _entry(key: str, name: Any, value: dict, default: dict, where: str) -> Any:
    """One entry of a mapping, of the kind that the default's has."""
    target = value.get(TARGET, default.get(TARGET))
    if name in default and target == default.get(TARGET):
        return _typed(f"{key}{SEPARATOR}{name}", value[name], default[name], where)
    if not _takes(target, str(name), {} if target != default.get(TARGET) else default):
        raise _unknown(f"{key}{SEPARATOR}{name}", [key], str(name), _names(target, {} if target else default), where)
    return value[name]


def _unless_equal(value: Any, typed: Any) -> Any:
    """``value`` itself where nothing had to be mended: that is how a caller sees that nothing was."""
    entries = zip(value.values(), typed.values()) if isinstance(value, dict) else zip(value, typed)
    return value if all(given is taken for given, taken in entries) else typed
