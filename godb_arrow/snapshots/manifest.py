"""Manifest of a collection with several files: its parts, and the deleted rows of each.

A manifest never changes. Each checkpoint writes a new one with the next number, and the manifest
with the highest number is the current one. So a collection changes its state atomically, and its
last states stay readable as long as their manifests exist.

=============  ===============================================================================
bytes          content
=============  ===============================================================================
0 to 3         ``GODM``
4 to 7         version of the reader that it needs, little-endian: 2
8 to end - 8   one MessagePack map
last 8         XXH3-64 of all earlier bytes
=============  ===============================================================================
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import msgpack
import numpy as np
import pyarrow as pa
import xxhash

from godb_arrow._version import READER
from godb_arrow.codec.compression import check_compression
from godb_arrow.codec.entries import Rows
from godb_arrow.errors import (
    CorruptFile,
    SourceNotFound,
    UnsupportedVersion,
    error_context,
)
from godb_arrow.file.format import unusable_errors
from godb_arrow.file.hints import (
    JournalPosition,
    checked_next_id,
    checked_number,
    checked_rules,
    checked_uuid,
)
from godb_arrow.former_ipc import read_former_schema
from godb_arrow.options import CompressionName
from godb_arrow.query.statistics import Statistics, unpack_statistics
from godb_arrow.recorded_schema import describe_schema, restore_schema
from godb_arrow.storage.folder import Folder, open_folder
from godb_arrow.storage.inside import number_in
from godb_arrow.storage.limited import read_limited
from godb_arrow.storage.modes import Access
from godb_arrow.storage.object_store import is_url

__all__ = [
    "Manifest",
    "Part",
    "is_part_name",
    "manifest_name",
    "read_manifest",
    "stored_content",
    "stored_manifest",
    "versions_in",
    "write_manifest",
]


_MAX_PART_DOCUMENTS = 1 << 32  # id files have rows of 32 bits
_MAX_SECONDS = 253_402_300_799  # of the year 9999, the last one that Python has
_MAGIC = b"GODM"
_READER_NEEDED = 2
_SUFFIXES = (".godb", ".ids", ".manifest")
_MAX_MANIFEST_BYTES = 1 << 30
_LIST, _BITMAP = 0, 1


@dataclass(frozen=True, slots=True)
class Part:
    """Data file of a collection that has several.

    Attributes
    ----------
    number : int
        Number of the part, in the names of its files.
    documents : int
        Number of documents in the file, including deleted ones.
    size : int
        Decompressed bytes of the entries.
    file_size : int
        Size of the file in bytes.
    ids_checksum : int
        XXH3-64 of the part's id file.
    deleted : array of int64
        Rows that are deleted, in order.
    """

    number: int
    documents: int
    size: int
    file_size: int
    ids_checksum: int = 0
    deleted: Rows = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def file(self) -> str:
        """Name of the part's file in the collection's folder."""
        return f"{self.number:08d}.godb"

    @property
    def ids_file(self) -> str:
        """Name of the part's id file in the collection's folder."""
        return f"{self.number:08d}.ids"

    @property
    def live(self) -> int:
        """Number of documents that are not deleted."""
        return self.documents - len(self.deleted)

    @property
    def live_size(self) -> int:
        """Estimate of the decompressed bytes of documents that are not deleted."""
        return self.size * self.live // self.documents if self.documents else 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """State of a collection that has several files.

    Attributes
    ----------
    version : int
        Number of the state, one more than the number of the state before.
    parts : tuple of Part
        Parts in the order of the documents.
    schema : pyarrow.Schema
        Join of the schemas of all documents.
    next_id : int
        Number of the next generated document id; 0 if the file has an impossible number.
    record : int
        Sequence number of the last change of the journal in the parts.
    indexes : tuple of str
        Fields that have an index.
    created : float
        Time of creation in seconds since 1970, in UTC.
    packed_statistics : bytes
        One row for each part, packed by
        :func:`~godb_arrow.query.statistics.pack_statistics`. Empty without statistics.
    compression : str
        Compression of new files.
    name : str
        Name of the collection. Its files may record a former name.
    rewrites : bool
        Whether parts that the version before did not have contain no new documents. Such parts
        were merged, or belong to an earlier version.
    run : bytes
        UUID of the journal's run that has the sequence number.
    directory : bytes
        UUID of the data directory whose engine wrote the manifest.
    former : int
        Fingerprint of the single file that the folder supersedes.
    rules : bytes
        Packed rules of the collection.
    tags : mapping of str to int
        Versions that stay readable until their tag is removed. The current manifest has all tags.

    Examples
    --------
    >>> manifest = Manifest(1, (Part(1, 3, 90, 60),), pa.schema({"n": pa.int64()}), 4)
    >>> Manifest.unpack(manifest.pack()).count
    3
    """

    version: int
    parts: tuple[Part, ...]
    schema: pa.Schema
    next_id: int
    record: int = 0
    indexes: tuple[str, ...] = ()
    created: float = 0.0
    packed_statistics: bytes = b""
    compression: CompressionName = "lz4"
    name: str = ""
    rewrites: bool = False
    run: bytes = b""
    directory: bytes = b""
    former: int = 0
    rules: bytes = b""
    tags: Mapping[str, int] = field(default_factory=dict)

    @property
    def position(self) -> JournalPosition:
        """Last change of the journal that the parts contain."""
        return JournalPosition(self.run, self.record)

    @property
    def count(self) -> int:
        """Number of documents in the collection."""
        return sum(part.live for part in self.parts)

    @property
    def size(self) -> int:
        """Estimate of the decompressed bytes of the documents."""
        return sum(part.live_size for part in self.parts)

    def has_same_parts(self, other: Manifest) -> bool:
        """Return whether another manifest has the same version and the same documents."""
        return self.version == other.version and [_pack_part(part) for part in self.parts] == [
            _pack_part(part) for part in other.parts
        ]

    def statistics(self) -> Statistics | None:
        """Return the statistics with a row for each part, or None if there are none."""
        if not self.packed_statistics:
            return None
        return unpack_statistics(self.packed_statistics, len(self.parts))

    def pack(self) -> bytes:
        """Pack the manifest as the content of its file."""
        content = {
            "version": self.version,
            "parts": [_pack_part(part) for part in self.parts],
            "fields": describe_schema(self.schema),
            "next_id": self.next_id,
            "record": self.record,
            "indexes": list(self.indexes),
            "created": self.created,
            "statistics": self.packed_statistics,
            "compression": self.compression,
            "name": self.name,
            "rewrites": self.rewrites,
            **({"run": self.run} if self.run else {}),
            **({"directory": self.directory} if self.directory else {}),
            **({"former": self.former} if self.former else {}),
            **({"rules": self.rules} if self.rules else {}),
            **({"tags": dict(self.tags)} if self.tags else {}),
        }
        packed: bytes = msgpack.packb(content, unicode_errors="surrogateescape")
        data = _MAGIC + _READER_NEEDED.to_bytes(4, "little") + packed
        return data + xxhash.xxh3_64_digest(data)

    @classmethod
    def unpack(cls, data: bytes) -> Manifest:
        """Unpack the content of a manifest's file.

        Raises
        ------
        CorruptFile
            The content is damaged.
        UnsupportedVersion
            The manifest has a later version.
        """
        reader = int.from_bytes(data[4:8], "little")
        if data[:4] == _MAGIC and reader > READER:
            raise UnsupportedVersion(
                f"the manifest needs a reader of version {reader}; "
                f"this program reads up to {READER}",
                advice="update godb-arrow",
            )
        if data[:4] != _MAGIC or reader == 0 or xxhash.xxh3_64_digest(data[:-8]) != data[-8:]:
            raise _damaged("it does not match its checksum")
        try:
            content = msgpack.unpackb(data[8:-8], raw=False, unicode_errors="surrogateescape")
            return cls(
                version=int(content["version"]),
                parts=tuple(_unpack_part(part) for part in content["parts"]),
                schema=_unpack_schema(content),
                next_id=_unpack_next_id(content["next_id"]),
                record=checked_number(content["record"]),
                indexes=tuple(str(name) for name in content["indexes"]),
                created=_unpack_time(content["created"]),
                packed_statistics=_packed_bytes(content["statistics"]),
                compression=check_compression(content.get("compression", "lz4")).name,
                name=str(content.get("name", "")),
                rewrites=bool(content.get("rewrites", False)),
                run=checked_uuid(content.get("run", b"")),
                directory=checked_uuid(content.get("directory", b"")),
                former=int(content.get("former", 0)),
                rules=checked_rules(content.get("rules", b"")),
                tags=_unpack_tags(content.get("tags", {})),
            )
        except unusable_errors() as error:
            raise _damaged(f"its content is invalid: {error!r}") from error


def _packed_bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError(f"{type(value).__name__} in place of bytes")
    return value


def _unpack_tags(value: Any) -> dict[str, int]:
    return {str(tag): checked_number(version) for tag, version in value.items()}


def _unpack_next_id(value: Any) -> int:
    if not isinstance(value, int):
        raise TypeError(f"{type(value).__name__} in place of an id")
    return checked_next_id(value) or 0


def _unpack_schema(content: dict[str, Any]) -> pa.Schema:
    if "fields" not in content:  # version 1
        return read_former_schema(content["schema"])
    return restore_schema(content["fields"])


def _damaged(problem: str) -> CorruptFile:
    return CorruptFile(
        f"the manifest is damaged: {problem}",
        offset=0,
        where="file",
        advice="restore an earlier version of the collection, or a backup",
    )


def _pack_part(part: Part) -> list[Any]:
    rows = part.deleted
    if 32 * len(rows) < part.documents:
        deleted = bytes([_LIST]) + rows.astype("<u4").tobytes()
    else:
        bits = np.zeros(part.documents, bool)
        bits[rows] = True
        deleted = bytes([_BITMAP]) + np.packbits(bits).tobytes()
    return [part.number, part.documents, part.size, part.file_size, part.ids_checksum, deleted]


def _unpack_time(seconds: Any) -> float:
    if type(seconds) not in (int, float) or not 0 <= seconds <= _MAX_SECONDS:
        raise ValueError(f"the time {seconds!r}")
    return float(seconds)


def _unpack_part(packed: list[Any]) -> Part:
    *numbers, deleted = packed
    *sizes, ids_checksum = numbers
    number, documents, size, file_size = map(checked_number, sizes)
    if documents > _MAX_PART_DOCUMENTS or type(ids_checksum) is not int:
        raise ValueError("a part has an impossible number")
    if deleted[0] == _LIST:
        rows = np.frombuffer(deleted, "<u4", offset=1).astype(np.int64)
    else:
        bits = np.frombuffer(deleted, np.uint8, offset=1)
        rows = np.flatnonzero(np.unpackbits(bits)[:documents]).astype(np.int64)
    if len(rows) and (rows[-1] >= documents or (rows[1:] <= rows[:-1]).any()):
        raise ValueError("a part has impossible deleted rows")
    return Part(number, documents, size, file_size, ids_checksum, rows)


def manifest_name(version: int) -> str:
    """Return the file name of a version's manifest."""
    return f"{version:08d}.manifest"


