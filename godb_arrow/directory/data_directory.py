"""The data directory: who writes it, what is in it, and how a collection gets into its file.

::

    data_dir/
        godb_arrow.lock             held by the one process that writes
        godb_arrow.id               identity of the directory
        collections/NAME.godb       one collection each, replaced atomically
        collections/NAME.parts/     a large one: several files, and manifests that name them
        journal/00000001.journal    changes that are in no file yet
        follower.json               there while it follows another one
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import filelock

from godb_arrow.directory.follower_file import read_follower_file
from godb_arrow.directory.identity import ensure_identity
from godb_arrow.directory.journal import Journal
from godb_arrow.directory.journal_copy import fetch_journal
from godb_arrow.directory.names import name_of, stem
from godb_arrow.directory.segments import Record, read_journal
from godb_arrow.errors import (
    DirectoryLocked,
    GodbError,
    ReadOnly,
    SourceNotFound,
    StorageError,
    storage_errors,
)
from godb_arrow.memory.limit import Memory
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.part_folder import PartFolder
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.storage import local
from godb_arrow.storage.folder import open_folder
from godb_arrow.storage.object_store import Expected, is_url
from godb_arrow.storage.replace import TEMPORARY_PREFIX, TEMPORARY_SUFFIX

__all__ = ["PARTS", "DataDirectory", "RemoteDirectory", "lock_directory", "open_directory"]


logger = logging.getLogger(__name__)
_SUFFIX = ".godb"
PARTS = ".parts"
_LEAST_MEMORY = 64 << 20
_TRIES = 10


def lock_directory(path: str) -> filelock.BaseFileLock:
    """Be the one who writes a data directory, until the lock is released.

    Raises
    ------
    DirectoryLocked
    """
    lock = filelock.FileLock(os.path.join(path, "godb_arrow.lock"), timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        locked = DirectoryLocked(
            "another process writes this data directory",
            advice="close it there, or open it with read_only=True",
        )
        locked.operation, locked.source = "open", path
        raise locked from error
    return lock


class DataDirectory:
    """A data directory that is open.

    Parameters
    ----------
    path : path
        The folder; made, unless it is opened to read only.
    memory : Memory, optional
        Holds what is read of its files.
    read_only : bool
        Whether to leave everything as it is.

    Attributes
    ----------
    identity : str or None
        Identity of the directory; None where it is opened to read only.

    Raises
    ------
    DirectoryLocked
        Another process, or another engine of this one, writes it.
    StorageError
        The disk refused.
    """

    identity: str | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        memory: Memory | None = None,
        *,
        read_only: bool = False,
    ) -> None:
        self.memory = memory or Memory(_LEAST_MEMORY)
        self._folders: dict[str, PartFolder] = {}
        self.path = os.path.abspath(os.path.expanduser(os.fspath(path)))
        self.read_only = read_only
        self._collections = os.path.join(self.path, "collections")
        self._journal_folder = os.path.join(self.path, "journal")
        self._lock: filelock.BaseFileLock | None = None
        self._journal: Journal | None = None
        if read_only:
            if not os.path.isdir(self.path):
                raise SourceNotFound(f"there is no folder {self.path}", advice="check the path")
            self._check_follower()
            self._place = self._find_place()
            return
        self._check_follower()
        with storage_errors("open", self.path):
            for folder in (self._collections, self._journal_folder):
                local.make_folders(folder)
            self._lock = lock_directory(self.path)
            try:
                self._remove_temporaries()
                self.identity = ensure_identity(self.path)
            except BaseException:
                self._lock.release()
                raise

    def _remove_temporaries(self) -> None:
        for name in os.listdir(self._collections):
            if name.startswith(TEMPORARY_PREFIX) and name.endswith(TEMPORARY_SUFFIX):
                local.disk.unlink(os.path.join(self._collections, name))

    def _find_place(self) -> tuple[int, int] | None:
        """Return what tells the folder from another one that is mounted or moved to its path."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def check_place(self) -> None:
        """Raise unless the folder is the one that was opened, where another process writes it."""
        if self.read_only and self._find_place() != self._place:
            raise StorageError(
                f"the data directory {self.path} is gone, or another one is in its place",
                advice="mount its disk, or open it again",
            )

    def _check_follower(self) -> dict[str, Any] | None:
        """Raise if it follows another one, and cannot be opened so; else what it says of that."""
        follower = read_follower_file(self.path)
        if follower is None:
            return None
        if self.read_only and not follower["consistent"]:
            raise StorageError(
                f"{self.path} is a follower that is being brought up to date",
                advice="try again in a moment",
            )
        if not self.read_only and not follower["promoting"]:
            raise ReadOnly(
                f"{self.path} is a follower of another data directory",
                advice="open it with read_only=True, or promote it first",
            )
        return follower

    @property
    def keeps_journal(self) -> bool:
        """Whether the journal is there after a crash."""
        return True

    @property
    def journal(self) -> Journal:
        """The journal, of a directory that may be written."""
        assert self._journal is not None
        return self._journal

    def look(self) -> tuple[dict[str, str], list[Record]]:
        """Return the collections' files and the journal, of a directory that others may write.

        Raises
        ------
        SourceNotFound
            A file was removed meanwhile.
        StorageError
            The directory is gone, or is a follower that is being brought up to date.
        """
        for _ in range(_TRIES):
            self.check_place()
            self._check_follower()
            self._folders = {}  # what they know of files may be of a former collection
            names = self._names()
            files, records = self.files(), self._read_while_written()
            # A collection that was renamed in between would be in neither.
            if not self.keeps_journal or self._names() == names:
                break
        return files, records

    def _names(self) -> list[str]:
        """Return the names of the collections' files and folders."""
        names = open_folder(self._collections).names()
        return [
            name for name in names
            if name.endswith((_SUFFIX, PARTS)) and not name.startswith(TEMPORARY_PREFIX)
        ]  # fmt: skip

    def recover(self) -> Iterator[Record]:
        """Yield the changes that may be in no file yet; at the end the journal goes on."""
        journal = Journal(self._journal_folder)
        yield from journal.recover()
        self._journal = journal

    def _read_while_written(self) -> list[Record]:
        """The records of a journal whose segments somebody else may remove meanwhile."""
        for _ in range(_TRIES):
            if not os.path.isdir(self._journal_folder):
                return []
            try:
                return list(read_journal(self._journal_folder))
            except SourceNotFound:
                continue
        return list(read_journal(self._journal_folder))

    def files(self) -> dict[str, str]:
        """The collections that have a file, and its path."""
        place = open_folder(self._collections)
        names = self._names()
        files = [name for name in names if name.endswith(_SUFFIX)]
        found = _named({file: place.place(file) for file in files})
        for path in [place.place(one) for one in names if one.endswith(PARTS)]:
            if (name := self._name_of_folder(path)) is not None:
                found[name] = self._newer(path, found[name]) if name in found else path
        return found

    def _name_of_folder(self, path: str) -> str | None:
        """The collection that a folder has; None where it has none."""
        folder = self.folder(path)
        if not folder.versions():
            return None
        name = name_of(os.path.basename(path).removesuffix(PARTS))
        if name is None:
            manifest = folder.current()
            name = manifest.name or None
            if name is None and manifest.parts:
                name = _stored_name(open_folder(path).place(manifest.parts[0].file))
        return name

    def _newer(self, folder: str, file: str) -> str:
        """Which of the two has the collection: a crash left both."""
        with suppress(GodbError):  # a folder is always whole
            if self.base(file).hint.version > self.base(folder).hint.version:
                return file
        return folder

    def remove_older(self, files: Mapping[str, str]) -> None:
        """Remove what a crash left beside the files that count."""
        there = set(open_folder(self._collections).names()) if files else set()
        if not any(name.endswith(PARTS) for name in there):
            return
        for name, path in files.items():
            for other in self.paths_of(name):
                if other != path and os.path.basename(other) in there:
                    logger.info("%s is older than %s: removed", other, path)
                    self.remove(other)

    def base(self, path: str) -> Base:
        """The documents of a collection's file or folder."""
        if path.endswith(PARTS):
            return PartedBase(self.folder(path))
        return Base(
            self.memory,
            path,
            is_ours=not self.read_only,
            may_close=True if self.read_only else None,
        )

    def folder(self, path: str) -> PartFolder:
        """The folder of a collection that has several files."""
        if path not in self._folders:
            self._folders[path] = PartFolder(self.memory, path, is_ours=not self.read_only)
        return self._folders[path]

    def paths_of(self, name: str) -> tuple[str, ...]:
        """Where a collection may be: in a file, or in a folder."""
        file = self.path_of(name)
        return file, file.removesuffix(_SUFFIX) + PARTS

    def path_of(self, name: str) -> str:
        """Where a collection's file belongs."""
        return os.path.join(self._collections, stem(name) + _SUFFIX)

    def stem_of(self, path: str) -> str | None:
        """Return the stem of a collection's file or folder here; None of any other path."""
        folder, _, name = path.rpartition("/" if is_url(path) else os.sep)
        stem, suffix = os.path.splitext(name)
        return stem if folder == self._collections and suffix in (_SUFFIX, PARTS) else None

    def remove(self, path: str) -> None:
        """Remove a collection's file or folder, if it is there and belongs to the directory."""
        if os.path.dirname(path) != self._collections:
            return
        if path.endswith(PARTS):
            self.folder(path).remove()
            self._folders.pop(path, None)
            return
        folder = open_folder(self._collections)
        with suppress(SourceNotFound):
            folder.remove(os.path.basename(path))
        folder.sync()

    def expected_at(self, path: str, base: Base) -> Expected:
        """What must be in the place of a file that takes the place of a base; locally, anything."""
        return None

    def close(self, *, stored: bool = False) -> None:
        """Let others write the directory.

        Parameters
        ----------
        stored : bool
            Whether files hold all changes of the journal.
        """
        try:
            if self._journal is not None:
                self._journal.close(stored=stored)
        finally:
            if self._lock is not None:
                self._lock.release()

    def forget_in_child(self) -> None:
        """Close the descriptors that a forked child has of the journal and the lock.

        The lock itself stays with the parent: it belongs to the open file that both share.
        """
        if self._journal is not None:
            self._journal.forget_in_child()
        if self._lock is not None:
            descriptor = self._lock._context.lock_file_fd
            self._lock._context.lock_file_fd = None
            self._lock = None
            if descriptor is not None:
                os.close(descriptor)


