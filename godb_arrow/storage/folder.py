"""Files of one folder by name, on the local disk or on an object store."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import reduce
from typing import BinaryIO

from godb_arrow.errors import storage_errors
from godb_arrow.storage import local
from godb_arrow.storage.inside import check_folder, open_to_read, regular_file, regular_files
from godb_arrow.storage.local import checked_path
from godb_arrow.storage.modes import UNLIMITED, Access, restrict_file
from godb_arrow.storage.object_store import Expected, RemoteStore, is_url
from godb_arrow.storage.replace import replace_file
from godb_arrow.storage.source import HeldFile, Source
from godb_arrow.storage.url_options import UrlOptions, options_of

__all__ = ["Folder", "open_folder"]


class Folder:
    """Folder of the local disk, whose files are opened, listed and removed inside it.

    Parameters
    ----------
    path : str
        The folder, which need not exist yet.
    above : Folder, optional
        The enclosing folder. Without one the path is the user's choice, and may have symbolic
        links.

    Examples
    --------
    >>> import tempfile
    >>> folder = open_folder(tempfile.mkdtemp())
    >>> folder.names()
    []
    """

    expected_of_new: Expected = None
    """Argument of :func:`~godb_arrow.storage.replace.replace_file` for a name that must be new."""

    def __init__(self, path: str, above: Folder | None = None) -> None:
        self.path = checked_path(path)
        self._above = above

    def folder(self, name: str) -> Folder:
        """Return a folder inside this one."""
        return Folder(self.place(name), self)

    def check(self) -> bool:
        """Return whether the folder exists.

        Raises
        ------
        StorageError
            The folder or an enclosing folder is a symbolic link or a file.
        """
        if self._above is None:
            return os.path.isdir(self.path)
        return self._above.check() and check_folder(self.path) is not None

    def place(self, name: str) -> str:
        """Return the path or URL of a file."""
        return os.path.join(self.path, name)

    def names(self) -> list[str]:
        """Return the names of all entries, sorted."""
        with storage_errors("list", self.path):
            self.check()
            try:
                return sorted(os.listdir(self.path))
            except FileNotFoundError:
                return []

    def files(self, is_ours: Callable[[str], bool]) -> list[str]:
        """Return the names of the regular files that godb_arrow named, sorted.

        Parameters
        ----------
        is_ours : callable
            Whether godb_arrow named a file, given its name.
        """
        with storage_errors("list", self.path):
            return regular_files(self.path, is_ours) if self.check() else []

    def make(self, access: Access | None = None) -> None:
        """Create the folder, unless it exists.

        Parameters
        ----------
        access : Access, optional
            Permissions that a new folder has at most.
        """
        with storage_errors("make", self.path):
            if self.check():
                return
            local.make_folders(self.path)
            self.check()
            limit = self.access() if access is None else access
            descriptor = os.open(self.path, os.O_RDONLY)
            try:
                limit.restrict(descriptor)
            finally:
                os.close(descriptor)

    def access(self) -> Access:
        """Return the permissions that the folder and its enclosing folders grant to files."""
        with suppress(FileNotFoundError), storage_errors("inspect", self.path):
            granted = Access.of_folder(os.stat(self.path))
            return granted if self._above is None else granted & self._above.access()
        return UNLIMITED if self._above is None else self._above.access()

    def access_of(self, name: str) -> Access:
        """Return the permissions that a file and its enclosing folders grant."""
        with storage_errors("inspect", self.place(name)):
            self.check()
            status = regular_file(self.place(name))
            return self.access() if status is None else Access.of_file(status) & self.access()

    def access_of_files(self, suffix: str) -> Access:
        """Return the permissions that all regular files with a suffix grant together."""
        with storage_errors("list", self.path), os.scandir(self.path) as entries:
            statuses = [
                entry.stat(follow_symlinks=False)
                for entry in entries
                if entry.name.endswith(suffix) and entry.is_file(follow_symlinks=False)
            ]
        kinds = {(status.st_mode, status.st_gid): status for status in statuses}  # few are distinct
        return reduce(operator.and_, map(Access.of_file, kinds.values()), self.access())

    def lacks(self, name: str) -> bool:
        """Return whether a file is missing; False on an object store, where asking is slow."""
        with storage_errors("inspect", self.place(name)):
            self.check()
            return regular_file(self.place(name)) is None

    def restrict(self, name: str, access: Access) -> None:
        """Remove from a file the permissions that are denied."""
        with storage_errors("inspect", self.place(name)):
            self.check()
            restrict_file(self.place(name), access)

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """Open a file for reading."""
        with storage_errors("open", self.place(name)):
            self.check()
            stream = open_to_read(self.place(name))
        with stream, storage_errors("read", self.place(name)):
            yield stream

    def hold(self, name: str) -> HeldFile:
        """Return a file that stays readable when it is replaced or removed."""
        with storage_errors("open", self.place(name)):
            self.check()
            return HeldFile.inside(self.place(name), self.access())

    def replace(
        self, name: str, access: Access | None = None, *, expected: Expected = None
    ) -> AbstractContextManager[BinaryIO]:
        """Write a file that atomically replaces the target.

        Parameters
        ----------
        name : str
            The file.
        access : Access, optional
            Permissions that the file has at most. By default a new file gets the folder's.
        expected : str, "absent" or None
            See :func:`~godb_arrow.storage.replace.replace_file`.
        """
        with storage_errors("write", self.place(name)):
            self.check()
            if access is None and regular_file(self.place(name)) is None:
                access = self.access()
        return replace_file(self.place(name), expected=expected, access=access, inside=True)

    def size(self, name: str) -> int:
        """Return the size of a file in bytes."""
        return self._status(name).st_size

    def modified(self, name: str) -> float:
        """Return the time of the last change of a file, in seconds since 1970."""
        return self._status(name).st_mtime

    def _status(self, name: str) -> os.stat_result:
        with storage_errors("inspect", self.place(name)):
            self.check()
            status = regular_file(self.place(name))
            if status is None:
                raise FileNotFoundError(self.place(name))
            return status

    def remove(self, name: str) -> None:
        """Remove a file."""
        with storage_errors("remove", self.place(name)):
            self._status(name)
            local.disk.unlink(self.place(name))

    def rename(self, name: str, new_name: str) -> None:
        """Rename a file; object stores have no atomic rename."""
        with storage_errors("rename", self.place(name)):
            self._status(name)
            local.disk.replace(self.place(name), self.place(new_name))

    def share(self, other: Folder, name: str) -> None:
        """Link or copy a file of another folder into this one, unless it exists here."""
        with storage_errors("rename", self.place(name)):
            other._status(name)
            if regular_file(self.place(name)) is None:
                local.disk.link(other.place(name), self.place(name))

    def sync(self) -> None:
        """Flush the folder's entries to the disk."""
        with storage_errors("sync", self.path):
            local.disk.sync_folder(self.path)

    def remove_empty(self) -> bool:
        """Remove the folder if it is empty; return whether it is absent afterwards."""
        with storage_errors("remove", self.path):
            if not self.check():
                return True
            if os.listdir(self.path):
                return False
            local.disk.remove_folder(self.path)
            local.disk.sync_folder(os.path.dirname(self.path))
            return True


