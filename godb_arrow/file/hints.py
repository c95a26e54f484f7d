"""Hints: what a GODB file records about its collections."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa
import xxhash

from godb_arrow import codec
from godb_arrow.codec.compression import check_compression
from godb_arrow.file.format import (
    PACKED_CHECKSUM,
    PACKED_COLLECTIONS,
    UNUSABLE,
    pack_checksum,
    split_map,
    unpack,
)
from godb_arrow.options import CompressionName

__all__ = ["CollectionHint", "JournalPosition", "checked_next_id", "checked_number", "checked_uuid",
           "pack_hints", "read_hints"]  # fmt: skip

_MOST_ID = (1 << 63) - 1
_MOST_NUMBER = 1 << 62  # no honest count, size, version or sequence number is greater


class JournalPosition(NamedTuple):
    """Last change of a journal that a file holds.

    A sequence number means something in its own journal only.

    Attributes
    ----------
    run : bytes
        UUID that the journal drew when it was opened to write the change; empty in version 1.
    number : int
        Sequence number of the change; 0 for none.
    """

    run: bytes = b""
    number: int = 0


def pack_hints(hints: Mapping[str, CollectionHint]) -> bytes:
    """Return the packed hints of collections."""
    collections = {}
    for name, hint in hints.items():
        recorded: dict[str, object] = {"count": hint.count}
        if hint.next_id is not None:
            recorded["next_id"] = hint.next_id
        if hint.schema is not None:
            recorded["schema"] = hint.schema.serialize().to_pybytes()
        if hint.size is not None:
            recorded["size"] = hint.size
        if hint.record:
            recorded["record"] = hint.record
        if hint.run:
            recorded["run"] = hint.run
        if hint.directory:
            recorded["directory"] = hint.directory
        if hint.former:
            recorded["former"] = hint.former
        if hint.indexes:
            recorded["indexes"] = list(hint.indexes)
        if hint.plain:
            recorded["plain"] = True
        if hint.version:
            recorded["version"] = hint.version
        if hint.compression != "lz4":
            recorded["compression"] = hint.compression
        collections[name] = recorded
    packed = codec.pack(collections)
    return b"\x82" + PACKED_COLLECTIONS + packed + PACKED_CHECKSUM + pack_checksum(packed)


logger = logging.getLogger(__name__)
HINTS_KEY = "godb_arrow"

PACKED_HINTS_KEY = codec.pack(HINTS_KEY)


@dataclass(frozen=True, slots=True)
class CollectionHint:
    """What ``metadata`` records of a collection.

    Attributes
    ----------
    count : int
        Documents.
    next_id : int or None
        The number that the next generated document id gets.
    schema : pyarrow.Schema or None
        The schema of its record batches.
    size : int or None
        Bytes of its entries, decompressed.
    record : int
        Sequence number of the last change of the journal that it holds.
    run : bytes
        UUID of the journal's run that has this sequence number.
    directory : bytes
        UUID of the data directory whose engine wrote the file.
    former : int
        Fingerprint of the file or folder that this one supersedes, where that has another path.
    indexes : tuple of str
        Fields that the engine keeps indexes on.
    plain : bool
        Whether the file has nothing but this collection and its indexes.
    version : int
        How often the collection was saved: of two files of it, the one with more counts.
    compression : str
        How its files are to be written.
    """

    count: int
    next_id: int | None = None
    schema: pa.Schema | None = None
    size: int | None = None
    record: int = 0
    indexes: tuple[str, ...] = ()
    plain: bool = False
    version: int = 0
    compression: CompressionName = "lz4"
    run: bytes = b""
    directory: bytes = b""
    former: int = 0

    @property
    def fingerprint(self) -> int:
        """Number that tells this state of a collection from others."""
        parts = (self.directory, self.run, self.record, self.version, self.count, self.next_id)
        return xxhash.xxh3_64_intdigest(codec.pack(parts)) >> 1

    @property
    def position(self) -> JournalPosition:
        """Last change of the journal that the file holds."""
        return JournalPosition(self.run, self.record)


def read_hints(metadata: bytes) -> dict[str, CollectionHint]:
    """Find the collections' hints in the MessagePack of ``metadata``.

    Parameters
    ----------
    metadata : bytes
        The value of the top-level key.

    Returns
    -------
    dict of str to CollectionHint
        Empty when there are none, or none that make sense: a hint is never needed.
    """
    try:
        ours = split_map(split_map(metadata)[PACKED_HINTS_KEY])
        packed = ours[PACKED_COLLECTIONS]
        if ours[PACKED_CHECKSUM] != pack_checksum(packed):
            raise ValueError("the hints differ from those that were written")
        return {name: _read_hint(hint) for name, hint in unpack(packed).items()}
    except UNUSABLE as error:
        logger.debug("no usable hints in metadata: %r", error)
        return {}


def _read_hint(hint: Any) -> CollectionHint:
    schema = None
    if hint.get("schema") is not None:
        schema = pa.ipc.read_schema(pa.py_buffer(hint["schema"]))
        codec.plan_columns(schema)
        _ = schema.pandas_metadata  # raises if it is no JSON
    size = hint.get("size")
    return CollectionHint(
        count=checked_number(hint["count"]),
        next_id=checked_next_id(hint.get("next_id")),
        schema=schema,
        size=None if size is None else checked_number(size),
        record=checked_number(hint.get("record", 0)),
        indexes=tuple(str(field) for field in hint.get("indexes", ())),
        plain=bool(hint.get("plain", False)),
        version=checked_number(hint.get("version", 0)),
        compression=check_compression(hint.get("compression", "lz4")).name,
        run=checked_uuid(hint.get("run", b"")),
        directory=checked_uuid(hint.get("directory", b"")),
        former=int(hint.get("former", 0)),
    )


def checked_next_id(value: Any) -> int | None:
    """Return the next generated id that a file records; None where it cannot be one."""
    return value if isinstance(value, int) and 1 <= value <= _MOST_ID else None


def checked_number(value: Any) -> int:
    """Return a number that a file records, which must be possible."""
    if not isinstance(value, int) or not 0 <= value <= _MOST_NUMBER:
        raise ValueError(f"the number {value!r}")
    return value


def checked_uuid(value: Any) -> bytes:
    """Return a UUID that a file records, or no bytes for none."""
    if not isinstance(value, bytes) or len(value) not in (0, 16):
        raise ValueError(f"the UUID {value!r}")
    return value
