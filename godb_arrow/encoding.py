"""Documents, tables and DataFrames as entries: ids and documents in MessagePack."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.columns import DICTIONARY_KEY
from godb_arrow.codec.entries import CHUNK_BYTES
from godb_arrow.errors import GodbError, InvalidDocument, InvalidOption, UnsupportedType
from godb_arrow.parallel import available_cores, ordered_map
from godb_arrow.schema import ID_FIELD
from godb_arrow.statistics import Row, statistics_of

__all__ = [
    "Encoded",
    "IdSequence",
    "Rows",
    "encode_rows",
    "id_of",
    "ids_of",
    "pack_ids",
    "repeated_ids",
    "rows_of",
]

ROWS = 16_384  # rows of a table, or documents, that are encoded at once
_MAX_DICTIONARY = 1 << 20


@dataclass(slots=True)
class Rows:
    """What is to be written: record batches of a schema, or documents."""

    schema: pa.Schema | None
    batches: Iterable[pa.RecordBatch] = ()
    in_memory: bool = False  # so that the batches can be gone through a second time
    documents: Iterable[Mapping[Any, Any]] = ()


def rows_of(data: Any, id_column: str | None) -> Rows:
    """What a caller gave to be stored, checked as far as its schema tells.

    Parameters
    ----------
    data : DataFrame, Table, RecordBatch, RecordBatchReader, Arrow stream or iterable of dicts
        As :func:`~godb_arrow.write_godb` takes it.
    id_column : str or None
        The field with the ids.

    Returns
    -------
    Rows

    Raises
    ------
    InvalidOption, UnsupportedType
    """
    if type(data).__module__.partition(".")[0] == "pandas" and hasattr(data, "to_records"):
        data = _from_pandas(data)
    if isinstance(data, (pa.RecordBatch, pa.Table)):
        table = pa.Table.from_batches([data]) if isinstance(data, pa.RecordBatch) else data
        if any(pa.types.is_dictionary(kind) for kind in table.schema.types):
            table = table.unify_dictionaries()
        schema = _with_dictionaries(table)
        batches = table.to_batches(max_chunksize=_rows_at_once(table))
        return Rows(_checked(schema, id_column), batches, in_memory=True)
    if hasattr(data, "stream_batches"):  # a collection, whose own errors a C stream would lose
        data = data.stream_batches()
    if hasattr(data, "__arrow_c_stream__"):
        given = isinstance(data, pa.RecordBatchReader)
        reader = data if given else pa.RecordBatchReader.from_stream(data)
        return Rows(_checked(reader.schema, id_column), _sliced(reader))
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Iterable):
        raise InvalidOption(
            f"cannot write a {type(data).__name__} as documents",
            advice="give a DataFrame, a Table, a stream, or an iterable of dicts",
        )
    return Rows(None, documents=data)


def _from_pandas(frame: Any) -> pa.Table:
    try:
        return pa.Table.from_pandas(frame)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise UnsupportedType(
            f"the DataFrame cannot become columns: {' '.join(str(part) for part in error.args)}",
            advice='convert that column, or write df.to_dict("records") to store mixed values',
        ) from error


def _checked(schema: pa.Schema, id_column: str | None) -> pa.Schema:
    names = schema.names
    for name in names:
        if names.count(name) > 1:
            raise UnsupportedType(f"two columns have the name {name!r}", advice="rename one")
    if id_column is not None and id_column not in names:
        raise InvalidOption(
            f"there is no column {id_column!r} for the ids", advice=f"the columns are {names}"
        )
    codec.plan_columns(schema)
    return schema


def _sliced(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    batches = iter(reader)
    while True:
        try:
            batch = next(batches, None)
        except pa.ArrowException as error:
            raise InvalidDocument(
                f"the stream of documents failed: {error}", advice="mend where it comes from"
            ) from error
        if batch is None:
            return
        rows = _rows_at_once(batch)
        for start in range(0, batch.num_rows, rows):
            yield batch.slice(start, rows)


def _rows_at_once(data: pa.Table | pa.RecordBatch) -> int:
    """How many rows to encode at once, so that a chunk does not become much too large."""
    names = sum(len(name) + 1 for name in data.schema.names)
    size: int = data.nbytes + data.num_rows * names
    rows: int = data.num_rows * CHUNK_BYTES // max(1, size)
    return max(1, min(ROWS, rows))


def _with_dictionaries(table: pa.Table) -> pa.Schema:
    """The schema, with the values of small dictionaries in the fields' metadata."""
    schema = table.schema
    for index, field_ in enumerate(schema):
        column = table.column(index)
        if pa.types.is_dictionary(field_.type) and column.num_chunks:
            values = pa.table({"": column.chunk(0).dictionary})
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, values.schema) as writer:
                writer.write_table(values)
            stored = sink.getvalue().to_pybytes()
            if len(stored) <= _MAX_DICTIONARY:
                metadata = {**(field_.metadata or {}), DICTIONARY_KEY: stored}
                schema = schema.set(index, field_.with_metadata(metadata))
    return schema


