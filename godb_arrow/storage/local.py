"""Operations that change the local disk."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from godb_arrow.errors import InvalidOption

__all__ = ["Disk", "DiskWriter", "WriteCall", "checked_path", "disk", "make_folders"]

_SYNC_BYTES = 4 << 20

WriteCall = Callable[[int, "bytes | memoryview"], int]
"""Function that writes some of the bytes to a descriptor, and returns their number."""


def checked_path(path: str) -> str:
    """Return a path that the operating system can have.

    Raises
    ------
    InvalidOption
        The path has a zero byte, or half of a surrogate pair.
    """
    try:
        if b"\0" not in os.fsencode(path):
            return path
    except UnicodeEncodeError:
        pass
    raise InvalidOption(f"no file can have the path {path!r}", advice="correct the path")


def _sync(descriptor: int) -> None:
    getattr(os, "fdatasync", os.fsync)(descriptor)  # the times of a file need not be on the disk


class Disk:
    """Operations that change the local disk, which tests replace one by one."""

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        """Open or create a file."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def write(self, descriptor: int, data: bytes | memoryview, call: WriteCall = os.write) -> int:
        """Write some of the bytes and return their number."""
        return call(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Wait until the file's bytes, and its size, are on the disk."""
        _sync(descriptor)

    def start_sync(self, descriptor: int, position: int, size: int) -> None:
        """Start to write a part of the file to the disk, so that fsync takes less time."""
        if hasattr(os, "posix_fadvise"):
            # Linux writes the pages of the range to the disk before it drops them.
            with suppress(OSError):  # The next fsync reports the error.
                os.posix_fadvise(descriptor, position, size, os.POSIX_FADV_DONTNEED)

    def allocate(self, descriptor: int, position: int, size: int) -> None:
        """Extend the file by zeros, whose blocks are reserved, where the system can do that."""
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, position, size)

    def truncate(self, descriptor: int, size: int) -> None:
        """Truncate or extend the file."""
        os.ftruncate(descriptor, size)

    def close(self, descriptor: int) -> None:
        """Close the file."""
        os.close(descriptor)

    def replace(self, source: str, target: str) -> None:
        """Rename a file, replacing any file of the new name."""
        os.replace(source, target)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def link(self, source: str, target: str) -> None:
        """Create a hard link to a file."""
        os.link(source, target)

    def remove_folder(self, path: str) -> None:
        """Remove an empty folder."""
        os.rmdir(path)

    def make_folder(self, path: str) -> None:
        """Create a folder and its missing parents, unless it exists."""
        os.makedirs(path, exist_ok=True)

    def sync_folder(self, path: str) -> None:
        """Wait until the folder's entries are on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def write_all(self, descriptor: int, data: bytes | memoryview) -> None:
        """Write all bytes."""
        view = memoryview(data)
        while view:
            view = view[self.write(descriptor, view) :]


disk = Disk()
"""Disk of this process."""


def make_folders(path: str) -> None:
    """Create a folder and its missing parents, and flush their names to the disk."""
    missing = []
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        disk.make_folder(folder)
        disk.sync_folder(os.path.dirname(folder))


class DiskWriter(io.RawIOBase):
    """Raw side of a buffered stream on a file descriptor, which stays open when it is closed."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._written = self._started = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write bytes, and start to flush them to the disk after every few MiB."""
        count = disk.write(self._descriptor, data)
        self._written += count
        if self._written - self._started >= _SYNC_BYTES:
            disk.start_sync(self._descriptor, self._started, self._written - self._started)
            self._started = self._written
        return count
