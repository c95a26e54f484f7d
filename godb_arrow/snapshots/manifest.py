"""The manifest of a collection that has several files: which ones, and what of them is deleted.

A manifest never changes. Each checkpoint writes a new one beside those before, and the one with the
greatest number counts: so a collection gets its new state at once or not at all, and its last
states stay readable as long as their manifests are there.

=============  ===============================================================================
bytes          what they are
=============  ===============================================================================
0 to 3         ``GODM``
4 to 7         version 1, little-endian
8 to end - 8   one MessagePack map
last 8         the XXH3-64 of all that is before
=============  ===============================================================================
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import xxhash

from godb_arrow.codec import pack
from godb_arrow.codec.compression import check_compression
from godb_arrow.errors import CorruptFile, UnsupportedVersion, error_context
from godb_arrow.file.hints import (
    JournalPosition,
    checked_next_id,
    checked_number,
    checked_uuid,
)
from godb_arrow.options import CompressionName
from godb_arrow.query.statistics import unpack_statistics
from godb_arrow.storage.folder import Folder, open_folder
from godb_arrow.storage.inside import number_in
from godb_arrow.storage.modes import Access
from godb_arrow.storage.object_store import is_url

__all__ = [
    "Manifest",
    "Part",
    "is_part_name",
    "manifest_name",
    "read_manifest",
    "versions_in",
    "write_manifest",
]


Rows = npt.NDArray[np.int64]

_MAGIC = b"GODM\x01\x00\x00\x00"
_SUFFIXES = (".godb", ".ids", ".manifest")
_MAX_SIZE = 1 << 30  # bytes of a manifest
_LIST, _BITMAP = 0, 1


@dataclass(frozen=True, slots=True)
class Part:
    """One file of a collection.

    Attributes
    ----------
    number : int
        Its file is named by it.
    documents : int
        How many it has, with those that were deleted since.
    size : int
        Bytes of its entries, decompressed.
    file_size : int
        Bytes of the file.
    ids_checksum : int
        The XXH3-64 of the file that says where its ids are.
    deleted : array of int64
        The rows that are no more, in order.
    """

    number: int
    documents: int
    size: int
    file_size: int
    ids_checksum: int = 0
    deleted: Rows = field(default_factory=lambda: np.empty(0, np.int64))

    @property
    def file(self) -> str:
        """The file's name in the collection's folder."""
        return f"{self.number:08d}.godb"

    @property
    def ids_file(self) -> str:
        """The name of the file that says where its ids are."""
        return f"{self.number:08d}.ids"

    @property
    def live(self) -> int:
        """How many documents are left."""
        return self.documents - len(self.deleted)

    @property
    def live_size(self) -> int:
        """About how many bytes these have, decompressed."""
        return self.size * self.live // self.documents if self.documents else 0


@dataclass(frozen=True, slots=True)
class Manifest:
    """The state of a collection that has several files.

    Attributes
    ----------
    version : int
        Its number; each state has one more than that before.
    parts : tuple of Part
        The files, in the order of the documents.
    schema : pyarrow.Schema
        The join of all documents.
    next_id : int
        The number that the next generated document id gets; 0 where the file's is impossible.
    record : int
        Sequence number of the last change of the journal that it holds.
    indexes : tuple of str
        The fields that have an index.
    created : float
        Seconds since 1970, in UTC.
    packed_statistics : bytes
        One row for each part, packed by
        :func:`~godb_arrow.query.statistics.pack_statistics`. Empty without statistics.
    compression : str
        How new files are to be compressed.
    name : str
        The collection; files may know it by a former name.
    rewrites : bool
        Whether files that the version before did not name have no new documents: these were
        joined, or are those of an earlier version.
    run : bytes
        UUID of the journal's run that has the sequence number.
    directory : bytes
        UUID of the data directory whose engine wrote the manifest.
    former : int
        Fingerprint of the single file that the folder supersedes.

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

    @property
    def position(self) -> JournalPosition:
        """Last change of the journal that the manifest's files hold."""
        return JournalPosition(self.run, self.record)

    @property
    def count(self) -> int:
        """How many documents the collection has."""
        return sum(part.live for part in self.parts)

    @property
    def size(self) -> int:
        """About how many bytes its entries have, decompressed."""
        return sum(part.live_size for part in self.parts)

    def has_same_parts(self, other: Manifest) -> bool:
        """Return whether another manifest has the same version and names the same documents."""
        return self.version == other.version and [_pack_part(part) for part in self.parts] == [
            _pack_part(part) for part in other.parts
        ]

    def statistics(self) -> pa.RecordBatch | None:
        """The statistics, a row for each part; None where there are none."""
        if not self.packed_statistics:
            return None
        return unpack_statistics(self.packed_statistics, len(self.parts))

    def pack(self) -> bytes:
        """The manifest as its file has it."""
        body = pack({
            "version": self.version,
            "parts": [_pack_part(part) for part in self.parts],
            "schema": self.schema.serialize().to_pybytes(),
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
        })  # fmt: skip
        data = _MAGIC + body
        return data + xxhash.xxh3_64_digest(data)

    @classmethod
    def unpack(cls, data: bytes) -> Manifest:
        """The manifest that a file has.

        Raises
        ------
        CorruptFile
            The bytes are not as they were written.
        UnsupportedVersion
            They are of a later version.
        """
        if data[:4] == _MAGIC[:4] and data[4:8] != _MAGIC[4:8]:
            raise UnsupportedVersion(
                f"the manifest has version {int.from_bytes(data[4:8], 'little')}",
                advice="update godb-arrow",
            )
        if data[:8] != _MAGIC or xxhash.xxh3_64_digest(data[:-8]) != data[-8:]:
            raise _damaged("the bytes differ from those that were written")
        try:
            found = msgpack.unpackb(data[8:-8], raw=False, unicode_errors="surrogateescape")
            return cls(
                version=int(found["version"]),
                parts=tuple(_unpack_part(part) for part in found["parts"]),
                schema=pa.ipc.read_schema(pa.py_buffer(found["schema"])),
                next_id=checked_next_id(found["next_id"]) or 0,
                record=checked_number(found["record"]),
                indexes=tuple(str(name) for name in found["indexes"]),
                created=float(found["created"]),
                packed_statistics=bytes(found["statistics"]),
                compression=check_compression(found.get("compression", "lz4")).name,
                name=str(found.get("name", "")),
                rewrites=bool(found.get("rewrites", False)),
                run=checked_uuid(found.get("run", b"")),
                directory=checked_uuid(found.get("directory", b"")),
                former=int(found.get("former", 0)),
            )
        except _UNUSABLE as error:
            raise _damaged(f"it makes no sense: {error!r}") from error


