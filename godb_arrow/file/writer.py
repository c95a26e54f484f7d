"""Writing a GODB file: its collections cut into pieces, compressed, indexed and sealed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import msgpack
import pyarrow as pa
import xxhash

from godb_arrow import codec
from godb_arrow.codec.blocks import Compressed, Content, compress_block
from godb_arrow.codec.compression import Compression, check_compression
from godb_arrow.codec.entries import CHUNK_BYTES, Chunk
from godb_arrow.codec.sizes import pack_if_worthwhile
from godb_arrow.errors import GodbError
from godb_arrow.file.format import (
    AFTER_FILE_HASH,
    CHECKSUM_HEAD,
    FILE_CHECKSUM_HEAD,
    MAGIC,
    VERSION,
)
from godb_arrow.file.hints import PACKED_HINTS_KEY, CollectionHint, pack_hints
from godb_arrow.file.piece_index import PIECES_KEY, SIZES_KEY, PieceIndex
from godb_arrow.options import CompressionName
from godb_arrow.parallel import available_cores
from godb_arrow.query.statistics import Row, covered, pack_statistics, per_piece

__all__ = ["CollectionData", "compressed_chunk", "write_file"]


@dataclass(frozen=True, slots=True)
class CollectionData:
    """A collection to be written.

    Parameters
    ----------
    name : str
        The collection.
    count : int
        How many entries the chunks have in all.
    chunks : iterable of Chunk
        Entries (document id and document, in MessagePack), one after the other.
    hint : CollectionHint, optional
        To be recorded in ``metadata``.
    """

    name: str
    count: int
    chunks: Iterable[Chunk]
    hint: CollectionHint | None = None


def write_file(
    stream: BinaryIO,
    collections: Sequence[CollectionData],
    *,
    metadata: Mapping[bytes, bytes] | None = None,
    others: Mapping[str, bytes] | None = None,
    compression: CompressionName = "lz4",
    threads: int | None = None,
) -> None:
    """Write a GODB file; with LZ4 it is one that go-db reads.

    Parameters
    ----------
    stream : binary file
        Where to write.
    collections : sequence of CollectionData
        The collections, in order.
    metadata : mapping of bytes to bytes, optional
        Further keys and values of ``metadata``, in MessagePack.
    others : mapping of str to bytes, optional
        Further top-level keys, such as ``indexes``, with their values in MessagePack.
    compression : {"lz4", "lz4hc", "zstd", "none"}
        How the body is compressed. "lz4hc" is LZ4 that looks harder for matches.
    threads : int, optional
        How many compress at the same time; as many as there are cores, where that is worthwhile.

    Examples
    --------
    >>> import io
    >>> file = io.BytesIO()
    >>> write_file(file, [CollectionData("users", 1, [Chunk(b"\\xa11\\x80", 1)])])
    >>> file.getvalue()[:8]
    b'GODB\\x01\\x00\\x00\\x00'
    """
    collections = list(collections)
    fields = {
        data.name: covered(data.hint.schema) for data in collections
        if data.hint is not None and data.hint.schema is not None
    }  # fmt: skip
    layout = _Layout(fields) if _are_many(collections) else None
    body = _body(collections, metadata or {}, others or {}, indexed=layout is not None)
    if codec.BACKEND == "reference" or layout is None:
        threads = 1
    chosen = check_compression(compression)
    pieces = _cut(body, layout, chosen.flags)
    for data in _sealed(pieces, layout, chosen, threads or available_cores()):
        stream.write(data)


def compressed_chunk(chunk: Chunk, compression: CompressionName) -> Chunk:
    """A chunk with what a piece of it is compressed to, where it will become one.

    So whoever makes chunks on several threads compresses them there, too, while they are in the
    processor's cache.
    """
    if chunk.compressed is not None or len(chunk.data) < _FULL_PIECE:
        return chunk
    data = bytes(chunk.data)
    chosen = check_compression(compression)
    return chunk._replace(
        data=data,
        compressed=chosen.compress(data),
        flags=chosen.flags,
        sizes=chunk.sizes or _measure(data, chunk.documents),
    )


def _measure(data: bytes, documents: int) -> bytes:
    """The packed sizes of documents; empty where they do not help."""
    sizes = codec.measure(data, documents)
    return b"" if sizes is None else pack_if_worthwhile(sizes)


def _are_many(collections: list[CollectionData]) -> bool:
    """Whether there are so many documents that pieces are worthwhile."""
    size = 0
    for index, data in enumerate(collections):
        chunks = iter(data.chunks)
        ahead: list[Chunk] = []
        collections[index] = replace(data, chunks=itertools.chain(ahead, chunks))
        for chunk in chunks:
            ahead.append(chunk)
            size += len(chunk.data)
            if size > CHUNK_BYTES:
                return True
    return False


@dataclass(slots=True)
class _Layout:
    """What is in each piece of a body."""

    fields: dict[str, pa.Schema]  # of each collection, those with statistics
    documents: list[int] = field(default_factory=list)
    collections: dict[str, tuple[int, int]] = field(default_factory=dict)
    chunks: dict[str, list[tuple[int, Row | None]]] = field(default_factory=dict)

    def note(self, collection: str | None, chunk: Chunk) -> None:
        """A chunk goes into the next piece."""
        if collection is not None:
            noted = self.chunks.setdefault(collection, [])
            noted.append((len(self.documents), chunk.statistics))

    def add(self, collection: str | None, documents: int) -> None:
        """A piece is complete."""
        if collection is not None:
            first, count = self.collections.get(collection, (len(self.documents), 0))
            self.collections[collection] = (first, count + 1)
        self.documents.append(documents)

    def index(self, compressed: list[Compressed]) -> bytes:
        """The index as a top-level key and its value."""
        statistics = {}
        for name, noted in self.chunks.items():
            if any(row is not None for _, row in noted):
                rows, pieces = [row for _, row in noted], [piece for piece, _ in noted]
                joined = per_piece(rows, pieces, self.fields[name])
                statistics[name] = pack_statistics(joined)
        index = PieceIndex.of(compressed, self.documents, self.collections, statistics)
        sizes = b"".join(piece.sizes for piece in compressed)
        return _binary(SIZES_KEY, sizes) + _binary(PIECES_KEY, index.pack())


def _binary(key: str, value: bytes) -> bytes:
    return codec.pack(key) + b"\xc6" + len(value).to_bytes(4, "big") + value


_Part = tuple[str | None, Chunk]  # of a body; and the collection whose documents these are


def _body(
    collections: Sequence[CollectionData],
    metadata: Mapping[bytes, bytes],
    others: Mapping[str, bytes],
    *,
    indexed: bool,
) -> Iterator[_Part]:
    """The body in parts, without its index and checksums."""

    def plain(data: bytes) -> _Part:
        return None, Chunk(data, 0)

    hints = pack_hints({data.name: data.hint for data in collections if data.hint})
    yield plain(_map_head(4 + len(others) + 2 * indexed) + codec.pack("metadata"))
    yield plain(_map_head(len(metadata) + 1) + PACKED_HINTS_KEY + hints)
    yield from (plain(key + value) for key, value in metadata.items())
    yield plain(codec.pack("collections") + _map_head(len(collections)))
    for data in collections:
        yield plain(codec.pack(data.name) + _map_head(data.count))
        count = 0
        for chunk in data.chunks:
            count += chunk.documents
            yield data.name, chunk
        if count != data.count:  # the head of the map cannot be changed any more
            raise GodbError(
                f"{count} documents were found where {data.count} were counted",
                advice="nothing was written; verify the file that they come from",
            )
    yield from (plain(codec.pack(key) + raw) for key, raw in others.items())


def _cut(body: Iterator[_Part], layout: _Layout | None, flags: int) -> Iterator[Content]:
    """The body in pieces; with a layout, each begins with a document, or has none.

    What was compressed for a file of the same flags stays as it is.
    """
    gathered: list[bytes | memoryview] = []
    size = count = 0
    owner: str | None = None
    for collection, chunk in body:
        is_alike = chunk.compressed is not None and chunk.flags == flags
        was_piece = is_alike and len(chunk.data) >= _FULL_PIECE
        # It stays one, unless a few documents would become a piece for its sake.
        full = _FULL_PIECE // 2 if was_piece else _FULL_PIECE
        if gathered and (size >= full or (layout is not None and collection != owner)):
            if layout is not None:
                layout.add(owner, count)
            yield Content(b"".join(gathered), documents=count)
            gathered, size, count = [], 0, 0
        owner = collection
        if layout is not None:
            layout.note(collection, chunk)
            if was_piece and not gathered:
                layout.add(collection, chunk.documents)
                yield Content(bytes(chunk.data), chunk.compressed, chunk.documents, chunk.sizes)
                continue
        gathered.append(chunk.data)
        size += len(chunk.data)
        count += chunk.documents
    if gathered:
        if layout is not None:
            layout.add(owner, count)
        yield Content(b"".join(gathered), documents=count)


_FULL_PIECE = 3 * CHUNK_BYTES // 4


def _sealed(
    pieces: Iterator[Content], layout: _Layout | None, compression: Compression, threads: int
) -> Iterator[bytes | memoryview]:
    """The bytes of the file: header, compressed body, and its index and checksums as literals."""
    content_hash = xxhash.xxh3_64()
    file_hash = xxhash.xxh3_64()

    def hashed() -> Iterator[Content]:
        for piece in pieces:
            content_hash.update(piece.data)
            yield piece

    def ending(compressed: list[Compressed]) -> bytes:
        literals = b"" if layout is None else layout.index(compressed)
        literals += FILE_CHECKSUM_HEAD
        content_hash.update(literals)
        return literals

    header = MAGIC + VERSION.to_bytes(2, "little") + compression.flags.to_bytes(2, "little")
    file_hash.update(header)
    yield header
    for encoded in compress_block(
        compression.compress,
        hashed(),
        threads=threads,
        ending=ending,
        reserve=AFTER_FILE_HASH,
        head=compression.literal_head,
        measure=_measure if layout is not None else lambda data, documents: b"",
    ):
        file_hash.update(encoded)
        yield encoded
    value = file_hash.digest()
    content_hash.update(value)
    yield value + CHECKSUM_HEAD + content_hash.digest()


def _map_head(count: int) -> bytes:
    packer = msgpack.Packer(autoreset=True)
    head: bytes = packer.pack_map_header(count)
    return head
