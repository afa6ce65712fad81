"""Write the reference of all knobs into docs/configuration.md: python docs/make_configuration.py."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ctpa_vqgan.cli.code import SEPARATOR
from ctpa_vqgan.cli.knobs import known_knobs
from ctpa_vqgan.cli.workflows import BY_FLAG, WORKFLOWS
from ctpa_vqgan.files import write_whole

PAGE = Path(__file__).with_name("configuration.md")
CONFIGS = PAGE.parents[1] / "bundles/ctpa_vqgan/configs"
OVERLAYS = sorted((PAGE.parents[1] / "configs").glob("*.yaml"))
BEGIN, END = "<!-- knobs: made by docs/make_configuration.py -->\n", "<!-- end of knobs -->\n"
#: configs with knobs of their own, besides those that train.yaml and inference.yaml share
OWN = {
    "evaluate.yaml": "evaluate",
    "sweep.yaml": "evaluate --sweep",
    "encode.yaml": "encode",
    "decode.yaml": "decode",
    "multi_gpu_train.yaml": "train, on several GPUs",
}
#: looked at by every workflow, which does not mean that it does anything there
CHECKS = "checks"


class Knob(NamedTuple):
    """A line of a config."""

    name: str
    default: str
    comment: str


def knobs(text: str) -> list[Knob]:
    """The commented entries of a config with plain values, up to the first component."""
    found = []
    for entry in re.split(r"\n(?=\S)", text.strip()):
        told = re.fullmatch(r"(\w+): (.+?)\s+# (.+)", entry, flags=re.DOTALL)
        if told:
            default = " ".join(told[2].split())
            found.append(Knob(told[1], re.sub(r"^'(.*)'$", r"\1", default), told[3]))
        elif not entry.startswith("#"):
            break
    return found


def values(overlay: Path) -> dict[str, str]:
    """The knobs of an overlay as they are written there."""
    text = re.sub(r"\s+# .*|^#.*", "", overlay.read_text(), flags=re.MULTILINE)
    entries = [entry.partition(":") for entry in re.split(r"\n(?=\S)", text.strip())]
    return {name: " ".join(value.split()) for name, _, value in entries}


def sections(text: str) -> Iterator[tuple[str, str]]:
    """Name and content of what stands between the ruled lines of a config, as far as there are knobs."""
    parts = re.split(r"^# -{4} (.+?) -+\n", text, flags=re.MULTILINE)[1:]
    for name, content in zip(parts[::2], parts[1::2]):
        if name == "networks":
            return
        yield name, content


def used_by(workflow: str) -> set[str]:
    """The knobs on which a workflow of the front door depends: what its steps refer to, and so on."""
    known = WORKFLOWS | BY_FLAG
    config = known_knobs([CONFIGS / name for name in known[workflow].configs])
    seen: set[str] = set()
    ahead = [known[workflow].run_id, "initialize"]
    while ahead:
        name = ahead.pop()
        if name not in seen and name != CHECKS:
            seen.add(name)
            ahead += references(_at(config, name))
    return seen


def references(node: Any) -> list[str]:
    """What a part of a config refers to by ``@name`` and ``%name``."""
    if isinstance(node, Mapping):
        return [name for value in node.values() for name in references(value)]
    if isinstance(node, list):
        return [name for value in node for name in references(value)]
    return re.findall(r"[@%](\w+(?:::\w+)*)", node) if isinstance(node, str) else []


def _at(config: Any, name: str) -> Any:
    for part in name.split(SEPARATOR):
        config = config[int(part)] if isinstance(config, list) else config[part]
    return config


def tables() -> str:
    """One table a section, one line a knob."""
    uses = {OWN.get(f"{name}.yaml", name): used_by(name) for name in WORKFLOWS | BY_FLAG}
    replay = uses.pop("replay") - uses["train"]  # a training that was, but for a knob
    overlays = {path.stem: values(path) for path in OVERLAYS}
    lines = []
    for name, content in sections((CONFIGS / "train.yaml").read_text()):
        rows = []
        for knob in knobs(content):
            users = [workflow for workflow, used in uses.items() if knob.name in used]
            users += ["replay"] if knob.name in replay else []
            changed = [f"{overlay} `{told[knob.name]}`" for overlay, told in overlays.items() if knob.name in told]
            rows.append((knob, "all" if len(users) == len(uses) else ", ".join(users), "; ".join(changed)))
        if any(changed for *_, changed in rows):
            head = "| knob | default | what it is | used by | overlays |\n|---|---|---|---|---|"
        else:
            head, rows = "| knob | default | what it is | used by |\n|---|---|---|---|", [row[:-1] for row in rows]
        lines += [f"\n## {name.capitalize()}\n", head, *(_row(*row) for row in rows)]
    for config, workflow in OWN.items():
        lines += [f"\n## Only {workflow}\n", f"In `{config}`.\n", "| knob | default | what it is |", "|---|---|---|"]
        lines += [_row(knob) for knob in knobs((CONFIGS / config).read_text())]
    lines += ["\n## Overlays\n", "| file | what for |", "|---|---|"]
    for path in OVERLAYS:
        lines.append(f"| [{path.name}](../configs/{path.name}) | {path.read_text().splitlines()[0].lstrip('# ')} |")
    return "\n".join(lines) + "\n\n"


def _row(knob: Knob, *further: str) -> str:
    cells = [f"`{knob.name}`", f"`{knob.default}`", knob.comment, *further]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"


def written(page: str) -> str:
    """The page with its tables as they should be."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + tables() + END + rest.split(END)[1]


if __name__ == "__main__":
    write_whole(PAGE, written(PAGE.read_text()))
