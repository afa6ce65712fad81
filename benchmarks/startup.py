"""How long until something happens? ``ctpa_vqgan --help`` and imports, beside MONAI's and torch's, in fresh processes.

    python benchmarks/startup.py [--repeats 3] [--json FILE]

The goal is ``python -m ctpa_vqgan --help`` under a second. Output goes to a pipe; the files are in the page cache after
the first calls, which are not timed. The last column is what of torch, monai, itk and matplotlib was loaded.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence

from side_by_side import Row, argument_parser, compare, number, parsed, provenance, report, table

HELP = "python -m ctpa_vqgan --help"
# what is run: a module with arguments, or a statement
RUNS: dict[str, list[str]] = {
    "python -c pass": ["-c", "pass"],
    "import ctpa_vqgan": ["-c", "import ctpa_vqgan"],
    HELP: ["-m", "ctpa_vqgan", "--help"],
    "import torch": ["-c", "import torch"],
    "import monai": ["-c", "import monai"],
    "import ctpa_vqgan.networks": ["-c", "import ctpa_vqgan.networks"],
    "import ctpa_vqgan.trainer": ["-c", "import ctpa_vqgan.trainer"],
    "python -m monai.bundle --help": ["-m", "monai.bundle", "--help"],
}
QUICK = ("python -c pass", "import ctpa_vqgan", HELP)
HEAVY = ("torch", "monai", "itk", "matplotlib")
GOAL_SECONDS = 1.0
SIZES = {"smoke": {"repeats": 1}, "cpu": {"repeats": 3}, "cuda": {"repeats": 3}}
SPY = """
import contextlib, io, runpy, sys
kind, what, *arguments = sys.argv[1:]
sys.argv = [what, *arguments]
with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):
    exec(what) if kind == "-c" else runpy.run_module(what, run_name="__main__", alter_sys=True)
print(*(name for name in %r if name in sys.modules))
"""


def start(arguments: Sequence[str]) -> str:
    """Run Python, and give what it prints.

    Raises:
        CalledProcessError: if that fails.
    """
    command = [sys.executable, "-W", "ignore", *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout


def loaded(arguments: Sequence[str]) -> list[str]:
    """Which heavy modules a run has loaded at its end."""
    return start(["-c", SPY % (HEAVY,), *arguments]).split()


def run(options: argparse.Namespace) -> list[Row]:
    """All rows."""
    chosen = {name: arguments for name, arguments in RUNS.items() if not options.smoke or name in QUICK}
    works = {name: lambda arguments=arguments: start(arguments) for name, arguments in chosen.items()}
    rows = compare(works, "cpu", options.repeats, uncounted=works)
    return [row | {"modules": loaded(chosen[row["name"]])} for row in rows]


def markdown(content: dict) -> str:
    """A table for the screen and for docs/performance.md."""
    lines = []
    for row in content["rows"]:
        seconds = row.get("seconds")
        goal = "" if row["name"] != HELP or seconds is None else "met" if seconds < GOAL_SECONDS else "not met"
        cells = [f"`{row['name']}`", row["status"] if seconds is None else number(seconds), goal]
        lines.append([*cells, ", ".join(row["modules"]) or "none of them"])
    head = ["fresh process", "s", f"goal: {GOAL_SECONDS:g} s", "loads of " + ", ".join(HEAVY)]
    return table(head, lines) + f"\n\nRounds: {content['repeats']}. {provenance(content)}"


def main(argv: Sequence[str] | None = None) -> dict:
    """Read the arguments, measure, print and write."""
    options = parsed(argument_parser(__doc__), argv, SIZES)
    return report(options, markdown, repeats=options.repeats, rows=run(options))


if __name__ == "__main__":
    main()