class IdSequence:
    """The ids that are generated: "1", "2", … as go-db does, behind every number seen.

    Parameters
    ----------
    next_id : int
        The number that comes next.
    """

    def __init__(self, next_id: int = 1) -> None:
        self.next_id = next_id
        self._lock = threading.Lock()

    def take(self, count: int) -> pa.Array:
        """The next ids, as a binary array."""
        with self._lock:
            first = self.next_id
            self.next_id += count
        numbers = pa.array(np.arange(first, first + count, dtype=np.int64))
        return numbers.cast(pa.string()).cast(pa.binary())

    def take_one(self) -> str:
        """The next id."""
        with self._lock:
            self.next_id += 1
            return str(self.next_id - 1)

    def see(self, identity: str) -> None:
        """Stay behind an id that somebody else chose."""
        if identity.isascii() and identity.isdigit() and len(identity) < 19:
            self.see_greatest(int(identity))

    def see_greatest(self, number: int) -> None:
        """Stay behind a number."""
        with self._lock:
            self.next_id = max(self.next_id, number + 1)


class Encoded(NamedTuple):
    """Entries, as they are stored.

    Attributes
    ----------
    chunk : bytes
        The entries, one after the other.
    ids : pyarrow.BinaryArray
        The documents' ids.
    given : bool
        Whether ids are the caller's; else all are generated.
    statistics : Row or None
        Where they were cheap.
    """

    chunk: bytes
    ids: pa.Array
    given: bool
    statistics: Row | None = None

    def entries(self) -> codec.Entries:
        """The entries with their bounds."""
        return codec.scan_entries(self.chunk, 0, len(self.ids), len(self.chunk) + 1, 0)


def encode_rows(
    rows: Rows,
    id_column: str | None,
    omit_nulls: bool,
    sequence: IdSequence,
    fields: pa.Schema | None = None,
) -> Iterator[Encoded]:
    """Encode documents or record batches, in runs.

    Parameters
    ----------
    rows : Rows
        What to encode.
    id_column : str or None
        The field with the ids; ``_id``, where there is one, if it is None.
    omit_nulls : bool
        Leave nulls of a table out, instead of storing nil.
    sequence : IdSequence
        Gives ids to documents that have none.
    fields : pyarrow.Schema, optional
        Those of which statistics are made, where that is cheap.

    Yields
    ------
    Encoded

    Raises
    ------
    InvalidDocument
        A value cannot be stored, or an id is missing.
    """
    if rows.schema is None:
        yield from _encode_documents(rows.documents, id_column or ID_FIELD, sequence)
        return
    given = id_column_of(rows, id_column) is not None

    def encode(pair: tuple[pa.RecordBatch, pa.Array]) -> Encoded:
        batch, ids = pair
        statistics = statistics_of(batch, fields) if fields else None
        entries, _ = codec.encode(batch, ids, omit_nulls)
        return Encoded(entries, ids, given, statistics)

    yield from ordered_map(encode, batches_with_ids(rows, id_column, sequence), threads())


def threads() -> int:
    """How many threads encode at the same time."""
    return available_cores() if codec.BACKEND == "native" else 1


def id_column_of(rows: Rows, id_column: str | None) -> str | None:
    """The column that has the ids; None when they are to be generated."""
    assert rows.schema is not None
    return id_column or (ID_FIELD if ID_FIELD in rows.schema.names else None)


def batches_with_ids(
    rows: Rows, id_column: str | None, sequence: IdSequence
) -> Iterator[tuple[pa.RecordBatch, pa.Array]]:
    """The record batches, and the ids of each one's rows."""
    column = id_column_of(rows, id_column)
    row = 0
    for batch in rows.batches:
        if batch.num_rows:
            if column is None:
                yield batch, sequence.take(batch.num_rows)
            else:
                yield batch, _ids_in(batch.column(column), column, row)
            row += batch.num_rows


