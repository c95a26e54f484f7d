"""The data directory: who writes it, what is in it, and how a collection gets into its file.

::

    data_dir/
        godb_arrow.lock             held by the one process that writes
        godb_arrow.id               identity of the directory, which its files record
        collections/NAME.godb       one collection each, replaced atomically
        collections/NAME.parts/     a large one: several files, and manifests that name them
        collections/UUID.attached   copy of a file that was taken in, until it is saved
        journal/00000001.journal    changes that are in no file yet
        follower.json               there while it follows another one

The directory is a boundary: see :mod:`godb_arrow.storage.inside` for what may be in it, and
:mod:`godb_arrow.storage.modes` for the permissions of its files.
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
_LEAST_MEMORY = 64 << 20
_TRIES = 10
_BLOCK = 1 << 20  # bytes of a file that are copied at once


def lock_directory(path: str) -> filelock.BaseFileLock:
    """Be the one who writes a data directory, until the lock is released.

    Raises
    ------
    DirectoryLocked
    """
    place = os.path.join(path, _LOCK)
    with storage_errors("lock", place):
        # A symbolic link is refused here; filelock would empty the file that it points to.
        descriptor = open_inside(place, os.O_RDWR | os.O_CREAT, open_folder(path).access().new_file)
        mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
        local.disk.close(descriptor)
    lock = filelock.FileLock(place, timeout=0, thread_local=False, mode=mode)
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
    trust_journal : bool
        Whether to open files outside of the directory that its journal names.

    Attributes
    ----------
    identity : str or None
        Identity of the directory; None where it is opened to read only.

    Raises
    ------
    DirectoryLocked
        Another process, or another engine of this one, writes it.
    StorageError
        The disk refused; or a folder of the directory is a symbolic link.
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
        self.memory = memory or Memory(_LEAST_MEMORY)
        self._folders: dict[str, PartFolder] = {}
        self.path = path
        self.read_only = read_only
        self._root = open_folder(path)
        self._stored = self._root.folder("collections")
        self._collections = self._stored.path
        self._lineage = Lineage()
        self._newest: list[int] = []  # segments of the journal, where it was only read
        self._stamp: bytes | None = None

    def _check_folders(self) -> None:
        """Raise if the folders of the directory are symbolic links."""
        for folder in (self._stored, self._root.folder("journal")):
            with storage_errors("open", folder.path):
                folder.check()

    def _remove_temporaries(self) -> None:
        for name in self._stored.files(is_temporary):
            local.disk.unlink(self._stored.place(name))

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
    def stamp(self) -> bytes:
        """Identity as files record it, 16 bytes; none where the directory has none."""
        if self._stamp is None:
            found = self.identity
            if self.read_only:
                with suppress(CorruptFile):  # who writes the directory is told
                    found = read_identity(self.path)
            self._stamp = bytes.fromhex(found or "")
        return self._stamp

    def wrote(self, hint: CollectionHint) -> bool:
        """Return whether an engine of this directory wrote a file, by what the file records."""
        return bool(hint.directory) and hint.directory == self.stamp

    def holds(self, position: JournalPosition, record: Record) -> bool:
        """Return whether a file with a position holds a record of the journal."""
        return self._lineage.holds(position, record)

    def is_overtaken(self, positions: Iterable[JournalPosition]) -> bool:
        """Return whether a file was saved after the journal was read, by an engine opened since."""
        if all(not one.run or self._lineage.knows(one) for one in positions):
            return False
        return os.path.isdir(self._journal_folder) and self._newest != self._last_segment()

    def _last_segment(self) -> list[int]:
        return segment_indices(self._journal_folder)[-1:]

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
            if name.endswith((_SUFFIX, PARTS)) and not name.startswith(".")
        ]  # fmt: skip

    def recover(self) -> Iterator[Record]:
        """Yield the changes that may be in no file yet; at the end the journal goes on."""
        journal = Journal(self._journal_folder, self._access_of_all())
        for record in journal.recover():
            self._lineage = journal.lineage
            yield record
        self._journal = journal

    def _access_of_all(self) -> Access:
        """Return the permissions that all collections' files grant: the journal has of all."""
        access = self._stored.access_of_files(_SUFFIX)
        for name in self._stored.names():
            if name.endswith(PARTS):
                with suppress(StorageError):  # of a folder that is refused nothing gets there
                    access &= self.folder(self._stored.place(name)).access()
        return access

    def restrict(self, access: Access) -> None:
        """Let the journal have no permission that a collection's file denies."""
        self.journal.restrict(access)

    def _read_while_written(self) -> list[Record]:
        """The records of a journal whose segments somebody else may remove meanwhile."""
        for attempt in range(_TRIES):
            if not os.path.isdir(self._journal_folder):
                return []
            found = Replayed()
            try:
                self._newest = self._last_segment()
                records = list(read_journal(self._journal_folder, found))
            except SourceNotFound:
                if attempt < _TRIES - 1:
                    continue
                raise
            self._lineage = found.lineage
            return records
        return []

    def files(self) -> dict[str, str]:
        """Return the path of each collection's file or folder; names of others are left alone.

        A path may be refused later: see :meth:`base`.
        """
        names = self._names()
        found: dict[str, str] = {}
        for file in [name for name in names if name.endswith(_SUFFIX)]:
            name = name_of(file.removesuffix(_SUFFIX)) or self._stored_name(self._stored, file)
            if name is not None:
                found[name] = self._stored.place(file)
        for path in [self._stored.place(name) for name in names if name.endswith(PARTS)]:
            if (name := self._name_of_folder(path)) is not None:
                found[name] = self._newer(path, found[name]) if name in found else path
        return found

    def _name_of_folder(self, path: str) -> str | None:
        """Return the collection that a folder has, or None where it has none."""
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
                logger.warning("%s is left alone: %s", path, error)
        return name

    def _stored_name(self, folder: Folder, name: str) -> str | None:
        """Return the name of the one collection that a file has."""
        try:
            names = list(list_collections(folder.hold(name)))
        except GodbError as error:
            logger.warning("%s is left alone: %s", folder.place(name), error)
            return None
        return names[0] if len(names) == 1 else None

    def _newer(self, folder: str, file: str) -> str:
        """Return which of the two has the collection.

        A crash leaves both, with versions that can be compared. Else one of them was put there,
        and the other one counts.
        """
        with suppress(GodbError):  # a folder is always whole
            hint, other = self.base(file).hint, self.base(folder).hint
            if hint.directory == other.directory:
                return file if hint.version > other.version else folder
            return file if self.wrote(hint) else folder
        return folder

    def _is_leftover(self, path: str, current: str) -> bool:
        """Return whether a crash left a file or folder beside the current one."""
        try:
            hint, newer = self.base(path).hint, self.base(current).hint
            return hint.directory == newer.directory or hint.fingerprint == newer.former
        except SourceNotFound:  # a folder without a manifest
            return True
        except GodbError:
            return False

    def remove_older(self, files: Mapping[str, str]) -> None:
        """Remove what a crash left beside the files that count."""
        there = set(self._stored.names()) if files else set()
        if not any(name.endswith(PARTS) for name in there):
            return
        for name, path in files.items():
            pair = self.paths_of(name)
            others = [other for other in pair if other != path and os.path.basename(other) in there]
            if not others or path not in pair:
                continue
            try:
                for one in pair:
                    self.check(one)
                self.base(path).hint  # noqa: B018 (raises if it cannot be read)
            except GodbError as error:
                logger.warning("%s is left beside %s: %s", ", ".join(others), path, error)
                continue
            for other in others:
                if self._is_leftover(other, path):
                    logger.info("%s is older than %s: removed", other, path)
                    self.remove(other)
                else:
                    logger.warning("%s is ignored: the collection %r is in %s", other, name, path)

    def check(self, path: str) -> None:
        """Raise if a collection's file or folder is a symbolic link or of another kind."""
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
            self.memory, path, is_ours=not self.read_only,
            may_close=True if self.read_only else None, hold=self._hold,
        )  # fmt: skip

    def _hold(self, path: str) -> HeldFile:
        return self._stored.hold(os.path.basename(path))

    def attached(self, path: object, collection: str) -> Base:
        """Return the documents of a file that the journal names.

        A file outside of the directory is refused when it is opened, unless the journal is trusted.

        Parameters
        ----------
        path : str
            A path below the directory, relative or absolute; or another one, or a URL, as version
            0.1 wrote it.
        collection : str
            The collection in the file.
        """
        name = str(path)
        below = self._below(path) if isinstance(path, str) else None
        if below is not None:
            *folders, file = below
            folder = self._root
            for one in folders:
                folder = folder.folder(one)
            return Base(
                self.memory, folder.place(file), collection, is_ours=False,
                hold=lambda _: folder.hold(file), refusal=_refusal_of(folder, file),
            )  # fmt: skip
        if self.trust_journal and isinstance(path, str):
            return Base(self.memory, name, collection, is_ours=False)
        refusal = StorageError(
            f"the journal attaches {name!r}, which is outside of the data directory",
            advice="if you trust the directory, open it once with trust_journal=True and save; "
            "else drop the collection, and attach the file again",
        )
        refusal.operation, refusal.source = "attach", self.path
        return Base(self.memory, name, collection, is_ours=False, refusal=refusal)

    def _below(self, path: str) -> list[str] | None:
        """Return the names that lead from the directory to a file, or None for a file outside."""
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
        """Return where a collection may be: in a file, or in a folder."""
        file = self.path_of(name)
        return file, file.removesuffix(_SUFFIX) + PARTS

    def path_of(self, name: str) -> str:
        """Return where a collection's file belongs."""
        return self._stored.place(stem(name) + _SUFFIX)

    def stem_of(self, path: str) -> str | None:
        """Return the stem of a collection's file or folder here; None of any other path."""
        folder, _, name = path.rpartition("/" if is_url(path) else os.sep)
        stem, suffix = os.path.splitext(name)
        return stem if folder == self._collections and suffix in (_SUFFIX, PARTS) else None

    def remove(self, path: str) -> None:
        """Remove a collection's file or folder, if it is there and belongs to the directory."""
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
        """Replace a collection's file by what was in a base, or write it."""
        access = None if path == base.path else base.access() & self._stored.access()
        return self._stored.replace(
            os.path.basename(path), access, expected=self.expected_at(path, base)
        )

    def expected_at(self, path: str, base: Base) -> Expected:
        """What must be in the place of a file that takes the place of a base; locally, anything."""
        return None

    # --- attached files -----------------------------------------------------------------------

    def attach(self, location: str) -> str:
        """Copy a file into the directory, from which collections are read until they are saved.

        Parameters
        ----------
        location : path or URL
            A GODB file.

        Returns
        -------
        str
            Path of the copy, which is on the disk.

        Raises
        ------
        StorageError
        """
        folder = self._attached_folder()
        name = uuid.uuid4().hex + ATTACHED
        with Source(location).open() as source:
            access = folder.access()
            if not is_url(location):  # the copy is no more readable than the file
                access &= Access.of_file(os.fstat(source.fileno()))
            with folder.replace(name, access) as target:
                shutil.copyfileobj(source, target, _BLOCK)
        return folder.place(name)

    def attach_again(self, path: str) -> str:
        """Give an attached file another name, for one more collection that it has.

        Returns
        -------
        str
            Path under the other name.
        """
        other = self._attached_folder().place(uuid.uuid4().hex + ATTACHED)
        with storage_errors("attach", other):
            try:
                local.disk.link(path, other)
            except OSError:  # the file system has no links
                return self.attach(path)
            local.disk.sync_folder(self._attached_folder().path)
        return other

    def attached_base(self, path: str, collection: str) -> Base:
        """Return the documents of a file that was attached."""
        folder, name = self._attached_folder(), os.path.basename(path)
        return Base(
            self.memory, path, collection, is_ours=False,
            hold=lambda _: folder.hold(name), refusal=_refusal_of(folder, name),
        )  # fmt: skip

    def recovered_base(self, name: object, collection: str) -> Base:
        """Return the documents of an attached file that the journal names.

        Raises
        ------
        CorruptFile
            No engine gives a file that name.
        """
        if not is_attached_name(name):
            raise CorruptFile(
                f"the journal names an attached file {name!r}",
                offset=0,
                where="file",
                advice="restore the data directory from a copy",
            )
        return self.attached(f"collections/{name}", collection)

    def detach(self, paths: Iterable[str]) -> None:
        """Remove attached files, as far as they are there."""
        folder = self._attached_folder()
        for path in paths:
            with suppress(SourceNotFound):
                folder.remove(os.path.basename(path))

    def remove_unattached(self, used: Collection[str]) -> None:
        """Remove the attached files that no collection is read from."""
        folder = self._attached_folder()
        found = map(folder.place, folder.files(is_attached_name))
        self.detach(path for path in found if path not in used)

    def _attached_folder(self) -> Folder:
        return self._stored

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
        """Nothing: a URL names one place."""

    @property
    def keeps_journal(self) -> bool:
        """It is a temporary one."""
        return False

    def recover(self) -> Iterator[Record]:
        """Nothing, for what was not saved is gone; but of a follower the journal that it got."""
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
            found = Replayed()
            records = list(read_journal(folder, found))
            self._lineage = found.lineage
            return records

    def is_overtaken(self, positions: Iterable[JournalPosition]) -> bool:
        """Return False: there is no journal that another process writes."""
        return False

    def _attached_folder(self) -> Folder:
        return self._local

    def remove_unattached(self, used: Collection[str]) -> None:
        """Do nothing: attached files are temporary ones of this engine."""

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
    path: str | os.PathLike[str],
    memory: Memory,
    *,
    read_only: bool = False,
    trust_journal: bool = False,
    create: bool = True,
) -> DataDirectory:
    """Open a data directory: a folder, or the URL of one on an object store.

    Parameters
    ----------
    path : path or URL
        Where it is.
    memory : Memory
        Holds what is read of its files.
    read_only : bool
        Whether to leave everything as it is.
    create : bool
        Whether to make it, if it is not there.

    Raises
    ------
    SourceNotFound
        It is not there; the message has the most similar name.
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
    """Return why a file must not be opened, if it is a symbolic link or of another kind."""
    try:
        folder.access_of(name)
    except StorageError as error:
        return error
    return None
