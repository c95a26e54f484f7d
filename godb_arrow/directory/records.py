"""Records of the journal: packing and reading of single changes."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, BinaryIO

import msgpack
import pyarrow as pa
import xxhash

from godb_arrow import codec
from godb_arrow.codec.reference.records import (
    META_SIZE,
    RECORD_FRONT,
    RECORD_HEAD,
    front_of_record,
    payload_of,
    record_size,
    sparse_blocks,
)
from godb_arrow.directory.segments import Segment, journal_damage
from godb_arrow.errors import CorruptFile, GodbError
from godb_arrow.file.hints import JournalPosition

__all__ = [
    "LOST",
    "NO_VERSION",
    "TRANSACTION",
    "UNLISTED",
    "Lineage",
    "Record",
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


TRANSACTION = "transaction"
"""Operation of a record with the changes of several collections."""
UNLISTED = "unlisted"
"""Operation of a record for changes that only a version of a collection has."""
NO_VERSION = 0.0
"""Time of the version before the first one, which has no documents."""
LOST = "lost"
"""Operation of a record that stands for lost ones (see :mod:`godb_arrow.directory.repair`)."""
_HEAD_1 = struct.Struct("<QQQQ")  # of version 1
_WRITE_BYTES = 1 << 20  # a multiple of the sector
_LARGE_BYTES = 1 << 20  # of a record, above which its parts are not copied
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

    def of_collections(self) -> list[Record]:
        """Return the records of the single collections of a transaction, with the same number."""
        records, at = [], 0
        for meta in self.meta["w"]:
            own = self.parts[at : at + len(meta["k"])]
            at += len(meta["k"])
            records.append(Record(self.number, {"op": "write", **meta}, own, self.run))
        return records

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
    if sum(map(len, parts)) < _WRITE_BYTES:
        record = codec.pack_record(number, durable, offset, meta, parts)
        return len(record), [record]
    length, payload = payload_of(meta, parts)
    head = front_of_record(length, number, durable, sparse_blocks(payload, offset))
    digest = xxhash.xxh3_64(head)
    for piece in payload:
        digest.update(piece)
    head += digest.intdigest().to_bytes(8, "little")
    return record_size(length), _buffers([head, *payload])


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
        if len(head) < RECORD_HEAD.size:
            return None
        length, number, durable, _, check, _ = RECORD_HEAD.unpack(head[: RECORD_HEAD.size])
        if xxhash.xxh32_intdigest(head[: RECORD_FRONT.size]) != check:
            return None
    return length, number, durable


def extent_of(segment: Segment, length: int) -> int:
    """Return the size of a record, given the size of its payload."""
    return _HEAD_1.size + length if segment.version == 1 else record_size(length)


def head_size(segment: Segment) -> int:
    """Return the size of the head of a record."""
    return _HEAD_1.size if segment.version == 1 else RECORD_HEAD.size


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
    if not META_SIZE.size <= length <= extent <= left or (number is not None and actual != number):
        return None
    if length > _LARGE_BYTES:
        return _read_large(stream, segment, head, length)
    payload = stream.read(extent - len(head))
    if len(head) + len(payload) < extent or digest_of(segment, head, payload) != head[-8:]:
        return None
    return _unpacked(segment, actual, memoryview(payload)[:length])


def _read_large(stream: BinaryIO, segment: Segment, head: bytes, length: int) -> Record | None:
    """Read the rest of a record with many bytes, each part without a copy of it."""
    fields = head_of(segment, head)
    assert fields is not None
    digest = xxhash.xxh3_64(head[:-8])
    left = extent_of(segment, length) - len(head)

    def take(size: int) -> bytes:
        nonlocal left
        data = stream.read(min(size, left))
        digest.update(data)
        left -= len(data)
        return data

    front = take(META_SIZE.size)
    front += take(min(int.from_bytes(front, "little"), length - len(front)))
    end = left - (length - len(front))  # bytes of padding
    parts = [take(min(size, left - end)) for size in _sizes_in(front)]
    while left and take(_WRITE_BYTES):
        pass
    if left or digest.intdigest().to_bytes(8, "little") != head[-8:]:
        return None
    return _unpacked(segment, fields[1], memoryview(front), parts)


def _sizes_in(front: bytes) -> list[int]:
    """Return the sizes of the parts of a record, by its description, which may be damaged."""
    with suppress(*_UNUSABLE):
        meta = _meta_in(front[META_SIZE.size :])
        return [size for size in meta["parts"] if size >= 0]
    return []


def _meta_in(packed: bytes | memoryview) -> Any:
    return msgpack.unpackb(
        packed, raw=False, strict_map_key=False, unicode_errors="surrogateescape"
    )


def digest_of(segment: Segment, head: bytes, payload: bytes) -> bytes:
    """Return the checksum of a record, 8 bytes."""
    digest = xxhash.xxh3_64(head[:-8])
    digest.update(payload)
    return digest.intdigest().to_bytes(8, "little")


def _unpacked(
    segment: Segment, number: int, payload: memoryview, known: list[bytes] | None = None
) -> Record:
    """Return the record in a payload, of which the parts may be known."""
    try:
        (meta_size,) = META_SIZE.unpack_from(payload)
        at = META_SIZE.size + meta_size
        meta = _meta_in(payload[META_SIZE.size : at])
        parts = known or []
        sizes = meta.pop("parts")
        if known is not None and sizes != [len(part) for part in known]:
            raise ValueError("a part has no bytes")
        for part_size in () if known is not None else sizes:
            if not 0 <= part_size <= len(payload) - at:
                raise ValueError(f"a part has {part_size} bytes")
            parts.append(bytes(payload[at : at + part_size]))
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
    return 0 if segment.version == 1 else int(RECORD_HEAD.unpack(head)[3])
