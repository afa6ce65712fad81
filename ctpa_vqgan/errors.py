"""Errors that a user can mend: one line that names the file or key, what was expected, what came, and the way out."""


class UserError(ValueError):
    """Something that the user gave does not fit; the message is complete by itself."""


class BadVolume(UserError):
    """A file cannot be used as a CT volume; the message begins with the file."""


def user_error(exception: BaseException | None) -> UserError | None:
    """The :class:`UserError` behind an exception, through the causes that MONAI and PyTorch wrap around it."""
    while exception is not None:
        if isinstance(exception, UserError):
            return exception
        exception = exception.__cause__ or exception.__context__
    return None
