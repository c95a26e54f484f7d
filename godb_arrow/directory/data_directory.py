"""Data directory: its lock, its content, and the place of each collection's file.

::

    data_dir/
        godb_arrow.lock             locked by the one process that writes
        godb_arrow.id               identity of the directory, which its files record
        collections/NAME.godb       one collection each, replaced atomically
        collections/NAME.parts/     a collection with several files, and its manifests
        collections/UUID.attached   copy of a file that was loaded, until it is saved
        journal/00000001.journal    changes that no file has yet
        changes/00000001.journal    earlier changes, for their readers
        follower.json               only in a follower

No path leads out of the directory (see :mod:`godb_arrow.storage.inside`). The permissions of its
files follow :mod:`godb_arrow.storage.modes`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, BinaryIO, Literal

import filelock

from godb_arrow.directory.attached_files import AttachedFiles
from godb_arrow.directory.directory_lock import lock_directory
from godb_arrow.directory.follower_file import read_follower_file
from godb_arrow.directory.identity import ensure_identity, read_identity
from godb_arrow.directory.journal import Journal
from godb_arrow.directory.journal_reader import Replayed, read_journal
from godb_arrow.directory.kept_segments import KEPT_FOLDER, KeptSegments
from godb_arrow.directory.names import name_of, stem
from godb_arrow.directory.places import full_path
from godb_arrow.directory.records import Lineage, Record
from godb_arrow.directory.segments import segment_indices
from godb_arrow.errors import (
    CorruptFile,
    GodbError,
    ReadOnly,
    SourceNotFound,
    StorageError,
    storage_errors,
)
from godb_arrow.file.hints import CollectionHint, JournalPosition
from godb_arrow.file.reading import list_collections
from godb_arrow.memory.limit import Memory
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.part_folder import PartFolder
from godb_arrow.snapshots.parted_base import PartedBase
from godb_arrow.storage import local
from godb_arrow.storage.folder import Folder, open_folder
from godb_arrow.storage.modes import Access
from godb_arrow.storage.object_store import Expected, is_url
from godb_arrow.storage.replace import is_temporary
from godb_arrow.storage.source import HeldFile

__all__ = ["PARTS", "DataDirectory", "JournalEnd"]


logger = logging.getLogger(__name__)
PARTS = ".parts"
"""Suffix of the folder of a collection that has parts."""
JournalEnd = tuple[JournalPosition, tuple[int, int] | None]
"""Position of the last record, with its segment and the offset after it."""
_SUFFIX = ".godb"
_DEFAULT_MEMORY_BYTES = 64 << 20
_MAX_ATTEMPTS = 10  # to read a directory that another process changes


class DataDirectory:
    """Open data directory.

    Parameters
    ----------
    path : path
        The folder, which is created unless it is opened for reading only.
    memory : Memory, optional
        Cache for what is read of its files.
    read_only : bool
        Whether to change nothing.
    trust_journal : bool
        Whether to open files outside of the directory that the journal names.

    Attributes
    ----------
    identity : str or None
        Identity of the directory; None if it is opened for reading only.
    keeps_changes : tuple
        Max bytes and age of segments of the journal that are kept for readers of changes.
    read_end : tuple
        Position of the last record of a journal that was only read, and where it ends.

    Raises
    ------
    DirectoryLocked
        Another process, or another engine of this process, has it open for writing.
    StorageError
        The disk refuses access, or a folder of the directory is a symbolic link.
    """

    identity: str | None = None
    keeps_changes: tuple[int, float | None] = (0, None)

    def __init__(
        self,
        path: str | os.PathLike[str],
        memory: Memory | None = None,
        *,
        read_only: bool = False,
        trust_journal: bool = False,
    ) -> None:
        self._describe(full_path(path), memory, read_only, trust_journal)
        self._journal_folder = os.path.join(self.path, "journal")
        self._lock: filelock.BaseFileLock | None = None
        self._journal: Journal | None = None
        if read_only:
            if not os.path.isdir(self.path):
                raise SourceNotFound(f"there is no folder {self.path}", advice="check the path")
            self._check_folders()
            self._check_follower()
            self._place = self._find_place()
            return
        self._check_follower()
        with storage_errors("open", self.path):
            local.make_folders(self.path)
            for folder in (self._stored, self._root.folder("journal")):
                folder.make()
            self._lock = lock_directory(self.path)
            try:
                self._remove_temporaries()
                self.identity = ensure_identity(self.path)
            except BaseException:
                self._lock.release()
                raise

    def _describe(
        self, path: str, memory: Memory | None, read_only: bool, trust_journal: bool
    ) -> None:
        self.memory = memory or Memory(_DEFAULT_MEMORY_BYTES)
        self._folders: dict[str, PartFolder] = {}
        self.path = path
        self.read_only = read_only
        self._root = open_folder(path)
        self._stored = self._root.folder("collections")
        self._collections = self._stored.path
        self.attached_files = AttachedFiles(
            self.memory, self._root, self._stored, trust_journal=trust_journal
        )
        self._lineage = Lineage()
        self.read_end: JournalEnd = (JournalPosition(), None)
        self._newest: list[int] = []  # segments of the journal, if it was only read
        self._stamp: bytes | None = None

    def _check_folders(self) -> None:
        """Check that the folders of the directory are no symbolic links."""
        for folder in (self._stored, *map(self._root.folder, ("journal", KEPT_FOLDER))):
            with storage_errors("open", folder.path):
                folder.check()

    def _remove_temporaries(self) -> None:
        for name in self._stored.files(is_temporary):
            local.disk.unlink(self._stored.place(name))

    def _find_place(self) -> tuple[int, int] | None:
        """Return a value that tells the folder from another one at the same path."""
        try:
            status = os.stat(self.path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def check_place(self) -> None:
        """Check that the folder is still the one that was opened, if another process writes it."""
        if self.read_only and self._find_place() != self._place:
            raise StorageError(
                f"the data directory {self.path} was removed or replaced by another one",
                advice="mount its disk, or open it again",
            )

    def _check_follower(self) -> dict[str, Any] | None:
        """Return the state of a follower, or None; raise if it cannot be opened as requested."""
        follower = read_follower_file(self.path)
        if follower is None:
            return None
        if self.read_only and not follower["consistent"]:
            raise StorageError(
                f"{self.path} is a follower that is being updated",
                advice="try again in a moment",
            )
        if not self.read_only and not follower["promoting"]:
            raise ReadOnly(
                f"{self.path} is a follower of another data directory",
                advice="open it with read_only=True, or promote it first",
            )
        return follower

    @property
    def changes_folder(self) -> str:
        """Folder of the segments that left the journal."""
        return os.path.join(self.path, KEPT_FOLDER)

    @property
    def journal_folder(self) -> str:
        """Folder of the journal's segments."""
        return self._journal_folder

    def journal_end(self) -> JournalEnd:
        """Return the position of the last record that this engine knows, and where it ends."""
        return self.read_end if self._journal is None else self._journal.end()

    @property
    def keeps_journal(self) -> bool:
        """Whether the journal survives a crash."""
        return True

    @property
    def stamp(self) -> bytes:
        """Identity as files record it, in 16 bytes; empty if the directory has none."""
        if self._stamp is None:
            identity = self.identity
            if self.read_only:
                with suppress(CorruptFile):  # Only opening for writing reports the damage.
                    identity = read_identity(self.path)
            self._stamp = bytes.fromhex(identity or "")
        return self._stamp

    def wrote(self, hint: CollectionHint) -> bool:
        """Return whether an engine of this directory wrote a file, according to its hint."""
        return bool(hint.directory) and hint.directory == self.stamp

    def knows(self, position: JournalPosition) -> bool:
        """Return whether an engine of this directory recorded a position in a file."""
        return position.number > 0 and self._lineage.knows(position)

    def holds(self, position: JournalPosition, record: Record) -> bool:
        """Return whether a file with a position contains a record of the journal."""
        return self._lineage.holds(position, record)

    def is_overtaken(self, positions: Iterable[JournalPosition]) -> bool:
        """Return whether an engine that was opened since the journal was read saved a file."""
        if all(not position.run or self._lineage.knows(position) for position in positions):
            return False
        return os.path.isdir(self._journal_folder) and self._newest != self._last_segment()

    def _last_segment(self) -> list[int]:
        return segment_indices(self._journal_folder)[-1:]

    @property
    def journal(self) -> Journal:
        """Journal of a directory that is open for writing."""
        assert self._journal is not None
        return self._journal

    def look(self) -> tuple[dict[str, str], list[Record]]:
        """Return the collections' files and the journal, of a directory that others may write.

        Raises
        ------
        SourceNotFound
            Another process removed a file meanwhile.
        StorageError
            The directory was removed or replaced, or is a follower that is being updated.
        """
        for _ in range(_MAX_ATTEMPTS):
            self.check_place()
            self._check_follower()
            self._folders = {}  # Cached folders may belong to deleted collections.
            names = self._names()
            files, records = self.files(), self._read_while_written()
            # A collection that was renamed in between could be missing in both.
            if not self.keeps_journal or self._names() == names:
                break
        return files, records

    def _names(self) -> list[str]:
        """Return the names of the collections' files and folders."""
        names = open_folder(self._collections).names()
        return [name for name in names if name.endswith((_SUFFIX, PARTS)) and name[0] != "."]

    @contextmanager
    def recovering(self) -> Iterator[list[Record]]:
        """Enter with the changes that no file may have; then the journal accepts new records."""
        kept = KeptSegments(self.changes_folder, *self.keeps_changes)
        journal = Journal(self._journal_folder, self._access_of_all(), kept)
        with journal.recovering() as records:
            self._lineage = journal.lineage
            yield records
        self._journal = journal

    def _access_of_all(self) -> Access:
        """Return the permissions that all collections' files grant together, for the journal."""
        access = self._stored.access_of_files(_SUFFIX)
        for name in self._stored.names():
            if name.endswith(PARTS):
                with suppress(StorageError):  # A folder that is refused gets no documents.
                    access &= self.folder(self._stored.place(name)).access()
        return access

    def restrict(self, access: Access) -> None:
        """Remove from the journal the permissions that a collection's file denies."""
        self.journal.restrict(access)

    def _read_while_written(self) -> list[Record]:
        """Read the records of a journal whose segments another process may remove meanwhile."""
        for attempt in range(_MAX_ATTEMPTS):
            if not os.path.isdir(self._journal_folder):
                return []
            replayed = Replayed()
            try:
                self._newest = self._last_segment()
                records = list(read_journal(self._journal_folder, replayed))
            except SourceNotFound:
                if attempt < _MAX_ATTEMPTS - 1:
                    continue
                raise
            self._lineage = replayed.lineage
            for segment in replayed.segments[-1:]:
                end = (segment.index, segment.size)
                self.read_end = JournalPosition(segment.run, segment.last), end
            return records
        return []

    def files(self) -> dict[str, str]:
        """Return the path of each collection's file or folder, ignoring other names.

        The use of a path may still be refused (see :meth:`base`).
        """
        names = self._names()
        paths: dict[str, str] = {}
        for file in [name for name in names if name.endswith(_SUFFIX)]:
            name = name_of(file.removesuffix(_SUFFIX)) or self._stored_name(self._stored, file)
            if name is not None:
                paths[name] = self._stored.place(file)
        for path in [self._stored.place(name) for name in names if name.endswith(PARTS)]:
            if (name := self._name_of_folder(path)) is not None:
                paths[name] = self._newer(path, paths[name]) if name in paths else path
        return paths

    def _name_of_folder(self, path: str) -> str | None:
        """Return the collection that a folder has, or None."""
        folder = self.folder(path)
        name = name_of(os.path.basename(path).removesuffix(PARTS))
        try:
            if not folder.versions():
                return None
            if name is None:
                manifest = folder.current()
                name = manifest.name or None
                if name is None and manifest.parts:
                    name = self._stored_name(folder.content, manifest.parts[0].file)
        except GodbError as error:
            if name is None:
                logger.warning("ignoring %s: %s", path, error)
        return name

    def _stored_name(self, folder: Folder, name: str) -> str | None:
        """Return the name of the only collection that a file has, or None."""
        try:
            names = list(list_collections(folder.hold(name)))
        except GodbError as error:
            logger.warning("ignoring %s: %s", folder.place(name), error)
            return None
        return names[0] if len(names) == 1 else None

    def _newer(self, folder: str, file: str) -> str:
        """Return which of two paths has the current state of a collection.

        A crash leaves both, with versions that can be compared. Otherwise a user added one of the
        two, and the other is current.
        """
        with suppress(GodbError):  # A folder is always complete.
            hint, other = self.base(file).hint, self.base(folder).hint
            if hint.directory == other.directory:
                return file if hint.version > other.version else folder
            return file if self.wrote(hint) else folder
        return folder

    def _is_leftover(self, path: str, current: str) -> bool:
        """Return whether a crash left a file or folder that the current one supersedes."""
        try:
            hint, newer = self.base(path).hint, self.base(current).hint
            return hint.directory == newer.directory or hint.fingerprint == newer.former
        except SourceNotFound:  # The folder has no manifest.
            return True
        except GodbError:
            return False

    def remove_older(self, files: Mapping[str, str]) -> None:
        """Remove files and folders that are superseded, which a crash has left."""
        there = set(self._stored.names()) if files else set()
        if not any(name.endswith(PARTS) for name in there):
            return
        for name, path in files.items():
            pair = self.paths_of(name)
            others = [other for other in pair if other != path and os.path.basename(other) in there]
            if not others or path not in pair:
                continue
            try:
                for place in pair:
                    self.check(place)
                self.base(path).hint  # noqa: B018 (It raises if the file cannot be read.)
            except GodbError as error:
                logger.warning("keeping %s beside %s: %s", ", ".join(others), path, error)
                continue
            for other in others:
                if self._is_leftover(other, path):
                    logger.info("removing %s, which %s supersedes", other, path)
                    self.remove(other)
                else:
                    logger.warning("ignoring %s: the collection %r is in %s", other, name, path)

    def check(self, path: str) -> None:
        """Check that a collection's file or folder is a regular file or real folder."""
        if path.endswith(PARTS):
            self.folder(path).content.check()
        else:
            self._stored.access_of(os.path.basename(path))

    def base(self, path: str) -> Base:
        """Return the documents of a collection's file or folder.

        A file that is a symbolic link, a named pipe or a device is refused when it is opened.
        """
        if path.endswith(PARTS):
            return PartedBase(self.folder(path))
        return Base(
            self.memory,
            path,
            is_ours=not self.read_only,
            may_close=True if self.read_only else None,
            hold=self._hold,
        )

    def _hold(self, path: str) -> HeldFile:
        return self._stored.hold(os.path.basename(path))

    def folder(self, path: str) -> PartFolder:
        """Return the folder of a collection that has several files."""
        if path not in self._folders:
            content = self._stored.folder(os.path.basename(path))
            self._folders[path] = PartFolder(self.memory, content, is_ours=not self.read_only)
        return self._folders[path]

    def paths_of(self, name: str) -> tuple[str, ...]:
        """Return the possible paths of a collection: its file and its folder."""
        file = self.path_of(name)
        return file, file.removesuffix(_SUFFIX) + PARTS

    def path_of(self, name: str) -> str:
        """Return the path of a collection's file."""
        return self._stored.place(stem(name) + _SUFFIX)

    def stem_of(self, path: str) -> str | None:
        """Return the stem of a collection's file or folder, or None for other paths."""
        folder, _, name = path.rpartition("/" if is_url(path) else os.sep)
        stem, suffix = os.path.splitext(name)
        return stem if folder == self._collections and suffix in (_SUFFIX, PARTS) else None

    def remove(self, path: str) -> None:
        """Remove a collection's file or folder, if it exists and belongs to the directory."""
        name = os.path.basename(path)
        if path != self._stored.place(name):
            return
        if path.endswith(PARTS):
            self.folder(path).remove()
            self._folders.pop(path, None)
            return
        with suppress(SourceNotFound):
            self._stored.remove(name)
        self._stored.sync()

    def write(self, path: str, base: Base) -> AbstractContextManager[BinaryIO]:
        """Write a collection's file, which replaces the file of a base if there is one."""
        access = None if path == base.path else base.access() & self._stored.access()
        return self._stored.replace(
            os.path.basename(path), access, expected=self.expected_at(path, base)
        )

    def expected_at(self, path: str, base: Base) -> Expected:
        """Return the version of the file to replace; None, for any, on a local disk."""
        return None

    def note_replaced(self, base: Base) -> Literal["file"] | None:
        """Return the form of the files that are to replace a base; None, for any, on a disk."""

    def close(self, *, stored: bool = False) -> None:
        """Close the directory and release its lock.

        Parameters
        ----------
        stored : bool
            Whether files have all changes of the journal.
        """
        try:
            if self._journal is not None:
                self._journal.close(stored=stored)
        finally:
            if self._lock is not None:
                self._lock.release()

    def forget_in_child(self) -> None:
        """Close the descriptors of the journal and the lock that a forked child inherited.

        The lock itself stays with the parent, since it belongs to the open file that both share.
        """
        if self._journal is not None:
            self._journal.forget_in_child()
        if self._lock is not None:
            descriptor = self._lock._context.lock_file_fd
            self._lock._context.lock_file_fd = None
            self._lock = None
            if descriptor is not None:
                os.close(descriptor)
