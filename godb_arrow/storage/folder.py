"""The files of one folder by their names, on the local disk or on an object store."""

from __future__ import annotations

import os
from contextlib import suppress

from godb_arrow.errors import storage_errors
from godb_arrow.storage import local
from godb_arrow.storage.object_store import Expected, RemoteStore, is_url

__all__ = ["Folder", "open_folder"]


class Folder:
    """A folder of the local disk, which need not be there yet.

    Parameters
    ----------
    path : str
        Where it is.

    Examples
    --------
    >>> import tempfile
    >>> folder = open_folder(tempfile.mkdtemp())
    >>> folder.names()
    []
    """

    expected_of_new: Expected = None
    """For :func:`~godb_arrow.storage.replace.replace_file`, of a name that nobody must have."""

    def __init__(self, path: str) -> None:
        self.path = path

    def place(self, name: str) -> str:
        """The path or URL of a file."""
        return os.path.join(self.path, name)

    def names(self) -> list[str]:
        """The names of what is there, sorted."""
        with storage_errors("list", self.path):
            try:
                return sorted(os.listdir(self.path))
            except FileNotFoundError:
                return []

    def make(self) -> None:
        """Make it, unless it is there."""
        with storage_errors("make", self.path):
            local.make_folders(self.path)

    def size(self, name: str) -> int:
        """Bytes of a file."""
        with storage_errors("look at", self.place(name)):
            return os.path.getsize(self.place(name))

    def modified(self, name: str) -> float:
        """When a file was written, in seconds since 1970."""
        with storage_errors("look at", self.place(name)):
            return os.stat(self.place(name)).st_mtime

    def remove(self, name: str) -> None:
        """Remove a file."""
        with storage_errors("remove", self.place(name)):
            local.disk.unlink(self.place(name))

    def rename(self, name: str, new_name: str) -> None:
        """Give a file another name; an object store cannot do that at once, and is not asked."""
        with storage_errors("rename", self.place(name)):
            local.disk.replace(self.place(name), self.place(new_name))

    def share(self, other: Folder, name: str) -> None:
        """Have a file of another folder here, too, unless it is."""
        with storage_errors("rename", self.place(name)):
            if not os.path.exists(self.place(name)):
                local.disk.link(other.place(name), self.place(name))

    def sync(self) -> None:
        """Have the names on the disk for sure."""
        with storage_errors("sync", self.path):
            local.disk.sync_folder(self.path)

    def remove_all(self) -> None:
        """Remove it with all that is in it."""
        with storage_errors("remove", self.path), suppress(FileNotFoundError):
            for name in sorted(os.listdir(self.path)):
                local.disk.unlink(self.place(name))
            local.disk.remove_folder(self.path)
            local.disk.sync_folder(os.path.dirname(self.path))


class _RemoteFolder(Folder):
    """What an object store has under a prefix."""

    expected_of_new: Expected = "absent"

    def place(self, name: str) -> str:
        return f"{self.path}/{name}"

    def _store(self, name: str) -> RemoteStore:
        return RemoteStore(self.place(name))

    def names(self) -> list[str]:
        return RemoteStore(self.path).names()

    def make(self) -> None:
        """There are no folders."""

    def size(self, name: str) -> int:
        return self._store(name).size() or 0

    def modified(self, name: str) -> float:
        found = self._store(name).modified()
        return float("inf") if found is None else found

    def remove(self, name: str) -> None:
        self._store(name).remove()

    def share(self, other: Folder, name: str) -> None:
        if self._store(name).version() is None:
            self._store(name).copy_from(RemoteStore(other.place(name)))

    def sync(self) -> None:
        """What was written is there."""

    def remove_all(self) -> None:
        # With its manifest it is gone for others.
        for name in sorted(self.names(), key=lambda one: not one.endswith(".manifest")):
            self.remove(name)
        RemoteStore(self.path).remove_empty_folder()


def open_folder(path: str) -> Folder:
    """A folder, by its path or URL."""
    return _RemoteFolder(path.rstrip("/")) if is_url(path) else Folder(path)
