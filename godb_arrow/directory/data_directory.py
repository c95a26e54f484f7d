"""Data directory: its lock, its content, and the place of each collection's file.

::

    data_dir/
        godb_arrow.lock             locked by the one process that writes
        godb_arrow.id               identity of the directory, which its files record
        collections/NAME.godb       one collection each, replaced atomically
        collections/NAME.parts/     a collection with several files, and its manifests
        collections/UUID.attached   copy of a file that was loaded, until it is saved
        journal/00000001.journal    changes that no file has yet
        follower.json               only in a follower

No path leads out of the directory (see :mod:`godb_arrow.storage.inside`). The permissions of its
files follow :mod:`godb_arrow.storage.modes`.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
import tempfile
import uuid
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, BinaryIO

import filelock

from godb_arrow.directory.follower_file import read_follower_file
from godb_arrow.directory.identity import ensure_identity, read_identity
from godb_arrow.directory.journal import Journal
from godb_arrow.directory.journal_copy import fetch_journal
from godb_arrow.directory.names import ATTACHED, is_attached_name, name_of, stem
from godb_arrow.directory.places import full_path, is_data_directory
from godb_arrow.directory.segments import (
    Lineage,
    Record,
    Replayed,
    read_journal,
    segment_indices,
)
from godb_arrow.errors import (
    CorruptFile,
    DirectoryLocked,
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
from godb_arrow.storage.inside import open_inside
from godb_arrow.storage.modes import Access
from godb_arrow.storage.nearest import nearest_path
from godb_arrow.storage.object_store import Expected, is_url
from godb_arrow.storage.replace import is_temporary
from godb_arrow.storage.source import HeldFile, Source

__all__ = ["PARTS", "DataDirectory", "RemoteDirectory", "lock_directory", "open_directory"]


logger = logging.getLogger(__name__)
_SUFFIX = ".godb"
PARTS = ".parts"
_LOCK = "godb_arrow.lock"
_DEFAULT_MEMORY_BYTES = 64 << 20
_TRIES = 10
_BLOCK_BYTES = 1 << 20  # copied at once


def lock_directory(path: str) -> filelock.BaseFileLock:
    """Lock a data directory for writing, until the lock is released.

    Raises
    ------
    DirectoryLocked
        Another process has locked the directory.
    """
    place = os.path.join(path, _LOCK)
    with storage_errors("lock", place):
        # A symbolic link is refused here, because filelock would truncate the linked file.
        descriptor = open_inside(place, os.O_RDWR | os.O_CREAT, open_folder(path).access().new_file)
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        local.disk.close(descriptor)
    lock = filelock.FileLock(place, timeout=0, thread_local=False, mode=mode)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        locked = DirectoryLocked(
            "another process has this data directory open for writing",
            advice="close it there, or open it here with read_only=True",
        )
        locked.operation, locked.source = "open", path
        raise locked from error
    return lock


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

    Raises
    ------
    DirectoryLocked
        Another process, or another engine of this process, has it open for writing.
    StorageError
        The disk refuses access, or a folder of the directory is a symbolic link.
    """

    identity: str | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        memory: Memory | None = None,
        *,
        read_only: bool = False,
        trust_journal: bool = False,
    ) -> None:
        self._describe(full_path(path), memory, read_only)
        self.trust_journal = trust_journal
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

    def _describe(self, path: str, memory: Memory | None, read_only: bool) -> None:
        self.memory = memory or Memory(_DEFAULT_MEMORY_BYTES)
        self._folders: dict[str, PartFolder] = {}
        self.path = path
        self.read_only = read_only
        self._root = open_folder(path)
        self._stored = self._root.folder("collections")
        self._collections = self._stored.path
        self._lineage = Lineage()
        self._newest: list[int] = []  # segments of the journal, if it was only read
        self._stamp: bytes | None = None

    def _check_folders(self) -> None:
        """Check that the folders of the directory are no symbolic links."""
        for folder in (self._stored, self._root.folder("journal")):
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
        for _ in range(_TRIES):
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
        visible = [name for name in names if not name.startswith(".")]
        return [name for name in visible if name.endswith((_SUFFIX, PARTS))]

    def recover(self) -> Iterator[Record]:
        """Yield the changes that no file may have yet; then the journal accepts new records."""
        journal = Journal(self._journal_folder, self._access_of_all())
        for record in journal.recover():
            self._lineage = journal.lineage
            yield record
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
        for attempt in range(_TRIES):
            if not os.path.isdir(self._journal_folder):
                return []
            replayed = Replayed()
            try:
                self._newest = self._last_segment()
                records = list(read_journal(self._journal_folder, replayed))
            except SourceNotFound:
                if attempt < _TRIES - 1:
                    continue
                raise
            self._lineage = replayed.lineage
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

    def attached(self, path: object, collection: str) -> Base:
        """Return the documents of a file that the journal names.

        A file outside of the directory is refused when it is opened, unless the journal is trusted.

        Parameters
        ----------
        path : str
            Path below the directory, relative or absolute. Version 0.1 also recorded other paths
            and URLs.
        collection : str
            Name of the collection in the file.
        """
        name = str(path)
        below = self._below(path) if isinstance(path, str) else None
        if below is not None:
            *folders, file = below
            folder = self._root
            for inner in folders:
                folder = folder.folder(inner)
            return Base(
                self.memory,
                folder.place(file),
                collection,
                is_ours=False,
                hold=lambda _: folder.hold(file),
                refusal=_refusal_of(folder, file),
            )
        if self.trust_journal and isinstance(path, str):
            return Base(self.memory, name, collection, is_ours=False)
        refusal = StorageError(
            f"the journal attaches {name!r}, which is outside of the data directory",
            advice="if you trust the directory, open it once with trust_journal=True and save; "
            "otherwise drop the collection, and attach the file again",
        )
        refusal.operation, refusal.source = "attach", self.path
        return Base(self.memory, name, collection, is_ours=False, refusal=refusal)

    def _below(self, path: str) -> list[str] | None:
        """Return the path of a file below the directory as names, or None for a file outside."""
        if is_url(path) or "\0" in path:
            return None
        candidates = [path]
        if os.path.isabs(path):
            roots = (self.path, os.path.realpath(self.path))
            candidates = [os.path.relpath(path, root) for root in roots]
        for names in (candidate.split(os.sep) for candidate in candidates):
            if not {"", ".", ".."} & {*names}:
                return names
        return None

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

    # --- attached files -----------------------------------------------------------------------

    def attach(self, location: str) -> str:
        """Copy a file into the directory, for collections that are not saved yet.

        Parameters
        ----------
        location : path or URL
            A GODB file.

        Returns
        -------
        str
            Path of the copy, which is synced to the disk.

        Raises
        ------
        StorageError
            The file cannot be read, or the copy cannot be written.
        """
        folder = self._attached_folder()
        name = uuid.uuid4().hex + ATTACHED
        with Source(location).open() as source:
            access = folder.access()
            if not is_url(location):  # The copy must not be more readable than the file.
                access &= Access.of_file(os.fstat(source.fileno()))
            with folder.replace(name, access) as target:
                shutil.copyfileobj(source, target, _BLOCK_BYTES)
        return folder.place(name)

    def attach_again(self, path: str) -> str:
        """Link an attached file under another name, for another one of its collections.

        Returns
        -------
        str
            Path of the new name.
        """
        other = self._attached_folder().place(uuid.uuid4().hex + ATTACHED)
        with storage_errors("attach", other):
            try:
                local.disk.link(path, other)
            except OSError:  # The file system has no links.
                return self.attach(path)
            local.disk.sync_folder(self._attached_folder().path)
        return other

    def attached_base(self, path: str, collection: str) -> Base:
        """Return the documents of an attached file."""
        folder, name = self._attached_folder(), os.path.basename(path)
        return Base(
            self.memory,
            path,
            collection,
            is_ours=False,
            hold=lambda _: folder.hold(name),
            refusal=_refusal_of(folder, name),
        )

    def recovered_base(self, name: object, collection: str) -> Base:
        """Return the documents of an attached file that the journal names.

        Raises
        ------
        CorruptFile
            The name is not one that an engine gives to files.
        """
        if not is_attached_name(name):
            raise CorruptFile(
                f"the journal names the impossible attached file {name!r}",
                offset=0,
                where="file",
                advice="restore the data directory from a copy",
            )
        return self.attached(f"collections/{name}", collection)

    def detach(self, paths: Iterable[str]) -> None:
        """Remove attached files that exist."""
        folder = self._attached_folder()
        for path in paths:
            with suppress(SourceNotFound):
                folder.remove(os.path.basename(path))

    def remove_unattached(self, used: Collection[str]) -> None:
        """Remove the attached files that no collection uses."""
        folder = self._attached_folder()
        paths = map(folder.place, folder.files(is_attached_name))
        self.detach(path for path in paths if path not in used)

    def _attached_folder(self) -> Folder:
        return self._stored

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


