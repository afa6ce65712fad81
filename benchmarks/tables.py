"""Write the measured tables of the pages in docs/ again from docs/results/*.json.

    python benchmarks/tables.py [--check]

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; the text around it is left alone. Without its
file a table says that it is not measured.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

import guide_memory
import patch_memory
import quality
import quantizer
import reconstruction
import reliability
import startup
import training_step
import troubleshooting

ROOT = Path(__file__).parents[1]
DOCS, RESULTS = ROOT / "docs", ROOT / "docs" / "results"
PAGE = DOCS / "performance.md"
Table = tuple[str, Callable[[dict], str]]
#: name of the region -> (file of numbers, what makes Markdown of its content)
TABLES: dict[str, Table] = {
    f"{script.__name__}-{device}": (f"{script.__name__}-{device}.json", script.markdown)
    for script in (quantizer, training_step, reconstruction, startup)
    for device in ("cpu", "cuda")
}
TABLES |= {script.__name__: (f"{script.__name__}.json", script.markdown) for script in (patch_memory, quality)}
#: every page with the tables that it has
PAGES: dict[Path, dict[str, Table]] = {
    PAGE: TABLES,
    DOCS / "reliability.md": {"reliability": ("reliability.json", reliability.markdown)},
    DOCS / "from-the-guide.md": {"guide_memory": ("guide_memory.json", guide_memory.markdown)},
    DOCS / "troubleshooting.md": {
        "training_memory": ("guide_memory.json", guide_memory.ways_markdown),
        "troubleshooting": ("troubleshooting.json", troubleshooting.markdown),
    },
}
TARGETS = {
    "quality": "benchmarks/quality.py",
    "reliability": "make soak",
    "guide_memory": "benchmarks/guide_memory.py",
    "training_memory": "benchmarks/guide_memory.py",
    "troubleshooting": "benchmarks/troubleshooting.py",
}
REGION = re.compile(r"<!-- table: (?P<name>\S+) -->\n.*?<!-- end -->", re.DOTALL)


def refreshed(page: str, results: Path = RESULTS, tables: dict[str, Table] = TABLES) -> str:
    """The page with every region made anew.

    Raises:
        ValueError: if a region has no entry in ``tables`` or an entry no region.
    """
    found = [match["name"] for match in REGION.finditer(page)]
    if sorted(found) != sorted(tables):
        raise ValueError(f"the page has the tables {sorted(found)}, expected each of {sorted(tables)} once")
    return REGION.sub(lambda match: region(match["name"], results), page)


def region(name: str, results: Path) -> str:
    """One table between its marks."""
    file, markdown = next(tables[name] for tables in PAGES.values() if name in tables)
    path = results / file
    target = TARGETS.get(name, "make bench-gpu" if "cuda" in name else "make bench")
    text = f"Not measured: there is no `docs/results/{file}`; `{target}` writes it."
    if path.is_file():
        text = markdown(json.loads(path.read_text()))
    return f"<!-- table: {name} -->\n{text}\n<!-- end -->"


def main() -> None:
    """Rewrite the pages, or tell whether they would change."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a page is out of date")
    options = parser.parse_args()
    for page, tables in PAGES.items():
        before = page.read_text()
        after = refreshed(before, tables=tables)
        if options.check and after != before:
            sys.exit(1)
        page.write_text(after)


if __name__ == "__main__":
    main()
