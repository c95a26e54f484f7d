"""Forge of sealed artefacts: GODB files, parts, manifests, journals and backups, made from bytes.

Every artefact is honest by default. Keyword arguments override single stages, and the checksums
after them are computed again, so that a forged artefact is sealed, too. This module does not import
``godb_arrow``, so a fault of its writers cannot hide the same fault of its readers.

::

  entry
      One document: its packed id and its packed document.
  piece
      Entries that are compressed together, with a row in the index at the end of a file.
  bounds
      Minimum, maximum and null count of a field in the documents of a piece or a part.
  tree
      Mapping from relative paths to bytes, to be written into a folder.
"""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pyarrow as pa
import xxhash
from support.lz4_blocks import compress_lz4, literal_head, with_literals

ABSENT: Any = object()
"""Override that removes a key."""

FLAGS = {"lz4": 0, "lz4hc": 0, "zstd": 1, "none": 2}
"""Flags in the header of a file, by compression."""

PIECE_DOCUMENTS = 4000
CREATED = 1_700_000_000.0  # seconds since 1970
MAX_FRAME_BYTES = 4 << 20
MAX_BOUND_BYTES = 64
BOUNDED_TYPES = [pa.int32(), pa.int64(), pa.float64(), pa.bool_(), pa.string()]
SEGMENT_HEADER_BYTES = 32
FILE_CHECKSUM_HEAD = b"\xadfile_checksum\xcf"
CHECKSUM_HEAD = b"\xa8checksum\xcf"
_MASK = (1 << 64) - 1

Document = Mapping[str, Any] | bytes
"""Document; bytes are a whole entry, written unchanged."""

Row = Mapping[str, tuple[Any, Any, int | None]]
"""Bounds of some fields."""

Tree = dict[str, bytes]


def pack(value: Any) -> bytes:
    """Return the MessagePack of a value."""
    packed: bytes = msgpack.packb(value, unicode_errors="surrogateescape")
    return packed


def map_head(count: int) -> bytes:
    """Return the head of a MessagePack map."""
    head: bytes = msgpack.Packer(autoreset=True).pack_map_header(count)
    return head


def entry(identity: str, document: Mapping[str, Any]) -> bytes:
    """Return one document as a body holds it."""
    return pack(identity) + pack(document)


def parse_entries(entries: Iterable[bytes], *, ids_only: bool = False) -> list[dict[str, Any]]:
    """Return the documents of honest entries, each with its id; damaged ones have ids only."""
    found = []
    for packed in entries:
        unpacker = msgpack.Unpacker(strict_map_key=False)
        unpacker.feed(packed)
        identity = unpacker.unpack()
        found.append({"_id": identity, **({} if ids_only else unpacker.unpack())})
    return found


def write_tree(folder: Path, tree: Mapping[str, bytes]) -> Path:
    """Write the files of a tree into a folder, and return the folder."""
    for name, data in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def under(folder: str, tree: Mapping[str, bytes]) -> Tree:
    """Return a tree with all its paths below a folder."""
    return {f"{folder}/{name}": data for name, data in tree.items()}


def _overridden(honest: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**honest, **overrides}
    return {key: value for key, value in merged.items() if value is not ABSENT}


def _max_number(ids: Iterable[str]) -> int:
    numbers = (int(one) for one in ids if one.isascii() and one.isdigit() and len(one) < 19)
    return max(numbers, default=0)


# --- GODB files -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Piece:
    """Piece of a body, with the packed sizes of its documents and overrides of its index row."""

    entries: Sequence[bytes]
    sizes: bytes
    row: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Collection:
    """Collection of a file, made by :func:`collection`."""

    name: str
    pieces: Sequence[Piece]
    schema: pa.Schema | bytes | None
    hint: Mapping[str, Any] | None
    statistics: bytes
    count: int | None

    def entries(self) -> list[bytes]:
        """Return the entries of all pieces."""
        return [packed for piece in self.pieces for packed in piece.entries]

    def ids(self) -> list[str]:
        """Return the ids of the entries."""
        return [found["_id"] for found in parse_entries(self.entries(), ids_only=True)]

    def packed_hint(self, *, alone: bool) -> dict[str, Any]:
        """Return the recorded hint, with its overrides."""
        honest: dict[str, Any] = {"count": len(self.entries())}
        honest["next_id"] = _max_number(self.ids()) + 1
        if self.schema is not None:
            raw = self.schema
            honest["schema"] = raw if isinstance(raw, bytes) else raw.serialize().to_pybytes()
        if alone:
            honest["plain"] = True
        return _overridden(honest, self.hint or {})


