"""Write files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

from ctpa_vqgan.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """A temporary name in the same folder; what was written there gets its final name when the block ends well.

    The file is flushed to disk before it is renamed, and its folder after that, so neither a kill nor a power cut
    leaves half a file under the final name. On an error the temporary file goes and an older file of that name stays.

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
        sync_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        way_out = "free some space" if error.errno in FULL else "check the disk and its rights"
        raise UserError(f"{path}: could not be written ({reason}); {way_out}, older files are intact") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_whole(path: str | os.PathLike, content: str | bytes) -> Path:
    """Write a text or bytes by :func:`whole`."""
    with whole(path) as temporary:
        temporary.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)
    return Path(path)


def sync_folder(folder: str | os.PathLike) -> None:
    """Flush the names in a folder to disk, where the file system can do that."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems do not know it of folders
            raise
    finally:
        os.close(descriptor)


def remove_leftovers(folder: str | os.PathLike) -> None:
    """Remove what :func:`whole` was writing when its process was killed."""
    for path in Path(folder).glob(".*"):
        owner = path.name[1:].partition(".")[0]
        if owner.isdigit() and path.is_file() and not _lives(int(owner)):
            with contextlib.suppress(OSError):
                path.unlink()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return pid != os.getpid()


class Claim:
    """The right of one process to work in a folder, until :meth:`release` or its end.

    Where the file system has no locks (some network mounts), nobody is refused.

    Args:
        folder: made if need be.

    Raises:
        UserError: if another process works there.
    """

    _held: ClassVar[set[int]] = set()

    def __init__(self, folder: str | os.PathLike) -> None:
        path = Path(folder)
        self._made = [p for p in (path, *path.parents) if not p.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise UserError(f"{path}: cannot work there ({error.strerror}); choose another output") from error
        self._held.add(self._descriptor)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise UserError(f"{path}: another process works there; wait for it, or choose another output") from error
        except OSError:
            pass

    def release(self) -> None:
        """Let others work there; folders made for that go if nothing is in them."""
        if self._descriptor not in self._held:
            return
        self._held.remove(self._descriptor)
        with contextlib.suppress(OSError):
            for path in self._made:
                path.rmdir()
        os.close(self._descriptor)

    @classmethod
    def _forget(cls) -> None:
        """In a forked process, which would keep the folder for some seconds after its parent was killed."""
        for descriptor in cls._held:
            os.close(descriptor)
        cls._held.clear()


os.register_at_fork(after_in_child=Claim._forget)