_UNUSABLE = (KeyError, TypeError, ValueError, OSError, pa.ArrowException, msgpack.UnpackException)


def _damaged(problem: str) -> CorruptFile:
    return CorruptFile(
        f"the manifest is damaged: {problem}",
        offset=0,
        where="file",
        advice="go back to the version before with restore, or to a backup",
    )


def _pack_part(part: Part) -> list[Any]:
    rows = part.deleted
    if 32 * len(rows) < part.documents:
        deleted = bytes([_LIST]) + rows.astype("<u4").tobytes()
    else:
        bits = np.zeros(part.documents, bool)
        bits[rows] = True
        deleted = bytes([_BITMAP]) + np.packbits(bits).tobytes()
    return [
        part.number, part.documents, part.size, part.file_size, part.ids_checksum, deleted,
    ]  # fmt: skip


def _unpack_part(packed: list[Any]) -> Part:
    *numbers, deleted = packed
    number, documents, size, file_size, ids_checksum = (int(one) for one in numbers)
    if min(number, documents, size, file_size) < 0:
        raise ValueError("a part has a number below 0")
    if deleted[0] == _LIST:
        rows = np.frombuffer(deleted, "<u4", offset=1).astype(np.int64)
    else:
        bits = np.frombuffer(deleted, np.uint8, offset=1)
        rows = np.flatnonzero(np.unpackbits(bits)[:documents]).astype(np.int64)
    if len(rows) and (rows[-1] >= documents or (rows[1:] <= rows[:-1]).any()):
        raise ValueError("a part has rows that it cannot have")
    return Part(number, documents, size, file_size, ids_checksum, rows)


def manifest_name(version: int) -> str:
    """The name of a version's manifest."""
    return f"{version:08d}.manifest"


def versions_in(names: Iterable[str]) -> list[int]:
    """The versions that files in a collection's folder are of, in order."""
    found = (number_in(name, ".manifest") for name in names)
    return sorted(version for version in found if version is not None)


def is_part_name(name: str) -> bool:
    """Return whether godb_arrow names a file in a collection's folder so.

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
    name = manifest_name(version)
    with error_context("read", files.place(name)), files.open(name) as stream:
        data = stream.read(_MAX_SIZE + 1)
        if len(data) > _MAX_SIZE:
            raise _damaged(f"it has more than {_MAX_SIZE} bytes")
        manifest = Manifest.unpack(data)
        if manifest.version != version:
            raise _damaged(f"it is that of version {manifest.version}")
        return manifest


def write_manifest(folder: Folder, manifest: Manifest, access: Access) -> None:
    """Write a manifest: from then on it is the collection's state.

    Parameters
    ----------
    folder : Folder
        The collection's folder.
    manifest : Manifest
        The state.
    access : Access
        Permissions that the manifest has at most.

    Raises
    ------
    StorageError
        The disk refused: the state is the one before.
    WriteConflict
        On an object store: somebody else has saved that version.
    """
    name = manifest_name(manifest.version)
    path = folder.place(name)
    replacing = folder.replace(name, access, expected=folder.expected_of_new)
    try:
        with replacing as stream:
            stream.write(manifest.pack())
    except BaseException:
        if not is_url(path):
            with suppress(OSError):  # should it be there all the same
                os.unlink(path)
        raise
