"""Journal: each change is appended to it before it is applied, until a checkpoint contains it.

The journal is a folder of segments, ``00000001.journal`` and so on. A segment has a header of 64
bytes, and records:

=========  ==================================================================================
bytes      content
=========  ==================================================================================
header     ``GODBJRNL``, version 2 (``uint32``), 0 (``uint32``), sequence number of the first
           record (``uint64``), XXH3-64 of these 24 bytes; UUID of the run (16 bytes),
           sequence number of the oldest record that is needed (``uint64``), XXH3-64 of these 56
           bytes
record     length of the payload, sequence number, bytes of the segment that were on the disk
           when the record was written (``uint64`` each); number of its sparse blocks, XXH32 of
           these 28 bytes (``uint32`` each); XXH3-64 of these 32 bytes and all that follows; the
           payload; 2 to 17 bytes ``FF``, up to a multiple of 16
payload    length of a MessagePack map (``uint32``), the map, and entries that belong to it
=========  ==================================================================================

All integers are little-endian. Records are numbered without gaps. A run is the time for which one
engine has the journal open. Each run generates a UUID, which the files that it saves record beside
the sequence number.

A block has 512 bytes, counted in the file or in the record. It is sparse if it has at most one byte
other than zero. So a sector that was never written is detected.

A segment may end with zeros, which a journal of commits reserves ahead of its records. No record
begins or ends with zeros.

In version 1 the header ends before the UUID. A record's head has neither the sparse blocks nor a
checksum of its own, and no bytes follow the payload.

The last record is torn if the file ends inside it, or if it has a sector that was never written.
A torn record is cut off. All other damage is an error (see docs/journal.md).
"""

from __future__ import annotations

import logging
import os
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from godb_arrow.codec import write_short
from godb_arrow.directory.commit_queue import CommitQueue
from godb_arrow.directory.journal_reader import Replayed, next_number, read_journal, remove_torn
from godb_arrow.directory.kept_segments import KeptSegments
from godb_arrow.directory.records import Lineage, Record, pack_record
from godb_arrow.directory.segments import HEADER, Segment, index_of, pack_header, segment_path
from godb_arrow.errors import (
    Applied,
    EngineClosed,
    ForkedProcess,
    StorageError,
    storage_error,
    storage_errors,
)
from godb_arrow.file.hints import JournalPosition
from godb_arrow.storage import local
from godb_arrow.storage.inside import open_inside
from godb_arrow.storage.modes import UNLIMITED, Access, restrict_file

__all__ = ["Journal", "Receipt"]


logger = logging.getLogger(__name__)
_SEGMENT_BYTES = 64 << 20
_RESERVED_BYTES = 256 << 10  # ahead of the records of commits, which are synced sooner then


class Receipt:
    """Confirmation that the journal has a record.

    Attributes
    ----------
    number : int or None
        Sequence number of the record. It is set at the moment when the change happens, even if an
        interrupt keeps :meth:`Journal.append` from returning.
    """

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number: int | None = None


