"""Reading of a journal: which segments count, and what is torn or damaged."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np

from godb_arrow.codec.reference.records import ALIGNMENT_BYTES, SECTOR_BYTES, count_blocks
from godb_arrow.directory.records import (
    Lineage,
    Record,
    digest_of,
    extent_of,
    head_of,
    head_size,
    read_record,
    sparse_blocks_of,
)
from godb_arrow.directory.segments import (
    Segment,
    content_size,
    journal_damage,
    open_segment,
    segment_indices,
    segment_path,
)
from godb_arrow.errors import CorruptFile, storage_errors
from godb_arrow.storage import local
from godb_arrow.storage.inside import open_inside, open_to_read

__all__ = [
    "Layout",
    "Replayed",
    "damage_after",
    "next_number",
    "read_journal",
    "records_of",
    "remove_torn",
    "whole_records_after",
]


_WAITS = (0.001, 0.01)
"""Seconds, for a record in reserved space of which another process may have written a part."""


@dataclass(slots=True)
class Replayed:
    """Content of the segments in a folder, apart from their records."""

    segments: list[Segment] = field(default_factory=list)
    unneeded: list[str] = field(default_factory=list)  # segments that a crash left
    cuts: dict[str, int] = field(default_factory=dict)  # end of the complete records, by segment
    torn: int = 0  # number of bytes after the last complete record
    lineage: Lineage = field(default_factory=Lineage)


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
                try:
                    segment = open_segment(stream, path, index, is_last=index == indices[-1])
                except CorruptFile as error:
                    if damaged is None:
                        raise
                    damaged(error)
                    segment = Segment(index, path, 0, 0, size=0)
                if segment is None:
                    headless, torn = [index], os.fstat(stream.fileno()).st_size
                    continue
                segments.append(segment)
                if content_size(stream, segment) > segment.size:
                    last = index
        oldest = max((segment.oldest for segment in segments), default=0)
        count = 0
        for segment in segments[1:]:
            if not 0 < segment.first <= oldest:
                break
            count += 1
        unneeded = [segment.index for segment in segments[:count]] + headless
        return cls(segments[count:], unneeded, last, torn)


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
            size = content_size(stream, segment)
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
            yield from records_of(stream, segment, size)
            if segment.size < size:
                if segment.index < layout.last:
                    raise journal_damage(path, segment.size, "is damaged, and others follow")
                problem = damage_after(stream, segment)
                if problem is not None:
                    raise journal_damage(path, segment.size, f"is damaged: {problem}")
                found.torn += size - segment.size
            if segment.size < os.fstat(stream.fileno()).st_size:
                found.cuts[path] = segment.size  # a torn record, or space that was reserved


def records_of(stream: BinaryIO, segment: Segment, size: int) -> Iterator[Record]:
    """Yield the complete records of a segment, and advance its size and last number."""
    stream.seek(segment.size)
    while True:
        record = read_record(stream, segment, size - segment.size, segment.last + 1)
        if record is None:
            return
        segment.last = record.last
        segment.size = stream.tell()
        yield record


def remove_torn(replayed: Replayed, remove: Callable[[str], object] | None = None) -> None:
    """Remove from the disk the bytes after the complete records, which a crash left.

    Parameters
    ----------
    replayed : Replayed
        Content of the segments.
    remove : callable, optional
        Removes a whole segment that is not needed.
    """
    for path in replayed.unneeded:
        (remove or local.disk.unlink)(path)
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


def damage_after(stream: BinaryIO, segment: Segment) -> str | None:
    """Return a description of damage after the last record that was read of a last segment.

    Returns
    -------
    str or None
        None for a torn tail. Then the file ends inside the record, or a sector was never written,
        and no later record shows that it was synced. Also None for a record that another process
        completed meanwhile.
    """
    problem = None
    for wait in (0.0, *_WAITS):
        time.sleep(wait)
        size = os.fstat(stream.fileno()).st_size
        stream.seek(segment.size)
        if read_record(stream, segment, size - segment.size, segment.last + 1) is not None:
            return None
        problem = _damage_once(stream, segment, size)
        if problem is None or content_size(stream, segment) == size:
            return problem
    return problem


def _damage_once(stream: BinaryIO, segment: Segment, size: int) -> str | None:
    expected = segment.last + 1
    stream.seek(segment.size)
    head = stream.read(head_size(segment))
    if len(head) < head_size(segment):
        return None  # The file ends inside the head.
    fields = head_of(segment, head)
    if not _is_unwritten(stream, segment.size, len(head)):
        if fields is None:
            return f"the head of record {expected} does not match its checksum"
        length, number, durable = fields
        if number != expected:
            return f"found record {number} instead of record {expected}"
        extent = extent_of(segment, length)
        if extent > size - segment.size:  # The file ends inside the record.
            return None if segment.version > 1 else _damage_of_length(stream, segment, size, head)
        stream.seek(segment.size)
        sparse = sparse_blocks_of(segment, head)
        if count_blocks(stream.read(extent), segment.size, most=0) <= sparse:
            return f"record {expected} does not match its checksum"
    for _, number, durable in whole_records_after(stream, segment, size):
        if durable > segment.size:
            return f"record {expected} is missing, but was synced before record {number}"
    return None


def _is_unwritten(stream: BinaryIO, offset: int, size: int) -> bool:
    """Return whether a head is zero, or a sector that has bytes of it."""
    stream.seek(offset)
    data = stream.read(size + SECTOR_BYTES)
    if not any(data[:size]):
        return True
    first = -offset % SECTOR_BYTES or SECTOR_BYTES
    sectors = [data[:first], data[first : first + SECTOR_BYTES] if first < size else b""]
    return any(len(sector) >= ALIGNMENT_BYTES and not any(sector) for sector in sectors)


def _damage_of_length(stream: BinaryIO, segment: Segment, size: int, head: bytes) -> str | None:
    """Return a description of a damaged length, for a record that seems to end after the file.

    Version 1 does not protect the length by itself.
    """
    problem = f"the length of record {segment.last + 1} was changed after it was written"
    stream.seek(segment.size + len(head))
    payload = stream.read(size - segment.size - len(head))
    whole = len(payload).to_bytes(8, "little") + head[8:]
    if digest_of(segment, whole, payload) == head[-8:]:
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
    size_of_head = head_size(segment)
    most = segment.last + 1 + len(tail) // size_of_head
    step = 1 if segment.version == 1 else ALIGNMENT_BYTES
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
        fields = head_of(segment, tail[start : start + size_of_head])
        if fields is None:
            continue
        _, number, durable = fields
        buffer.seek(start)
        with suppress(CorruptFile):  # The record is complete, but its content is invalid.
            if read_record(buffer, segment, len(tail) - start, number) is not None:
                yield segment.size + start, number, durable
