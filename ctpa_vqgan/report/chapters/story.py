"""All chapters in order: the verdict, the numbers, the pictures, what it all means."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ctpa_vqgan.report.blocks import Chapter, Picture
from ctpa_vqgan.report.chapters.against import against_chapter
from ctpa_vqgan.report.chapters.codes import codes_chapter
from ctpa_vqgan.report.chapters.ending import (
    definitions_chapter,
    pictures_chapter,
    refused_chapter,
    settings_chapter,
)
from ctpa_vqgan.report.chapters.fidelity import cases_chapter, labels_chapter, tissues_chapter
from ctpa_vqgan.report.chapters.quality import quality_chapter
from ctpa_vqgan.report.chapters.seams import seams_chapter
from ctpa_vqgan.report.chapters.verdict import verdict_chapter

# each chapter about numbers, and how the files of the pictures begin that are shown beside them
NUMBERS = {
    cases_chapter: (),
    tissues_chapter: ("tissues",),
    labels_chapter: (),
    codes_chapter: ("codes_",),
    quality_chapter: ("phantoms",),
    seams_chapter: ("slices_",),
    against_chapter: ("rates_",),
}


def tell_story(
    metrics: Mapping[str, Any],
    settings: Mapping[str, Any],
    pictures: Sequence[Mapping[str, Any] | str | os.PathLike],
    folder: Path,
) -> list[Chapter]:
    """The chapters of a report; those without a number are left out.

    Args:
        metrics: what ``write_metrics`` returned, or ``json.load`` of ``metrics.json``, also of an older version.
        settings: what a reader needs to repeat the numbers.
        pictures: ``{"path", "case", "caption"}`` each (``case`` None for a picture of all), or just a path.
        folder: where relative paths of pictures start.
    """
    metrics = {"cases": [], "mean": {}, **metrics}
    left = [_picture(picture, folder) for picture in pictures]
    told = [verdict_chapter(metrics, settings)]
    for make, starts in NUMBERS.items():
        if chapter := make(metrics):
            here = [picture for picture in left if picture.path.name.startswith(starts)] if starts else []
            left = [picture for picture in left if picture not in here]
            told.append(chapter._replace(blocks=[*chapter.blocks, *here]))
    told += [refused_chapter(metrics), pictures_chapter(metrics, left)]
    told = [chapter for chapter in told if chapter]
    told += [definitions_chapter(metrics, told), settings_chapter(settings)]
    return [chapter for chapter in told if chapter]


def _picture(picture: Mapping[str, Any] | str | os.PathLike, folder: Path) -> Picture:
    if not isinstance(picture, Mapping):
        return Picture(folder / picture, None, Path(picture).stem)
    case, caption = picture.get("case"), str(picture.get("caption") or Path(picture["path"]).stem)
    return Picture(folder / picture["path"], case, f"{case}: {caption}" if case else caption)
