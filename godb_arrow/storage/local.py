"""The local disk: every call that changes it."""

from __future__ import annotations

import io
import os
from contextlib import suppress
from typing import Any

__all__ = ["Disk", "DiskWriter", "disk", "make_folders"]

_SYNC_SIZE = 4 << 20


class Disk:
    """What changes the local disk, each operation by a name: tests put another one in its place."""

    def open(self, path: str, flags: int, mode: int = 0o666) -> int:
        """Open or make a file."""
        return os.open(path, flags | os.O_CLOEXEC, mode)

    def write(self, descriptor: int, data: bytes | memoryview) -> int:
        """Write some of the bytes; returns how many."""
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        """Wait until the file's bytes are on the disk."""
        os.fsync(descriptor)

    def start_sync(self, descriptor: int, position: int, size: int) -> None:
        """Have a part of the file's bytes go to the disk meanwhile, so that fsync waits less."""
        if hasattr(os, "posix_fadvise"):
            # Linux begins to write what is advised away; only what is on the disk is forgotten.
            with suppress(OSError):  # fsync says what is wrong
                os.posix_fadvise(descriptor, position, size, os.POSIX_FADV_DONTNEED)

    def truncate(self, descriptor: int, size: int) -> None:
        """Cut the file."""
        os.ftruncate(descriptor, size)

    def close(self, descriptor: int) -> None:
        """Close the file."""
        os.close(descriptor)

    def replace(self, source: str, target: str) -> None:
        """Rename a file, over another if there is one."""
        os.replace(source, target)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)

    def link(self, source: str, target: str) -> None:
        """Give a file a second name."""
        os.link(source, target)

    def remove_folder(self, path: str) -> None:
        """Remove an empty folder."""
        os.rmdir(path)

    def make_folder(self, path: str) -> None:
        """Make a folder, and those above it, unless they are there."""
        os.makedirs(path, exist_ok=True)

    def sync_folder(self, path: str) -> None:
        """Wait until the folder's entries are on the disk."""
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def write_all(self, descriptor: int, data: bytes | memoryview) -> None:
        """Write all of the bytes."""
        view = memoryview(data)
        while view:
            view = view[self.write(descriptor, view) :]


disk = Disk()
"""The disk of this process."""


def make_folders(path: str) -> None:
    """Make a folder and those above it, unless they are there, on the disk for sure."""
    missing = []
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        missing.append(path)
        path = os.path.dirname(path)
    for folder in reversed(missing):
        disk.make_folder(folder)
        disk.sync_folder(os.path.dirname(folder))


class DiskWriter(io.RawIOBase):
    """A file descriptor as the raw side of a buffered stream; it is not closed with it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._written = self._started = 0

    def writable(self) -> bool:
        """Return True."""
        return True

    def write(self, data: Any) -> int:
        """Write bytes, and start to flush them to the disk once they are many."""
        count = disk.write(self._descriptor, data)
        self._written += count
        if self._written - self._started >= _SYNC_SIZE:
            disk.start_sync(self._descriptor, self._started, self._written - self._started)
            self._started = self._written
        return count