def collection(
    name: str,
    documents: Iterable[Document],
    *,
    schema: pa.Schema | bytes | None = None,
    hint: Mapping[str, Any] | None = {},
    piece_documents: int = PIECE_DOCUMENTS,
    sizes: Callable[[Sequence[bytes]], Sequence[int] | bytes] | None = None,
    row: Callable[[int], Mapping[str, int]] = lambda piece: {},
    statistics: Sequence[Row] | bytes | None = None,
    count: int | None = None,
) -> Collection:
    """Make a collection of documents.

    Parameters
    ----------
    name : str
        Name of the collection.
    documents : iterable of mapping or bytes
        Documents. A mapping without ``_id`` gets the next number as its id.
    schema : pyarrow.Schema or bytes, optional
        Recorded schema; bytes are written unchanged.
    hint : mapping, or None
        Overrides of the recorded hint; None records no hint.
    piece_documents : int
        Documents of a piece.
    sizes : callable, optional
        Returns the recorded sizes of a piece's entries. The true sizes by default; bytes are
        written unchanged.
    row : callable, optional
        Returns overrides of ``length``, ``tail``, ``size``, ``documents`` and ``checksum`` in the
        index, from the number of the piece.
    statistics : sequence of Row or bytes, optional
        Recorded bounds of each piece. The true ones by default, if all documents are mappings.
    count : int, optional
        Number of documents that the body claims; the true number by default.
    """
    numbers = itertools.count(1)
    entries = []
    honest = isinstance(schema, pa.Schema)
    for document in documents:
        if isinstance(document, bytes):
            honest = False
            entries.append(document)
            continue
        body = dict(document)
        entries.append(entry(body.pop("_id", None) or str(next(numbers)), body))
    runs = [entries[at : at + piece_documents] for at in range(0, len(entries), piece_documents)]
    recorded = [list(map(len, run)) if sizes is None else sizes(run) for run in runs]
    pieces = [
        Piece(run, found if isinstance(found, bytes) else pack_sizes(found), row(number))
        for number, (run, found) in enumerate(zip(runs, recorded, strict=True))
    ]
    if statistics is None:
        statistics = [true_bounds(run, schema) for run in runs] if honest else b""
    if not isinstance(statistics, bytes):
        statistics = pack_statistics(statistics, schema)
    return Collection(name, pieces, schema, hint, statistics, count)


def godb_file(
    *collections: Collection,
    compression: str = "lz4",
    indexed: bool | None = None,
    flags: int | None = None,
    hints: bytes | None = None,
    metadata: Mapping[str, Any] | None = None,
    others: Mapping[str, Any] | None = None,
    index: Mapping[str, Any] | None = None,
    reader: int | None = None,
) -> bytes:
    """Return a sealed GODB file.

    Parameters
    ----------
    collections : Collection
        Collections, in order.
    compression : {"lz4", "lz4hc", "zstd", "none"}
        Compression of the body.
    indexed : bool, optional
        Whether to cut the body into pieces and index them. By default only if a collection has
        more than one piece.
    flags : int, optional
        Flags of the header; by default the flags of the compression.
    hints : bytes, optional
        Packed hints, written unchanged under a true checksum.
    metadata, others : mapping, optional
        Further keys of ``metadata`` and of the body.
    index : mapping, optional
        Overrides of ``pieces``, ``collections``, ``statistics`` and ``sizes`` in the index.
    reader : int, optional
        Version of the reader that the file needs; none is recorded by default.
    """
    metadata, others = metadata or {}, others or {}
    if indexed is None:
        indexed = any(len(one.pieces) > 1 for one in collections)
    if hints is None:
        alone = len(collections) == 1 and not metadata and not others
        hinted = [one for one in collections if one.hint is not None]
        hints = pack({one.name: one.packed_hint(alone=alone) for one in hinted})
    front = map_head(4 + 2 * indexed + len(others)) + pack("metadata") + map_head(1 + len(metadata))
    front += pack("godb_arrow") + map_head(2 + (reader is not None))
    front += b"" if reader is None else pack("reader") + pack(reader)
    front += pack("collections") + hints
    front += CHECKSUM_HEAD + xxhash.xxh3_64_digest(hints)
    front += b"".join(pack(key) + pack(value) for key, value in metadata.items())
    front += pack("collections") + map_head(len(collections))
    pieces: list[Piece] = []
    spans: dict[str, tuple[int, int]] = {}
    for one in collections:
        count = len(one.entries()) if one.count is None else one.count
        pieces.append(_plain(front + pack(one.name) + map_head(count)))
        front = b""
        if one.pieces:
            spans[one.name] = (len(pieces), len(one.pieces))
        pieces += one.pieces
    rest = front + b"".join(pack(key) + pack(value) for key, value in others.items())
    if rest:
        pieces.append(_plain(rest))
    if not indexed:
        pieces = [_plain(b"".join(packed for piece in pieces for packed in piece.entries))]

    def ending(rows: list[dict[str, int]]) -> bytes:
        if not indexed:
            return b""
        honest = {
            "pieces": np.array([list(row.values()) for row in rows], "<u8").tobytes(),
            "collections": spans,
            "statistics": {one.name: one.statistics for one in collections if one.statistics},
            "sizes": np.array([len(piece.sizes) for piece in pieces], "<u4").tobytes(),
        }
        packed = pack(_overridden(honest, index or {}))
        packed += xxhash.xxh3_64_digest(packed) + len(packed).to_bytes(4, "little")
        sizes = b"".join(piece.sizes for piece in pieces)
        return _binary("godb_arrow_sizes", sizes) + _binary("godb_arrow_pieces", packed)

    return _sealed(pieces, ending, compression, FLAGS[compression] if flags is None else flags)


