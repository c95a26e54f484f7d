"""Encoding of documents, tables and DataFrames as entries: ids and documents in MessagePack."""

from __future__ import annotations

import io
import itertools
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import CHUNK_BYTES, Chunk
from godb_arrow.documents.ids import IdSequence, identify, ids_in, pack_ids
from godb_arrow.documents.rows import Rows, id_column_of
from godb_arrow.errors import DocumentTooLarge, GodbError
from godb_arrow.parallel import available_cores, ordered_map
from godb_arrow.query.statistics import Row, statistics_of
from godb_arrow.schema import ID_FIELD, DocumentSummary

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Encoded", "check_document_size", "check_sizes", "encode_rows", "renumber"]

_MAP_HEADERS = {0xDE: 3, 0xDF: 5}
"""Size in bytes of the header of a MessagePack map, by its first byte; 1 for other maps."""

_PACKED_ID_FIELD = codec.pack(ID_FIELD)
_STRING_HEAD_BYTES = 5  # at most, before a string in MessagePack
_MAX_SHOWN_CHARACTERS = 100  # of an id in a message
_FIRST_ROWS = 16  # documents that are encoded together, until their size is known
_MAX_ROWS = 2_048


class Encoded(NamedTuple):
    """Encoded entries, ready to be stored.

    Attributes
    ----------
    chunk : bytes
        Bytes of the entries, one after the other; empty where only compressed ones are needed.
    ids : pyarrow.BinaryArray
        Ids of the documents.
    given : bool
        Whether the caller chose ids; otherwise all are generated.
    statistics : Row or None
        Statistics, where they were cheap to compute.
    generated : sequence of int
        Rows whose ids were generated.
    bounds : array of int64 or None
        Bounds of the entries, where they are known.
    summary : DocumentSummary or None
        Types of the documents, where they are known.
    compressed : Chunk or None
        The entries on their way to a file, where they are compressed already.
    texts : list of str or None
        The ids as strings, where they are known.
    size : int
        Bytes of the entries, where they are no longer in memory.
    """

    chunk: bytes
    ids: pa.Array
    given: bool
    statistics: Row | None = None
    generated: Sequence[int] = ()
    bounds: array[int] | None = None
    summary: DocumentSummary | None = None
    compressed: Chunk | None = None
    texts: list[str] | None = None
    size: int = 0

    def entries(self) -> codec.Entries:
        """Return the entries with their bounds."""
        if self.bounds is not None:
            return codec.Entries(self.chunk, self.bounds)
        return codec.scan_entries(self.chunk, 0, len(self.ids), len(self.chunk) + 1, 0)


def check_document_size(identity: str, raw: bytes, limit: int) -> None:
    """Check that readers accept a document.

    Parameters
    ----------
    identity : str
        Id of the document.
    raw : bytes
        MessagePack of the document.
    limit : int
        Maximum bytes of the document with its id, ``max_document_bytes``.

    Raises
    ------
    DocumentTooLarge
    """
    bound = len(raw) + 4 * len(identity) + _STRING_HEAD_BYTES  # UTF-8 has at most 4 bytes each
    if bound > limit:
        _check_size(identity, len(raw) + len(codec.pack(identity)), limit)


def check_sizes(sizes: npt.NDArray[np.integer[Any]], ids: pa.Array, limit: int) -> None:
    """Check that readers accept encoded documents.

    Parameters
    ----------
    sizes : array of int
        Bytes of each document with its id.
    ids : pyarrow.BinaryArray
        Ids of the documents.
    limit : int
        Maximum bytes of a document with its id, ``max_document_bytes``.

    Raises
    ------
    DocumentTooLarge
        A document is larger. The error names the first one.
    """
    if len(sizes) and sizes.max() > limit:
        index = int(np.argmax(sizes > limit))
        identity = ids[index].as_py().decode("utf-8", "surrogateescape")
        _check_size(identity, int(sizes[index]), limit)


def join_chunks(runs: Iterable[Encoded]) -> bytes:
    """Return the entries of runs together; each run may be freed as soon as it is copied."""
    joined = io.BytesIO()  # whose value is no copy
    for run in runs:
        joined.write(run.chunk)
        del run
    return joined.getvalue()


def _check_size(identity: str, size: int, limit: int) -> None:
    if size > limit:
        is_short = len(identity) <= _MAX_SHOWN_CHARACTERS
        shown = identity if is_short else identity[:_MAX_SHOWN_CHARACTERS] + "…"
        raise DocumentTooLarge(
            f"document {shown!r} has {size} bytes, more than max_document_bytes={limit}",
            advice="divide the document, or raise max_document_bytes for writing and reading",
        )


def encode_rows(
    rows: Rows,
    id_column: str | None,
    omit_nulls: bool,
    sequence: IdSequence,
    fields: pa.Schema | None = None,
    *,
    max_document_bytes: int,
    prepare: Callable[[Encoded], Encoded] = lambda encoded: encoded,
) -> Iterator[Encoded]:
    """Encode documents or record batches, in runs.

    Parameters
    ----------
    rows : Rows
        Rows to encode.
    id_column : str or None
        Field with the ids; ``_id`` by default, where it exists.
    omit_nulls : bool
        Whether to omit nulls of a table, instead of storing nil.
    sequence : IdSequence
        Source of ids for documents that have none.
    fields : pyarrow.Schema, optional
        Fields to compute statistics of, where that is cheap.
    max_document_bytes : int
        Maximum bytes of a document with its id, as readers accept it.
    prepare : callable, optional
        Function that is applied to the result of each thread that encodes, on that thread.

    Yields
    ------
    Encoded

    Raises
    ------
    DocumentTooLarge
    InvalidDocument
        A value cannot be stored, or an id is missing.
    """
    if rows.schema is None:
        id_field, limit = id_column or ID_FIELD, max_document_bytes
        encode_documents = getattr(rows.documents, "encode_documents", None)
        if encode_documents is None:
            yield from _encode_documents(rows.documents, id_field, sequence, limit)
        else:
            yield from encode_documents(id_field, sequence, limit, prepare)
        return
    given = id_column_of(rows, id_column) is not None

    def encode(pair: tuple[pa.RecordBatch, pa.Array]) -> Encoded:
        batch, ids = pair
        statistics = statistics_of(batch, fields) if fields else None
        entries, sizes = codec.encode(batch, ids, omit_nulls)
        check_sizes(sizes, ids, max_document_bytes)
        generated = range(0 if given else len(ids))
        return prepare(Encoded(entries, ids, given, statistics, generated))

    yield from ordered_map(encode, batches_with_ids(rows, id_column, sequence), threads())


