"""Records of the journal: packing and reading of single changes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgpack
import numpy as np
import pyarrow as pa
import xxhash

from godb_arrow.directory.segments import Segment, journal_damage, seal
from godb_arrow.errors import CorruptFile, GodbError
from godb_arrow.file.hints import JournalPosition

__all__ = [
    "ALIGNMENT_BYTES",
    "LOST",
    "SECTOR_BYTES",
    "Lineage",
    "Record",
    "count_blocks",
    "digest_of",
    "extent_of",
    "head_of",
    "head_size",
    "last_number",
    "pack_record",
    "read_record",
    "sensible",
    "sparse_blocks_of",
]


LOST = "lost"
"""Operation of a record that stands for lost ones (see :mod:`godb_arrow.directory.repair`)."""
ALIGNMENT_BYTES = 16
"""Unit of the offsets of records."""
SECTOR_BYTES = 512
"""Bytes that a disk writes as a whole or not at all."""
_HEAD = struct.Struct("<QQQIIQ")
_FRONT = struct.Struct("<QQQI")  # part of a head that the head's own checksum covers
_HEAD_1 = struct.Struct("<QQQQ")  # of version 1
_META = struct.Struct("<I")
_MIN_PADDING_BYTES = 2  # other than zero, at the end of a record
_ZEROS = bytes(SECTOR_BYTES // 4 - 1)  # occurs in a sector with one byte other than zero
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
        return size, [head + seal(head + content) + content]
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
    return count_blocks(b"".join([b"\xff" * _HEAD.size, *payload]), offset, most=1)


def _size_of(length: int) -> int:
    """Return the size of a record with a payload of `length` bytes."""
    return -(-(_HEAD.size + length + _MIN_PADDING_BYTES) // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


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


def count_blocks(data: bytes, offset: int, most: int) -> int:
    """Count the blocks of a record that have at most a given number of bytes other than zero.

    A power cut may leave a block unwritten. It is a sector of the file, or of the write.
    """
    count = 0
    first = -offset % SECTOR_BYTES
    for start in {first, 0}:
        end = start + (len(data) - start) // SECTOR_BYTES * SECTOR_BYTES
        if start < end:
            sectors = np.frombuffer(data, np.uint8, end - start, start).reshape(-1, SECTOR_BYTES)
            count += int((np.count_nonzero(sectors, axis=1) <= most).sum())
        for edge in (data[:start], data[max(end, start) :]):
            if len(edge) >= ALIGNMENT_BYTES and len(edge) - edge.count(0) <= most:
                count += 1
    return count


def last_number(stream: BinaryIO, segment: Segment) -> int:
    """Return the sequence number of the last record of a segment, reading only heads."""
    size = os.fstat(stream.fileno()).st_size
    at, last = segment.size, segment.last
    while True:
        stream.seek(at)
        head = head_of(segment, stream.read(head_size(segment)))
        if head is None or head[1] <= last:
            return last
        at += extent_of(segment, head[0])
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


def extent_of(segment: Segment, length: int) -> int:
    """Return the size of a record, given the size of its payload."""
    return _HEAD_1.size + length if segment.version == 1 else _size_of(length)


def head_size(segment: Segment) -> int:
    """Return the size of the head of a record."""
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
    head = stream.read(head_size(segment))
    fields = head_of(segment, head)
    if fields is None:
        return None
    length, actual, _ = fields
    extent = extent_of(segment, length)
    if not _META.size <= length <= extent <= left or (number is not None and actual != number):
        return None
    payload = stream.read(extent - len(head))
    if len(head) + len(payload) < extent or digest_of(segment, head, payload) != head[-8:]:
        return None
    return _unpacked(segment, actual, payload[:length])


def digest_of(segment: Segment, head: bytes, payload: bytes) -> bytes:
    """Return the checksum of a record, 8 bytes."""
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


def sparse_blocks_of(segment: Segment, head: bytes) -> int:
    """Return the number of sparse blocks that the head of a record names."""
    return 0 if segment.version == 1 else int(_HEAD.unpack(head)[3])
