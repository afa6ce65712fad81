"""Tests of tiles are the short form of two benchmarks, which are imported from their folder."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
