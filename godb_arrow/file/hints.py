"""Hints about collections, as a GODB file records them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import msgpack
import pyarrow as pa
import xxhash

from godb_arrow import codec
from godb_arrow._version import READER
from godb_arrow.codec.compression import check_compression
from godb_arrow.errors import UnsupportedVersion
from godb_arrow.file.format import (
    PACKED_CHECKSUM,
    PACKED_COLLECTIONS,
    pack_checksum,
    split_map,
    unpack,
    unusable_errors,
)
from godb_arrow.former_ipc import read_former_schema
from godb_arrow.options import CompressionName
from godb_arrow.recorded_schema import describe_schema, restore_schema

__all__ = [
    "CollectionHint",
    "JournalPosition",
    "are_usable_hints",
    "checked_next_id",
    "checked_number",
    "checked_rules",
    "checked_uuid",
    "has_only_hints",
    "pack_hints",
    "read_hints",
]

logger = logging.getLogger(__name__)

HINTS_KEY = "godb_arrow"
PACKED_HINTS_KEY = codec.pack(HINTS_KEY)
_PACKED_READER = codec.pack("reader")
_READER_NEEDED = 1  # version 0.1.0 reads the documents and infers their schema
_MAX_ID = (1 << 63) - 1
_MAX_NUMBER = 1 << 62  # higher than any true count, size, version or sequence number


class JournalPosition(NamedTuple):
    """Last change of a journal that a file contains.

    A sequence number is valid only in its own journal.

    Attributes
    ----------
    run : bytes
        UUID that the journal generated when it was opened for the change; empty in version 1.
    number : int
        Sequence number of the change; 0 for none.
    """

    run: bytes = b""
    number: int = 0


def pack_hints(hints: Mapping[str, CollectionHint]) -> bytes:
    """Pack the hints of collections."""
    collections = {}
    for name, hint in hints.items():
        recorded: dict[str, object] = {"count": hint.count}
        if hint.next_id is not None:
            recorded["next_id"] = hint.next_id
        if hint.schema is not None:
            recorded["fields"] = describe_schema(hint.schema)
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
        if hint.rules:
            recorded["rules"] = hint.rules
        if hint.plain:
            recorded["plain"] = True
        if hint.version:
            recorded["version"] = hint.version
        if hint.compression != "lz4":
            recorded["compression"] = hint.compression
        if hint.token:
            recorded["token"] = hint.token
        collections[name] = recorded
    packed: bytes = msgpack.packb(collections, unicode_errors="surrogateescape")
    reader = _PACKED_READER + codec.pack(_READER_NEEDED)
    checksum = PACKED_CHECKSUM + pack_checksum(packed)
    return b"\x83" + reader + PACKED_COLLECTIONS + packed + checksum


class UnreadSchema:
    """Schema that a file records, which is restored when something needs it.

    Parameters
    ----------
    restore : callable
        Function that restores a schema, and raises one of :func:`unusable_errors` for a
        description without sense.
    description : object
        What the file records.
    """

    def __init__(self, restore: Callable[[Any], pa.Schema], description: Any) -> None:
        self._restore = restore
        self._description = description

    @cached_property
    def schema(self) -> pa.Schema | None:
        """Schema, or None if the description has no sense, as if the file recorded none."""
        try:
            return self.restored()
        except unusable_errors() as error:
            logger.debug("no usable schema in metadata: %r", error)
            return None

    def restored(self) -> pa.Schema:
        """Restore the schema, or raise one of :func:`unusable_errors`."""
        schema = self._restore(self._description)
        codec.plan_columns(schema)
        if _is_sound(schema.pandas_metadata):
            return schema
        return schema.with_metadata(
            {key: value for key, value in schema.metadata.items() if key != b"pandas"}
        )


@dataclass(frozen=True, slots=True)
class CollectionHint:
    """Hint about a collection, recorded in ``metadata``.

    Attributes
    ----------
    count : int
        Number of documents.
    next_id : int or None
        Number of the next generated document id.
    recorded : pyarrow.Schema, UnreadSchema or None
        Schema of the record batches, as :attr:`schema` returns it, or before it is restored.
    size : int or None
        Decompressed bytes of the entries.
    record : int
        Sequence number of the last change of the journal that the file contains.
    run : bytes
        UUID of the journal's run that has this sequence number.
    directory : bytes
        UUID of the data directory whose engine wrote the file.
    former : int
        Fingerprint of the file or folder that this one supersedes, if that has another path.
    indexes : tuple of str
        Fields with an index of the engine.
    plain : bool
        Whether the file has nothing but this collection and its indexes.
    version : int
        Number of times that the collection was saved. The file with the higher number is newer.
    compression : str
        Compression of new files of the collection.
    token : str
        Token of an incremental copy, with which its next run continues; empty for none. A program
        that rewrites the collection records none.
    """

    count: int
    next_id: int | None = None
    recorded: pa.Schema | UnreadSchema | None = None
    size: int | None = None
    record: int = 0
    indexes: tuple[str, ...] = ()
    plain: bool = False
    version: int = 0
    compression: CompressionName = "lz4"
    run: bytes = b""
    directory: bytes = b""
    former: int = 0
    rules: bytes = b""
    token: str = ""

    @property
    def schema(self) -> pa.Schema | None:
        """Schema of the record batches, or None if none is recorded that makes sense."""
        recorded = self.recorded
        return recorded.schema if isinstance(recorded, UnreadSchema) else recorded

    @property
    def fingerprint(self) -> int:
        """Number that tells this state of a collection from others."""
        parts = (self.directory, self.run, self.record, self.version, self.count, self.next_id)
        return xxhash.xxh3_64_intdigest(codec.pack(parts)) >> 1

    @property
    def position(self) -> JournalPosition:
        """Last change of the journal that the file contains."""
        return JournalPosition(self.run, self.record)


def read_hints(metadata: bytes) -> dict[str, CollectionHint]:
    """Read the collections' hints from the MessagePack of ``metadata``.

    Parameters
    ----------
    metadata : bytes
        Value of the top-level key.

    Returns
    -------
    dict of str to CollectionHint
        Empty if there are no valid hints, which no reader depends on.

    Raises
    ------
    UnsupportedVersion
        The file needs a later reader.
    """
    try:
        ours = split_map(split_map(metadata)[PACKED_HINTS_KEY])
        reader = unpack(ours.get(_PACKED_READER, b"\x01"))
    except unusable_errors() as error:
        logger.debug("no usable hints in metadata: %r", error)
        return {}
    if isinstance(reader, int) and reader > READER:
        raise UnsupportedVersion(
            f"the file needs a reader of version {reader}; this program reads up to {READER}",
            advice="update godb-arrow",
        )
    try:
        return _unpack_hints(ours)
    except unusable_errors() as error:
        logger.debug("no usable hints in metadata: %r", error)
        return {}


def _unpack_hints(ours: Mapping[bytes, bytes]) -> dict[str, CollectionHint]:
    packed = ours[PACKED_COLLECTIONS]
    if ours[PACKED_CHECKSUM] != pack_checksum(packed):
        raise ValueError("the hints do not match their checksum")
    return {name: _read_hint(hint) for name, hint in unpack(packed).items()}


def are_usable_hints(metadata: bytes) -> bool:
    """Return whether the hints in ``metadata`` are valid; also if there are none."""
    try:
        packed = split_map(metadata).get(PACKED_HINTS_KEY)
        for hint in () if packed is None else _unpack_hints(split_map(packed)).values():
            if isinstance(hint.recorded, UnreadSchema):
                hint.recorded.restored()
    except unusable_errors():
        return False
    return True


def has_only_hints(metadata: bytes) -> bool:
    """Return whether valid ``metadata`` have hints and nothing else."""
    return list(split_map(metadata)) == [PACKED_HINTS_KEY]


def _read_hint(hint: Any) -> CollectionHint:
    recorded = None
    if hint.get("schema") is not None:
        recorded = UnreadSchema(read_former_schema, hint["schema"])
    elif hint.get("fields") is not None:
        recorded = UnreadSchema(restore_schema, hint["fields"])
    size = hint.get("size")
    return CollectionHint(
        count=checked_number(hint["count"]),
        next_id=checked_next_id(hint.get("next_id")),
        recorded=recorded,
        size=None if size is None else checked_number(size),
        record=checked_number(hint.get("record", 0)),
        indexes=tuple(str(field) for field in hint.get("indexes", ())),
        plain=bool(hint.get("plain", False)),
        version=checked_number(hint.get("version", 0)),
        compression=check_compression(hint.get("compression", "lz4")).name,
        run=checked_uuid(hint.get("run", b"")),
        directory=checked_uuid(hint.get("directory", b"")),
        former=int(hint.get("former", 0)),
        rules=checked_rules(hint.get("rules", b"")),
        token=str(hint.get("token", "")),
    )


def checked_rules(rules: Any) -> bytes:
    """Return the packed rules of a collection, if they are bytes."""
    if not isinstance(rules, bytes):
        raise TypeError(f"{type(rules).__name__} in place of rules")
    return rules


def _is_sound(metadata: Any) -> bool:
    """Return whether details that were recorded for pandas have the parts that pandas reads."""
    if metadata is None:
        return True
    if not isinstance(metadata, dict):
        return False
    index, columns = metadata.get("index_columns"), metadata.get("columns")
    labels = metadata.get("column_indexes", [])
    if not (isinstance(index, list) and isinstance(columns, list) and isinstance(labels, list)):
        return False
    return all(isinstance(one, (str, dict)) for one in index) and all(
        isinstance(one, dict) for one in [*columns, *labels]
    )


def checked_next_id(value: Any) -> int | None:
    """Return the next generated id that a file records, or None if it is impossible."""
    return value if isinstance(value, int) and 1 <= value <= _MAX_ID else None


def checked_number(value: Any) -> int:
    """Return a number that a file records, and check that it is possible."""
    if not isinstance(value, int) or not 0 <= value <= _MAX_NUMBER:
        raise ValueError(f"impossible number {value!r}")
    return value


def checked_uuid(value: Any) -> bytes:
    """Return a UUID that a file records, or no bytes for none."""
    if not isinstance(value, bytes) or len(value) not in (0, 16):
        raise ValueError(f"invalid UUID {value!r}")
    return value