class RemoteDirectory(DataDirectory):
    """A data directory on an object store.

    A collection's file is replaced by one upload, on the condition that it is the one that was
    read, and a manifest is written on the condition that nobody else has written that version: of
    two writers the second is told so (:class:`~godb_arrow.WriteConflict`), and nothing is
    lost unseen. There is no lock, and the journal is a local temporary one: what was not saved is
    lost in a crash.
    """

    def __init__(self, url: str, memory: Memory | None = None, *, read_only: bool = False) -> None:
        self.memory = memory or Memory(_LEAST_MEMORY)
        self._folders = {}
        self.path = url.rstrip("/")
        self.read_only = read_only
        self._collections = f"{self.path}/collections"
        self._lock = None
        self._journal = None
        self._temporary: weakref.finalize[..., Any] | None = None
        self._follower = self._check_follower()
        if not read_only:
            self.identity = ensure_identity(self.path)

    def check_place(self) -> None:
        """Nothing: a URL names one place."""

    @property
    def keeps_journal(self) -> bool:
        """It is a temporary one."""
        return False

    def recover(self) -> Iterator[Record]:
        """Nothing, for what was not saved is gone; but of a follower the journal that it got."""
        records = self._read_while_written()
        folder = tempfile.mkdtemp(prefix="godb-arrow-journal-")
        self._temporary = weakref.finalize(self, _remove_folder, folder, os.getpid())
        journal = Journal(folder)
        list(journal.recover())
        if records:
            journal.skip_to(records[-1].number + 1)
        self._journal = journal
        yield from records

    def _read_while_written(self) -> list[Record]:
        if self._follower is None:
            return []
        with tempfile.TemporaryDirectory(prefix="godb-arrow-journal-") as folder:
            fetch_journal(f"{self.path}/journal", folder)
            return list(read_journal(folder))

    def path_of(self, name: str) -> str:
        """Where a collection's file belongs."""
        return f"{self._collections}/{stem(name)}{_SUFFIX}"

    def expected_at(self, path: str, base: Base) -> Expected:
        """The version of the base, or nothing where the file is new."""
        if base.path != path:
            return "absent"
        return base.open().source.version()

    def close(self, *, stored: bool = False) -> None:
        """Remove the temporary journal."""
        super().close(stored=stored)
        if self._temporary is not None:
            self._temporary()


def _remove_folder(path: str, process: int) -> None:
    if process == os.getpid():  # in a forked child the folder belongs to the parent
        shutil.rmtree(path, ignore_errors=True)


def open_directory(
    path: str | os.PathLike[str], memory: Memory, *, read_only: bool = False
) -> DataDirectory:
    """Open a data directory: a folder, or the URL of one on an object store."""
    name = os.fspath(path)
    kind = RemoteDirectory if is_url(name) else DataDirectory
    return kind(name, memory, read_only=read_only)


def _named(paths: dict[str, str]) -> dict[str, str]:
    """The collections in files, given by the files' names."""
    found = {}
    for file, path in paths.items():
        name = name_of(file.removesuffix(_SUFFIX)) or _stored_name(path)
        if name is not None:
            found[name] = path
    return found


def _stored_name(path: str) -> str | None:
    from godb_arrow.file.reading import list_collections

    try:
        names = list(list_collections(path))
    except GodbError as error:
        logger.warning("%s is left alone: %s", path, error)
        return None
    return names[0] if len(names) == 1 else None
