"""Folder or URL of a follower."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import filelock

from godb_arrow.directory.data_directory import PARTS
from godb_arrow.directory.directory_lock import lock_directory
from godb_arrow.directory.follower_file import FOLLOWER_FILE, read_follower_file
from godb_arrow.directory.journal_copy import JournalCopy, RemoteJournalCopy
from godb_arrow.directory.kept_segments import mirror_kept
from godb_arrow.directory.names import ATTACHED, is_stored_name
from godb_arrow.directory.places import full_path
from godb_arrow.storage import local
from godb_arrow.storage.folder import Folder, open_folder
from godb_arrow.storage.inside import regular_file
from godb_arrow.storage.modes import Access
from godb_arrow.storage.object_store import RemoteStore, is_url
from godb_arrow.storage.replace import is_temporary, temporary_name

__all__ = [
    "FollowerTarget",
    "Staged",
    "Stamp",
    "comes_late",
    "list_stored",
    "open_target",
    "split_stored",
]


_BLOCK_BYTES = 1 << 20

Stamp = tuple[int, int]
"""Size of a file in bytes, and time of its last change in nanoseconds."""

_UNKNOWN: Stamp = (-1, -1)


@dataclass(frozen=True, slots=True)
class Staged:
    """File that is copied under a temporary name."""

    name: str
    temporary: str
    stamp: Stamp


def comes_late(name: str) -> bool:
    """Return whether a file makes new content visible, so that it must follow the journal."""
    return ("/" not in name and not name.endswith(ATTACHED)) or name.endswith(".manifest")


def list_stored(folder: Folder) -> dict[str, Stamp]:
    """Return the files of collections in a local folder, with their stamps.

    Raises
    ------
    StorageError
        A file is a symbolic link, a named pipe or a device, or a folder is a symbolic link.
    """
    stamps = {}
    for path, name in _stored_in(folder):
        status = regular_file(path)
        if status is not None:
            stamps[name] = (status.st_size, status.st_mtime_ns)
    return stamps


def _stored_in(folder: Folder) -> Iterator[tuple[str, str]]:
    for name in folder.names():
        if is_stored_name(name):
            yield folder.place(name), name
        elif name.endswith(PARTS) and not name.startswith("."):
            inner = folder.folder(name)
            for part in inner.names():
                if is_stored_name(f"{name}/{part}"):
                    yield inner.place(part), f"{name}/{part}"


def split_stored(folder: Folder, name: str) -> tuple[Folder, str]:
    """Return the folder of a collection's file below the folder of collections, and its name."""
    above, _, file = name.rpartition("/")
    return (folder.folder(above) if above else folder), file


class _Journal(Protocol):
    @property
    def last(self) -> int: ...
    def source_indices(self) -> list[int]: ...
    def is_continued(self) -> bool: ...
    def take_attached(self) -> set[str]: ...
    def copy(self) -> int: ...
    def replace(self, indices: Iterable[int]) -> bool: ...
    def forget_before(self, indices: Iterable[int]) -> None: ...


