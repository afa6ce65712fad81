"""The scripts are imported from their folder, and run once at their smallest."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
# every training loads it, for a second: here once instead of in each process that a campaign forks
import_module("torch._inductor")


@pytest.fixture(scope="session")
def smoke(tmp_path_factory):
    """``smoke(name)``: the file of numbers that a script writes with ``--smoke``."""
    folder, written = tmp_path_factory.mktemp("benchmarks"), {}

    def run(name: str) -> Path:
        if name not in written:
            written[name] = folder / f"{name}-cpu.json"
            import_module(name).main(["--smoke", "--json", str(written[name])])
        return written[name]

    return run
