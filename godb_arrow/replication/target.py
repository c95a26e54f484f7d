"""Where a follower is: a folder, or a place on an object store."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, BinaryIO, Protocol

import filelock

from godb_arrow.directory.data_directory import PARTS, lock_directory
from godb_arrow.directory.follower_file import FOLLOWER_FILE, read_follower_file
from godb_arrow.directory.journal_copy import JournalCopy, RemoteJournalCopy
from godb_arrow.storage import local
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.object_store import RemoteStore, is_url
from godb_arrow.storage.replace import TEMPORARY_PREFIX, TEMPORARY_SUFFIX, replace_file

__all__ = ["FollowerTarget", "Staged", "Stamp", "comes_late", "list_stored", "open_target"]


_BLOCK = 1 << 20

Stamp = tuple[int, int]
"""A file's size, and when it was changed, in nanoseconds."""

_UNKNOWN: Stamp = (-1, -1)


@dataclass(frozen=True, slots=True)
class Staged:
    """A file that is copied, and not in its place yet."""

    name: str
    temporary: str
    stamp: Stamp


def comes_late(name: str) -> bool:
    """Whether a file changes what there is to see: it takes its place after the journal."""
    return "/" not in name or name.endswith(".manifest")


def list_stored(folder: str) -> dict[str, Stamp]:
    """The files of collections in a local folder: bytes, and when changed, in nanoseconds."""
    found = {}
    for path, name in _stored_in(folder):
        with suppress(FileNotFoundError):
            status = os.stat(path)
            found[name] = (status.st_size, status.st_mtime_ns)
    return found


def _stored_in(folder: str) -> Iterator[tuple[str, str]]:
    if not os.path.isdir(folder):
        return
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        if name.startswith(TEMPORARY_PREFIX):
            continue
        if name.endswith(".godb"):
            yield path, name
        elif name.endswith(".parts"):
            with suppress(FileNotFoundError):
                for inner in sorted(os.listdir(path)):
                    if inner.endswith((".godb", ".ids", ".manifest")) and inner[:1].isdigit():
                        yield os.path.join(path, inner), f"{name}/{inner}"


class _Journal(Protocol):
    @property
    def last(self) -> int: ...
    def source_indices(self) -> list[int]: ...
    def is_continued(self) -> bool: ...
    def copy(self) -> int: ...
    def replace(self, indices: Iterable[int]) -> bool: ...
    def forget_before(self, indices: Iterable[int]) -> None: ...


