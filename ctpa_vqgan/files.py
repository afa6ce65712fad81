"""Write files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from ctpa_vqgan.errors import UserError
from ctpa_vqgan.ranks import Shard

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SHARDS = ".shards"  # in a folder that shards share: the files that they lock


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


def remove_leftovers(folder: str | os.PathLike, names: Collection[str] | None = None) -> None:
    """Remove what :func:`whole` was writing when its process was killed.

    Args:
        folder: where.
        names: final names that nobody but this process writes. Only their leftovers go, whoever began them: of a
            process on another machine nobody here can tell whether it lives. None for a folder of this machine alone.
    """
    for path in Path(folder).glob(".*"):
        owner, _, name = path.name[1:].partition(".")
        if not owner.isdigit() or not path.is_file():
            continue
        if not _lives(int(owner)) if names is None else name in names:
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
    """The right of one process to work in a folder, until :meth:`release` or its end; shards work there together.

    Where the file system has no locks (some network mounts), nobody is refused.

    Args:
        folder: made if need be.
        shard: the part that this process has of the work there; None for the whole, which leaves no room for others.

    Raises:
        UserError: if another process works there, on all or on the same shard, or shards of another number do.
    """

    def __init__(self, folder: str | os.PathLike, shard: Shard | None = None) -> None:
        path, shard = Path(folder), shard or Shard()
        self._made = [p for p in (path, *path.parents) if not p.exists()]
        self._descriptors: list[int] = []
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._descriptors.append(_opened(path, os.O_RDONLY))
            if shard.count == 1:
                self._lock(fcntl.LOCK_EX, path, "another process works there; wait for it")
            else:
                self._lock(fcntl.LOCK_SH, path, "a process that takes all cases works there; wait for it")
                self._claim_shard(path, shard)
        except OSError as error:
            self.release()
            raise UserError(f"{path}: cannot work there ({error.strerror}); choose another output") from error

    def _claim_shard(self, path: Path, shard: Shard) -> None:
        (path / SHARDS).mkdir(exist_ok=True)
        suffix = f"_of_{shard.count}"
        self._descriptors.append(_opened(path / SHARDS / f"{shard.index + 1}{suffix}", os.O_RDWR | os.O_CREAT))
        self._lock(fcntl.LOCK_EX, path, f"another process works there on shard {shard}; wait for it")
        for other in sorted((path / SHARDS).glob("*_of_*")):
            if not other.name.endswith(suffix):
                self._descriptors.append(_opened(other, os.O_RDWR))
                found = other.name.replace("_of_", "/")
                # shared: two that look at the same time do not take each other for its owner
                self._lock(fcntl.LOCK_SH, path, f"shard {found} of another division works there; wait for it")
                _close(self._descriptors.pop())

    def _lock(self, how: int, path: Path, refusal: str) -> None:
        """Lock what was opened last."""
        try:
            fcntl.flock(self._descriptors[-1], how | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self.release()
            raise UserError(f"{path}: {refusal}, or choose another output") from error
        except OSError:
            pass

    def release(self) -> None:
        """Let others work there; folders made for that go if nothing is in them."""
        if not self._descriptors:
            return
        with contextlib.suppress(OSError):
            for path in self._made:
                path.rmdir()
        while self._descriptors:
            _close(self._descriptors.pop())


@contextlib.contextmanager
def in_turn(folder: str | os.PathLike, shard: Shard) -> Iterator[None]:
    """Wait until no other shard is in such a block for this folder: one merges and writes for all at a time.

    A process that has the whole does not wait, and nobody does where the file system has no locks.

    Args:
        folder: made if need be.
        shard: the part that this process has of the work there.

    Raises:
        UserError: if the folder cannot be written.
    """
    if shard.count == 1:
        yield
        return
    path = Path(folder) / SHARDS / "turn"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _opened(path, os.O_RDWR | os.O_CREAT)  # a lock for one on a network mount asks for writing
    except OSError as error:
        raise UserError(f"{folder}: cannot work there ({error.strerror}); choose another output") from error
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        _close(descriptor)


_held: set[int] = set()  # descriptors with locks


def _opened(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags, 0o666)
    _held.add(descriptor)
    return descriptor


def _close(descriptor: int) -> None:
    if descriptor in _held:
        _held.remove(descriptor)
        os.close(descriptor)


def _forget() -> None:
    """In a forked process, which would keep the locks for some seconds after its parent was killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
