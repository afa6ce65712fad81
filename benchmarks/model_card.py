"""Write what ``models/model.json`` says into the model card (the bundle's README), docs/results.md and metadata.json.

    python benchmarks/model_card.py

Only the marked regions change; what stands around them is written by hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.columns import heading, show

ROOT = Path(__file__).parents[1]
BUNDLE = Path("bundles/ctpa_vqgan")
CARD, RESULTS, METADATA = BUNDLE / "docs/README.md", Path("docs/results.md"), BUNDLE / "configs/metadata.json"
BEGIN, END = "<!-- {}: made by benchmarks/shipped_model.py -->\n", "<!-- end of {} -->\n"
EMPTY = "No weights are shipped yet.\n"
NAMES = {"float32": "float32", "float16": "half precision", "trilinear": "trilinear 4x down and up"}
METRICS = ("psnr", "ssim", "mae_hu")  # of metadata.json, of both reconstructions
SECONDS = "seconds"  # of a machine, not of a network


def refresh(root: Path = ROOT) -> None:
    """Write all regions, and ``eval_metrics`` of metadata.json, from ``model.json``."""
    shipped = shipped_facts(root)
    for page in (CARD, RESULTS):
        write_whole(root / page, filled((root / page).read_text(), regions(shipped)))
    write_whole(root / METADATA, with_metrics((root / METADATA).read_text(), shipped))


def shipped_facts(root: Path = ROOT) -> dict[str, Any] | None:
    """What ``model.json`` says; None where no weights are shipped."""
    path = root / BUNDLE / "models/model.json"
    return json.loads(path.read_text()) if path.is_file() else None


def regions(shipped: Mapping[str, Any] | None) -> dict[str, str]:
    """The text of every marked region, by name."""
    makers = {"weights": _weights, "data": _data, "training": _training, "scores": _scores, "shipped weights": _results}
    return {name: make(shipped) if shipped else EMPTY for name, make in makers.items()}


def filled(page: str, texts: Mapping[str, str]) -> str:
    """The page with its marked regions replaced; regions that it does not have are left out."""
    for name, text in texts.items():
        begin, end = BEGIN.format(name), END.format(name)
        if begin in page:
            before, rest = page.split(begin)
            page = before + begin + text + end + rest.split(end)[1]
    return page


def with_metrics(metadata: str, shipped: Mapping[str, Any] | None) -> str:
    """The text of metadata.json with the mean scores of the shipped weights, the rest to the letter as it was."""
    mean = _mean(shipped, shipped["weights"]["precision"]) if shipped else {}
    keys = [prefix + key for prefix in ("", "decoded_") for key in METRICS]
    scores = {key: round(mean[key], 4) for key in keys if isinstance(mean.get(key), (int, float))}
    return re.sub(r'"eval_metrics": \{[^}]*\}', f'"eval_metrics": {json.dumps(scores)}', metadata)


# -- regions -----------------------------------------------------------------------------------------------------------


def _weights(shipped: Mapping[str, Any]) -> str:
    weights = shipped["weights"]
    return _list(
        {
            "file": f"`models/model.pt`, {weights['bytes'] / 1e6:.2f} MB, {NAMES[weights['precision']]}; computed in "
            "float32 (bf16 on a GPU)",
            "SHA-256": f"`{weights['sha256']}`",
            "parameters": f"{weights['parameters'] / 1e6:.2f} M",
            "fingerprint in code files": f"`{weights['network_fingerprint']}`",
        }
    )


def _data(shipped: Mapping[str, Any]) -> str:
    header = ["scan", "what", "voxels", "spacing [mm]", "used for", "origin", "licence", "SHA-256 once prepared"]
    sides = {"training": "training", "held_out": "**held out**"}
    return _table(header, [_volume(v, name) for side, name in sides.items() for v in shipped["data"][side]])


def _volume(volume: Mapping[str, Any], side: str) -> list[str]:
    times = volume.get("listed", 1)
    return [
        volume["name"],
        volume["what"],
        "x".join(map(str, volume["shape"])),
        "x".join(f"{mm:.2f}" for mm in volume["spacing_mm"]),
        f"{side}, listed {times} times" if times > 1 else side,
        volume["origin"],
        volume["licence"],
        f"`{volume['sha256'][:12]}...`",
    ]


def _training(shipped: Mapping[str, Any]) -> str:
    training = shipped["training"]
    facts = _list(
        {
            "iterations": str(training["iterations"]),
            "time": _hours(training),
            "hardware": training["hardware"],
            "commit": training["commit"],
        }
    )
    recipe = f"`{Path(training['recipe']).name}`, an overlay of the repository for `train.yaml`"
    return f"{facts}\n{recipe}:\n\n```yaml\n{training['recipe_text']}```\n"


def _hours(training: Mapping[str, Any]) -> str:
    starts = f", in {training['starts']} starts" if training["starts"] > 1 else ""
    return f"{training['hours']:.1f} hours{starts}, pauses left out"


def _scores(shipped: Mapping[str, Any]) -> str:
    columns = {name: _mean(shipped, name) for name in ("float32", "float16", "trilinear")}
    keys = [key for key in columns["float32"] if key != SECONDS]
    header = ["", *(f"{NAMES[n]}{' (shipped)' if n == shipped['weights']['precision'] else ''}" for n in columns)]
    rows = [[heading(key), *(show(key, c[key]) if key in c else "" for c in columns.values())] for key in keys]
    return f"{_table(header, rows)}\n{_where(shipped)}\n"


def _where(shipped: Mapping[str, Any]) -> str:
    names = ", ".join(volume["name"] for volume in shipped["data"]["held_out"])
    scored = shipped["scored"]
    how = (scored["hardware"], scored["versions"], f"commit {scored['commit']}", scored["date"])
    return f"Scored on {names}; {', '.join(how)}."


def _results(shipped: Mapping[str, Any]) -> str:
    training, ours = shipped["training"], _mean(shipped, shipped["weights"]["precision"])
    decoded = {key.removeprefix("decoded_"): value for key, value in ours.items() if key.startswith("decoded_")}
    rows = {"`reconstruction`": ours, "`decoded`": decoded, NAMES["trilinear"]: _mean(shipped, "trilinear")}
    keys = ("psnr", "ssim", "mae_hu", "rmse_hu", "bits_per_voxel", "usage", "body_perplexity")
    table = _table(
        ["", *map(heading, keys)],
        [[name, *(show(key, row[key]) if key in row else "" for key in keys)] for name, row in rows.items()],
    )
    return (
        f"{table}\n{training['iterations']} iterations, {_hours(training)}, on {training['hardware']}, commit "
        f"{training['commit']}.\n{_where(shipped)}\nUnrounded: `bundles/ctpa_vqgan/models/model.json`.\n\n"
        "![Held-out scan: original, reconstruction by the shipped weights, error](images/shipped_model.png)\n"
    )


def _mean(shipped: Mapping[str, Any], name: str) -> dict[str, Any]:
    return shipped["scores"][name]["mean"]


def _list(facts: Mapping[str, str]) -> str:
    return "".join(f"* {name}: {value}\n" for name, value in facts.items())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in [header, ["---"] * len(header), *rows])


if __name__ == "__main__":
    refresh()