class FollowerTarget:
    """A follower's folder, which is a data directory.

    Parameters
    ----------
    path : str
        The folder; made if need be. Nobody else writes it until it is closed.

    Raises
    ------
    DirectoryLocked
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._collections = os.path.join(path, "collections")
        self._lock: filelock.BaseFileLock | None = None
        self._open()

    def _open(self) -> None:
        local.make_folders(self.path)
        self._lock = lock_directory(self.path)

    def close(self) -> None:
        """Let others write it."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def read_state(self) -> dict[str, Any] | None:
        """What it says of itself."""
        return read_follower_file(self.path)

    def write_state(self, state: dict[str, Any]) -> None:
        """Have it say so."""
        with replace_file(open_folder(self.path).place(FOLLOWER_FILE)) as stream:
            stream.write(json.dumps(state, indent=1).encode())

    def has_content(self) -> bool:
        """Whether there are files of collections, or a journal."""
        return any(
            open_folder(open_folder(self.path).place(name)).names()
            for name in ("collections", "journal")
        )

    def journal(self, source: str, *, anew: bool = False) -> _Journal:
        """The copy of a journal."""
        return JournalCopy(source, os.path.join(self.path, "journal"), anew=anew)

    def note_content(self) -> None:
        """Find out which files are there that no state of the follower names."""

    def tidy(self) -> None:
        """Make the folders, and remove what was staged."""
        for folder in (self._collections, os.path.join(self.path, "journal")):
            local.make_folders(folder)
        for folder, _, names in os.walk(self.path):
            for name in names:
                if name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX):
                    local.disk.unlink(os.path.join(folder, name))

    def files(self) -> dict[str, Stamp]:
        """The files that it has."""
        return list_stored(self._collections)

    def stage(self, name: str, stream: BinaryIO) -> Staged:
        """Copy a file beside its place, with the time when it was changed."""
        folder = os.path.dirname(self._place(name))
        local.make_folders(folder)
        temporary = os.path.join(folder, TEMPORARY_PREFIX + os.urandom(8).hex() + TEMPORARY_SUFFIX)
        status = os.fstat(stream.fileno())
        descriptor = local.disk.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        try:
            while block := stream.read(_BLOCK):
                local.disk.write_all(descriptor, block)
            local.disk.fsync(descriptor)
        finally:
            local.disk.close(descriptor)
        os.utime(temporary, ns=(status.st_mtime_ns, status.st_mtime_ns))
        return Staged(name, temporary, (status.st_size, status.st_mtime_ns))

    def _place(self, name: str) -> str:
        return os.path.join(self._collections, *name.split("/"))

    def place(self, staged: list[Staged]) -> None:
        """Put files in their places."""
        folders = set()
        for one in staged:
            local.disk.replace(one.temporary, self._place(one.name))
            folders.add(os.path.dirname(self._place(one.name)))
        for folder in sorted(folders):
            local.disk.sync_folder(folder)

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; manifests first."""
        folders = set()
        for late in (True, False):
            for name in sorted(names):
                if comes_late(name) == late:
                    local.disk.unlink(self._place(name))
                    folders.add(os.path.dirname(self._place(name)))
            for folder in sorted(folders):
                local.disk.sync_folder(folder)
        for folder in sorted(folders - {self._collections}):
            if not os.listdir(folder):
                local.disk.remove_folder(folder)
                local.disk.sync_folder(self._collections)


class _RemoteTarget(FollowerTarget):
    """A follower on an object store, which says itself which files it has."""

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

    def journal(self, source: str, *, anew: bool = False) -> _Journal:
        journal = RemoteJournalCopy(source, f"{self.path}/journal", anew=anew)
        self._journals.append(journal)
        return journal

    def note_content(self) -> None:
        place = open_folder(f"{self.path}/collections")
        for name in place.names():
            inner = open_folder(place.place(name)).names() if name.endswith(PARTS) else [""]
            for one in inner:
                self._files.setdefault(f"{name}/{one}" if one else name, _UNKNOWN)

    def tidy(self) -> None:
        for name in os.listdir(self._temporary.name):
            os.unlink(os.path.join(self._temporary.name, name))

    def files(self) -> dict[str, Stamp]:
        return dict(self._files)

    def stage(self, name: str, stream: BinaryIO) -> Staged:
        status = os.fstat(stream.fileno())
        temporary = os.path.join(self._temporary.name, os.urandom(8).hex())
        with open(temporary, "wb") as target:
            while block := stream.read(_BLOCK):
                target.write(block)
        return Staged(name, temporary, (status.st_size, status.st_mtime_ns))

    def place(self, staged: list[Staged]) -> None:
        for one in staged:
            RemoteStore(f"{self.path}/collections/{one.name}").put(one.temporary)
            self._files[one.name] = one.stamp
            os.unlink(one.temporary)

    def remove(self, names: Iterable[str]) -> None:
        for name in sorted(names, key=comes_late, reverse=True):
            RemoteStore(f"{self.path}/collections/{name}").remove()
            del self._files[name]


def open_target(path: str) -> FollowerTarget:
    """The place of a follower, by its path or URL."""
    if is_url(path):
        return _RemoteTarget(path.rstrip("/"))
    return FollowerTarget(os.path.abspath(os.path.expanduser(path)))