class RemoteDirectory(DataDirectory):
    """Data directory on an object store.

    A collection's file is replaced by one upload, on the condition that its version is the one that
    was read. A manifest is written on the condition that its version does not exist. So the second
    of two writers gets :class:`~godb_arrow.WriteConflict`, and no change is overwritten silently.
    There is no lock. The journal is a local temporary one, so a crash loses unsaved changes.
    """

    def __init__(
        self,
        url: str,
        memory: Memory | None = None,
        *,
        read_only: bool = False,
        trust_journal: bool = False,
    ) -> None:
        self._describe(full_path(url), memory, read_only)
        self.trust_journal = trust_journal
        self._lock = None
        self._journal = None
        self._temporary: weakref.finalize[..., Any] | None = None
        self._follower = self._check_follower()
        if not read_only:
            self.identity = ensure_identity(self.path)

    def check_place(self) -> None:
        """Do nothing, since a URL always leads to the same place."""

    @property
    def keeps_journal(self) -> bool:
        """False, since the journal is a temporary one."""
        return False

    def recover(self) -> Iterator[Record]:
        """Yield the records of a follower's journal, and none for other directories."""
        records = self._read_while_written()
        folder = tempfile.mkdtemp(prefix="godb-arrow-journal-")
        self._local = open_folder(folder)
        self._temporary = weakref.finalize(self, _remove_folder, folder, os.getpid())
        journal = Journal(folder)
        list(journal.recover())
        if records:
            journal.skip_to(records[-1].last + 1)
        self._journal = journal
        yield from records

    def _read_while_written(self) -> list[Record]:
        if self._follower is None:
            return []
        with tempfile.TemporaryDirectory(prefix="godb-arrow-journal-") as folder:
            fetch_journal(f"{self.path}/journal", folder)
            replayed = Replayed()
            records = list(read_journal(folder, replayed))
            self._lineage = replayed.lineage
            return records

    def is_overtaken(self, positions: Iterable[JournalPosition]) -> bool:
        """Return False, since no other process writes the journal."""
        return False

    def _attached_folder(self) -> Folder:
        return self._local

    def remove_unattached(self, used: Collection[str]) -> None:
        """Do nothing, since attached files are temporary ones of this engine."""

    def expected_at(self, path: str, base: Base) -> Expected:
        """Return the version of the base, or "absent" for a new file."""
        if base.path != path:
            return "absent"
        return base.open().source.version()

    def close(self, *, stored: bool = False) -> None:
        """Remove the temporary journal."""
        super().close(stored=stored)
        if self._temporary is not None:
            self._temporary()


