"""Errors that a user can mend: one line that names the file or key, what was expected, what came, and the way out."""

import os
import re
import traceback
from pathlib import Path

PACKAGE = Path(__file__).parent
# how an error of ours looks in the traceback that a loader process hands over as text
_FROM_WORKER = re.compile(r"^ctpa_vqgan\.errors\.\w+: (.+)$", re.MULTILINE)


class UserError(ValueError):
    """Something that the user gave does not fit; the message is complete by itself."""

    exit_code = 1


class BadNumbers(UserError):
    """Training gives nothing but numbers that are not finite, or a network does."""

    exit_code = 4


class Stopped(SystemExit):
    """A run left in good order: a signal asked for it, or something had to be left out.

    Args:
        code: exit code of the process.
        message: what became of the run.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code)
        self.message = message

    def __str__(self) -> str:
        return self.message


class BadVolume(UserError):
    """A file cannot be used as a CT volume.

    The message is ``FILE: [rule] expected ..., found ...; way out``; see :mod:`ctpa_vqgan.data.checks`.

    Args:
        path: the file, or the folder of a DICOM series.
        rule: id of the check that it failed.
        expected: what the rule asks for.
        found: what was measured.
        way_out: what the user can do.
    """

    def __init__(self, path: str | os.PathLike, rule: str, expected: str, found: str, way_out: str) -> None:
        super().__init__(f"{path}: [{rule}] expected {expected}, found {found}; {way_out}")
        self.path, self.rule, self.expected, self.found, self.way_out = str(path), rule, expected, found, way_out

    def __reduce__(self) -> tuple:
        return type(self), (self.path, self.rule, self.expected, self.found, self.way_out)


def user_error(exception: BaseException | None) -> Exception | None:
    """The user's error behind an exception, through the causes that MONAI and PyTorch wrap around it.

    That is a :class:`UserError` (raised in a loader process too), or a ``ValueError`` that this package itself raised;
    None for anything else.
    """
    while exception is not None:
        if found := _FROM_WORKER.search(str(exception)):
            return UserError(found[1])
        if isinstance(exception, UserError) or (isinstance(exception, ValueError) and _raised_here(exception)):
            return exception
        exception = exception.__cause__ or exception.__context__
    return None


def printable(text: str) -> str:
    """One line that does nothing to a terminal: names of files may hold any character, and bytes that are none."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _raised_here(exception: Exception) -> bool:
    frames = traceback.extract_tb(exception.__traceback__)
    return bool(frames) and PACKAGE in Path(frames[-1].filename).parents
