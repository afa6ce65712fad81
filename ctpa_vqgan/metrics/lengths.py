"""Check lengths that a caller gave."""

from __future__ import annotations

import math
from collections.abc import Sequence


def positive_lengths(name: str, values: Sequence[float], count: int) -> list[float]:
    """``count`` lengths in mm as floats.

    Raises:
        ValueError: if there are more or fewer, or one is not above 0 and finite; it begins with ``name``.
    """
    lengths = [float(value) for value in values]
    if len(lengths) != count or not all(0 < length < math.inf for length in lengths):
        raise ValueError(f"{name} must be {count} lengths in mm above 0, got {tuple(lengths)}")
    return lengths