class Journal:
    """Open journal of a data directory, which appends, syncs and trims records.

    Parameters
    ----------
    folder : str
        Folder of the segments.
    access : Access
        Permissions that the segments have at most. By default only the umask restricts them.
    kept : KeptSegments, optional
        Folder for segments that the journal no longer needs, which are removed by default.

    Examples
    --------
    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> journal = Journal(folder)
    >>> list(journal.recover())
    []
    >>> journal.append("users", {"op": "drop"})
    1
    >>> journal.sync()
    >>> journal.close()
    >>> [record.meta["op"] for record in read_journal(folder)]
    ['drop']
    """

    def __init__(
        self, folder: str, access: Access = UNLIMITED, kept: KeptSegments | None = None
    ) -> None:
        self._folder = folder
        self._kept = kept
        self._access = access
        self._lock = threading.Lock()  # guards the attributes below
        self._syncing = threading.Lock()  # One thread syncs, and waiting threads share the next.
        self._segments: list[Segment] = []
        self._descriptor = -1
        self._broken: StorageError | None = None
        self._process = os.getpid()
        self._closed = False
        self._commits = CommitQueue(self.is_durable)
        self._durable_size = 0  # synced bytes of the last segment
        self._durable_number = 0
        self._reserved_size = 0  # size of the last segment's file with its reserved space; or 0
        self._run = uuid.uuid4().bytes
        self.first = 0  # sequence number of the first record of this run
        self._needed: dict[object, int] = {}  # oldest record that no checkpoint contains, by owner
        self._wanted: dict[object, int] = {}  # oldest record that a follower lacks, by owner
        self.syncs = 0
        self.torn = 0
        self.lineage = Lineage()

    @property
    def last(self) -> int:
        """Sequence number of the newest record."""
        return self._segments[-1].last

    def position(self, number: int) -> JournalPosition:
        """Return the position of a record of this run, as files record it."""
        return JournalPosition(self._run, number)

    @property
    def is_broken(self) -> bool:
        """Whether the journal takes no records until a save has begun a new segment."""
        return self._broken is not None

    def end(self) -> tuple[JournalPosition, tuple[int, int]]:
        """Return the position of the newest record, and the segment and offset after it."""
        with self._lock:
            segment = self._segments[-1]
            return self.position(segment.last), (segment.index, segment.size)

    @property
    def size(self) -> int:
        """Size of all segments in bytes."""
        segments = self._segments
        return segments[0].size if len(segments) == 1 else sum([one.size for one in segments])

    def recover(self) -> list[Record]:
        """Return the existing records; the journal accepts new ones."""
        with self.recovering() as records:
            return records

    @contextmanager
    def recovering(self) -> Iterator[list[Record]]:
        """Enter with the existing records; then, without an error, the journal accepts new ones."""
        replayed = Replayed()
        records = list(read_journal(self._folder, replayed))
        self.lineage = replayed.lineage
        yield records
        with storage_errors("recover", self._folder):
            self._continue_after(replayed)

    def _continue_after(self, replayed: Replayed) -> None:
        self._segments = replayed.segments
        self.torn = replayed.torn
        first = next_number(replayed)
        if replayed.torn:
            logger.warning(
                "%s: cutting off %d bytes after record %d, which a crash left unfinished",
                self._folder,
                replayed.torn,
                first - 1,
            )
        if self._kept is not None:
            paths = [*replayed.unneeded, *(segment.path for segment in replayed.segments)]
            oldest = min(index_of(path) for path in paths) if paths else 1
            self._kept.begin(self._folder, oldest)
            self._kept.restrict(self._access)
        remove_torn(replayed, self._remove)
        # The records may not have been synced before a crash. A new segment begins after them.
        for segment in replayed.segments[-1:]:
            descriptor = open_inside(segment.path, os.O_RDONLY)
            try:
                local.disk.fsync(descriptor)
            finally:
                local.disk.close(descriptor)
        for segment in replayed.segments:
            restrict_file(segment.path, self._access)
        self._durable_number = first - 1
        self.first = first
        self._begin_segment(first)

    def skip_to(self, number: int) -> None:
        """Raise the next sequence number to at least a given one."""
        with self._lock:
            if number > self.last + 1:
                self._begin_segment(number)

    def _begin_segment(self, first: int, oldest: int = 0) -> None:
        index = self._segments[-1].index + 1 if self._segments else 1
        path = segment_path(self._folder, index)
        previous = self._descriptor
        descriptor = -1
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        try:
            self._release_reserved(previous)
            descriptor = open_inside(path, flags, self._access.new_file)
            self._access.restrict(descriptor)
            local.disk.write_all(descriptor, pack_header(first, self._run, oldest))
            local.disk.fsync(descriptor)
            local.disk.sync_folder(self._folder)
            segments = [*self._segments, Segment(index, path, first, first - 1)]
            # An interrupt cannot divide this single statement.
            self._segments, self._descriptor, self._durable_size = segments, descriptor, HEADER.size
        except BaseException:
            if descriptor >= 0 and self._descriptor != descriptor:
                with suppress(OSError):
                    os.close(descriptor)
                with suppress(OSError):
                    os.unlink(path)  # Records are still appended to the segment before.
            raise
        finally:
            if previous >= 0 and self._descriptor == descriptor:
                local.disk.close(previous)

    def _reserve(self, segment: Segment) -> None:
        """Reserve space for records; then a sync of one need not change the size of the file."""
        if segment.size + _RESERVED_BYTES // 4 <= self._reserved_size:
            return
        end = segment.size + _RESERVED_BYTES
        self._reserved_size = end  # An attempt that fails may reserve a part of it.
        with suppress(OSError):  # The records need no reserved space.
            local.disk.allocate(self._descriptor, segment.size, _RESERVED_BYTES)

    def _release_reserved(self, descriptor: int) -> None:
        """Cut off the space that no record uses."""
        size = self._segments[-1].size if self._reserved_size else 0
        if self._reserved_size > size:
            with suppress(OSError):  # Readers ignore the zeros.
                local.disk.truncate(descriptor, size)
        self._reserved_size = 0

    def restrict(self, access: Access) -> None:
        """Remove permissions from existing and future segments."""
        with self._lock, storage_errors("append to the journal", self._folder):
            if self._access & access != self._access:
                self._access &= access
                for segment in self._segments:
                    restrict_file(segment.path, self._access)
                if self._kept is not None:
                    self._kept.restrict(self._access)

    def append(
        self,
        key: object,
        meta: dict[str, Any],
        parts: Sequence[bytes] = (),
        receipt: Receipt | None = None,
        others: Sequence[object] = (),
    ) -> int:
        """Append a record, which survives a crash of the process, and after :meth:`sync` any crash.

        Parameters
        ----------
        key : hashable
            Owner of the change. The record is kept until :meth:`release` for that key.
        meta : dict
            Description of the change, which receives its time.
        parts : sequence of bytes
            Entries that belong to the change.
        receipt : Receipt, optional
            Object that receives the sequence number. Whatever is raised, the journal has the record
            if and only if the receipt has a number.
        others : sequence of hashable
            Further owners of the change.

        Returns
        -------
        int
            Sequence number of the record.

        Raises
        ------
        StorageError
            The record was not written, and nothing changed.
        EngineClosed
            The journal is closed.
        """
        receipt = receipt or Receipt()
        with self._lock:
            if self._closed or self._broken is not None or self._process != os.getpid():
                self._check_usable()
            segment = self._segments[-1]
            number = segment.last + 1
            meta["t"] = time.time()
            size, buffers = pack_record(number, self._durable_size, meta, parts, segment.size)
            size += segment.size
            disk, descriptor = local.disk, self._descriptor
            try:
                try:
                    for buffer in buffers:
                        written = disk.write(descriptor, buffer, write_short)
                        if written < len(buffer):
                            disk.write_all(descriptor, memoryview(buffer)[written:])
                except OSError as error:
                    raise storage_error(error, "append to the journal", segment.path) from error
                receipt.number = number
                segment.size, segment.last = size, number
                self._note_owners(number, key, others)
            except BaseException as error:
                if receipt.number is None:
                    self._take_back(segment, error)
                else:  # An interrupt arrived after the record was written.
                    segment.size, segment.last = size, number
                    self._note_owners(number, key, others)
                raise
            return number

    def _note_owners(self, number: int, key: object, others: Sequence[object]) -> None:
        self._needed.setdefault(key, number)
        for owner in others:
            self._needed.setdefault(owner, number)

    def _take_back(self, segment: Segment, error: BaseException) -> None:
        """Cut off the bytes of a record that could not be written."""
        try:
            local.disk.truncate(self._descriptor, segment.size)
            self._reserved_size = 0
            os.lseek(self._descriptor, segment.size, os.SEEK_SET)
        except OSError as second:
            self._break(second)
            raise error from second

    def _break(self, cause: BaseException) -> None:
        broken = StorageError(
            f"the journal cannot be trusted after {cause}",
            advice="call save(), which stores all changes in the collections' files, and begins "
            "a new journal",
        )
        broken.operation, broken.source = "write", self._folder
        broken.errno = getattr(cause, "errno", None)
        broken.__cause__ = cause
        self._broken = broken

    def _check_usable(self, applied: Applied = "no") -> None:
        if self._process != os.getpid():
            raise ForkedProcess(
                f"the journal in {self._folder} belongs to the parent process",
                advice="use the engine in the process that opened it",
            )
        if self._closed:
            closed = EngineClosed("the engine is closed", advice="open another one")
            closed.applied = applied
            raise closed
        if self._broken is not None:
            error = StorageError(self._broken.message, advice=self._broken.advice)
            error.applied = applied
            raise error from self._broken

    def sync(self, number: int | None = None) -> None:
        """Wait until a record, and all earlier ones, are synced to the disk.

        Threads that wait at the same time share one sync.

        Parameters
        ----------
        number : int, optional
            Sequence number of the record; the newest one by default.

        Raises
        ------
        StorageError
            The disk refused, so a power cut may or may not lose the record. The journal refuses
            records until a save has begun a new segment. The segment is never synced again.
        """
        wanted = self.last if number is None else number
        if self._durable_number >= wanted:
            return
        with self._syncing:
            self._sync_now(wanted)

    def commit(self, number: int) -> None:
        """Sync a record, as :meth:`sync`, and reserve space for those that will follow.

        One thread syncs at a time. When it has, it wakes all threads whose records are durable now,
        and the one that syncs next. So the disk need not wait until each of them has run.
        """
        if not self.is_durable(number) and self._commits.leads(number):
            try:
                with self._syncing:
                    self._sync_now(number, reserve=True)
            finally:
                self._commits.pass_on()

    def is_durable(self, number: int) -> bool:
        """Return whether a power cut keeps a record."""
        return self._durable_number >= number

    def sync_shared(self, number: int) -> None:
        """Sync a record that several collections share, before a file has its changes.

        Otherwise a power cut could keep the changes of one collection only. A journal that failed
        to sync cannot be synced again, and only files with all changes replace it.
        """
        if self._broken is None:
            self.sync(number)

    def _sync_now(self, wanted: int, *, reserve: bool = False) -> None:
        with self._lock:  # Closing makes records durable, too. It has ended or not begun.
            if self._durable_number >= wanted:
                return
            self._check_usable("unknown")
            segment = self._segments[-1]
            number, size = segment.last, segment.size
            if reserve:
                self._reserve(segment)
            descriptor = os.dup(self._descriptor)
        try:
            with storage_errors("sync the journal", segment.path):
                local.disk.fsync(descriptor)
        except StorageError as error:
            # The kernel may have dropped the data, so a later sync could succeed without it.
            self._break(error)
            error.applied = "unknown"
            raise
        finally:
            os.close(descriptor)
        self.syncs += 1
        with self._lock:
            self._durable_number = max(self._durable_number, number)
            if self._segments[-1] is segment:
                self._durable_size = max(self._durable_size, size)

    def needed(self, key: object) -> int | None:
        """Return the oldest record that a key needs, or None."""
        with self._lock:
            return self._needed.get(key)

    def release(self, key: object, needed: int | None, *, follower: bool = False) -> None:
        """Record the oldest record that a key still needs, or None if it needs no records.

        Parameters
        ----------
        key : hashable
            Owner of the changes.
        needed : int or None
            Sequence number of the oldest record that is needed.
        follower : bool
            Whether the owner can copy files instead, so that it does not keep a journal that
            failed to sync.
        """
        with self._lock:
            owners = self._wanted if follower else self._needed
            if needed is None:
                owners.pop(key, None)
            else:
                owners[key] = needed

    def trim(self) -> None:
        """Remove segments without needed records, and begin a new one where the last is large.

        Raises
        ------
        StorageError
            The disk refused. The journal remains valid.
        """
        with self._lock, storage_errors("trim the journal", self._folder):
            if self._closed or self._process != os.getpid():
                return
            current = self._segments[-1]
            end = current.last + 1
            needed = min(self._needed.values(), default=end)  # Files contain all earlier records.
            if needed >= end and self._broken is not None:
                self._wanted.clear()  # Followers copy the files instead.
            oldest = min((needed, *self._wanted.values()))
            if oldest >= end and (current.last >= current.first or self._broken is not None):
                self._begin_segment(end, needed)
                self._broken = None
            elif current.size > _SEGMENT_BYTES and self._broken is None:
                local.disk.fsync(self._descriptor)
                self._begin_segment(end, needed)
            while len(self._segments) > 1 and self._segments[0].last < oldest:
                with suppress(FileNotFoundError):  # An interrupt arrived after the removal.
                    self._remove(self._segments[0].path)
                del self._segments[0]

    def _remove(self, path: str) -> None:
        """Remove a segment whose changes files contain, or keep it for readers of changes."""
        if self._kept is None:
            local.disk.unlink(path)
        else:
            self._kept.take(path)

    def close(self, *, stored: bool = False) -> None:
        """Close the journal after syncing its records.

        Parameters
        ----------
        stored : bool
            Whether files contain all changes, so that the journal need not be synced.

        Raises
        ------
        StorageError
            The disk refused to sync. The journal is closed anyway.
        """
        with self._lock:
            if self._closed:
                return
            descriptor = self._descriptor
            self._closed, self._descriptor = True, -1
            try:
                if descriptor >= 0 and self._process == os.getpid():
                    with storage_errors("close the journal", self._folder):
                        self._release_reserved(descriptor)
                        if not stored and self._broken is None and self.last > self._durable_number:
                            local.disk.fsync(descriptor)
            finally:
                if descriptor >= 0:
                    with storage_errors("close the journal", self._folder):
                        local.disk.close(descriptor)
            if self._broken is None or stored:
                self._durable_number = self.last

    def forget_in_child(self) -> None:
        """Close the descriptor of the parent's journal that a forked child inherited."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)