def _plain(data: bytes) -> Piece:
    """Return a piece without documents."""
    return Piece([data], b"", {"documents": 0})


def _binary(key: str, value: bytes) -> bytes:
    return pack(key) + b"\xc6" + len(value).to_bytes(4, "big") + value


def _sealed(
    pieces: Sequence[Piece],
    ending: Callable[[list[dict[str, int]]], bytes],
    compression: str,
    flags: int,
) -> bytes:
    """Return a header, compressed pieces, the ending, and both checksums."""
    file = bytearray(b"GODB\x01\x00" + flags.to_bytes(2, "little"))
    content = xxhash.xxh3_64()
    rows: list[dict[str, int]] = []
    waiting = b""  # literals that the next sequence begins with
    for piece in pieces:
        data = b"".join(piece.entries)
        content.update(data)
        sequences, literals = _compress(data, compression)
        if sequences:
            sequences, waiting = with_literals(waiting, sequences), b""
        file += sequences
        waiting += literals
        honest = {
            "length": len(sequences),
            "tail": len(literals),
            "size": len(data),
            "documents": len(piece.entries),
            "checksum": xxhash.xxh3_64_intdigest(data),
        }
        rows.append(_overridden(honest, piece.row))
    last = ending(rows) + FILE_CHECKSUM_HEAD
    content.update(last)
    if compression.startswith("lz4"):
        file += literal_head(len(waiting) + len(last) + 8 + len(CHECKSUM_HEAD) + 8)
    file += waiting + last
    digest = xxhash.xxh3_64_digest(file)
    content.update(digest)
    return bytes(file) + digest + CHECKSUM_HEAD + content.digest()


def _compress(data: bytes, compression: str) -> tuple[bytes, bytes]:
    """Return the sequences or frames of a piece, and the literals after its last match."""
    if compression == "none":
        return data, b""
    if compression == "zstd":
        frames = (data[at : at + MAX_FRAME_BYTES] for at in range(0, len(data), MAX_FRAME_BYTES))
        zstd = pa.Codec("zstd", compression_level=3)
        return b"".join(zstd.compress(frame, asbytes=True) for frame in frames), b""
    return compress_lz4(data, high=compression == "lz4hc")


def pack_sizes(sizes: Sequence[int]) -> bytes:
    """Return the sizes of documents as a file records them; nothing, if they were long."""
    values = np.array(sizes, np.int64)
    more = values - values.min()
    bits = next(bits for bits in (0, 4, 8, 16, 32) if int(more.max()) < 1 << bits)
    if bits == 4:
        pairs = np.append(more, [0] * (len(more) % 2)).astype("u1")
        body = (pairs[::2] | pairs[1::2] << 4).tobytes()
    else:
        body = more.astype(f"<u{bits // 8}").tobytes() if bits else b""
    packed = bytes([bits]) + int(values.min()).to_bytes(4, "little") + body
    packed += xxhash.xxh3_64_digest(packed)
    return packed if len(packed) <= int(values.sum()) // 8 + 16 else b""


