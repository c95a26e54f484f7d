"""Writer of GODB files, which cuts the body into pieces, compresses, indexes and seals it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
from godb_arrow.file.piece_index import INDEXES_KEY, PIECES_KEY, SIZES_KEY, PieceIndex
from godb_arrow.options import CompressionName
from godb_arrow.parallel import available_cores
from godb_arrow.query.statistics import Row, covered, pack_statistics, per_piece

__all__ = ["CollectionData", "compressed_chunk", "write_file"]

_FULL_PIECE_BYTES = 3 * CHUNK_BYTES // 4
_Part = tuple[str | None, Chunk]  # chunk of a body, and the collection of its documents if any


@dataclass(frozen=True, slots=True)
class CollectionData:
    """Collection to be written.

    Parameters
    ----------
    name : str
        Name of the collection.
    count : int
        Number of entries in all chunks.
    chunks : iterable of Chunk
        Entries (document id and document, in MessagePack), one after the other.
    hint : CollectionHint, optional
        Hint to record in ``metadata``.
    runs : callable, optional
        Returns the packed run of each indexed field; called after the last chunk.
    """

    name: str
    count: int
    chunks: Iterable[Chunk]
    hint: CollectionHint | None = None
    runs: Callable[[], Mapping[str, bytes]] | None = None


def write_file(
    stream: BinaryIO,
    collections: Sequence[CollectionData],
    *,
    metadata: Mapping[bytes, bytes] | None = None,
    others: Mapping[str, bytes] | None = None,
    compression: CompressionName = "lz4",
    threads: int | None = None,
) -> None:
    """Write a GODB file, which go-db can read if it is compressed with LZ4.

    Parameters
    ----------
    stream : binary file
        Stream to write to.
    collections : sequence of CollectionData
        The collections, in order.
    metadata : mapping of bytes to bytes, optional
        More keys and values of ``metadata``, in MessagePack.
    others : mapping of str to bytes, optional
        More top-level keys, such as ``indexes``, with their values in MessagePack.
    compression : {"lz4", "lz4hc", "zstd", "none"}
        Compression of the body, default "lz4". "lz4hc" is LZ4 at a higher level.
    threads : int, optional
        Number of compressing threads; one per core by default, where that is worthwhile.

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
        data.name: covered(data.hint.schema)
        for data in collections
        if data.hint is not None and data.hint.schema is not None
    }
    runs = {data.name: data.runs for data in collections if data.runs is not None}
    layout = _Layout(fields, runs) if _are_many(collections) else None
    body = _body(collections, metadata or {}, others or {}, indexed=layout is not None)
    if codec.BACKEND == "reference" or layout is None:
        threads = 1
    scheme = check_compression(compression)
    pieces = _cut(body, layout, scheme.flags)
    for data in _sealed(pieces, layout, scheme, threads or available_cores()):
        stream.write(data)


def compressed_chunk(chunk: Chunk, compression: CompressionName) -> Chunk:
    """Return a chunk in compressed form, if it is large enough to become a piece.

    So the threads that produce chunks also compress them, while they are in the processor's cache.
    """
    if chunk.compressed is not None or len(chunk.data) < _FULL_PIECE_BYTES:
        return chunk
    data = bytes(chunk.data)
    scheme = check_compression(compression)
    return chunk._replace(
        data=data,
        compressed=scheme.compress(data),
        flags=scheme.flags,
        sizes=chunk.sizes or _measure(data, chunk.documents),
    )


def _measure(data: bytes, documents: int) -> bytes:
    """Return the packed sizes of documents, or no bytes if they do not help readers."""
    sizes = codec.measure(data, documents)
    return b"" if sizes is None else pack_if_worthwhile(sizes)


