"""Atomic replacement of files, local and remote."""

from __future__ import annotations

import io
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import IO, BinaryIO, cast

from godb_arrow.errors import InvalidOption, SourceNotFound, WriteConflict, storage_errors
from godb_arrow.storage import local
from godb_arrow.storage.inside import open_to_read, regular_file
from godb_arrow.storage.local import DiskWriter
from godb_arrow.storage.lock import is_file_of, is_lock_name, lock_file, try_lock
from godb_arrow.storage.modes import UNLIMITED, Access
from godb_arrow.storage.object_store import Expected
from godb_arrow.storage.occupied import check_unoccupied
from godb_arrow.storage.source import local_version, resolve

__all__ = ["is_temporary", "replace_file", "temporary_name"]

_ABANDONED_SECONDS = 60.0  # without a write, after which a killed writer's file is removed
TEMPORARY_PREFIX, TEMPORARY_SUFFIX = ".godb-arrow-", ".tmp"
_TEMPORARY = re.compile(r"\.godb-arrow-([0-9]{8,}|[0-9a-f]{16})\.tmp")


def temporary_name() -> str:
    """Return a new name for a file that is being written."""
    return f"{TEMPORARY_PREFIX}{os.urandom(8).hex()}{TEMPORARY_SUFFIX}"


def is_temporary(name: str) -> bool:
    """Return whether godb_arrow gave a file its name while writing the file.

    Examples
    --------
    >>> is_temporary(temporary_name()), is_temporary(".godb-arrow-notes.tmp")
    (True, False)
    """
    return _TEMPORARY.fullmatch(name) is not None


@contextmanager
def replace_file(
    target: str | os.PathLike[str] | IO[bytes],
    *,
    expected: Expected = None,
    access: Access | None = None,
    inside: bool = False,
) -> Iterator[BinaryIO]:
    """Write a file that atomically replaces the target.

    Locally the bytes go to a temporary file beside the target, which is flushed to the disk
    and renamed. A URL gets them in one upload. An open file is written directly.

    Parameters
    ----------
    target : path, URL or open binary file
        File to write.
    expected : str, "absent" or None
        Version to replace, "absent" if no file may exist, or None for no condition (default).
    access : Access, optional
        Permissions of a local file, at most. A file that is replaced keeps its mode, as far as
        `access` grants it.
    inside : bool
        Whether the path belongs to a folder that must not lead elsewhere, default False.
        Otherwise a symbolic link stays one, and the target of the link is replaced.

    Yields
    ------
    binary file
        When the block ends without an error, the target has its new content.

    Raises
    ------
    WriteConflict
        Another writer replaced the file since it had the expected version.
    DirectoryLocked, InvalidOption
        The file belongs to a data directory; see :func:`check_unoccupied`.
    """
    if not isinstance(target, (str, os.PathLike)):
        if not hasattr(target, "write"):
            raise InvalidOption(
                f"cannot write to {type(target).__name__}",
                advice="give a path, a URL, or a file that is open for writing in binary mode",
            )
        name = str(getattr(target, "name", "<file>"))
        if isinstance(target, io.TextIOBase):
            raise InvalidOption(
                f"{name} is open as text", advice="open it in binary mode, with open(…, 'wb')"
            )
        with storage_errors("write", name):
            yield cast(BinaryIO, target)
        return
    name = os.fspath(target)
    store, path = resolve(name)
    with storage_errors("write", name):
        if store is None:
            with _replace_local(path, expected, access or UNLIMITED, inside) as stream:
                yield stream
        else:
            import tempfile

            with tempfile.NamedTemporaryFile(prefix="godb-arrow-") as temporary:
                yield cast(BinaryIO, temporary)
                temporary.flush()
                store.put(temporary.name, expected=expected)


@contextmanager
def _replace_local(
    path: str, expected: Expected, access: Access, inside: bool
) -> Iterator[BinaryIO]:
    if not inside:
        path = os.path.realpath(path)  # A symbolic link is kept, and its target replaced.
        check_unoccupied(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        raise SourceNotFound(f"there is no folder {folder}", advice="create it first")
    before = regular_file(path)
    _remove_abandoned(folder)
    temporary = os.path.join(folder, temporary_name())
    # The kernel applies the umask to a new file. A file that replaces another one keeps its mode.
    mode = access.new_file if before is None else 0o600
    descriptor = local.disk.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        try_lock(descriptor)
        try:
            access.restrict(descriptor)
            with io.BufferedWriter(DiskWriter(descriptor), 1 << 20) as stream:
                yield cast(BinaryIO, stream)
            if before is not None:
                limit = Access.of_file(before) & access
                limit.apply(descriptor, stat.S_IMODE(before.st_mode))
            local.disk.fsync(descriptor)
        finally:
            local.disk.close(descriptor)
        with nullcontext() if expected is None else lock_file(path):
            if expected not in (None, local_version(path) or "absent"):
                raise WriteConflict(
                    "another program replaced the file since it was read",
                    advice="read it again and repeat the change",
                )
            local.disk.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    local.disk.sync_folder(folder)


_tidied: set[str] = set()


def _remove_abandoned(folder: str) -> None:
    """Remove the files of killed writers, which no process has locked."""
    if folder in _tidied:
        return
    _tidied.add(folder)  # Each process does this once for each folder.
    oldest = time.time() - _ABANDONED_SECONDS
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            is_ours = is_temporary(entry.name) or is_lock_name(entry.name)
            if not is_ours or not entry.is_file(follow_symlinks=False):
                continue
            if entry.stat(follow_symlinks=False).st_mtime > oldest:
                continue  # The writer may be about to lock its new file.
            with suppress(OSError), open_to_read(entry.path, is_read=False) as stream:
                descriptor = stream.fileno()
                if try_lock(descriptor) and is_file_of(descriptor, entry.path):
                    os.unlink(entry.path)