def _remove_folder(path: str, process: int) -> None:
    if process == os.getpid():  # In a forked child the folder belongs to the parent.
        shutil.rmtree(path, ignore_errors=True)


def open_directory(
    path: str | os.PathLike[str],
    memory: Memory,
    *,
    read_only: bool = False,
    trust_journal: bool = False,
    create: bool = True,
) -> DataDirectory:
    """Open a data directory, given a folder or a URL on an object store.

    Parameters
    ----------
    path : path or URL
        The folder.
    memory : Memory
        Cache for what is read of its files.
    read_only : bool
        Whether to change nothing.
    create : bool
        Whether to create the directory if it is missing.

    Raises
    ------
    SourceNotFound
        The directory is missing. The error suggests the most similar name.
    """
    name = os.fspath(path)
    if not create:
        _check_is_there(name)
    kind = RemoteDirectory if is_url(name) else DataDirectory
    return kind(name, memory, read_only=read_only, trust_journal=trust_journal)


def _check_is_there(path: str) -> None:
    path = full_path(path)
    if not is_data_directory(path):
        near = nearest_path(path, is_data_directory)
        raise SourceNotFound(
            f"there is no data directory {path}",
            advice="check the path" if near is None else f"did you mean {near}?",
        )


def _refusal_of(folder: Folder, name: str) -> StorageError | None:
    """Return the error for a file that is a symbolic link or of another kind, or None."""
    try:
        folder.access_of(name)
    except StorageError as error:
        return error
    return None
