"""Write files whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from ctpa_vqgan.errors import UserError


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name in the same folder; what was written there gets its final name when the block ends well.

    The file is flushed to disk before it is renamed, so neither a kill nor a power cut leaves half a file under the
    final name. On an error the temporary file goes and an older file of that name stays.

    Args:
        path: final name; its folder is made if need be.

    Raises:
        UserError: if the disk does not take it.
    """
    path = Path(path)
    # the suffix stays: writers choose the format by it
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{path}: could not be written ({reason}); free some space, older files are intact") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike, content: str | bytes) -> Path:
    """Write a text or bytes by :func:`whole`."""
    with whole(path) as temporary:
        temporary.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
    return Path(path)
