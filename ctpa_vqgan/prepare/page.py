"""Tell what came of the input: ``report.md``, for the eyes of those who may know the patients."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ctpa_vqgan.data.checks.rules import RULES
from ctpa_vqgan.data.sizes import shown
from ctpa_vqgan.prepare.thumbnails import sheet_names

PRIVATE = "> **Private: this page names source files, which may identify patients. Do not share it.**"
EXAMPLES = 3  # names shown of the files that were skipped for the same reason
BAR = 30  # characters of the longest bar
HU_BINS = 8  # bins of the HU histogram drawn as one

_MARKDOWN = re.compile(r"([\\`*\[\]<>|~#&])|(?<![^\W_])(_)|(_)(?![^\W_])")


def render_report(
    accepted: Sequence[dict[str, Any]],
    refused: Sequence[dict[str, Any]],
    skipped: Sequence[dict[str, Any]],
    fingerprint: dict[str, Any],
    settings: Mapping[str, Any],
) -> str:
    """Write the page as Markdown; every text that comes from the input is escaped.

    Args:
        accepted: record of each case: ``case``, ``source``, ``split``, ``shape``, ``spacing_mm``, ``statistics``,
            ``warnings``; ``original_shape`` where it was brought to another grid.
        refused: ``source``, ``rule``, ``expected``, ``found``, ``what_to_do`` of each.
        skipped: ``source`` and ``why`` of each file that is no volume.
        fingerprint: of the accepted cases, see :func:`~ctpa_vqgan.prepare.fingerprint.fingerprint`.
        settings: what a reader needs to repeat the run; printed in order.

    Returns:
        The content of ``report.md``; its first line says that it is private.
    """
    sections = [
        PRIVATE,
        "# Prepared data set",
        _summary(accepted, refused, skipped, fingerprint),
        *_refusals(refused),
        *_cases(accepted),
        *_skipped(skipped),
        *(_fingerprint(fingerprint) if accepted else []),
        *_rules([entry["rule"] for entry in refused], [w["rule"] for record in accepted for w in record["warnings"]]),
        *_settings(settings),
    ]
    return "\n\n".join(sections) + "\n"


def _summary(accepted: Sequence, refused: Sequence, skipped: Sequence, fingerprint: dict[str, Any]) -> str:
    total = len(accepted) + len(refused)
    splits = ", ".join(f"{count} for {split}" for split, count in fingerprint["splits"].items())
    patients = _count(fingerprint["patients"], "patient")
    text = f"{len(accepted)} of {_count(total, 'volume')} accepted"
    text += f" ({splits}; {patients}), " if accepted else ", "
    text += f"{len(refused)} refused" + (f"; {_count(len(skipped), 'other file')} skipped." if skipped else ".")
    warned = sum(bool(record["warnings"]) for record in accepted)
    return text + (f" {_count(warned, 'accepted case')} with warnings." if warned else "")


def _refusals(refused: Sequence[dict[str, Any]]) -> list[str]:
    if not refused:
        return []
    rows = [
        [
            _name(entry["source"]),
            _name(entry["rule"]),
            *(_text(entry[key]) for key in ("expected", "found", "what_to_do")),
        ]
        for entry in refused
    ]
    return ["## Refused", _table(["source", "rule", "expected", "measured", "what to do"], rows)]


def _cases(accepted: Sequence[dict[str, Any]]) -> list[str]:
    if not accepted:
        return []
    header = ["case", "source", "split", "shape", "spacing mm", "HU min / median / max", "contrast HU", "warnings"]
    first, *others = (sheet.name for sheet in sheet_names("thumbnails.png", len(accepted)))
    links = f"More: {', '.join(f'[{name}]({name})' for name in others)}" if others else ""
    table = _table(header, [_case(record) for record in accepted])
    return ["## Cases", table, f"![thumbnails of the cases]({first})", *([links] if links else [])]


def _case(record: dict[str, Any]) -> list[str]:
    statistics = record["statistics"]
    return [
        _name(record["case"]),
        _name(record["source"]),
        _text(record["split"]),
        shown(record["shape"]) + (f" (of {shown(before)})" if (before := record.get("original_shape")) else ""),
        " x ".join(f"{mm:.3g}" for mm in record["spacing_mm"]),
        f"{statistics['min']} / {statistics['percentiles']['50']} / {statistics['max']}",
        f"{statistics['contrast_hu']:.0f}" if statistics["contrast"] else "-",
        "; ".join(f"{_name(warning['rule'])}: {_text(warning['found'])}" for warning in record["warnings"]) or "-",
    ]


def _skipped(skipped: Sequence[dict[str, Any]]) -> list[str]:
    if not skipped:
        return []
    sources: dict[str, list[str]] = {}
    for entry in skipped:
        sources.setdefault(entry["why"], []).append(entry["source"])
    rows = [[_text(why), str(len(names)), _examples(names)] for why, names in sources.items()]
    return ["## Skipped", _table(["why", "files", "names"], rows)]


def _examples(names: Sequence[str]) -> str:
    shown = ", ".join(_name(name) for name in names[:EXAMPLES])
    return shown + (f" and {len(names) - EXAMPLES} more" if len(names) > EXAMPLES else "")


def _fingerprint(fingerprint: dict[str, Any]) -> list[str]:
    quantities = {"shape": "voxels", "spacing_mm": "spacing, mm", "extent_mm": "extent, mm"}
    rows = [
        [f"{title}, {axis}", *(f"{value:.4g}" for value in _levels(distribution))]
        for key, title in quantities.items()
        for axis, distribution in fingerprint[key].items()
    ]
    found = [
        f"- {title}: " + ", ".join(f"{_text(name)} {count}" for name, count in fingerprint[key].items())
        for key, title in (("formats", "formats"), ("orientations", "original orientations"), ("warnings", "warnings"))
        if fingerprint[key]
    ]
    drawn = [
        _bars(f"{title}, {axis}", fingerprint[key][axis]["histogram"])
        for key, title in (("spacing_mm", "spacing in mm"), ("shape", "voxels"))
        for axis in fingerprint[key]
    ]
    return [
        "## The data set as a whole",
        "\n".join([f"- {fingerprint['voxels']:,} voxels", _contrast(fingerprint["contrast"]), *found]),
        _table(["", "min", "5 %", "median", "95 %", "max"], rows),
        "```text\n" + "\n\n".join([*drawn, _hu_bars(fingerprint["hu"]["histogram"])]) + "\n```",
    ]


def _levels(distribution: dict[str, Any]) -> list[float]:
    return [distribution["min"], *(distribution["percentiles"][p] for p in ("5", "50", "95")), distribution["max"]]


def _contrast(contrast: dict[str, Any]) -> str:
    level = f", median {contrast['median_hu']:.0f} HU in the brightest vessels" if contrast["cases"] else ""
    return f"- contrast-filled vessels in {_count(contrast['cases'], 'case')} ({contrast['share']:.0%}){level}"


def _bars(title: str, histogram: dict[str, Any]) -> str:
    start, step = histogram["start"], histogram["step"]
    rows = [(f"{start + i * step:g}", count) for i, count in enumerate(histogram["counts"])]
    return _draw(f"{title}: cases from the value on, in steps of {step:g}", rows)


def _hu_bars(histogram: dict[str, Any]) -> str:
    counts, width = histogram["counts"], HU_BINS * histogram["step"]
    rows = [
        (str(histogram["start"] + i * histogram["step"]), sum(counts[i : i + HU_BINS]))
        for i in range(0, len(counts), HU_BINS)
    ]
    rows = [("below", histogram["under"]), *rows, ("above", histogram["over"])]
    total = max(1, sum(count for _, count in rows))
    return _draw(
        f"HU: share of the voxels from the value on, in steps of {width}", rows, lambda count: f"{count / total:.2%}"
    )


def _draw(title: str, rows: Sequence[tuple[str, int]], show=str) -> str:
    widest, most = max(len(label) for label, _ in rows), max(1, *(count for _, count in rows))
    lines = [
        f"{label:>{widest}}  {'█' * (-(-BAR * count // most))} {show(count) if count else ''}".rstrip()
        for label, count in rows
    ]
    return "\n".join([title, *lines])


def _rules(refusing: Iterable[str], warning: Iterable[str]) -> list[str]:
    met = dict.fromkeys([*refusing, *warning])
    lines = [
        f"- {_name(rule)}{' (a warning)' if RULES[rule].warns else ''}: expects {_text(RULES[rule].expects)}. "
        f"If not: {_text(RULES[rule].way_out)}."
        for rule in sorted(met)
        if rule in RULES
    ]
    return ["## What the rules mean", "\n".join(lines)] if lines else []


def _settings(settings: Mapping[str, Any]) -> list[str]:
    lines = [f"- **{_text(name)}**: {_name(value)}" for name, value in settings.items()]
    return ["## How it was run", "\n".join(lines)] if lines else []


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _printable(value: Any) -> str:
    """One line: line breaks, control characters and bytes of file names that are no text are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(value))


def _name(value: Any) -> str:
    """A name as code: nothing in it is Markdown, but a pipe would still end the cell."""
    text = _printable(value).replace("|", "\\|")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " * (longest > 0)
    return f"{fence}{space}{text}{space}{fence}" if text else "-"


def _text(value: Any) -> str:
    """Prose: what Markdown would read is escaped; dollar signs too, which GitHub reads as formulas."""
    return _MARKDOWN.sub(r"\\\g<0>", _printable(value)).replace("$", "&#36;")
