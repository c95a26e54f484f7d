"""Locks of local files, with which writers of the same file take turns.

A lock is an empty hidden file beside the target. The system's lock on it ends with its process, so
that a killed writer blocks no other.
"""

from __future__ import annotations

import errno
import os
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, BinaryIO, cast

import xxhash

from godb_arrow.errors import SourceNotFound, WriteConflict, storage_errors
from godb_arrow.storage.object_store import is_url
from godb_arrow.storage.source import resolve

__all__ = ["is_file_of", "is_lock_name", "lock_file", "try_lock"]

LOCK_PREFIX, LOCK_SUFFIX = ".godb-arrow-", ".lock"
_LOCK_NAME = re.compile(r"\.godb-arrow-[0-9a-f]{16}\.lock")
_WAIT_SECONDS = 60.0  # A writer locks a file only while it writes documents that it has encoded.
_POLL_SECONDS = 0.001, 0.02
_HELD_ELSEWHERE = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EINTR}


class _Held(threading.local):
    """Files that this thread has locked."""

    def __init__(self) -> None:
        self.paths: set[str] = set()


_held = _Held()


@contextmanager
def lock_file(target: str | os.PathLike[str] | IO[bytes]) -> Iterator[None]:
    """Lock a local file against other writers until the block ends.

    Threads and processes take turns. A thread may lock the same file again. File systems without
    locks, URLs and open files are not locked.

    Parameters
    ----------
    target : path, URL or open binary file
        The file, which need not exist. A symbolic link stands for its target.

    Raises
    ------
    WriteConflict
        Another writer keeps the lock for a minute.
    SourceNotFound
        The folder of the file does not exist.
    """
    if not isinstance(target, (str, os.PathLike)) or is_url(os.fspath(target)):
        yield
        return
    name = os.fspath(target)
    path = os.path.realpath(resolve(name)[1])
    if path in _held.paths:
        yield
        return
    with storage_errors("lock", name):
        lock = _wait_for(_lock_path(path), name)
    _held.paths.add(path)
    try:
        yield
    finally:
        _held.paths.discard(path)
        _release(lock)


def is_lock_name(name: str) -> bool:
    """Return whether a file name is the name of a lock."""
    return _LOCK_NAME.fullmatch(name) is not None


def _lock_path(path: str) -> str:
    folder, file = os.path.split(path)
    if not os.path.isdir(folder):
        raise SourceNotFound(f"there is no folder {folder}", advice="create it first")
    digest = xxhash.xxh3_64_hexdigest(os.fsencode(file))  # short, as names end at 255 bytes
    return os.path.join(folder, f"{LOCK_PREFIX}{digest}{LOCK_SUFFIX}")


def _wait_for(path: str, name: str) -> BinaryIO:
    """Open and lock the lock's file, waiting for its current owner."""
    deadline = time.monotonic() + _WAIT_SECONDS
    while True:
        lock = _open(path)
        if lock is not None:
            # Its former owner may have removed the file between the two steps.
            if try_lock(lock.fileno()) is not False and is_file_of(lock.fileno(), path):
                return lock
            lock.close()
        if time.monotonic() >= deadline:
            conflict = WriteConflict(
                f"another writer has locked the file for more than {_WAIT_SECONDS:.0f} s",
                advice="write again when the other writer has finished",
            )
            conflict.operation, conflict.source = "write", name
            raise conflict
        import random

        time.sleep(random.uniform(*_POLL_SECONDS))


def _open(path: str) -> BinaryIO | None:
    """Open the lock's file, or create it; return None if its owner just removed it.

    A file object, unlike a descriptor, is closed and so unlocked even if an interrupt arrives.
    """

    def create(path: str, _: int) -> int:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    try:
        return cast(BinaryIO, open(path, "r+b", buffering=0, opener=create))
    except PermissionError:
        if not os.path.lexists(path):
            raise
    with suppress(FileNotFoundError):
        return cast(BinaryIO, open(path, "rb", buffering=0))  # Another user created the file.
    return None


def _release(lock: BinaryIO) -> None:
    """Remove the lock's file while it is locked, so that no other process has locked it.

    A forked child may keep the file open and locked. The next writer then creates another file.
    """
    with suppress(OSError):
        os.unlink(lock.name)
    lock.close()


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed, unless another process or thread has locked it.

    Returns
    -------
    bool or None
        Whether the lock is acquired; None where the system has no locks.
    """
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:
        return None
    except OSError as error:
        return False if error.errno in _HELD_ELSEWHERE else None
    return True


def is_file_of(descriptor: int, path: str) -> bool:
    """Return whether a path leads to the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False
