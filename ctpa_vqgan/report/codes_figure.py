"""Draw how often the codes of a codebook occur in a volume: ``codes_<case>.png``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ctpa_vqgan.files import write_whole
from ctpa_vqgan.report.sheet import INK, Sheet

COLOURS = {"all tokens": "#7bd88f", "body tokens": "#d98cff"}
EVEN = "all codes used evenly"
WIDTH, HEIGHT, LEFT, TOP, CHART, GAP = 14.0, 6.2, 1.0, 1.2, 5.6, 1.3  # inches


def save_codes_figure(
    path: str | os.PathLike, counts: Sequence[int], body_counts: Sequence[int], title: str = ""
) -> Path:
    """Draw which share of the tokens each code has, the most frequent first, and how many codes are how frequent.

    A codebook that is used evenly is a flat line at 1 / number of codes (dashed, as is that many tokens on the right);
    one that collapsed is a few codes on the left and an abyss behind them. Usage and perplexity stand in the picture.

    Args:
        path: PNG file to write, whole or not at all; its folder is made if need be.
        counts: how often each code of the codebook occurs, over all tokens.
        body_counts: the same over body tokens, see :func:`~ctpa_vqgan.metrics.body_tokens`.
        title: first line of the picture.

    Returns:
        ``path``.

    Raises:
        ValueError: if there are no codes, or another number of them in ``body_counts``.
    """
    if not len(counts) or len(counts) != len(body_counts):
        raise ValueError(f"need one count per code in both lists, got {len(counts)} and {len(body_counts)}")
    num_codes = len(counts)
    sheet = Sheet(WIDTH, HEIGHT)
    sheet.text(LEFT, 0.45, title, fontsize=16)
    height = HEIGHT - TOP - 0.75
    ranks = sheet.chart(LEFT, TOP, CHART, height, "rank of the code, most frequent first", "share of tokens")
    spread = sheet.chart(LEFT + CHART + GAP, TOP, CHART, height, "tokens of a code", "number of codes")
    ranks.axhline(1 / num_codes, color=INK, linewidth=0.8, linestyle="--", label=EVEN)
    for line, (name, numbers) in enumerate(zip(COLOURS, (counts, body_counts))):
        times = np.sort(np.asarray(numbers, dtype=np.float64))[::-1]
        times, even = times[times > 0], times.sum() / num_codes
        style = {"color": COLOURS[name]}
        sheet.text(LEFT, 0.75 + 0.25 * line, _told(name, times, num_codes), fontsize=12, **style)
        if len(times):
            marker = "." if len(times) == 1 else ""
            ranks.plot(np.arange(1, len(times) + 1), times / times.sum(), marker=marker, **style)
            octaves = 2.0 ** np.arange(np.ceil(np.log2(times[0] + 1)) + 1)  # 1, 2 to 3, 4 to 7, ... tokens
            spread.stairs(np.histogram(times, octaves)[0], octaves, linewidth=1.6, **style)
            spread.axvline(even, linewidth=0.8, linestyle="--", label=EVEN if line == 0 else None, **style)
    ranks.set_xscale("log")
    ranks.set_yscale("log")
    ranks.set_xlim(0.9, num_codes * 1.1)
    spread.set_xscale("log")
    for axes, place in ((ranks, "lower left"), (spread, "upper right")):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc=place, fontsize=12, labelcolor=INK, frameon=False)
    return write_whole(path, sheet.png())


def _told(name: str, times: np.ndarray, num_codes: int) -> str:
    if not len(times):
        return f"{name}: none"
    share = times / times.sum()
    perplexity = np.exp(-(share * np.log(share)).sum())
    used = f"{len(times)} of {num_codes} codes used ({len(times) / num_codes:.1%}), perplexity {perplexity:.0f}"
    return f"{name}: {used}, the most frequent code has {share[0]:.1%} of them"
