"""Segments of the journal: header, records, reading and recovery."""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import xxhash

from godb_arrow.errors import CorruptFile, UnsupportedVersion, storage_errors
from godb_arrow.storage.inside import number_in, open_to_read

__all__ = [
    "HEAD",
    "HEADER",
    "Record",
    "Replayed",
    "Segment",
    "next_number",
    "open_segment",
    "pack_header",
    "pack_record",
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


def pack_header(first: int) -> bytes:
    """Return the header of a segment."""
    head = HEADER.pack(_MAGIC, _VERSION, 0, first, 0)[:24]
    return head + xxhash.xxh3_64_intdigest(head).to_bytes(8, "little")


def pack_record(
    number: int, durable: int, meta: dict[str, Any], parts: Sequence[bytes]
) -> list[bytes]:
    """Return a record as buffers to write in order."""
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
    """Return the numbers of the segments in a folder, in order."""
    found = (number_in(name, _SUFFIX) for name in os.listdir(folder))
    return sorted(index for index in found if index is not None)


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
        with storage_errors("recover", path), open_to_read(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            segment = open_segment(stream, path, index, is_last=index == indices[-1])
            if segment is None or _is_unused(segment, found, size, index == indices[-1]):
                found.torn = size
                first = next_number(found)
                found.segments.append(Segment(index, path, first, first - 1, size=0))
                return
            if found.segments and segment.first != next_number(found):
                raise _hole(path, 0, f"begins with record {segment.first}, but record "
                            f"{next_number(found)} comes next")  # fmt: skip
            found.segments.append(segment)
            yield from _records(stream, segment, size)
            if segment.size < size:
                if index != indices[-1]:
                    raise _hole(path, segment.size, "is damaged, and others follow")
                _refuse_hole(stream, segment, size)
                found.torn = size - segment.size


def _is_unused(segment: Segment, found: Replayed, size: int, is_last: bool) -> bool:
    """Whether a segment was made and never used, while records went on in the one before."""
    before = found.segments and segment.first < next_number(found)
    return bool(is_last and before and size == HEADER.size)


def next_number(found: Replayed) -> int:
    """Return the number that the next record gets."""
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
