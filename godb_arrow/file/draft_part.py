"""Part of a draft: entries that are spooled, or rows of a table that are encoded later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.compression import check_compression
from godb_arrow.codec.entries import Chunk
from godb_arrow.codec.reference.lz4 import Piece
from godb_arrow.codec.sizes import pack_if_worthwhile
from godb_arrow.documents.encoding import check_sizes
from godb_arrow.options import DEFAULT_DOCUMENT_BYTES, CompressionName
from godb_arrow.query.bounds import Bounds
from godb_arrow.query.statistics import Row, decode_statistics, statistics_of
from godb_arrow.schema import DocumentSummary

__all__ = ["DraftPart"]


@dataclass(frozen=True, slots=True)
class DraftPart:
    """Entries that are spooled, or rows of a table in memory that are encoded later.

    Attributes
    ----------
    count : int
        Number of documents.
    start, size : int
        Place of the spooled bytes.
    raw : bytes
        The bytes, while they are in memory.
    compression : str or None
        Compression of the spooled bytes; None if they are entries.
    sequences, content_size : int
        Bytes of compressed sequences, which literals follow, and bytes of the entries.
    sizes : bytes
        Packed sizes of compressed entries.
    batch, ids : pyarrow.RecordBatch and pyarrow.BinaryArray, or None
        Rows of a table, and the ids.
    statistics : Row or None
        Statistics of the documents.
    fields : pyarrow.Schema or None
        Fields that the statistics are about; None if they are about the final ones.
    names : frozenset of str
        Fields that the documents have, where `fields` are known.
    ascending : str or None
        Column with the ids, if they ascend.
    hashes : int or None
        Offset of the hashes of the ids in the draft's file of hashes, if they are there.
    greatest : int
        Max number among the ids.
    generated : sequence of int
        Rows whose ids were generated.
    """

    count: int
    start: int = 0
    size: int = 0
    raw: bytes = b""
    compression: CompressionName | None = None
    sequences: int = 0
    content_size: int = 0
    sizes: bytes = b""
    batch: pa.RecordBatch | None = None
    ids: pa.Array | None = None
    omit_nulls: bool = False
    max_document_bytes: int = DEFAULT_DOCUMENT_BYTES
    statistics: Row | None = None
    fields: pa.Schema | None = None
    names: frozenset[str] = frozenset()
    ascending: str | None = None
    hashes: int | None = None
    greatest: int = 0
    generated: Sequence[int] = ()

    @staticmethod
    def of(
        chunk: Chunk,
        size: int,
        compression: CompressionName,
        fields: pa.Schema | None,
        summary: DocumentSummary | None,
    ) -> DraftPart:
        """Return the part of a chunk with entries of a size, before it is spooled."""
        part = DraftPart(chunk.documents, statistics=chunk.statistics, size=size)
        if chunk.compressed is None:
            return part
        sequences, literals = chunk.compressed
        is_partial = summary is not None and summary.is_partial
        return DraftPart(
            chunk.documents,
            size=len(sequences) + len(literals),
            compression=compression,
            sequences=len(sequences),
            content_size=size,
            sizes=chunk.sizes,
            statistics=None if is_partial else chunk.statistics,
            fields=None if summary is None else fields,
            names=frozenset() if summary is None else frozenset(summary.fields),
        )

    def content(self) -> bytes:
        """Return the entries of a part that was spooled."""
        if self.compression is None:
            return self.raw
        scheme = check_compression(self.compression)
        literals = self.size - self.sequences
        piece = Piece(0, self.sequences, 0, literals, self.content_size)
        head = scheme.literal_head(literals) if literals else b""
        data = self.raw[: self.sequences] + head + self.raw[self.sequences :]
        return scheme.decode_pieces(data, [piece])

    def encode(self, fields: pa.Schema | None) -> Chunk:
        """Return the entries, with the statistics of some fields."""
        if self.batch is not None:
            raw, sizes = codec.encode(self.batch, self.ids, self.omit_nulls)
            check_sizes(sizes, self.ids, self.max_document_bytes)
            known = statistics_of(self.batch, fields, self.ascending) if fields else None
            return Chunk(raw, self.count, known, sizes=pack_if_worthwhile(sizes))
        chunk = Chunk(self.content(), self.count)
        if self.compression is not None:
            compressed = self.raw[: self.sequences], self.raw[self.sequences :]
            flags = check_compression(self.compression).flags
            chunk = chunk._replace(compressed=compressed, flags=flags, sizes=self.sizes)
        return chunk._replace(statistics=self._statistics(chunk, fields)) if fields else chunk

    def _statistics(self, chunk: Chunk, fields: pa.Schema) -> Row | None:
        """Return the statistics of fields; most are known, unless types changed later."""
        known = self.statistics
        if known is not None and self.fields is None:
            return known
        missing = fields
        found: dict[str, Bounds] = {}
        if known is not None:
            found, missing = self._reusable(known, fields)
        if len(missing):
            data = bytes(chunk.data)
            entries = codec.scan_entries(data, 0, self.count, len(data) + 1, 0)
            more = decode_statistics(entries, missing)
            if more is None:
                return None
            found.update(more)
        return found

    def _reusable(
        self, known: Mapping[str, Bounds], fields: pa.Schema
    ) -> tuple[dict[str, Bounds], pa.Schema]:
        """Return the bounds of fields that are known, and the other fields."""
        assert self.fields is not None
        found: dict[str, Bounds] = {}
        missing = []
        for field in fields:
            if field.name not in self.names:
                found[field.name] = Bounds(nulls=self.count)
            elif field.name in known and field in self.fields:
                found[field.name] = known[field.name]
            else:
                missing.append(field)
        return found, pa.schema(missing)
