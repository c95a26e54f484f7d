"""Draft of a collection: documents encoded and compressed before the file is written."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import IO

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import Chunk
from godb_arrow.documents.encoding import (
    Encoded,
    batches_with_ids,
    check_sizes,
    encode_rows,
    renumber,
    threads,
)
from godb_arrow.documents.ids import IdSequence, ids_of, repeated_ids
from godb_arrow.documents.rows import ROWS, Rows, id_column_of, stored_schema
from godb_arrow.documents.unique_ids import HashFile, has_equal_hash
from godb_arrow.errors import (
    DuplicateId,
    InvalidOption,
)
from godb_arrow.file.draft_part import DraftPart
from godb_arrow.file.hints import CollectionHint
from godb_arrow.file.writer import CollectionData, compressed_chunk
from godb_arrow.options import CompressionName
from godb_arrow.parallel import ordered_map
from godb_arrow.query.schema_join import join_schemas, types_of_replaced
from godb_arrow.query.statistics import covered, decode_statistics
from godb_arrow.schema import DocumentSummary, infer_schema, needs_review, reviewed

__all__ = ["MANY", "Draft"]

MANY = 1000
"""Number of documents above which statistics are worthwhile."""

_BYTES_IN_MEMORY = 8 << 20  # of parts, before the others are spooled
_PIECES_AHEAD = 4  # compressed pieces that wait to be hashed and written


def _max_if_ascending(ids: Sequence[pa.Array]) -> int | None:
    """Return the max number among ids that ascend, or None if they do not."""
    greatest = 0
    last: bytes | None = None
    for array in ids:
        first = array[0].as_py()
        if last is not None and (len(first), first) <= (len(last), last):
            return None
        number = codec.ids_ascend(array)
        if number is None:
            return None
        greatest = max(greatest, number)
        last = array[-1].as_py()
    return greatest


class Draft:
    """Entries of one collection before they are written to a file.

    A GODB file begins with the counts and the schema. So documents and streams are encoded and
    spooled before the first byte is written. Of tables, only the ids are read in advance.

    Parameters
    ----------
    schema : pyarrow.Schema or None
        Schema of the documents, if it is known.
    max_document_bytes : int
        Maximum bytes of a new document with its id.
    compression : {"lz4", "lz4hc", "zstd", "none"}
        Compression of the file.
    """

    def __init__(
        self, schema: pa.Schema | None, max_document_bytes: int, compression: CompressionName
    ) -> None:
        self._schema = schema
        self._max_document_bytes = max_document_bytes
        self._compression = compression
        self._expected: pa.Schema | None = None  # fields that will probably have statistics
        self._expecting = threading.Lock()
        self._file: IO[bytes] | None = None
        self._parts: list[DraftPart] = []
        self._in_memory = 0  # bytes of parts
        self._written = 0  # bytes in the file
        self._hashes = HashFile()
        self._all_differ = True  # whether ids cannot repeat, because all were generated
        self._last_id: bytes | None = b""  # of ids that ascend; None if they do not
        self._first_generated: int | None = None
        self.replaced: list[pa.Array] | None = None  # ids whose existing documents are replaced
        self.count = 0
        self.sequence = IdSequence()
        self.summary = DocumentSummary()
        self._infer = schema is None
        self._declared: list[pa.Schema] = []  # of tables whose documents were inferred again
        self._recorded: pa.Schema | None = None  # of the documents that the file has already
        self._new_summary: DocumentSummary | None = None  # of the documents that come after
        self._existing = 0  # parts with these documents, which come first
        self._describe: Callable[[pa.Schema | None], dict[bytes, bytes]] | None = None

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
        self._hashes.close()

    def add(self, rows: Rows, id_column: str | None, omit_nulls: bool) -> None:
        """Encode rows."""
        if rows.in_memory and not self._infer:
            given = id_column_of(rows, id_column) is not None
            pairs = list(batches_with_ids(rows, id_column, self.sequence))
            first = self.replaced is None and not self._parts
            greatest = _max_if_ascending([ids for _, ids in pairs]) if first else None
            ascending = None if greatest is None else id_column_of(rows, id_column)
            for batch, ids in pairs:
                generated = range(0 if given else len(ids))
                part = DraftPart(
                    len(ids),
                    batch=batch,
                    ids=ids,
                    omit_nulls=omit_nulls,
                    ascending=ascending,
                    max_document_bytes=self._max_document_bytes,
                )
                if greatest is None:
                    self._add(self._surveyed(part, ids, given, generated), ids)
                else:
                    self._add(replace(part, greatest=greatest, generated=generated), ids)
            return
        fields = None if self._infer else covered(self._hint_schema())
        limit = self._max_document_bytes
        self._describe = getattr(rows.documents, "schema_metadata", None)
        for encoded in encode_rows(
            rows,
            id_column,
            omit_nulls,
            self.sequence,
            fields,
            max_document_bytes=limit,
            prepare=self._prepare,
        ):
            self._append(encoded)

    def _prepare(self, encoded: Encoded) -> Encoded:
        """Summarize and compress entries, while they are in the cache of the thread's core."""
        entries = encoded.entries()
        summary, values = None, None
        if self._infer:
            summary = DocumentSummary()
            values = codec.infer_with_bounds(entries, summary)
        with self._expecting:
            if self._expected is None:
                schema = infer_schema(summary) if summary is not None else self._hint_schema()
                self._expected = covered(schema)
            expected = self._expected
        chunk = Chunk(encoded.chunk, len(encoded.ids), encoded.statistics)
        chunk = compressed_chunk(chunk, self._compression)
        if chunk.compressed is None:  # It is too small for a piece.
            return encoded._replace(summary=summary)
        if chunk.statistics is None:
            chunk = chunk._replace(statistics=decode_statistics(entries, expected, values))
        if summary is not None and summary.is_partial:  # The entries are inspected again.
            return encoded._replace(summary=summary, compressed=chunk)
        compressed = chunk._replace(data=b"")
        return encoded._replace(
            chunk=b"", bounds=None, size=len(chunk.data), summary=summary, compressed=compressed
        )

    def _surveyed(
        self, part: DraftPart, ids: pa.Array, given: bool, generated: Sequence[int]
    ) -> DraftPart:
        """Return a part with the properties of its ids."""
        if self.replaced is not None:
            if not given:
                raise InvalidOption(
                    "documents without ids cannot replace others",
                    advice='give them ids, or use if_exists="append"',
                )
            self.replaced.append(ids)
        self._all_differ = self._all_differ and not given
        return replace(self._hashed(part, ids), generated=generated)

    def _hashed(self, part: DraftPart, ids: pa.Array) -> DraftPart:
        """Return a part with the max number of its ids, and hashes where they do not ascend."""
        if self._last_id is not None:
            first, last = ids[0].as_py(), ids[-1].as_py()
            continues = (len(first), first) > (len(self._last_id), self._last_id)
            greatest = codec.ids_ascend(ids) if continues or not self._parts else None
            if greatest is not None:
                self._last_id = last
                return replace(part, greatest=greatest)
            self._last_id = None
        hashes, greatest = codec.survey_ids(ids)
        return replace(part, hashes=self._hashes.add(hashes), greatest=greatest)

    def _add(self, part: DraftPart, ids: pa.Array) -> None:
        self._parts.append(part)
        self.count += part.count
        self.sequence.see_number(part.greatest)
        if self._first_generated is None and len(part.generated):
            self._first_generated = int(ids[part.generated[0]].as_py())

    def _append(self, encoded: Encoded) -> None:
        if self._infer:
            if encoded.summary is None or encoded.summary.is_partial:
                codec.infer(encoded.entries(), self.summary)
            else:
                self.summary.merge(encoded.summary)
        part = self._spooled(encoded)
        self._add(self._surveyed(part, encoded.ids, encoded.given, encoded.generated), encoded.ids)

    def _spooled(self, encoded: Encoded) -> DraftPart:
        chunk = encoded.compressed or Chunk(encoded.chunk, len(encoded.ids), encoded.statistics)
        size = encoded.size or len(chunk.data)
        part = DraftPart.of(chunk, size, self._compression, self._expected, encoded.summary)
        stored = chunk.compressed or (chunk.data,)
        if self._in_memory + part.size <= _BYTES_IN_MEMORY:
            self._in_memory += part.size
            return replace(part, raw=b"".join(stored))
        if self._file is None:
            import tempfile

            self._file = tempfile.TemporaryFile(prefix="godb-arrow-")  # noqa: SIM115 (closed in __exit__)
        self._file.seek(self._written)
        for data in stored:
            self._file.write(data)
        part = replace(part, start=self._written)
        self._written += part.size
        return part

    def put_after(self, add: Callable[[], None], next_id: int) -> None:
        """Insert existing documents, which a function adds, before the new ones.

        Generated ids are generated again if existing documents may have them. This happens if
        another writer added some meanwhile, or if the file does not record its next id.

        Parameters
        ----------
        add : callable
            Function that adds the existing documents.
        next_id : int
            Min number of a generated id, as the file records it.
        """
        new, self._parts = self._parts, []
        self._last_id = None  # The new ids no longer come first.
        summary, self.summary = self.summary, DocumentSummary()
        own, self.sequence = self.sequence, IdSequence(next_id)
        add()
        if self._first_generated is None or self._first_generated >= self.sequence.next_id:
            self.sequence.see_number(own.next_id - 1)
        else:
            new = [self._renumbered(part) for part in new]
        self._existing = len(self._parts)
        self._parts += new
        self._new_summary = summary
        if self.summary.is_partial or summary.is_partial:
            self.summary = DocumentSummary()
            for entries in self.entries():
                codec.infer(entries, self.summary)
        else:
            self.summary.merge(summary)

    def _renumbered(self, part: DraftPart) -> DraftPart:
        """Generate the ids of a part again."""
        if not len(part.generated):
            self.sequence.see_number(part.greatest)
            return part
        if part.batch is not None:
            ids = self.sequence.take(part.count)
            part = replace(part, ids=ids)
        else:
            raw = self._read(part).content()
            entries = codec.scan_entries(raw, 0, part.count, len(raw) + 1, 0)
            chunk, ids = renumber(entries, part.generated, self.sequence)
            encoded = Encoded(chunk, ids, given=False)
            part = replace(self._spooled(encoded), generated=part.generated)
        return self._hashed(part, ids)

    def add_checked(self, entries: codec.Entries) -> None:
        """Copy entries of another collection, after a check of their sizes."""
        edges = np.frombuffer(entries.bounds, np.int64)[::2]
        check_sizes(np.diff(edges), ids_of(entries), self._max_document_bytes)
        self.add_existing(entries)

    def add_existing(self, entries: codec.Entries) -> None:
        """Copy entries that the file already has."""
        ids = ids_of(entries)
        at = 0
        for part in entries.split():
            self._append(Encoded(bytes(part.raw()), ids.slice(at, len(part)), given=True))
            at += len(part)

    def infer_all(self) -> None:
        """Derive the schema from all documents, both added and future ones."""
        self._infer = True
        if self._schema is not None:
            self._declared.append(stored_schema(self._schema))
        self._schema = None
        for entries in self.entries():
            codec.infer(entries, self.summary)
        self._parts = [replace(part, statistics=None, fields=None) for part in self._parts]
        self._expected = None

    def chunks(
        self,
        fields: pa.Schema | None = None,
        compression: CompressionName | None = None,
        *,
        first: int = 0,
    ) -> Iterator[Chunk]:
        """Yield the bytes of the entries from a part on, with the statistics of some fields."""

        def encode(part: DraftPart) -> Chunk:
            chunk = part.encode(fields)
            return chunk if compression is None else compressed_chunk(chunk, compression)

        workers = threads() if self.count > ROWS else 1
        return ordered_map(encode, self._loaded(first), workers, _PIECES_AHEAD)

    def left_to_compress(self) -> int | None:
        """Return 1 if chunks are compressed before they are written, else None.

        The result is the number of threads for the file's writer.
        """
        return 1 if self.count > ROWS else None

    def _loaded(self, first: int) -> Iterator[DraftPart]:
        for part in self._parts[first:]:
            yield part if part.batch is not None else self._read(part)

    def _read(self, part: DraftPart) -> DraftPart:
        if part.raw or self._file is None:
            return part
        self._file.seek(part.start)
        return replace(part, raw=self._file.read(part.size))

    def entries(self, first: int = 0) -> Iterator[codec.Entries]:
        """Yield the entries from a part on, in runs."""
        for chunk in self.chunks(first=first):
            data = bytes(chunk.data)
            yield codec.scan_entries(data, 0, chunk.documents, len(data) + 1, 0)

    def check_ids(self) -> None:
        """Raise DuplicateId if an id occurs several times."""
        if self._all_differ or self._last_id is not None:
            return
        if not has_equal_hash(map(self._hashes_of, self._parts), self.count):
            return
        repeated = repeated_ids(identity for run in self.entries() for identity in run.ids())
        if repeated:
            raise DuplicateId(repeated)

    def _hashes_of(self, part: DraftPart) -> bytes:
        if part.hashes is not None:
            return self._hashes.read(part.hashes, part.count)
        ids = part.ids
        if ids is None:
            raw = self._read(part).content()
            ids = ids_of(codec.scan_entries(raw, 0, part.count, len(raw) + 1, 0))
        return codec.survey_ids(ids)[0]

    def data(self, name: str, *, plain: bool) -> CollectionData:
        """Return the collection for the file's writer."""
        schema = self._described(self._hint_schema())
        hint = CollectionHint(
            self.count, self.sequence.next_id, schema, plain=plain, compression=self._compression
        )
        fields = covered(schema) if self.count > MANY else None
        return CollectionData(name, self.count, self.chunks(fields, self._compression), hint)

    def _described(self, schema: pa.Schema) -> pa.Schema:
        """Return a schema with the metadata of the source of the documents."""
        if self._describe is None:
            return schema
        before = None if not self._existing else self._recorded or schema
        metadata = {**(schema.metadata or {}), **self._describe(before)}
        return schema.with_metadata(metadata or None)

    def keep_types(self, recorded: pa.Schema | None) -> None:
        """Keep the types that a file records of documents that come before, as far as they fit."""
        self._recorded = recorded

    def _hint_schema(self) -> pa.Schema:
        if self._schema is not None:
            return stored_schema(self._schema)
        return infer_schema(self.summary) if self.summary.is_partial else self._joined_schema()

    def _joined_schema(self) -> pa.Schema:
        """Return the schema of existing and new documents."""
        recorded = self._recorded
        if recorded is not None and not self._existing:  # all documents are replaced
            recorded = types_of_replaced(recorded, infer_schema(self.summary))
        if recorded is not None and needs_review(recorded):
            recorded = reviewed(recorded, self.summary)
        if recorded is None and not self._declared:
            return infer_schema(self.summary)
        if recorded is None or self._new_summary is None:  # all documents are new to the types
            first, summary = 0, self.summary
        else:
            first, summary = self._existing, self._new_summary
        return join_schemas(
            recorded, self._declared, summary, lambda: self.entries(first), lambda: self.summary
        )
