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
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import xxhash

from godb_arrow.errors import CorruptFile, StorageError, UnsupportedVersion, storage_errors
from godb_arrow.storage import local

__all__ = [
    "HEAD",
    "HEADER",
    "Journal",
    "Record",
    "Replayed",
    "Segment",
    "open_segment",
    "read_journal",
    "read_record",
    "segment_indices",
    "segment_path",
]

logger = logging.getLogger(__name__)

_MAGIC = b"GODBJRNL"
_VERSION = 1
HEADER = struct.Struct("<8sIIQQ")
HEAD = struct.Struct("<QQQQ")
_META = struct.Struct("<I")
_SUFFIX = ".journal"
_SEGMENT_SIZE = 64 << 20
_MAX_META = 1 << 30


@dataclass(frozen=True, slots=True)
class Record:
    """One change.

    Attributes
    ----------
    number : int
        Records are numbered from 1, over all segments.
    meta : dict
        What kind of change it is, of which collection.
    parts : list of bytes
        The entries that belong to it.
    """

    number: int
    meta: dict[str, Any]
    parts: list[bytes]


@dataclass(slots=True)
class Segment:
    """One file of a journal."""

    index: int
    path: str
    first: int  # number of the first record
    last: int  # number of the last one; first - 1 while there are none
    size: int = HEADER.size


def segment_path(folder: str, index: int) -> str:
    """Where a segment is."""
    return os.path.join(folder, f"{index:08d}{_SUFFIX}")


def _pack_header(first: int) -> bytes:
    head = HEADER.pack(_MAGIC, _VERSION, 0, first, 0)[:24]
    return head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little")


def _pack_record(
    number: int, durable: int, meta: dict[str, Any], parts: Sequence[bytes]
) -> list[bytes]:
    meta = {**meta, "parts": [len(part) for part in parts]}
    packed: bytes = msgpack.packb(meta, unicode_errors="surrogateescape")
    length = _META.size + len(packed) + sum(map(len, parts))
    head = HEAD.pack(length, number, durable, 0)[:24]
    payload = [_META.pack(len(packed)), packed, *parts]
    digest = xxhash.xxh3_64(head)
    for part in payload:
        digest.update(part)
    return [head, digest.intdigest().to_bytes(8, "little"), *payload]


@dataclass(slots=True)
class Replayed:
    """What the segments of a folder hold."""

    segments: list[Segment] = field(default_factory=list)
    torn: int = 0  # bytes behind the last good record


def segment_indices(folder: str) -> list[int]:
    """The numbers of the segments that there are, in order."""
    names = (name.removesuffix(_SUFFIX) for name in os.listdir(folder) if name.endswith(_SUFFIX))
    return sorted(int(name) for name in names if name.isdigit())