def threads() -> int:
    """Return the number of threads that encode at the same time."""
    return available_cores() if codec.BACKEND == "native" else 1


def batches_with_ids(
    rows: Rows, id_column: str | None, sequence: IdSequence
) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """Yield the record batches, each with the ids of its rows."""
    column = id_column_of(rows, id_column)
    row = 0
    for batch in rows.batches:
        if batch.num_rows:
            if column is None:
                yield batch, sequence.take(batch.num_rows)
            else:
                yield batch, ids_in(batch.column(column), column, row)
            row += batch.num_rows


def _encode_documents(
    documents: Iterable[Mapping[Any, Any]], id_field: str, sequence: IdSequence, limit: int
) -> Iterator[Encoded]:
    left = iter(documents)
    rows = _FIRST_ROWS
    index = 0
    while batch := list(itertools.islice(left, rows)):
        encoded = _encode_together(batch, sequence, limit) if id_field == ID_FIELD else None
        found = [encoded] if encoded else _encode_singly(batch, id_field, sequence, limit, index)
        size = 0
        for run in found:
            size += len(run.chunk)
            yield run
        index += len(batch)
        rows = max(1, min(_MAX_ROWS, 4 * len(batch), len(batch) * CHUNK_BYTES // size))


def _encode_together(
    documents: list[Mapping[Any, Any]], sequence: IdSequence, limit: int
) -> Encoded | None:
    """Encode documents in one call; None if they must be encoded one by one."""
    source = codec.id_source(documents)
    if source == codec.IdSource.OTHER:
        return None
    generated = source == codec.IdSource.SEQUENCE
    first = sequence.reserve_together(len(documents)) if generated else None
    if generated and first is None:
        return None  # the sequence continues elsewhere, or ends, within these documents
    packed = codec.pack_documents(documents, first)
    if packed is None or np.diff(packed.bounds[::2]).max() > limit:
        if first is not None:
            sequence.release(first, len(documents))
        return None
    if not generated:
        sequence.see_number(codec.survey_ids(packed.ids)[1])
    return Encoded(
        packed.data,
        packed.ids,
        not generated,
        generated=range(len(documents) if generated else 0),
        texts=packed.texts,
    )


def _encode_singly(
    documents: Iterable[Mapping[Any, Any]],
    id_field: str,
    sequence: IdSequence,
    limit: int,
    first: int,
) -> Iterator[Encoded]:
    chunk = bytearray()
    ids: list[str] = []
    generated = array("I")
    given = False
    for index, row in enumerate(documents, first):
        identity, document, was_given = identify(row, sequence, id_field, index)
        given = given or was_given
        if not was_given:
            generated.append(len(ids))
        try:
            entry = codec.pack_entry(identity, document)
        except GodbError as error:
            error.message = f"document {identity!r} (number {index}): {error.message}"
            raise
        if len(entry) > limit:
            _check_size(identity, len(entry), limit)
        chunk += entry
        ids.append(identity)
        if len(chunk) > CHUNK_BYTES:
            yield Encoded(bytes(chunk), pack_ids(ids), given, generated=generated, texts=ids)
            chunk.clear()
            ids, generated = [], array("I")
    if ids:
        yield Encoded(bytes(chunk), pack_ids(ids), given, generated=generated, texts=ids)


def renumber(
    entries: codec.Entries, generated: Sequence[int], sequence: IdSequence
) -> tuple[bytes, pa.Array]:
    """Generate the ids of documents again, after other ids that the sequence has seen.

    Parameters
    ----------
    entries : Entries
        Documents that :func:`encode_rows` encoded.
    generated : sequence of int
        Rows whose ids were generated, in order.
    sequence : IdSequence
        Source of the new ids, which also sees the other ids.

    Returns
    -------
    chunk : bytes
        Bytes of the entries, one after the other.
    ids : pyarrow.BinaryArray
        Ids of the documents.
    """
    ids: list[str] = []
    chunk = bytearray()
    rows = iter(generated)
    row = next(rows, None)
    for index, identity in enumerate(entries.ids()):
        start, document, end = entries.bounds[2 * index : 2 * index + 3]
        if index != row:
            sequence.see(identity)
            ids.append(identity)
            chunk += entries.data[start:end]
            continue
        ids.append(sequence.take_one())
        packed = codec.pack(ids[-1])
        # The encoder repeats a generated id in the document's first field.
        field = document + _MAP_HEADERS.get(entries.data[document], 1)
        value = field + len(_PACKED_ID_FIELD)
        chunk += packed + entries.data[document:value] + packed
        chunk += entries.data[value + document - start : end]
        row = next(rows, None)
    return bytes(chunk), pack_ids(ids)
