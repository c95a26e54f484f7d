"""Segments of the journal: names of files, headers, and damage to them."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import BinaryIO

import xxhash

from godb_arrow.errors import CorruptFile, UnsupportedVersion
from godb_arrow.storage.inside import number_in

__all__ = [
    "HEADER",
    "VERSION",
    "Segment",
    "content_size",
    "index_of",
    "journal_damage",
    "open_segment",
    "pack_header",
    "seal",
    "segment_indices",
    "segment_path",
]


VERSION = 2
HEADER = struct.Struct("<8sIIQQ16sQQ")
_MAGIC = b"GODBJRNL"
_HEADER_1 = struct.Struct("<8sIIQQ")  # of version 1, with which every later header begins
_SUFFIX = ".journal"
_READ_BYTES = 1 << 20
_SCAN_BYTES = 1 << 16  # read at once from the end
_ZEROS = bytes(_SCAN_BYTES)


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


def segment_path(folder: str, index: int) -> str:
    """Return the path of a segment."""
    return os.path.join(folder, f"{index:08d}{_SUFFIX}")


def index_of(path: str) -> int:
    """Return the number of a segment by its path."""
    return int(os.path.basename(path).removesuffix(_SUFFIX))


def segment_indices(folder: str) -> list[int]:
    """Return the numbers of the segments in a folder, in order."""
    numbers = (number_in(name, _SUFFIX) for name in os.listdir(folder))
    return sorted(index for index in numbers if index is not None)


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
    front += seal(front)
    head = front + (run or bytes(16)) + oldest.to_bytes(8, "little")
    return head + seal(head)


def content_size(stream: BinaryIO, segment: Segment) -> int:
    """Return the size of a segment in bytes, without zeros at its end.

    A journal of commits reserves space ahead of its records. Records never end with a zero, except
    in version 1, whose segments reserve nothing. The position of the stream changes.
    """
    size = os.fstat(stream.fileno()).st_size
    if segment.version == 1 or not segment.first:  # A damaged header tells no version.
        return size
    while size > segment.header_size:
        start = max(segment.header_size, size - _SCAN_BYTES)
        stream.seek(start)
        block = stream.read(size - start)
        if block != _ZEROS[: len(block)]:
            return start + len(block.rstrip(b"\0"))
        size = start
    return size


def seal(data: bytes) -> bytes:
    """Return the checksum of a header or record, 8 bytes."""
    return xxhash.xxh3_64_intdigest(data).to_bytes(8, "little")


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
    if len(front) == _HEADER_1.size and front[:8] == _MAGIC and front[-8:] == seal(front[:-8]):
        _, version, _, first, _ = _HEADER_1.unpack(front)
        if version == 1:
            return Segment(index, path, first, first - 1, _HEADER_1.size, version=1)
        if version != VERSION:
            raise UnsupportedVersion(
                f"the journal has version {version}; this program reads versions 1 and {VERSION}",
                advice="update godb-arrow",
            )
        if len(head) == HEADER.size and head[-8:] == seal(head[:-8]):
            _, _, _, _, _, run, oldest, _ = HEADER.unpack(head)
            run = run if any(run) else b""
            return Segment(index, path, first, first - 1, run=run, oldest=oldest)
    if is_last:
        begun = _HEADER_1.pack(_MAGIC, VERSION, 0, 0, 0)[:16]
        if len(head) < HEADER.size and head[:16] == begun[: len(head)]:
            return None  # The power was cut before the header was written.
        if not any(head) and not any(map(any, iter(lambda: stream.read(_READ_BYTES), b""))):
            return None
    raise journal_damage(path, 0, "does not begin as a segment")
