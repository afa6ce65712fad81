"""Refuse settings that run code: MONAI evaluates what begins with ``$`` and builds whatever ``_target_`` names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ctpa_vqgan.errors import UserError

SEPARATOR = "::"
TARGET = "_target_"
#: what a ``model.yaml`` may build below ``network_def``; by full name, for a module's imports have dotted names too
NETWORKS = frozenset(
    f"ctpa_vqgan.networks.{name}"
    for name in ("VQGAN", "VectorQuantizer", "FiniteScalarQuantizer", "ResidualQuantizer", "make_quantizer")
)
KINDS = {"$": "an expression", "%": "a macro"}  # by how MONAI knows them


def refuse_code(key: str, value: Any, known: Mapping[str, Any], where: str) -> None:
    """Let a setting through if it is data: numbers, text, lists, mappings, and what the bundle itself says.

    The bundle's own expressions and macros pass wherever they stand, word for word; references (``@knob``) if there is
    such a key; components where the bundle has the same one, or a network below ``network_def``.

    Args:
        key: ``a::b`` reaches into sections; ``+`` in front appends.
        value: of any kind.
        known: the bundle's keys and their values.
        where: file or option that the setting comes from, for messages.

    Raises:
        UserError: names the key and what would run.
    """
    *parents, last = key.removeprefix("+").split(SEPARATOR)
    for found in _code(parents, {last: value}, known, frozenset(_texts(known))):
        raise UserError(f"{where}: {key}: {found}")


def at(place: Sequence[str], known: Any) -> Any:
    """What the bundle has at a place, through mappings and lists; None where it has nothing."""
    for part in place:
        if isinstance(known, list) and part.isdecimal() and int(part) < len(known):
            known = known[int(part)]
        elif isinstance(known, Mapping) and part in known:
            known = known[part]
        else:
            return None
    return known


def is_directive(key: Any) -> bool:
    """Whether a key of a component is for MONAI itself: ``_target_``, ``_mode_`` and the like."""
    return isinstance(key, str) and len(key) > 2 and key[0] == key[-1] == "_"


def _code(place: Sequence[str], value: Any, known: Mapping[str, Any], own: frozenset[str]) -> Iterator[str]:
    """Everything in a value that would run, as a message."""
    if isinstance(value, str) and value not in own:
        if value[:1] in KINDS:
            yield _refusal(f"{KINDS[value[0]]} that is not the bundle's own, {value[:80]!r}")
        elif value[:1] == "@" and at(value[1:].split(SEPARATOR), known) is None and value[1:] not in known:
            yield f"expected a reference to a key of the bundle, such as @patch_size, found {value[:80]!r}"
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _code([*place, str(index)], entry, known, own)
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            inside = [*place, str(key)]
            if is_directive(key) and not _is_allowed(inside, entry, at(inside, known)):
                yield _refusal(f"{key}: {str(entry)[:80]!r}")
            yield from _code(inside, entry, known, own)


def _refusal(found: str) -> str:
    return f"expected plain data, found {found}; such can run any code: only an --overlay may hold it, with --trust"


def _is_allowed(place: Sequence[str], value: Any, default: Any) -> bool:
    directive = place[-1]
    if directive == "_disabled_" and isinstance(value, bool):
        return True
    network = directive == TARGET and place[0] == "network_def" and isinstance(value, str) and value in NETWORKS
    return network or (default is not None and value == default)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, Mapping)):
        for entry in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(entry)