def true_bounds(entries: Iterable[bytes], schema: pa.Schema) -> Row:
    """Return the bounds of numbers, texts and booleans in honest entries."""
    documents = parse_entries(entries)
    row: dict[str, tuple[Any, Any, int | None]] = {}
    for column in schema:
        values = [document.get(column.name) for document in documents]
        known = [value for value in values if value is not None]
        long = any(len(str(value).encode()) > MAX_BOUND_BYTES for value in known)
        if column.type in BOUNDED_TYPES and not long:
            extremes = min(known, default=None), max(known, default=None)
            row[column.name] = (*extremes, len(values) - len(known))
    return row


def pack_statistics(rows: Sequence[Row], schema: pa.Schema) -> bytes:
    """Return bounds as an Arrow IPC stream, with a row for each piece or part."""
    columns: dict[str, pa.Array] = {}
    for column in schema:
        bounds = [row.get(column.name, (None, None, None)) for row in rows]
        if any(nulls is not None for _, _, nulls in bounds):
            types = (column.type, column.type, pa.int64())
            for place, suffix in enumerate(("least", "greatest", "nulls")):
                values = pa.array([bound[place] for bound in bounds], types[place])
                columns[f"{column.name}\0{suffix}"] = values
    return ipc_stream(pa.RecordBatch.from_pydict(columns)) if columns else b""


