"""Errors that a user can mend: one line that names the file or key, what was expected, what came, and the way out."""

import re
import traceback
from pathlib import Path

PACKAGE = Path(__file__).parent
# how an error of ours looks in the traceback that a loader process hands over as text
_FROM_WORKER = re.compile(r"^ctpa_vqgan\.errors\.\w+: (.+)$", re.MULTILINE)


class UserError(ValueError):
    """Something that the user gave does not fit; the message is complete by itself."""


class BadVolume(UserError):
    """A file cannot be used as a CT volume; the message begins with the file."""


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


def _raised_here(exception: Exception) -> bool:
    frames = traceback.extract_tb(exception.__traceback__)
    return bool(frames) and PACKAGE in Path(frames[-1].filename).parents
