"""Regular files inside folders that another program may have filled.

A data directory, a backup and the source of a follower may come from a tar file, a share or another
user. The path of such a folder is the caller's choice and may have symbolic links. Below that path
every file must be a regular file, and every folder a real folder. A symbolic link, named pipe,
socket or device is refused before it is opened, so that no path leads out of the folder.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from typing import BinaryIO

from godb_arrow.errors import StorageError
from godb_arrow.storage import local
from godb_arrow.storage.holes import check_dense

__all__ = [
    "check_folder",
    "number_in",
    "open_inside",
    "open_to_read",
    "regular_file",
    "regular_files",
]


_DIGITS = re.compile("[0-9]{8,}")
# O_NOFOLLOW refuses links. O_NONBLOCK keeps the opening of a named pipe from waiting.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_KINDS = [
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISREG, "a file"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
]


def regular_file(path: str) -> os.stat_result | None:
    """Return the status of a regular file, or None where there is no file.

    Raises
    ------
    StorageError
        The path is a symbolic link, a folder, a named pipe, a socket or a device.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(status.st_mode):
        raise _refusal(path, "a regular file", status)
    return status


def regular_files(folder: str, is_wanted: Callable[[str], bool]) -> list[str]:
    """Return the sorted names of the regular files in a folder whose names are wanted."""
    with os.scandir(folder) as entries:
        return sorted(
            entry.name
            for entry in entries
            if is_wanted(entry.name) and entry.is_file(follow_symlinks=False)
        )


def check_folder(path: str) -> os.stat_result | None:
    """Return the status of a real folder, or None where there is no folder.

    Raises
    ------
    StorageError
        The path is a symbolic link or a file.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(status.st_mode):
        raise _refusal(path, "a folder", status)
    return status


def open_inside(path: str, flags: int, mode: int = 0o666) -> int:
    """Open or create a regular file for changes; return its descriptor.

    Parameters
    ----------
    path : str
        The file.
    flags : int
        Flags of :func:`os.open`.
    mode : int
        Permission bits of a new file, from which the kernel removes the umask.

    Raises
    ------
    StorageError
        The path is a symbolic link, a folder, a named pipe, a socket or a device.
    """
    return _open(path, lambda: local.disk.open(path, flags | _NO_LINK, mode))


def open_to_read(path: str, *, is_read: bool = True) -> BinaryIO:
    """Open a regular file for reading.

    Parameters
    ----------
    path : str
        The file.
    is_read : bool
        Whether the content is read, default True. Such a file must not be sparse.

    Raises
    ------
    StorageError
        The path is a symbolic link, a folder, a named pipe, a socket, a device or a sparse file.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | _NO_LINK
    stream = os.fdopen(_open(path, lambda: os.open(path, flags)), "rb")
    if is_read:
        try:
            check_dense(path, stream.fileno())
        except BaseException:
            stream.close()
            raise
    return stream


def _open(path: str, opener: Callable[[], int]) -> int:
    regular_file(path)  # Opening a device could already have an effect.
    descriptor = opener()
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):  # Another program replaced the file in between.
        os.close(descriptor)
        raise _refusal(path, "a regular file", status)
    return descriptor


def _refusal(path: str, expected: str, status: os.stat_result) -> StorageError:
    kinds = (kind for is_kind, kind in _KINDS if is_kind(status.st_mode))
    found = next(kinds, "a device")
    advice = "move or remove it"
    if stat.S_ISLNK(status.st_mode):
        advice = "move the data that it points to into its place, or remove the link"
    error = StorageError(f"expected {expected}, found {found}", advice=advice)
    error.operation, error.source = "open", path
    error.errno = errno.ELOOP if stat.S_ISLNK(status.st_mode) else errno.EINVAL
    return error


def number_in(name: str, suffix: str) -> int | None:
    """Return the number in a file name of eight or more digits, or None for other names.

    Examples
    --------
    >>> number_in("00000012.journal", ".journal")
    12
    >>> number_in("12.journal", ".journal"), number_in("000000012.journal", ".journal")
    (None, None)
    """
    stem = name.removesuffix(suffix)
    if stem == name or not _DIGITS.fullmatch(stem):
        return None
    number = int(stem)
    return number if f"{number:08d}" == stem else None