class _RemoteFolder(Folder):
    """Objects of an object store under a prefix.

    Options of the store that are in use when a folder is made stay in use as long as the folder. So
    a reader that outlives its handle opens more files with them.
    """

    expected_of_new: Expected = "absent"

    def __init__(self, path: str, above: Folder | None = None) -> None:
        super().__init__(path, above)
        if above is None:  # A folder inside of another one keeps that, and so its options.
            UrlOptions(path, options_of(path) or None).start_for(self)

    def folder(self, name: str) -> Folder:
        return _RemoteFolder(self.place(name), self)

    def check(self) -> bool:
        """Return True, since an object store has no folders and no links."""
        return True

    def place(self, name: str) -> str:
        return f"{self.path}/{name}"

    def _store(self, name: str) -> RemoteStore:
        return RemoteStore(self.place(name))

    def names(self) -> list[str]:
        return RemoteStore(self.path).names()

    def files(self, is_ours: Callable[[str], bool]) -> list[str]:
        return list(filter(is_ours, self.names()))

    def make(self, access: Access | None = None) -> None:
        """Do nothing, since an object store has no folders."""

    def access(self) -> Access:
        return UNLIMITED

    def access_of(self, name: str) -> Access:
        return UNLIMITED

    def lacks(self, name: str) -> bool:
        return False

    def restrict(self, name: str, access: Access) -> None:
        """Do nothing, since an object store has no permissions of files."""

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        with Source(self.place(name)).open() as stream:
            yield stream

    def hold(self, name: str) -> HeldFile:
        return HeldFile.hold(self.place(name))

    def replace(
        self, name: str, access: Access | None = None, *, expected: Expected = None
    ) -> AbstractContextManager[BinaryIO]:
        return replace_file(self.place(name), expected=expected)

    def size(self, name: str) -> int:
        return self._store(name).size() or 0

    def modified(self, name: str) -> float:
        modified = self._store(name).modified()
        return float("inf") if modified is None else modified

    def remove(self, name: str) -> None:
        self._store(name).remove()

    def share(self, other: Folder, name: str) -> None:
        if self._store(name).version() is None:
            self._store(name).copy_from(RemoteStore(other.place(name)))

    def sync(self) -> None:
        """Do nothing, since an object is durable once it is written."""

    def remove_empty(self) -> bool:
        RemoteStore(self.path).remove_empty_folder()
        return True


def open_folder(path: str) -> Folder:
    """Return the folder at a path or URL."""
    return _RemoteFolder(path.rstrip("/")) if is_url(path) else Folder(path)
