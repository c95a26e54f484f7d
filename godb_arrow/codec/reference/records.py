"""Records of the journal as bytes: heads, checksums, and blocks of zeros."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from typing import Any

import msgpack
import numpy as np
import xxhash

__all__ = [
    "ALIGNMENT_BYTES",
    "META_SIZE",
    "RECORD_FRONT",
    "RECORD_HEAD",
    "SECTOR_BYTES",
    "count_blocks",
    "front_of_record",
    "pack_record",
    "payload_of",
    "record_size",
    "sparse_blocks",
    "write_short",
]

ALIGNMENT_BYTES = 16
"""Unit of the offsets of records."""
SECTOR_BYTES = 512
"""Bytes that a disk writes as a whole or not at all."""
RECORD_HEAD = struct.Struct("<QQQIIQ")
RECORD_FRONT = struct.Struct("<QQQI")
"""Part of a head that the head's own checksum covers."""
META_SIZE = struct.Struct("<I")
"""Size of the description of a change, before it."""
_MIN_PADDING_BYTES = 2  # other than zero, at the end of a record
_SECTORS_AT_ONCE = 2_048
_PACKED_WHOLE = (str, bytes, bytearray, memoryview, list, tuple)
_ZEROS = bytes(SECTOR_BYTES // 4 - 1)  # occurs in a sector with one byte other than zero


def write_short(descriptor: int, data: bytes | memoryview) -> int:
    """Write some of the bytes to a file, and return their number."""
    return os.write(descriptor, data)


def pack_record(
    number: int, durable: int, offset: int, meta: dict[str, Any], parts: Sequence[bytes]
) -> bytes:
    """Return a record of the journal.

    Parameters
    ----------
    number : int
        Sequence number.
    durable : int
        Number of synced bytes of the segment.
    offset : int
        Offset of the record in the segment.
    meta : dict
        Description of the change.
    parts : sequence of bytes
        Entries that belong to the change.
    """
    length, payload = payload_of(meta, parts)
    content = b"".join(payload)
    head = front_of_record(length, number, durable, sparse_blocks([content], offset))
    return head + xxhash.xxh3_64_intdigest(head + content).to_bytes(8, "little") + content


def payload_of(meta: dict[str, Any], parts: Sequence[bytes]) -> tuple[int, list[bytes]]:
    """Return the length of a record's payload, and all bytes after the head."""
    described = {**meta, "parts": [len(part) for part in parts]}
    packed = _packed(described)
    length = META_SIZE.size + len(packed) + sum(map(len, parts))
    filler = b"\xff" * (record_size(length) - RECORD_HEAD.size - length)
    return length, [META_SIZE.pack(len(packed)), packed, *parts, filler]


def _packed(meta: dict[str, Any]) -> bytes:
    """Pack a description, whose long sequences need no object for each element at once."""
    packer = msgpack.Packer(autoreset=False, unicode_errors="surrogateescape")
    packer.pack_map_header(len(meta))
    for key, value in meta.items():
        packer.pack(key)
        if isinstance(value, Sequence) and not isinstance(value, _PACKED_WHOLE):
            packer.pack_array_header(len(value))
            for element in value:
                packer.pack(element)
        else:
            packer.pack(value)
    packed: bytes = packer.bytes()
    return packed


def front_of_record(length: int, number: int, durable: int, sparse: int) -> bytes:
    """Return the head of a record, without the checksum of the whole record."""
    front = RECORD_FRONT.pack(length, number, durable, sparse)
    return front + xxhash.xxh32_intdigest(front).to_bytes(4, "little")


def record_size(length: int) -> int:
    """Return the size of a record with a payload of `length` bytes."""
    least = RECORD_HEAD.size + length + _MIN_PADDING_BYTES
    return -(-least // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def sparse_blocks(content: Sequence[bytes], offset: int) -> int:
    """Count the blocks of a record that have at most one byte other than zero.

    Parameters
    ----------
    content : sequence of bytes
        Bytes of the record after its head.
    offset : int
        Offset of the record in the segment.
    """
    if not any(_ZEROS in piece for piece in content):
        return 0
    return count_blocks(b"".join([b"\xff" * RECORD_HEAD.size, *content]), offset, most=1)


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
            for at in range(0, len(sectors), _SECTORS_AT_ONCE):  # NumPy copies what it counts.
                some = np.count_nonzero(sectors[at : at + _SECTORS_AT_ONCE], axis=1)
                count += int((some <= most).sum())
        for edge in (data[:start], data[max(end, start) :]):
            if len(edge) >= ALIGNMENT_BYTES and len(edge) - edge.count(0) <= most:
                count += 1
    return count
