"""The chapter about codes: how many are used, what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ctpa_vqgan.report.blocks import Chapter, Text
from ctpa_vqgan.report.chapters.fidelity import case_table, found_keys, left_out
from ctpa_vqgan.report.values import count, dig

CODES = (
    "bits_per_voxel",
    "compression_ratio",
    "num_tokens",
    "usage",
    "perplexity",
    "body_usage",
    "body_perplexity",
)


def usage(counts: Sequence[int]) -> tuple[int, float]:
    """How many codes occur, and the perplexity (exp of the entropy) of these counts."""
    total = sum(counts)
    entropy = -sum(n / total * math.log(n / total) for n in counts if n)
    return sum(n > 0 for n in counts), math.exp(entropy) if total else math.nan


def codes_chapter(metrics: Mapping[str, Any]) -> Chapter | None:
    """Use of the codebook and rate, by case and over all cases together."""
    keys = found_keys(metrics, CODES)
    if not keys:
        return None
    blocks: list = []
    for part, tokens in (("counts", "all tokens"), ("body_counts", "tokens of the body")):
        histograms = [counts for case in metrics["cases"] if (counts := dig(case, "codes", part))]
        if histograms and len({len(counts) for counts in histograms}) == 1:
            pooled = [sum(column) for column in zip(*histograms)]
            used, perplexity = usage(pooled)
            blocks.append(
                Text(
                    f"Over {count(len(histograms), 'case')} together, {tokens}: {used:,} of {len(pooled):,} codes "
                    f"occur ({used / len(pooled):.1%}), perplexity {perplexity:,.0f}."
                )
            )
    blocks.append(case_table(metrics, keys, "Codes and rate."))
    if sentences := left_out(metrics, keys):
        blocks.append(Text(" ".join(sentences)))
    return Chapter("Codes and rate", blocks)