def _are_many(collections: list[CollectionData]) -> bool:
    """Return whether there are enough documents to make pieces worthwhile."""
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
    """Content of the pieces of a body."""

    fields: dict[str, pa.Schema]  # fields with statistics, by collection
    runs: dict[str, Callable[[], Mapping[str, bytes]]]  # of indexed fields, by collection
    documents: list[int] = field(default_factory=list)
    collections: dict[str, tuple[int, int]] = field(default_factory=dict)
    chunks: dict[str, list[tuple[int, Row | None]]] = field(default_factory=dict)

    def note(self, collection: str | None, chunk: Chunk) -> None:
        """Add a chunk to the next piece."""
        if collection is not None:
            noted = self.chunks.setdefault(collection, [])
            noted.append((len(self.documents), chunk.statistics))

    def add(self, collection: str | None, documents: int) -> None:
        """Complete a piece."""
        if collection is not None:
            first, count = self.collections.get(collection, (len(self.documents), 0))
            self.collections[collection] = (first, count + 1)
        self.documents.append(documents)

    def index(self, compressed: list[Compressed]) -> Iterator[bytes]:
        """Yield the parts of the index, of sizes and of runs: top-level keys and their values."""
        statistics = {}
        for name, noted in self.chunks.items():
            if any(row is not None for _, row in noted):
                rows, pieces = [row for _, row in noted], [piece for piece, _ in noted]
                joined = per_piece(rows, pieces, self.fields[name])
                statistics[name] = pack_statistics(joined)
        runs = {name: packed() for name, packed in self.runs.items()}
        index = PieceIndex.of(compressed, self.documents, self.collections, statistics, runs)
        if self.runs:
            yield from _binary(INDEXES_KEY, [run for one in runs.values() for run in one.values()])
        yield from _binary(SIZES_KEY, [piece.sizes for piece in compressed])
        yield from _binary(PIECES_KEY, [index.pack()])


def _binary(key: str, parts: Sequence[bytes]) -> Iterator[bytes]:
    """Yield a top-level key and its value, of which no copy is made."""
    yield codec.pack(key) + b"\xc6" + sum(map(len, parts)).to_bytes(4, "big")
    yield from parts


def _body(
    collections: Sequence[CollectionData],
    metadata: Mapping[bytes, bytes],
    others: Mapping[str, bytes],
    *,
    indexed: bool,
) -> Iterator[_Part]:
    """Yield the body in parts, without its index and checksums."""

    def plain(data: bytes) -> _Part:
        return None, Chunk(data, 0)

    hints = pack_hints({data.name: data.hint for data in collections if data.hint})
    has_runs = indexed and any(data.runs is not None for data in collections)
    keys = 4 + len(others) + 2 * indexed + has_runs
    yield plain(_map_head(keys) + codec.pack("metadata"))
    yield plain(_map_head(len(metadata) + 1) + PACKED_HINTS_KEY + hints)
    yield from (plain(key + value) for key, value in metadata.items())
    yield plain(codec.pack("collections") + _map_head(len(collections)))
    for data in collections:
        yield plain(codec.pack(data.name) + _map_head(data.count))
        count = 0
        for chunk in data.chunks:
            count += chunk.documents
            yield data.name, chunk
        if count != data.count:  # The head of the map, which has the count, is already written.
            raise GodbError(
                f"found {count} documents instead of the {data.count} that were counted",
                advice="nothing was written; verify the source of the documents",
            )
    yield from (plain(codec.pack(key) + raw) for key, raw in others.items())


def _cut(body: Iterator[_Part], layout: _Layout | None, flags: int) -> Iterator[Content]:
    """Cut a body into pieces, which with a layout begin with a document or have none.

    Chunks that were compressed for a file with the same flags keep their compressed form.
    """
    gathered: list[bytes | memoryview] = []
    size = count = 0
    owner: str | None = None
    for collection, chunk in body:
        is_alike = chunk.compressed is not None and chunk.flags == flags
        was_piece = is_alike and len(chunk.data) >= _FULL_PIECE_BYTES
        # A compressed chunk stays a piece, unless only few documents are gathered before it.
        full = _FULL_PIECE_BYTES // 2 if was_piece else _FULL_PIECE_BYTES
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


def _sealed(
    pieces: Iterator[Content], layout: _Layout | None, compression: Compression, threads: int
) -> Iterator[bytes | memoryview]:
    """Yield the file's header and compressed body, with index and checksums as literals."""
    content_hash = xxhash.xxh3_64()
    file_hash = xxhash.xxh3_64()

    def hashed() -> Iterator[Content]:
        for piece in pieces:
            content_hash.update(piece.data)
            yield piece

    def ending(compressed: list[Compressed]) -> list[bytes]:
        literals = [] if layout is None else list(layout.index(compressed))
        literals.append(FILE_CHECKSUM_HEAD)
        for part in literals:
            content_hash.update(part)
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
