"""The tables, and the decorators that enter a builder into them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dicom_corpus.files import write
from dicom_corpus.images import make
from dicom_corpus.phantom import GOOD, Expected

BAD: dict[str, tuple[Callable[[Path], None], str]] = {}
LEGAL: dict[str, Callable[[Path], list[Expected]]] = {}
WARNED: dict[str, tuple[Callable[[Path], list[Expected]], str]] = {}


def bad(name: str, rule: str):
    """Enter a builder into the table: it gets the slices of a good series and returns those to write."""

    def enter(build):
        BAD[name] = (lambda folder: write(build(make()), folder), rule)
        return build

    return enter


def bad_files(name: str, rule: str):
    """Enter a builder that changes the written files of a good series."""

    def enter(build):
        BAD[name] = (lambda folder: build(write(make(), folder)), rule)
        return build

    return enter


def legal(name: str):
    """Enter a builder of a folder; it returns what must come out unless that is the good series alone."""

    def enter(build):
        LEGAL[name] = lambda folder: build(folder) or [GOOD]
        return build

    return enter


def legal_slices(oddity: str, **options):
    """Enter a builder that gets the slices of a good series and returns those to write."""

    def enter(build):
        def write_it(folder):
            write(build(make()), folder, **options)
            return [GOOD]

        LEGAL[oddity] = write_it
        return build

    return enter


def warned(name: str, rule: str):
    """Enter a builder of a folder from which the good series comes out with a warning."""

    def enter(build):
        WARNED[name] = (lambda folder: build(folder) or [GOOD], rule)
        return build

    return enter
