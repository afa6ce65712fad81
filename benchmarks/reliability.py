"""Does a run survive? Faults put into real trainings of seconds, and a table of what became of them.

    python benchmarks/reliability.py [--smoke] [--json FILE] [--only resume saving ...]

Every training runs in a process forked from this one, after the imports. The numbers of docs/reliability.md come from
``make soak``; ``--smoke`` is the short form that ``make test`` runs. ``FAULTS_DEVICE=cuda`` in the environment takes
all trainings to a GPU, deterministic but where the difference that this makes is asked for.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from faults import endurance, loader, repeat, resume, saving, signals
from faults.training import Outcome, make_data, scratch

from ctpa_vqgan.provenance import facts

FULL = {"runs": 21, "kills": 5, "saves": 200, "damage": 200, "disk": 20, "signals": 50, "workers": 20, "long": 10_000}
SMOKE = {"runs": 1, "kills": 3, "saves": 5, "damage": 5, "disk": 1, "signals": 5, "workers": 2, "long": 60}
Rows = dict[str, Outcome]


def campaigns(n: dict[str, int], data: Path) -> dict[str, Callable[[Path], Rows]]:
    """By name: what is done in a folder, and the rows that it gives."""
    return {
        "repeat": lambda f: repeat.campaign(data, f),
        "resume": lambda f: {"SIGKILL while training": resume.campaign(data, f, n["runs"], n["kills"])},
        "saving": lambda f: {"SIGKILL while saving": saving.kills(f, n["saves"])},
        "damage": lambda f: {f"newest checkpoint: {kind}": o for kind, o in saving.damage(f, n["damage"]).items()},
        "disk": lambda f: _disk(data, f, n["disk"]),
        "signals": lambda f: {"SIGTERM, SIGUSR1, SIGINT at each phase": signals.campaign(data, f, n["signals"])},
        "loader": lambda f: {"SIGKILL of loader processes": loader.campaign(data, f, n["workers"])},
        "endurance": lambda f: _endurance(data, f, n["long"]),
    }


def _disk(data: Path, folder: Path, number: int) -> Rows:
    rows = {"no file may grow (RLIMIT_FSIZE)": saving.full_disk(data, folder / "limit", number)}
    if small := saving.small_disk(data, folder / "tmpfs"):
        rows["a full file system (tmpfs)"] = small
    return rows


def _endurance(data: Path, folder: Path, iterations: int) -> Rows:
    found, _ = endurance.campaign(data, folder, iterations)
    note = (
        f"per 1000 iterations: resident memory {found.resident_mb:+.2f} MB, event file {found.event_kb:+.0f} kB; "
        f"open files {found.open_files:+d} in all; {found.seconds_per_iteration:.3f} s per iteration"
    )
    return {f"{found.iterations} iterations in one life": Outcome(1, int(found.passed), note)}


def markdown(content: dict[str, Any]) -> str:
    """The table, for the screen and for docs/reliability.md."""
    columns = ("fault", "injected", "survived", "note", "seconds", "commit")
    rows = [f"| {' | '.join(str(row[name]) for name in columns)} |" for row in content["rows"]]
    head = ["| fault | put in | survived | how | s | commit |", "|---|---:|---:|---|---:|---|"]
    told = f"`{content['command']}`, {content['hardware']}, {content['versions']}, {content['date']}."
    return "\n".join([*head, *rows, "", told])


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the campaigns, print the table, and write it; exits with 1 if a fault was not survived."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few faults, to see that it runs")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some of the campaigns")
    parser.add_argument("--json", type=Path, help="write the numbers here too; rows of other campaigns stay there")
    parser.add_argument("--commit", help="commit of the sources, where they are no git checkout")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows, told = [], facts()
    commit = options.commit or told["commit"]
    with scratch() as place:
        known = campaigns(SMOKE if options.smoke else FULL, place / "data")
        if unknown := set(options.only or ()) - known.keys():
            parser.error(f"--only {min(unknown)}: expected some of {', '.join(known)}")
        make_data(place / "data")
        for name in options.only or known:
            began = time.monotonic()
            found = known[name](place / name)
            shutil.rmtree(place / name)
            seconds = time.monotonic() - began
            for fault, outcome in found.items():
                where = {"seconds": round(seconds), "commit": commit}
                rows.append({"campaign": name, "fault": fault, **outcome._asdict(), **where})
                print(f"{fault}: {outcome.survived} of {outcome.injected}; {outcome.note}; {seconds:.0f} s", flush=True)
    kept = json.loads(options.json.read_text())["rows"] if options.json and options.json.is_file() else []
    order = list(known)
    kept = [row for row in kept if row["campaign"] not in (options.only or order)]
    content = {"rows": sorted(kept + rows, key=lambda row: order.index(row["campaign"])), **told}
    print(markdown(content))
    if options.json:
        options.json.write_text(json.dumps(content, indent=1) + "\n")
    if any(row["survived"] < row["injected"] for row in rows):
        raise SystemExit(1)
    return content


if __name__ == "__main__":
    main()