def ipc_stream(batch: pa.RecordBatch, compression: str | None = None) -> bytes:
    """Return one record batch as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    packed: bytes = sink.getvalue().to_pybytes()
    return packed


# --- parts and manifests ----------------------------------------------------------------------


def id_hash(identity: str) -> int:
    """Return the hash of an id, as the compiled kernel computes it."""
    raw = identity.encode()
    hashed = 0x9E3779B97F4A7C15 * (len(raw) + 1) & _MASK
    whole = len(raw) // 8 * 8
    for at in range(0, whole, 8):
        hashed = (hashed ^ int.from_bytes(raw[at : at + 8], "little")) * 0xFF51AFD7ED558CCD & _MASK
        hashed ^= hashed >> 32
    hashed = (hashed ^ int.from_bytes(raw[whole:], "little")) * 0xC4CEB9FE1A85EC53 & _MASK
    hashed ^= hashed >> 29
    hashed = hashed * 0x9E3779B97F4A7C15 & _MASK
    return hashed ^ hashed >> 32


def ids_file(
    ids: Sequence[str],
    *,
    rows: Sequence[int] | None = None,
    greatest: int | None = None,
    count: int | None = None,
    hashed: Callable[[str], int] = id_hash,
) -> bytes:
    """Return the file that leads from the ids of a part to its rows.

    Parameters
    ----------
    ids : sequence of str
        Ids, in the order of the documents.
    rows : sequence of int, optional
        Row of each id; its position by default.
    greatest, count : int, optional
        Maximum number among the ids, and number of ids, as the file claims them.
    hashed : callable
        Hash of an id.
    """
    pairs = sorted(zip(map(hashed, ids), range(len(ids)) if rows is None else rows, strict=True))
    head = b"GODI\x02\x00\x00\x00" + (len(ids) if count is None else count).to_bytes(8, "little")
    head += (_max_number(ids) if greatest is None else greatest).to_bytes(8, "little")
    hashes = np.array([one for one, _ in pairs], "<u8")
    return head + hashes.tobytes() + np.array([row for _, row in pairs], "<u4").tobytes()


@dataclass(frozen=True, slots=True)
class Part:
    """Part of a collection: a file, its ids, and what the manifest records of both.

    Fields override ``number``, ``documents``, ``size``, ``file_size``, ``ids_checksum`` and
    ``deleted`` in the manifest. Both files are honest by default.
    """

    number: int
    content: Collection
    deleted: Sequence[int] = ()  # rows, in order
    fields: Mapping[str, Any] = field(default_factory=dict)
    file: bytes | None = None
    ids: bytes | None = None

    def files(self) -> Tree:
        """Return both files."""
        file = godb_file(self.content) if self.file is None else self.file
        ids = ids_file(self.content.ids()) if self.ids is None else self.ids
        return {f"{self.number:08d}.godb": file, f"{self.number:08d}.ids": ids}

    def packed(self) -> list[Any]:
        """Return what the manifest records."""
        entries = self.content.entries()
        file, ids = self.files().values()
        honest = {
            "number": self.number,
            "documents": len(entries),
            "size": sum(map(len, entries)),
            "file_size": len(file),
            "ids_checksum": xxhash.xxh3_64_intdigest(ids),
            "deleted": pack_rows(self.deleted, len(entries)),
        }
        return list(_overridden(honest, self.fields).values())


def pack_rows(rows: Sequence[int], documents: int) -> bytes:
    """Return deleted rows as numbers, or as a bitmap if there are many."""
    if 32 * len(rows) < documents:
        return b"\x00" + np.array(rows, "<u4").tobytes()
    bits = np.zeros(documents, bool)
    bits[list(rows)] = True
    return b"\x01" + np.packbits(bits).tobytes()


def manifest(
    parts: Sequence[Part],
    schema: pa.Schema,
    /,
    *,
    head: bytes = b"GODM\x01\x00\x00\x00",
    **fields: Any,
) -> bytes:
    """Return a manifest; fields override the values of its map."""
    rows = [true_bounds(part.content.entries(), schema) for part in parts]
    honest = {
        "version": 1,
        "parts": [part.packed() for part in parts],
        "schema": schema.serialize().to_pybytes(),
        "next_id": _max_number(one for part in parts for one in part.content.ids()) + 1,
        "record": 0,
        "indexes": [],
        "created": CREATED,
        "statistics": pack_statistics(rows, schema),
        "compression": "lz4",
        "name": parts[0].content.name if parts else "",
        "rewrites": False,
    }
    data = head + pack(_overridden(honest, fields))
    return data + xxhash.xxh3_64_digest(data)


def part_folder(parts: Sequence[Part], schema: pa.Schema, /, **fields: Any) -> Tree:
    """Return the tree of a ``NAME.parts`` folder, whose manifest has the given fields."""
    tree = {name: data for part in parts for name, data in part.files().items()}
    return {**tree, "00000001.manifest": manifest(parts, schema, **fields)}


# --- journals and backups ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Record:
    """Record of a journal: its map, and the entries that follow.

    A key ``parts`` of the map overrides the lengths of the parts. The number is by default one
    more than the number of the record before.
    """

    meta: Mapping[str, Any]
    parts: Sequence[bytes] = ()
    number: int | None = None
    durable: int = SEGMENT_HEADER_BYTES  # bytes of the segment, when the record was written


def write_record(
    name: str, entries: Sequence[bytes], *, next_id: int = 1, deleted: Sequence[str] = ()
) -> Record:
    """Return the record of a write that puts and deletes documents of a collection."""
    meta = {"op": "write", "c": name, "n": next_id, "k": [len(entries)], "d": list(deleted)}
    return Record(meta, [b"".join(entries)])


def segment(records: Sequence[Record], *, first: int = 1, version: int = 1) -> bytes:
    """Return a segment of a journal, with the sequence number of its first record."""
    head = struct.pack("<8sIIQ", b"GODBJRNL", version, 0, first)
    packed = head + struct.pack("<Q", xxhash.xxh3_64_intdigest(head))
    number = first
    for record in records:
        number = number if record.number is None else record.number
        meta = pack({"parts": [len(part) for part in record.parts], **record.meta})
        payload = struct.pack("<I", len(meta)) + meta + b"".join(record.parts)
        head = struct.pack("<QQQ", len(payload), number, record.durable)
        packed += head + struct.pack("<Q", xxhash.xxh3_64_intdigest(head + payload)) + payload
        number += 1
    return packed


@dataclass(frozen=True, slots=True)
class BackupFile:
    """File of a backup, with overrides of its ``name``, ``size``, ``modified`` and ``digest``.

    The name is a path in the ``collections`` folder of the restored data directory. Stored bytes
    replace the content under the digest of the content.
    """

    name: str
    content: bytes
    fields: Mapping[str, Any] = field(default_factory=dict)
    stored: bytes | None = None


def backup(
    files: Sequence[BackupFile], collections: Mapping[str, int], *, number: int = 1, **fields: Any
) -> Tree:
    """Return the tree of a backup; fields override its description."""
    described, tree = [], {}
    for file in files:
        digest = xxhash.xxh3_128_hexdigest(file.content)
        size = len(file.content)
        honest = {"name": file.name, "size": size, "modified": 0, "digest": digest}
        described.append(_overridden(honest, file.fields))
        stored = file.content if file.stored is None else file.stored
        tree[f"files/{digest[:2]}/{digest}"] = stored
    honest = {
        "format": 1,
        "number": number,
        "created": CREATED,
        "collections": dict(collections),
        "files": described,
        "copied_files": len(files),
        "copied_size": sum(len(file.content) for file in files),
    }
    description = _overridden(honest, fields)
    text = json.dumps(description, sort_keys=True).encode()
    sealed = json.dumps({**description, "checksum": xxhash.xxh3_64_hexdigest(text)}).encode()
    return {**tree, f"backups/{number:08d}.json": sealed}