def read_journal(folder: str, found: Replayed | None = None) -> Iterator[Record]:
    """Read the records of a journal, oldest first.

    Parameters
    ----------
    folder : str
        Where the segments are.
    found : optional
        Gets what was found of the segments, for a journal that goes on.

    Yields
    ------
    Record

    Raises
    ------
    CorruptFile
        A record is missing that was durable; ``offset`` counts the bytes of the segment.
    UnsupportedVersion
        The journal was written by a later version.
    """
    found = Replayed() if found is None else found
    indices = segment_indices(folder)
    for index in indices:
        path = segment_path(folder, index)
        with storage_errors("recover", path), open(path, "rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            segment = open_segment(stream, path, index, is_last=index == indices[-1])
            if segment is None or _is_unused(segment, found, size, index == indices[-1]):
                found.torn = size
                first = _next_number(found)
                found.segments.append(Segment(index, path, first, first - 1, size=0))
                return
            if found.segments and segment.first != _next_number(found):
                raise _hole(path, 0, f"begins with record {segment.first}, but record "
                            f"{_next_number(found)} comes next")  # fmt: skip
            found.segments.append(segment)
            yield from _records(stream, segment, size)
            if segment.size < size:
                if index != indices[-1]:
                    raise _hole(path, segment.size, "is damaged, and others follow")
                _refuse_hole(stream, segment, size)
                found.torn = size - segment.size


def _is_unused(segment: Segment, found: Replayed, size: int, is_last: bool) -> bool:
    """Whether a segment was made and never used, while records went on in the one before."""
    before = found.segments and segment.first < _next_number(found)
    return bool(is_last and before and size == HEADER.size)


def _next_number(found: Replayed) -> int:
    return found.segments[-1].last + 1 if found.segments else 1


def _hole(path: str, offset: int, problem: str) -> CorruptFile:
    error = CorruptFile(
        f"the journal {problem}",
        offset=offset,
        where="file",
        advice="changes that were acknowledged are missing: restore the data directory from a "
        "copy, or move the journal away to go on with what the collections' files hold",
    )
    error.operation, error.source = "recover", path
    return error


def open_segment(stream: Any, path: str, index: int, *, is_last: bool) -> Segment | None:
    """The segment that a file has; None where it was made just before the power was cut."""
    head = stream.read(HEADER.size)
    if len(head) == HEADER.size:
        magic, version, _, first, digest = HEADER.unpack(head)
        if digest == xxhash.xxh3_64_intdigest(head[:24]) and magic == _MAGIC:
            if version != _VERSION:
                raise UnsupportedVersion(
                    f"the journal has version {version}; this program reads version {_VERSION}",
                    advice="update godb-arrow",
                )
            return Segment(index, path, first, first - 1)
    if is_last and (len(head) < HEADER.size or not stream.read(1)):
        return None  # made just before the power was cut
    raise _hole(path, 0, "does not begin as a segment")


def _records(stream: Any, segment: Segment, size: int) -> Iterator[Record]:
    while True:
        record = read_record(stream, size - segment.size, segment.last + 1)
        if record is None:
            return
        segment.last = record.number
        segment.size = stream.tell()
        yield record


def read_record(stream: Any, left: int, number: int | None) -> Record | None:
    """The next record; None where there is none that is whole, or that has another number."""
    head = stream.read(HEAD.size)
    if len(head) < HEAD.size:
        return None
    length, found, _, digest = HEAD.unpack(head)
    if not _META.size <= length <= left - HEAD.size or (number is not None and found != number):
        return None
    payload = stream.read(length)
    if len(payload) < length:
        return None
    actual = xxhash.xxh3_64(head[:24])
    actual.update(payload)
    if actual.intdigest() != digest:
        return None
    (meta_size,) = _META.unpack_from(payload)
    at = _META.size + meta_size
    meta = msgpack.unpackb(
        payload[_META.size : at], raw=False, strict_map_key=False, unicode_errors="surrogateescape"
    )
    parts = []
    for part_size in meta.pop("parts"):
        parts.append(payload[at : at + part_size])
        at += part_size
    return Record(found, meta, parts)


def _refuse_hole(stream: Any, segment: Segment, size: int) -> None:
    """Raise if a whole record behind the bad one says that the bad one was durable."""
    stream.seek(segment.size)
    tail = stream.read()
    greatest = segment.last + 1 + len(tail) // HEAD.size
    for shift in range(min(8, len(tail))):
        words = np.frombuffer(tail, "<u8", (len(tail) - shift) // 8, shift)
        near = np.flatnonzero((words > segment.last) & (words <= greatest))
        for word in near[near >= 1]:
            start = shift + 8 * (int(word) - 1)  # of the record whose number this may be
            if len(tail) - start < HEAD.size:
                continue
            _, number, durable, _ = HEAD.unpack_from(tail, start)
            stream.seek(segment.size + start)
            left = size - segment.size - start
            if durable > segment.size and read_record(stream, left, number) is not None:
                raise _hole(segment.path, segment.size, f"is damaged before record {number}")


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
        first = _next_number(found)
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
            local.disk.write_all(descriptor, _pack_header(first))
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
            pieces = _pack_record(number, self._durable_size, meta, parts)
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
