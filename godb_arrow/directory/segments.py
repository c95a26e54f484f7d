"""Segments of the journal: headers and records, their reading, and detection of damage."""

from __future__ import annotations

import io
import logging
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import msgpack
import numpy as np
import pyarrow as pa
import xxhash

from godb_arrow.errors import CorruptFile, GodbError, UnsupportedVersion, storage_errors
from godb_arrow.file.hints import JournalPosition
from godb_arrow.storage import local
from godb_arrow.storage.inside import number_in, open_inside, open_to_read

__all__ = [
    "HEADER",
    "LOST",
    "VERSION",
    "Layout",
    "Lineage",
    "Record",
    "Replayed",
    "Segment",
    "damage_after",
    "head_of",
    "journal_damage",
    "last_number",
    "next_number",
    "open_segment",
    "pack_header",
    "pack_record",
    "read_journal",
    "read_record",
    "remove_torn",
    "segment_indices",
    "segment_path",
    "sensible",
    "whole_records_after",
]


logger = logging.getLogger(__name__)

_MAGIC = b"GODBJRNL"
VERSION = 2
HEADER = struct.Struct("<8sIIQQ16sQQ")
_HEADER_1 = struct.Struct("<8sIIQQ")  # of version 1, with which every later header begins
_HEAD = struct.Struct("<QQQIIQ")
_FRONT = struct.Struct("<QQQI")  # part of a head that the head's own checksum covers
_HEAD_1 = struct.Struct("<QQQQ")
_META = struct.Struct("<I")
_SUFFIX = ".journal"
_ALIGNMENT_BYTES = 16  # Each record begins at a multiple.
_MIN_PADDING_BYTES = 2  # other than zero, at the end of a record
_SECTOR_BYTES = 512  # written by a disk whole or not at all
_ZEROS = bytes(_SECTOR_BYTES // 4 - 1)  # occurs in a sector with one byte other than zero
_WRITE_BYTES = 1 << 20  # a multiple of the sector
_UNUSABLE = (
    AttributeError,
    IndexError,
    KeyError,
    TypeError,
    ValueError,
    OverflowError,
    struct.error,
    pa.ArrowException,
    msgpack.UnpackException,
)

LOST = "lost"
"""Operation of a record that stands for lost ones (see :mod:`godb_arrow.directory.repair`)."""


@dataclass(frozen=True, slots=True)
class Record:
    """Change in the journal.

    Attributes
    ----------
    number : int
        Sequence number, counted from 1 over all segments.
    meta : dict
        Kind of the change, and name of the collection.
    parts : list of bytes
        Entries that belong to the change.
    run : bytes
        UUID of the run of the journal that wrote the record; empty for version 1.
    """

    number: int
    meta: dict[str, Any]
    parts: list[bytes]
    run: bytes = b""

    @property
    def last(self) -> int:
        """Last sequence number that the record stands for."""
        return int(self.meta["to"]) if self.meta.get("op") == LOST else self.number

    @property
    def position(self) -> JournalPosition:
        """Position in the journal, as files record it."""
        return JournalPosition(self.run, self.number)


@dataclass(slots=True)
class Segment:
    """File of a journal."""

    index: int
    path: str
    first: int  # sequence number of the first record
    last: int  # sequence number of the last record; first - 1 if there are none
    size: int = HEADER.size
    version: int = VERSION
    run: bytes = b""
    oldest: int = 0  # oldest record that was needed when the segment began

    @property
    def header_size(self) -> int:
        """Size of the header in bytes."""
        return HEADER.size if self.version == VERSION else _HEADER_1.size


class Lineage:
    """Runs of a journal in their order, which determine the records that a file contains.

    Parameters
    ----------
    runs : sequence of bytes
        UUID of each segment's run, in order.

    Examples
    --------
    >>> lineage = Lineage([b"a", b"a", b"b"])
    >>> record = Record(7, {}, [], b"b")
    >>> [lineage.holds(JournalPosition(run, 9), record) for run in (b"a", b"b", b"other")]
    [False, True, False]
    """

    def __init__(self, runs: Sequence[bytes] = ()) -> None:
        self._order = {run: index for index, run in enumerate(runs)}

    def knows(self, position: JournalPosition) -> bool:
        """Return whether a position is in a run of this journal."""
        return position.run in self._order

    def holds(self, position: JournalPosition, record: Record) -> bool:
        """Return whether a file with a position contains a record.

        A position of another journal contains no records.
        """
        at = self._order.get(position.run)
        own = self._order.get(record.run)
        if at is None or own is None:
            return False
        return at > own or (at == own and position.number >= record.number)


def segment_path(folder: str, index: int) -> str:
    """Return the path of a segment."""
    return os.path.join(folder, f"{index:08d}{_SUFFIX}")


def pack_header(first: int, run: bytes, oldest: int = 0) -> bytes:
    """Return the header of a segment.

    Parameters
    ----------
    first : int
        Sequence number of the first record.
    run : bytes
        UUID of the run, 16 bytes; empty for records of version 1.
    oldest : int
        Sequence number of the oldest record that is needed. Files contain all earlier changes.
    """
    front = _HEADER_1.pack(_MAGIC, VERSION, 0, first, 0)[:-8]
    front += _seal(front)
    head = front + (run or bytes(16)) + oldest.to_bytes(8, "little")
    return head + _seal(head)


def _seal(data: bytes) -> bytes:
    return xxhash.xxh3_64_intdigest(data).to_bytes(8, "little")


def pack_record(
    number: int, durable: int, meta: dict[str, Any], parts: Sequence[bytes], offset: int
) -> tuple[int, Iterable[bytes | memoryview]]:
    """Return the bytes of a record, and the buffers to write in order.

    Parameters
    ----------
    number : int
        Sequence number.
    durable : int
        Number of synced bytes of the segment.
    meta : dict
        Description of the change.
    parts : sequence of bytes
        Entries that belong to the change.
    offset : int
        Offset of the record in the segment.
    """
    meta = {**meta, "parts": [len(part) for part in parts]}
    packed: bytes = msgpack.packb(meta, unicode_errors="surrogateescape")
    length = _META.size + len(packed) + sum(map(len, parts))
    size = _size_of(length)
    filler = b"\xff" * (size - _HEAD.size - length)
    payload = [_META.pack(len(packed)), packed, *parts, filler]
    if size < _WRITE_BYTES:
        content = b"".join(payload)
        head = _front(length, number, durable, _sparse_blocks([content], offset))
        return size, [head + _seal(head + content) + content]
    head = _front(length, number, durable, _sparse_blocks(payload, offset))
    digest = xxhash.xxh3_64(head)
    for piece in payload:
        digest.update(piece)
    head += digest.intdigest().to_bytes(8, "little")
    return size, _buffers([head, *payload])


def _front(length: int, number: int, durable: int, sparse: int) -> bytes:
    """Return the head of a record, without the checksum of the whole record."""
    front = _FRONT.pack(length, number, durable, sparse)
    return front + xxhash.xxh32_intdigest(front).to_bytes(4, "little")


def _sparse_blocks(payload: list[bytes], offset: int) -> int:
    """Count the blocks of a record that have at most one byte other than zero."""
    if not any(_ZEROS in piece for piece in payload):
        return 0
    return _count_blocks(b"".join([b"\xff" * _HEAD.size, *payload]), offset, most=1)


def _size_of(length: int) -> int:
    """Return the size of a record with a payload of `length` bytes."""
    return -(-(_HEAD.size + length + _MIN_PADDING_BYTES) // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _buffers(pieces: list[bytes]) -> Iterator[bytes | memoryview]:
    """Yield bytes in buffers of the same size."""
    waiting: list[bytes | memoryview] = []
    size = 0
    for piece in pieces:
        view = memoryview(piece)
        while size + len(view) >= _WRITE_BYTES:
            part, view = view[: _WRITE_BYTES - size], view[_WRITE_BYTES - size :]
            yield b"".join([*waiting, part]) if waiting else part
            waiting, size = [], 0
        if view:
            waiting.append(view)
            size += len(view)
    if size:
        yield b"".join(waiting)


def _count_blocks(data: bytes, offset: int, most: int) -> int:
    """Count the blocks of a record that have at most a given number of bytes other than zero.

    A power cut may leave a block unwritten. It is a sector of the file, or of the write.
    """
    count = 0
    first = -offset % _SECTOR_BYTES
    for start in {first, 0}:
        end = start + (len(data) - start) // _SECTOR_BYTES * _SECTOR_BYTES
        if start < end:
            sectors = np.frombuffer(data, np.uint8, end - start, start).reshape(-1, _SECTOR_BYTES)
            count += int((np.count_nonzero(sectors, axis=1) <= most).sum())
        for edge in (data[:start], data[max(end, start) :]):
            if len(edge) >= _ALIGNMENT_BYTES and len(edge) - edge.count(0) <= most:
                count += 1
    return count


@dataclass(slots=True)
class Replayed:
    """Content of the segments in a folder, apart from their records."""

    segments: list[Segment] = field(default_factory=list)
    unneeded: list[str] = field(default_factory=list)  # segments that a crash left
    cuts: dict[str, int] = field(default_factory=dict)  # offset of a torn record, by segment
    torn: int = 0  # number of bytes after the last complete record
    lineage: Lineage = field(default_factory=Lineage)


def segment_indices(folder: str) -> list[int]:
    """Return the numbers of the segments in a folder, in order."""
    numbers = (number_in(name, _SUFFIX) for name in os.listdir(folder))
    return sorted(index for index in numbers if index is not None)


def read_journal(folder: str, found: Replayed | None = None) -> Iterator[Record]:
    """Read the records of a journal, oldest first.

    Parameters
    ----------
    folder : str
        Folder of the segments.
    found : Replayed, optional
        Object that receives the segments, for a journal that continues.

    Yields
    ------
    Record

    Raises
    ------
    CorruptFile
        The journal is damaged. ``offset`` counts the bytes of the segment.
    UnsupportedVersion
        The journal was written by a later version.
    """
    found = Replayed() if found is None else found
    layout = Layout.read(folder)
    found.unneeded = [segment_path(folder, index) for index in layout.unneeded]
    found.torn = layout.torn
    found.lineage = Lineage([segment.run for segment in layout.segments])
    for segment in layout.segments:
        path = segment.path
        with storage_errors("recover", path), open_to_read(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            expected = next_number(found)
            if found.segments and segment.first != expected:
                if segment.index > layout.last and segment.first < expected:
                    found.unneeded.append(path)  # The segment before has the later records.
                    continue
                raise journal_damage(
                    path,
                    0,
                    f"begins with record {segment.first} instead of {expected}",
                )
            found.segments.append(segment)
            yield from _records(stream, segment, size)
            if segment.size < size:
                if segment.index < layout.last:
                    raise journal_damage(path, segment.size, "is damaged, and others follow")
                problem = damage_after(stream, segment, size)
                if problem is not None:
                    raise journal_damage(path, segment.size, f"is damaged: {problem}")
                found.cuts[path] = segment.size
                found.torn += size - segment.size


@dataclass(frozen=True, slots=True)
class Layout:
    """Segments of a journal by their headers.

    Attributes
    ----------
    segments : list of Segment
        Segments that recovery reads.
    unneeded : list of int
        Segments that a crash left. Files contain all changes of the first ones. The last one has no
        header. Their content may be incomplete.
    last : int
        Last segment that has records.
    torn : int
        Number of bytes of a last segment without a header.
    """

    segments: list[Segment]
    unneeded: list[int]
    last: int
    torn: int = 0

    @classmethod
    def read(cls, folder: str, *, damaged: Callable[[CorruptFile], object] | None = None) -> Layout:
        """Read the headers of all segments.

        Parameters
        ----------
        folder : str
            Folder of the segments.
        damaged : callable, optional
            Function that is called with the error of a damaged header, which is raised by default.
        """
        segments: list[Segment] = []
        last = torn = 0
        headless: list[int] = []
        indices = segment_indices(folder)
        for index in indices:
            path = segment_path(folder, index)
            with storage_errors("recover", path), open_to_read(path) as stream:
                size = os.fstat(stream.fileno()).st_size
                try:
                    segment = open_segment(stream, path, index, is_last=index == indices[-1])
                except CorruptFile as error:
                    if damaged is None:
                        raise
                    damaged(error)
                    segment = Segment(index, path, 0, 0, size=0)
            if segment is None:
                headless, torn = [index], size
                continue
            segments.append(segment)
            if size > segment.size:
                last = index
        oldest = max((segment.oldest for segment in segments), default=0)
        count = 0
        for segment in segments[1:]:
            if not 0 < segment.first <= oldest:
                break
            count += 1
        unneeded = [segment.index for segment in segments[:count]] + headless
        return cls(segments[count:], unneeded, last, torn)


def remove_torn(replayed: Replayed) -> None:
    """Remove from the disk the bytes that a crash left unfinished."""
    for path in replayed.unneeded:
        local.disk.unlink(path)
    for path, size in replayed.cuts.items():
        descriptor = open_inside(path, os.O_WRONLY)
        try:
            local.disk.truncate(descriptor, size)
            local.disk.fsync(descriptor)
        finally:
            local.disk.close(descriptor)


def next_number(replayed: Replayed) -> int:
    """Return the sequence number of the next record."""
    return replayed.segments[-1].last + 1 if replayed.segments else 1


def journal_damage(path: str, offset: int, problem: str) -> CorruptFile:
    """Return the error for a damaged segment."""
    error = CorruptFile(
        f"the journal {problem}",
        offset=offset,
        where="file",
        advice="acknowledged changes are damaged; restore the data directory from a copy, or keep "
        'all complete records with "godb-arrow repair DIRECTORY"',
    )
    error.operation, error.source = "recover", path
    return error


@contextmanager
def sensible(record: Record) -> Iterator[None]:
    """Convert an error about the content of a record to :class:`CorruptFile`."""
    try:
        yield
    except GodbError:
        raise
    except _UNUSABLE as error:
        raise CorruptFile(
            f"record {record.number} of the journal is invalid: {error!r}",
            offset=0,
            where="file",
            advice="restore the data directory from a copy",
        ) from error


def open_segment(stream: BinaryIO, path: str, index: int, *, is_last: bool) -> Segment | None:
    """Read the header of a segment.

    Returns
    -------
    Segment or None
        The segment, or None for a last segment whose header a power cut left unwritten.

    Raises
    ------
    CorruptFile, UnsupportedVersion
    """
    head = stream.read(HEADER.size)
    front = head[: _HEADER_1.size]
    if len(front) == _HEADER_1.size and front[:8] == _MAGIC and front[-8:] == _seal(front[:-8]):
        _, version, _, first, _ = _HEADER_1.unpack(front)
        if version == 1:
            return Segment(index, path, first, first - 1, _HEADER_1.size, version=1)
        if version != VERSION:
            raise UnsupportedVersion(
                f"the journal has version {version}; this program reads versions 1 and {VERSION}",
                advice="update godb-arrow",
            )
        if len(head) == HEADER.size and head[-8:] == _seal(head[:-8]):
            _, _, _, _, _, run, oldest, _ = HEADER.unpack(head)
            run = run if any(run) else b""
            return Segment(index, path, first, first - 1, run=run, oldest=oldest)
    if is_last:
        begun = _HEADER_1.pack(_MAGIC, VERSION, 0, 0, 0)[:16]
        if len(head) < HEADER.size and head[:16] == begun[: len(head)]:
            return None  # The power was cut before the header was written.
        if not any(head) and not any(map(any, iter(lambda: stream.read(_WRITE_BYTES), b""))):
            return None
    raise journal_damage(path, 0, "does not begin as a segment")


def _records(stream: BinaryIO, segment: Segment, size: int) -> Iterator[Record]:
    stream.seek(segment.size)
    while True:
        record = read_record(stream, segment, size - segment.size, segment.last + 1)
        if record is None:
            return
        segment.last = record.last
        segment.size = stream.tell()
        yield record


def last_number(stream: BinaryIO, segment: Segment) -> int:
    """Return the sequence number of the last record of a segment, reading only heads."""
    size = os.fstat(stream.fileno()).st_size
    at, last = segment.size, segment.last
    while True:
        stream.seek(at)
        head = head_of(segment, stream.read(_head_size(segment)))
        if head is None or head[1] <= last:
            return last
        at += _extent(segment, head[0])
        if at > size:
            return last
        last = head[1]


def head_of(segment: Segment, head: bytes) -> tuple[int, int, int] | None:
    """Return length, number and durable bytes of a record's head, or None if it is damaged."""
    if segment.version == 1:
        if len(head) < _HEAD_1.size:
            return None
        length, number, durable, _ = _HEAD_1.unpack(head[: _HEAD_1.size])
    else:
        if len(head) < _HEAD.size:
            return None
        length, number, durable, _, check, _ = _HEAD.unpack(head[: _HEAD.size])
        if xxhash.xxh32_intdigest(head[: _FRONT.size]) != check:
            return None
    return length, number, durable


def _extent(segment: Segment, length: int) -> int:
    """Return the size of a record, given the size of its payload."""
    return _HEAD_1.size + length if segment.version == 1 else _size_of(length)


def _head_size(segment: Segment) -> int:
    return _HEAD_1.size if segment.version == 1 else _HEAD.size


def read_record(stream: BinaryIO, segment: Segment, left: int, number: int | None) -> Record | None:
    """Read the record at the position of a stream.

    Parameters
    ----------
    stream : binary file
        Stream of the segment.
    segment : Segment
        Segment, for its version and its run.
    left : int
        Number of bytes of the segment from the position on.
    number : int or None
        Required sequence number of the record; None for any.

    Returns
    -------
    Record or None
        The record, or None if it is incomplete or has another number.
    """
    head = stream.read(_head_size(segment))
    fields = head_of(segment, head)
    if fields is None:
        return None
    length, actual, _ = fields
    extent = _extent(segment, length)
    if not _META.size <= length <= extent <= left or (number is not None and actual != number):
        return None
    payload = stream.read(extent - len(head))
    if len(head) + len(payload) < extent or _digest(segment, head, payload) != head[-8:]:
        return None
    return _unpacked(segment, actual, payload[:length])


def _digest(segment: Segment, head: bytes, payload: bytes) -> bytes:
    digest = xxhash.xxh3_64(head[:-8])
    digest.update(payload)
    return digest.intdigest().to_bytes(8, "little")


def _unpacked(segment: Segment, number: int, payload: bytes) -> Record:
    try:
        (meta_size,) = _META.unpack_from(payload)
        at = _META.size + meta_size
        meta = msgpack.unpackb(
            payload[_META.size : at],
            raw=False,
            strict_map_key=False,
            unicode_errors="surrogateescape",
        )
        parts = []
        for part_size in meta.pop("parts"):
            if not 0 <= part_size <= len(payload) - at:
                raise ValueError(f"a part has {part_size} bytes")
            parts.append(payload[at : at + part_size])
            at += part_size
        record = Record(number, meta, parts, segment.run)
        if record.last < number:
            raise ValueError(f"it stands for records up to {record.last}")
        return record
    except _UNUSABLE as error:
        raise journal_damage(
            segment.path, segment.size, f"is damaged: record {number} is invalid: {error!r}"
        ) from error


def damage_after(stream: BinaryIO, segment: Segment, size: int) -> str | None:
    """Return a description of damage after the last complete record of a last segment.

    Returns
    -------
    str or None
        None for a torn tail. Then the file ends inside the record, or a sector was never written,
        and no later record shows that it was synced.
    """
    expected = segment.last + 1
    stream.seek(segment.size)
    head = stream.read(_head_size(segment))
    if len(head) < _head_size(segment):
        return None  # The file ends inside the head.
    fields = head_of(segment, head)
    if not _is_unwritten(stream, segment.size, len(head)):
        if fields is None:
            return f"the head of record {expected} does not match its checksum"
        length, number, durable = fields
        if number != expected:
            return f"found record {number} instead of record {expected}"
        extent = _extent(segment, length)
        if extent > size - segment.size:  # The file ends inside the record.
            return None if segment.version > 1 else _damage_of_length(stream, segment, size, head)
        stream.seek(segment.size)
        sparse = 0 if segment.version == 1 else _HEAD.unpack(head)[3]
        if _count_blocks(stream.read(extent), segment.size, most=0) <= sparse:
            return f"record {expected} does not match its checksum"
    for _, number, durable in whole_records_after(stream, segment, size):
        if durable > segment.size:
            return f"record {expected} is missing, but was synced before record {number}"
    return None


def _is_unwritten(stream: BinaryIO, offset: int, size: int) -> bool:
    """Return whether a head is zero, or a sector that has bytes of it."""
    stream.seek(offset)
    data = stream.read(size + _SECTOR_BYTES)
    if not any(data[:size]):
        return True
    first = -offset % _SECTOR_BYTES or _SECTOR_BYTES
    sectors = [data[:first], data[first : first + _SECTOR_BYTES] if first < size else b""]
    return any(len(sector) >= _ALIGNMENT_BYTES and not any(sector) for sector in sectors)


def _damage_of_length(stream: BinaryIO, segment: Segment, size: int, head: bytes) -> str | None:
    """Return a description of a damaged length, for a record that seems to end after the file.

    Version 1 does not protect the length by itself.
    """
    problem = f"the length of record {segment.last + 1} was changed after it was written"
    stream.seek(segment.size + len(head))
    payload = stream.read(size - segment.size - len(head))
    whole = len(payload).to_bytes(8, "little") + head[8:]
    if _digest(segment, whole, payload) == head[-8:]:
        return problem
    for _ in whole_records_after(stream, segment, size):
        return problem
    return None


def whole_records_after(
    stream: BinaryIO, segment: Segment, size: int, *, any_number: bool = False
) -> Iterator[tuple[int, int, int]]:
    """Yield offset, number and durable bytes of the complete records after a damaged one.

    Their numbers must follow the last one of the segment, unless any number is accepted.
    """
    stream.seek(segment.size)
    tail = stream.read(size - segment.size)
    head_size = _head_size(segment)
    most = segment.last + 1 + len(tail) // head_size
    step = 1 if segment.version == 1 else _ALIGNMENT_BYTES
    starts: set[int] = set()
    for shift in range(min(8, len(tail)) if step == 1 else 1):
        words = np.frombuffer(tail, "<u8", (len(tail) - shift) // 8, shift)
        near = words > segment.last
        if not any_number:
            near &= words <= most
        at = shift + 8 * (np.flatnonzero(near) - 1)  # possible offsets of the record
        starts.update(at[(at >= 0) & ((at + segment.size) % step == 0)].tolist())
    buffer = io.BytesIO(tail)
    for start in sorted(starts):
        fields = head_of(segment, tail[start : start + head_size])
        if fields is None:
            continue
        _, number, durable = fields
        buffer.seek(start)
        with suppress(CorruptFile):  # The record is complete, but its content is invalid.
            if read_record(buffer, segment, len(tail) - start, number) is not None:
                yield segment.size + start, number, durable