class FollowerTarget:
    """A follower's folder, which is a data directory.

    Parameters
    ----------
    path : str
        The folder, created if it is missing, and locked until it is closed.

    Raises
    ------
    DirectoryLocked
        Another process has locked the folder.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._root = open_folder(path)
        self._stored = self._root.folder("collections")
        self._journal = self._root.folder("journal")
        self._lock: filelock.BaseFileLock | None = None
        self._open()

    def _open(self) -> None:
        local.make_folders(self.path)
        self._lock = lock_directory(self.path)

    def close(self) -> None:
        """Release the lock of the folder."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def read_state(self) -> dict[str, Any] | None:
        """Return the state that the follower records, or None for other folders."""
        return read_follower_file(self.path)

    def write_state(self, state: dict[str, Any]) -> None:
        """Record the state of the follower."""
        with self._root.replace(FOLLOWER_FILE) as stream:
            stream.write(json.dumps(state, indent=1).encode())

    def has_content(self) -> bool:
        """Return whether there are files of collections, or a journal."""
        return bool(self._stored.names() or self._journal.names())

    def journal(self, source: str, *, anew: bool = False) -> _Journal:
        """Return the copy of the journal."""
        access = open_folder(os.path.dirname(source)).folder("journal").access()
        return JournalCopy(
            source, self._journal.path, anew=anew, access=access & self._journal.access()
        )

    def note_content(self) -> None:
        """Record files that no state of the follower names."""

    def tidy(self) -> None:
        """Create the folders, and remove staged files."""
        for folder in (self._stored, self._journal):
            folder.make()
        names = [name for name in self._stored.names() if not name.startswith(".")]
        parts = [self._stored.folder(name) for name in names if name.endswith(PARTS)]
        for folder in (self._root, self._stored, self._journal, *parts):
            for name in folder.files(is_temporary):
                local.disk.unlink(folder.place(name))

    def mirror_changes(self, source: str) -> None:
        """Copy the earlier changes that the source keeps for their readers."""
        mirror_kept(source, self.path)

    def files(self) -> dict[str, Stamp]:
        """Return the follower's files with their stamps."""
        return list_stored(self._stored)

    def stage(self, name: str, stream: BinaryIO, access: Access) -> Staged:
        """Copy a file under a temporary name, with the time of its last change.

        Parameters
        ----------
        name : str
            Path of the file below the folder of collections.
        stream : binary file
            The file of the source.
        access : Access
            Permissions that the copy has at most.
        """
        folder, file = split_stored(self._stored, name)
        folder.make()
        access &= folder.access_of(file)
        temporary = folder.place(temporary_name())
        status = os.fstat(stream.fileno())
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        descriptor = local.disk.open(temporary, flags, access.new_file)
        try:
            access.restrict(descriptor)
            while block := stream.read(_BLOCK_BYTES):
                local.disk.write_all(descriptor, block)
            local.disk.fsync(descriptor)
        finally:
            local.disk.close(descriptor)
        os.utime(temporary, ns=(status.st_mtime_ns, status.st_mtime_ns))
        return Staged(name, temporary, (status.st_size, status.st_mtime_ns))

    def place(self, staged: list[Staged]) -> None:
        """Rename staged files to their names."""
        folders = set()
        for copy in staged:
            folder, file = split_stored(self._stored, copy.name)
            folder.check()
            local.disk.replace(copy.temporary, folder.place(file))
            folders.add(folder.path)
        for path in sorted(folders):
            local.disk.sync_folder(path)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files, manifests first."""
        folders = set()
        for late in (True, False):
            for name in sorted(names):
                if comes_late(name) == late:
                    folder, file = split_stored(self._stored, name)
                    folder.check()
                    local.disk.unlink(folder.place(file))
                    folders.add(folder.path)
            for path in sorted(folders):
                local.disk.sync_folder(path)
        for path in sorted(folders - {self._stored.path}):
            self._stored.folder(os.path.basename(path)).remove_empty()


class _RemoteTarget(FollowerTarget):
    """Follower on an object store, whose state lists its files."""

    def _open(self) -> None:
        self._files: dict[str, Stamp] = {}
        self._temporary = tempfile.TemporaryDirectory(prefix="godb-arrow-follower-")
        self._journals: list[RemoteJournalCopy] = []

    def close(self) -> None:
        self._temporary.cleanup()
        for journal in self._journals:
            journal.close()

    def read_state(self) -> dict[str, Any] | None:
        state = super().read_state()
        self._files = {} if state is None else dict(state["files"])
        return state

    def write_state(self, state: dict[str, Any]) -> None:
        super().write_state({**state, "files": self._files})

    def mirror_changes(self, source: str) -> None:
        """Do nothing: a follower on an object store has only the journal."""

    def journal(self, source: str, *, anew: bool = False) -> _Journal:
        journal = RemoteJournalCopy(source, f"{self.path}/journal", anew=anew)
        self._journals.append(journal)
        return journal

    def note_content(self) -> None:
        place = open_folder(f"{self.path}/collections")
        for name in place.names():
            inner = open_folder(place.place(name)).names() if name.endswith(PARTS) else [""]
            for part in inner:
                self._files.setdefault(f"{name}/{part}" if part else name, _UNKNOWN)

    def tidy(self) -> None:
        for name in os.listdir(self._temporary.name):
            os.unlink(os.path.join(self._temporary.name, name))

    def files(self) -> dict[str, Stamp]:
        return dict(self._files)

    def stage(self, name: str, stream: BinaryIO, access: Access) -> Staged:
        status = os.fstat(stream.fileno())
        temporary = os.path.join(self._temporary.name, os.urandom(8).hex())
        with open(temporary, "wb") as target:
            while block := stream.read(_BLOCK_BYTES):
                target.write(block)
        return Staged(name, temporary, (status.st_size, status.st_mtime_ns))

    def place(self, staged: list[Staged]) -> None:
        for copy in staged:
            RemoteStore(f"{self.path}/collections/{copy.name}").put(copy.temporary)
            self._files[copy.name] = copy.stamp
            os.unlink(copy.temporary)

    def remove(self, names: Iterable[str]) -> None:
        for name in sorted(names, key=comes_late, reverse=True):
            RemoteStore(f"{self.path}/collections/{name}").remove()
            del self._files[name]


def open_target(path: str) -> FollowerTarget:
    """Return the target at a path or URL."""
    if is_url(path):
        return _RemoteTarget(full_path(path))
    return FollowerTarget(full_path(path))
