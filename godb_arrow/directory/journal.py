"""The journal: every change, appended before it counts, until a checkpoint holds it.

A folder of segments, ``00000001.journal`` and on. A segment is a header of 32 bytes and records:

=========  ==================================================================================
bytes      what they are
=========  ==================================================================================
header     ``GODBJRNL``, version (``uint32``), 0 (``uint32``), the number of its first record
           (``uint64``), XXH3-64 of these 24 bytes
record     length of the payload, number, bytes of the segment that were durable when it was
           written, XXH3-64 of these 24 bytes and the payload (``uint64`` each); the payload
payload    length of a MessagePack map (``uint32``), the map, and what belongs to it
=========  ==================================================================================

All integers are little-endian. Records are numbered without gaps. A record that is cut off or
damaged ends the journal if nothing behind it says that it was durable: that is a torn tail, and is
cut. Otherwise it is a hole, and the journal is refused: data that were acknowledged are missing.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from godb_arrow.directory.segments import (
    HEADER,
    Record,
    Replayed,
    Segment,
    next_number,
    pack_header,
    pack_record,
    read_journal,
    segment_path,
)
from godb_arrow.errors import StorageError, storage_errors
from godb_arrow.storage import local

__all__ = ["Journal"]


logger = logging.getLogger(__name__)
_SEGMENT_SIZE = 64 << 20


class Journal:
    """The open journal of a data directory: appends, syncs, and forgets what is not needed.

    Parameters
    ----------
    folder : str
        Where the segments are.

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

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()  # guards all but what follows
        self._synced = threading.Condition()  # guards _durable_number, _syncing
        self._segments: list[Segment] = []
        self._descriptor = -1
        self._broken: StorageError | None = None
        self._durable_size = 0  # of the last segment
        self._durable_number = 0
        self._syncing = False
        self._needed: dict[object, int] = {}  # oldest record that is in no checkpoint yet
        self.syncs = 0
        self.torn = 0
        self.was_missing = False

    @property
    def last(self) -> int:
        """The number of the newest record."""
        return self._segments[-1].last

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self._segments)

    def recover(self) -> Iterator[Record]:
        """Read the records that are there, and make the journal ready for more behind them."""
        found = Replayed()
        yield from read_journal(self._folder, found)
        with storage_errors("recover", self._folder):
            self._go_on(found)

    def _go_on(self, found: Replayed) -> None:
        self._segments = found.segments
        self.torn = found.torn
        first = next_number(found)
        if found.torn:
            logger.warning(
                "%s: %d bytes behind record %d were cut off in the middle of writing",
                found.segments[-1].path, found.torn, first - 1,
            )  # fmt: skip
        if found.segments and found.segments[-1].size < HEADER.size:
            local.disk.unlink(found.segments.pop().path)
        elif found.torn:
            descriptor = local.disk.open(found.segments[-1].path, os.O_WRONLY)
            try:
                local.disk.truncate(descriptor, found.segments[-1].size)
            finally:
                local.disk.close(descriptor)
        # What is there was perhaps not synced before a crash; a new segment begins behind it.
        for segment in found.segments[-1:]:
            descriptor = local.disk.open(segment.path, os.O_RDONLY)
            try:
                local.disk.fsync(descriptor)
            finally:
                local.disk.close(descriptor)
        self.was_missing = not found.segments
        self._durable_number = first - 1
        self._begin_segment(first)

    def skip_to(self, number: int) -> None:
        """Number the next record at least so; checkpoints may know of later ones than we do."""
        with self._lock:
            if number > self.last + 1:
                self._begin_segment(number)

    def _begin_segment(self, first: int) -> None:
        index = self._segments[-1].index + 1 if self._segments else 1
        path = segment_path(self._folder, index)
        descriptor = local.disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        try:
            local.disk.write_all(descriptor, pack_header(first))
            local.disk.fsync(descriptor)
            local.disk.sync_folder(self._folder)
        except BaseException:
            with suppress(OSError):
                os.close(descriptor)
            with suppress(OSError):
                os.unlink(path)  # records go on in the segment before
            raise
        previous, self._descriptor = self._descriptor, descriptor
        self._segments.append(Segment(index, path, first, first - 1))
        self._durable_size = HEADER.size
        if previous >= 0:
            local.disk.close(previous)

    def append(self, key: object, meta: dict[str, Any], parts: Sequence[bytes] = ()) -> int:
        """Append a record; it survives a crash of the process, and with :meth:`sync` more.

        Parameters
        ----------
        key : hashable
            Whose change it is: the record is kept until :meth:`release` for that key.
        meta : dict
            What changed.
        parts : sequence of bytes
            Entries that belong to it.

        Returns
        -------
        int
            The record's number.

        Raises
        ------
        StorageError
            The record was not written, and nothing changed.
        """
        with self._lock:
            self._check_broken()
            segment = self._segments[-1]
            number = segment.last + 1
            pieces = pack_record(number, self._durable_size, meta, parts)
            with storage_errors("append to the journal", segment.path):
                self._write(segment, pieces)
            segment.last = number
            self._needed.setdefault(key, number)
            return number

    def _write(self, segment: Segment, pieces: list[bytes]) -> None:
        size = sum(map(len, pieces))
        small = size < 1 << 16
        try:
            for piece in [b"".join(pieces)] if small else pieces:
                local.disk.write_all(self._descriptor, piece)
        except BaseException as error:
            try:
                local.disk.truncate(self._descriptor, segment.size)
                os.lseek(self._descriptor, segment.size, os.SEEK_SET)
            except OSError as second:
                self._break(second)
                raise error from second
            raise
        segment.size += size

    def _break(self, cause: BaseException) -> None:
        self._broken = StorageError(
            f"the journal cannot be trusted after {cause}",
            advice="call save(): it stores everything in the collections' files, and begins "
            "a new journal",
        )
        self._broken.operation, self._broken.source = "write", self._folder
        self._broken.errno = getattr(cause, "errno", None)
        self._broken.__cause__ = cause

    def _check_broken(self) -> None:
        if self._broken is not None:
            raise StorageError(self._broken.message, advice=self._broken.advice) from self._broken

    def sync(self, number: int | None = None) -> None:
        """Wait until a record, and all before it, are on the disk.

        Threads that wait at the same time share one sync.

        Parameters
        ----------
        number : int, optional
            The record; the newest, if left out.

        Raises
        ------
        StorageError
            The disk refused. The journal takes no more records until a save has begun a new one.
        """
        wanted = self.last if number is None else number
        while True:
            with self._synced:
                while self._syncing and self._durable_number < wanted:
                    self._synced.wait()
                if self._durable_number >= wanted:
                    return
                self._check_broken()
                self._syncing = True
            try:
                self._sync_now()
            finally:
                with self._synced:
                    self._syncing = False
                    self._synced.notify_all()

    def _sync_now(self) -> None:
        with self._lock:
            segment = self._segments[-1]
            number, size = segment.last, segment.size
            descriptor = os.dup(self._descriptor)
        try:
            with storage_errors("sync the journal", segment.path):
                local.disk.fsync(descriptor)
        except StorageError as error:
            # The kernel may have dropped what it could not write: no later sync can promise it.
            self._break(error)
            raise
        finally:
            os.close(descriptor)
        self.syncs += 1
        with self._synced:
            self._durable_number = max(self._durable_number, number)
        with self._lock:
            if self._segments[-1] is segment:
                self._durable_size = max(self._durable_size, size)

    def release(self, key: object, needed: int | None) -> None:
        """Say from which record on a key's changes are still needed; None for not at all.

        Segments whose records nobody needs are removed.
        """
        with self._lock:
            if needed is None:
                self._needed.pop(key, None)
            else:
                self._needed[key] = needed

    def trim(self) -> None:
        """Remove the segments that nobody needs; begin a new one when the last is large or free.

        Raises
        ------
        StorageError
            The disk refused; the journal is as good as before.
        """
        with self._lock, storage_errors("trim the journal", self._folder):
            current = self._segments[-1]
            oldest = min(self._needed.values(), default=current.last + 1)
            unneeded = oldest > current.last
            used = current.last >= current.first
            if (unneeded and used) or current.size > _SEGMENT_SIZE or self._broken is not None:
                if not unneeded:
                    local.disk.fsync(self._descriptor)
                self._begin_segment(current.last + 1)
                if unneeded:
                    self._broken = None
            while len(self._segments) > 1 and self._segments[0].last < oldest:
                local.disk.unlink(self._segments[0].path)
                del self._segments[0]

    def close(self) -> None:
        """Close the file; what was appended stays."""
        with self._lock:
            if self._descriptor >= 0:
                descriptor, self._descriptor = self._descriptor, -1
                with storage_errors("close the journal", self._folder):
                    local.disk.close(descriptor)