def versions_in(names: Iterable[str]) -> list[int]:
    """Return the versions of the manifests among file names, in order."""
    numbers = (number_in(name, ".manifest") for name in names)
    return sorted(version for version in numbers if version is not None)


def is_part_name(name: str) -> bool:
    """Return whether a name is one that godb_arrow gives to files in a collection's folder.

    Examples
    --------
    >>> is_part_name("00000001.ids"), is_part_name("20240101-notes.ids")
    (True, False)
    """
    return any(number_in(name, suffix) is not None for suffix in _SUFFIXES)


def read_manifest(folder: Folder | str, version: int) -> Manifest:
    """Read a version's manifest.

    Raises
    ------
    SourceNotFound, CorruptFile, StorageError
    """
    files = open_folder(folder) if isinstance(folder, str) else folder
    with error_context("read", files.place(manifest_name(version))):
        manifest = Manifest.unpack(_read(files, version))
        if manifest.version != version:
            raise _damaged(f"its content is the manifest of version {manifest.version}")
        return manifest


def stored_manifest(folder: Folder, manifest: Manifest) -> bytes:
    """Return the bytes that a manifest's file has, which an earlier version may have written.

    A manifest whose file is not there any more is packed again.
    """
    with suppress(SourceNotFound):
        data = _read(folder, manifest.version)
        if Manifest.unpack(data).created == manifest.created:
            return data
    return manifest.pack()


