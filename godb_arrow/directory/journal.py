"""The journal: every change, appended before it counts, until a checkpoint holds it.

A folder of segments, ``00000001.journal`` and on. A segment is a header of 64 bytes and records:

=========  ==================================================================================
bytes      what they are
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
engine has the journal open: it draws a UUID, and each file that it saves records the UUID beside
the sequence number. A block is 512 bytes, of the file or of the record, and sparse with at most
one byte other than zero: so a sector that was never written shows.

In version 1 the header ends before the UUID. A record's head has neither the sparse blocks nor a
checksum of its own, and nothing follows the payload.

A last record that the file cuts off, or that has a sector that was never written, is torn, and is
cut. Anything else is damage, and the journal is refused: see docs/journal.md.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from godb_arrow.directory.segments import (
    HEADER,
    Lineage,
    Record,
    Replayed,
    Segment,
    next_number,
    pack_header,
    pack_record,
    read_journal,
    remove_torn,
    segment_path,
)
from godb_arrow.errors import (
    Applied,
    EngineClosed,
    ForkedProcess,
    StorageError,
    storage_errors,
)
from godb_arrow.file.hints import JournalPosition
from godb_arrow.storage import local
from godb_arrow.storage.inside import open_inside
from godb_arrow.storage.modes import UNLIMITED, Access, restrict_file

__all__ = ["Journal", "Receipt"]


logger = logging.getLogger(__name__)
_SEGMENT_SIZE = 64 << 20


class Receipt:
    """Receipt of a record: whether the journal has it.

    Attributes
    ----------
    number : int or None
        Sequence number of the record. It is set in the moment from which on the change happened,
        also where an interrupt keeps :meth:`Journal.append` from returning.
    """

    __slots__ = ("number",)

    def __init__(self) -> None:
        self.number: int | None = None


class Journal:
    """The open journal of a data directory: appends, syncs, and forgets what is not needed.

    Parameters
    ----------
    folder : str
        Where the segments are.
    access : Access
        Permissions that the segments have at most. Default: those that the umask leaves.

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
    >>> [record.meta for record in read_journal(folder)]
    [{'op': 'drop'}]
    """

    def __init__(self, folder: str, access: Access = UNLIMITED) -> None:
        self._folder = folder
        self._access = access
        self._lock = threading.Lock()  # guards all that follows
        self._syncing = threading.Lock()  # one sync at a time; who waits for it shares the next
        self._segments: list[Segment] = []
        self._descriptor = -1
        self._broken: StorageError | None = None
        self._process = os.getpid()
        self._closed = False
        self._durable_size = 0  # of the last segment
        self._durable_number = 0
        self._run = uuid.uuid4().bytes
        self._needed: dict[object, int] = {}  # oldest record that is in no checkpoint yet
        self._wanted: dict[object, int] = {}  # oldest record that a follower has not got
        self.syncs = 0
        self.torn = 0
        self.lineage = Lineage()

    @property
    def last(self) -> int:
        """The number of the newest record."""
        return self._segments[-1].last

    def position(self, number: int) -> JournalPosition:
        """Return the position of a record that this run wrote, as files record it."""
        return JournalPosition(self._run, number)

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self._segments)

    def recover(self) -> Iterator[Record]:
        """Read the records that are there, and make the journal ready for more behind them."""
        found = Replayed()
        for record in read_journal(self._folder, found):
            self.lineage = found.lineage
            yield record
        with storage_errors("recover", self._folder):
            self._go_on(found)

    def _go_on(self, found: Replayed) -> None:
        self._segments = found.segments
        self.torn = found.torn
        first = next_number(found)
        if found.torn:
            logger.warning(
                "%s: %d bytes behind record %d were cut off in the middle of writing",
                self._folder, found.torn, first - 1,
            )  # fmt: skip
        remove_torn(found)
        # What is there was perhaps not synced before a crash; a new segment begins behind it.
        for segment in found.segments[-1:]:
            descriptor = open_inside(segment.path, os.O_RDONLY)
            try:
                local.disk.fsync(descriptor)
            finally:
                local.disk.close(descriptor)
        for segment in found.segments:
            restrict_file(segment.path, self._access)
        self._durable_number = first - 1
        self._begin_segment(first)

    def skip_to(self, number: int) -> None:
        """Give the next record at least a sequence number."""
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
            descriptor = open_inside(path, flags, self._access.new_file)
            self._access.restrict(descriptor)
            local.disk.write_all(descriptor, pack_header(first, self._run, oldest))
            local.disk.fsync(descriptor)
            local.disk.sync_folder(self._folder)
            segments = [*self._segments, Segment(index, path, first, first - 1)]
            # One statement: no interrupt comes between.
            self._segments, self._descriptor, self._durable_size = segments, descriptor, HEADER.size
        except BaseException:
            if descriptor >= 0 and self._descriptor != descriptor:
                with suppress(OSError):
                    os.close(descriptor)
                with suppress(OSError):
                    os.unlink(path)  # records go on in the segment before
            raise
        finally:
            if previous >= 0 and self._descriptor == descriptor:
                local.disk.close(previous)

    def restrict(self, access: Access) -> None:
        """Remove permissions from the segments, now and later."""
        with self._lock, storage_errors("append to the journal", self._folder):
            if self._access & access != self._access:
                self._access &= access
                for segment in self._segments:
                    restrict_file(segment.path, self._access)

    def append(
        self,
        key: object,
        meta: dict[str, Any],
        parts: Sequence[bytes] = (),
        receipt: Receipt | None = None,
    ) -> int:
        """Append a record; it survives a crash of the process, and with :meth:`sync` more.

        Parameters
        ----------
        key : hashable
            Owner of the change. The record is kept until :meth:`release` for that key.
        meta : dict
            Description of the change.
        parts : sequence of bytes
            Entries that belong to it.
        receipt : Receipt, optional
            Receives the sequence number. Whatever is raised, the journal has the record if and only
            if the receipt has a number.

        Returns
        -------
        int
            Sequence number of the record.

        Raises
        ------
        StorageError
            The record was not written, and nothing changed.
        EngineClosed
            The journal was closed.
        """
        receipt = receipt or Receipt()
        with self._lock:
            self._check_usable()
            segment = self._segments[-1]
            number = segment.last + 1
            size, buffers = pack_record(number, self._durable_size, meta, parts, segment.size)
            size += segment.size
            try:
                with storage_errors("append to the journal", segment.path):
                    for buffer in buffers:
                        local.disk.write_all(self._descriptor, buffer)
                receipt.number = number
                segment.size, segment.last = size, number
                self._needed.setdefault(key, number)
            except BaseException as error:
                if receipt.number is None:
                    self._take_back(segment, error)
                else:  # an interrupt came when the record was there
                    segment.size, segment.last = size, number
                    self._needed.setdefault(key, number)
                raise
            return number

    def _take_back(self, segment: Segment, error: BaseException) -> None:
        """Cut off what was written of a record that failed."""
        try:
            local.disk.truncate(self._descriptor, segment.size)
            os.lseek(self._descriptor, segment.size, os.SEEK_SET)
        except OSError as second:
            self._break(second)
            raise error from second

    def _break(self, cause: BaseException) -> None:
        broken = StorageError(
            f"the journal cannot be trusted after {cause}",
            advice="call save(): it stores everything in the collections' files, and begins "
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
            closed = EngineClosed("the engine was closed", advice="open another one")
            closed.applied = applied
            raise closed
        if self._broken is not None:
            error = StorageError(self._broken.message, advice=self._broken.advice)
            error.applied = applied
            raise error from self._broken

    def sync(self, number: int | None = None) -> None:
        """Wait until a record, and all before it, are on the disk.

        Threads that wait at the same time share one sync.

        Parameters
        ----------
        number : int, optional
            Sequence number of the record; the newest one by default.

        Raises
        ------
        StorageError
            The disk refused, and whether the record survives a power cut is not known. The journal
            takes no more records until a save has begun a new segment. The segment is never synced
            again.
        """
        wanted = self.last if number is None else number
        if self._durable_number >= wanted:
            return
        with self._syncing:
            self._sync_now(wanted)

    def _sync_now(self, wanted: int) -> None:
        with self._lock:  # closing, too, makes records durable: it is over or has not begun
            if self._durable_number >= wanted:
                return
            self._check_usable("unknown")
            segment = self._segments[-1]
            number, size = segment.last, segment.size
            descriptor = os.dup(self._descriptor)
        try:
            with storage_errors("sync the journal", segment.path):
                local.disk.fsync(descriptor)
        except StorageError as error:
            # The kernel may have dropped what it could not write: no later sync can promise it.
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
        """Return the oldest record that a key needs; None where it needs none."""
        with self._lock:
            return self._needed.get(key)

    def release(self, key: object, needed: int | None, *, follower: bool = False) -> None:
        """Say from which record on a key's changes are still needed; None for not at all.

        Parameters
        ----------
        key : hashable
            The owner of the changes.
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
        """Remove the segments that nothing needs; begin a new one when the last is large or free.

        Raises
        ------
        StorageError
            The disk refused; the journal is as good as before.
        """
        with self._lock, storage_errors("trim the journal", self._folder):
            if self._closed or self._process != os.getpid():
                return
            current = self._segments[-1]
            end = current.last + 1
            needed = min(self._needed.values(), default=end)  # files hold all before
            if needed >= end and self._broken is not None:
                self._wanted.clear()  # followers copy the files
            oldest = min((needed, *self._wanted.values()))
            if oldest >= end and (current.last >= current.first or self._broken is not None):
                self._begin_segment(end, needed)
                self._broken = None
            elif current.size > _SEGMENT_SIZE and self._broken is None:
                local.disk.fsync(self._descriptor)
                self._begin_segment(end, needed)
            while len(self._segments) > 1 and self._segments[0].last < oldest:
                with suppress(FileNotFoundError):  # an interrupt came when it was removed
                    local.disk.unlink(self._segments[0].path)
                del self._segments[0]

    def close(self, *, stored: bool = False) -> None:
        """Close the journal: its records are on the disk, and no record can be added.

        Parameters
        ----------
        stored : bool
            Whether files hold all changes, so that the journal need not be synced.

        Raises
        ------
        StorageError
            The disk refused to sync. The journal is closed all the same.
        """
        with self._lock:
            if self._closed:
                return
            descriptor = self._descriptor
            self._closed, self._descriptor = True, -1
            try:
                if descriptor >= 0 and self._process == os.getpid():
                    with storage_errors("close the journal", self._folder):
                        if not stored and self._broken is None and self.last > self._durable_number:
                            local.disk.fsync(descriptor)
            finally:
                if descriptor >= 0:
                    with storage_errors("close the journal", self._folder):
                        local.disk.close(descriptor)
            if self._broken is None or stored:
                self._durable_number = self.last

    def forget_in_child(self) -> None:
        """Close the descriptor that a forked child has of its parent's journal; nothing else."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)