def _encode_documents(
    documents: Iterable[Mapping[Any, Any]], id_field: str, sequence: IdSequence
) -> Iterator[Encoded]:
    chunk = bytearray()
    ids: list[str] = []
    given = False
    for index, found in enumerate(documents):
        identity, document, was_given = identify(found, sequence, id_field, index)
        given = given or was_given
        try:
            chunk += codec.pack_entry(identity, document)
        except GodbError as error:
            error.message = f"document {identity!r} (number {index}): {error.message}"
            raise
        ids.append(identity)
        if len(ids) == ROWS or len(chunk) > CHUNK_BYTES:
            yield Encoded(bytes(chunk), pack_ids(ids), given)
            chunk.clear()
            ids = []
    if ids:
        yield Encoded(bytes(chunk), pack_ids(ids), given)


def number_of(identity: str) -> int | None:
    """The number that an id is, written as ids are generated."""
    if identity.isdigit() and identity.isascii() and identity[0] != "0" and len(identity) < 19:
        return int(identity)
    return None


def identify(
    found: Any, sequence: IdSequence, id_field: str = ID_FIELD, index: int = 0
) -> tuple[str, dict[Any, Any], bool]:
    """The id of a document, the document with it, and whether it had one.

    Parameters
    ----------
    found : mapping
        A document, as a caller gives it.
    sequence : IdSequence
        Gives it an id where it has none.
    id_field : str
        The field with the id.
    index : int
        Its number, for messages.

    Raises
    ------
    InvalidDocument
        It is no mapping, or has no good id.
    """
    if not isinstance(found, Mapping):
        raise InvalidDocument(
            f"document number {index} is a {type(found).__name__}, not a dict",
            advice="give an iterable of dicts",
        )
    document = dict(found)
    given = id_field in document
    if given:
        identity = id_of(document[id_field], f"document number {index}")
        sequence.see(identity)
    elif id_field == ID_FIELD:
        identity = sequence.take_one()
    else:
        raise InvalidDocument(
            f"document number {index} has no field {id_field!r} for its id",
            advice="give every document one, or leave out id_column",
        )
    return identity, with_id(document, identity), given


def with_id(document: dict[Any, Any], identity: str) -> dict[Any, Any]:
    """The document, with its id where documents have it."""
    if document.get(ID_FIELD) != identity:
        document = {ID_FIELD: identity, **document}
        document[ID_FIELD] = identity
    return document


def pack_ids(ids: Iterable[str]) -> pa.Array:
    """Ids as a binary array."""
    raw = [identity.encode("utf-8", "surrogateescape") for identity in ids]
    return pa.array(raw, pa.binary())


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of a table, as its documents are read again: ids are strings."""
    if ID_FIELD not in schema.names:
        return schema
    return schema.set(schema.names.index(ID_FIELD), pa.field(ID_FIELD, pa.string()))


_ID_PLAN = codec.plan_columns(pa.schema({ID_FIELD: pa.string()}))


def ids_of(entries: codec.Entries) -> pa.Array:
    """The ids of entries as a binary array, without a Python object for each."""
    try:
        return codec.decode_batch(entries, _ID_PLAN).column(0).cast(pa.binary())
    except GodbError:  # an id that is not UTF-8
        return pack_ids(entries.ids())


def repeated_ids(ids: Iterable[str]) -> list[str]:
    """Those of some ids that occur more than once, in the order in which they do."""
    seen: set[str] = set()
    repeated: dict[str, None] = {}
    for identity in ids:
        if identity in seen:
            repeated[identity] = None
        seen.add(identity)
    return list(repeated)


def id_of(value: Any, where: str) -> str:
    """A document id as the string that it is stored as."""
    if isinstance(value, str):
        return value
    if hasattr(value, "item") and not isinstance(value, (bytes, bytearray)):
        value = value.item()  # a NumPy scalar
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise InvalidDocument(
        f"{where} has the id {value!r}", advice="document ids are strings or integers"
    )


def _ids_in(column: pa.Array, name: str, before: int) -> pa.Array:
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not (pa.types.is_integer(column.type) or _is_text(column.type)):
        raise UnsupportedType(
            f"column {name!r} of type {column.type} cannot give the ids",
            advice="document ids are strings or integers",
        )
    if column.null_count:
        row = before + column.is_null().to_pylist().index(True)
        raise InvalidDocument(
            f"row {row} has no id in column {name!r}", advice="give every row an id"
        )
    return column.cast(pa.string()).cast(pa.binary())


def _is_text(data_type: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(data_type)
        or pa.types.is_large_string(data_type)
        or pa.types.is_string_view(data_type)
    )