def _read(folder: Folder, version: int) -> bytes:
    with folder.open(manifest_name(version)) as stream:
        return stored_content(stream)


def stored_content(stream: BinaryIO) -> bytes:
    """Return the bytes of an open manifest, unless they are too many."""
    data = read_limited(stream, _MAX_MANIFEST_BYTES)
    if len(data) > _MAX_MANIFEST_BYTES:
        raise _damaged(f"it has more than {_MAX_MANIFEST_BYTES} bytes")
    return data


def write_manifest(folder: Folder, manifest: Manifest, access: Access) -> None:
    """Write a manifest, which is then the current state of the collection.

    Parameters
    ----------
    folder : Folder
        Folder of the collection.
    manifest : Manifest
        State to write.
    access : Access
        Permissions that the manifest has at most.

    Raises
    ------
    StorageError
        The disk refuses the file. The state is unchanged.
    WriteConflict
        Another program saved this version on an object store.
    """
    name = manifest_name(manifest.version)
    path = folder.place(name)
    replacing = folder.replace(name, access, expected=folder.expected_of_new)
    try:
        with replacing as stream:
            stream.write(manifest.pack())
    except BaseException:
        if not is_url(path):
            with suppress(OSError):  # The file may exist in spite of the error.
                os.unlink(path)
        raise
