"""Atomic replacement of files, local and remote."""

from __future__ import annotations

import io
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import IO, BinaryIO, cast

from godb_arrow.errors import InvalidOption, SourceNotFound, WriteConflict, storage_errors
from godb_arrow.storage import local
from godb_arrow.storage.local import DiskWriter
from godb_arrow.storage.lock import LOCK_SUFFIX, is_file_of, lock_file, try_lock
from godb_arrow.storage.object_store import Expected
from godb_arrow.storage.source import local_version, resolve

__all__ = ["replace_file"]

_ABANDONED = 60.0  # seconds without a write, after which nobody's temporary file is removed
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".godb-arrow-", ".tmp"


@contextmanager
def replace_file(
    target: str | os.PathLike[str] | IO[bytes], *, expected: Expected = None
) -> Iterator[BinaryIO]:
    """Write a file that takes the place of another at once, or not at all.

    Locally the bytes go to a temporary file beside the target, which is flushed to the disk
    and renamed. A URL gets them in one upload. An open file is written as it is.

    Parameters
    ----------
    target : path, URL or open binary file
        What to write.
    expected : str, "absent" or None
        The version that is replaced, nothing at all, or whatever is there.

    Yields
    ------
    binary file
        When the block ends without an error, the target has its new content.

    Raises
    ------
    WriteConflict
        Another writer replaced the file since it had the expected version.
    """
    if not isinstance(target, (str, os.PathLike)):
        if not hasattr(target, "write"):
            raise InvalidOption(
                f"cannot write to {type(target).__name__}",
                advice="give a path, a URL, or a file that is open for writing in binary mode",
            )
        with storage_errors("write", str(getattr(target, "name", "<file>"))):
            yield cast(BinaryIO, target)
        return
    name = os.fspath(target)
    store, path = resolve(name)
    with storage_errors("write", name):
        if store is None:
            with _replace_local(path, expected) as stream:
                yield stream
        else:
            with tempfile.NamedTemporaryFile(prefix="godb-arrow-") as temporary:
                yield cast(BinaryIO, temporary)
                temporary.flush()
                store.put(temporary.name, expected=expected)


@contextmanager
def _replace_local(path: str, expected: Expected) -> Iterator[BinaryIO]:
    path = os.path.realpath(path)  # a symbolic link stays one
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise SourceNotFound(f"there is no folder {folder}", advice="make it first")
    _remove_abandoned(folder)
    temporary = os.path.join(folder, f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{TEMPORARY_SUFFIX}")
    descriptor = local.disk.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        try_lock(descriptor)
        try:
            with io.BufferedWriter(DiskWriter(descriptor), 1 << 20) as stream:
                yield cast(BinaryIO, stream)
            os.fchmod(descriptor, _mode_for(path))
            local.disk.fsync(descriptor)
        finally:
            local.disk.close(descriptor)
        with nullcontext() if expected is None else lock_file(path):
            if expected not in (None, local_version(path) or "absent"):
                raise WriteConflict(
                    "another program replaced the file since it was read",
                    advice="read it again, and repeat the change",
                )
            local.disk.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    local.disk.sync_folder(folder)


_tidied: set[str] = set()


def _remove_abandoned(folder: str) -> None:
    """Remove files of killed writers, which no process has locked any more."""
    if folder in _tidied:
        return
    _tidied.add(folder)  # once is enough for a process
    oldest = time.time() - _ABANDONED
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            is_ours = entry.name.startswith(TEMPORARY_PREFIX)
            if not is_ours or not entry.name.endswith((TEMPORARY_SUFFIX, LOCK_SUFFIX)):
                continue
            if entry.stat().st_mtime > oldest:
                continue  # its writer may not have locked it yet
            descriptor = os.open(entry.path, os.O_RDONLY)
            try:
                if try_lock(descriptor) and is_file_of(descriptor, entry.path):
                    os.unlink(entry.path)
            finally:
                os.close(descriptor)


def _mode_for(path: str) -> int:
    """The mode of the file that is replaced, or that of a new file."""
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
