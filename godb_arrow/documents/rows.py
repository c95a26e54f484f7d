"""Conversion of a caller's rows (dicts, frames, record batches) to batches of bounded size."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.codec.entries import CHUNK_BYTES
from godb_arrow.display import kind_of
from godb_arrow.documents.frames import check_polars, library_of, table_from_pandas
from godb_arrow.documents.normalize import normalize_batch, normalize_schema, normalize_table
from godb_arrow.errors import InvalidDocument, InvalidOption, UnsupportedType
from godb_arrow.recorded_schema import (
    CATEGORIES_KEY,
    MAX_RECORDED_LEVELS,
    describe_schema,
    with_categories,
)
from godb_arrow.schema import ID_FIELD, MAX_ARROW_LEVELS, nesting, without_mark

__all__ = ["Rows", "check_names", "rows_of", "with_first_categories"]


ROWS = 16_384  # rows of a table, or documents, that are encoded at once


@dataclass(slots=True)
class Rows:
    """Rows to write, as record batches with a schema or as documents."""

    schema: pa.Schema | None
    batches: Iterable[pa.RecordBatch] = ()
    in_memory: bool = False  # whether the batches can be iterated a second time
    documents: Iterable[Mapping[Any, Any]] = ()


def rows_of(data: Any, id_column: str | None) -> Rows:
    """Return the rows to write, checked as far as their schema allows.

    Parameters
    ----------
    data : DataFrame, Table, RecordBatch, RecordBatchReader, Arrow stream or iterable of dicts
        Rows as for :func:`~godb_arrow.write_godb`.
    id_column : str or None
        Field with the ids.

    Returns
    -------
    Rows

    Raises
    ------
    InvalidOption, UnsupportedType
    """
    if library_of(data) == "pandas" and hasattr(data, "to_records"):
        data = table_from_pandas(data)
    elif library_of(data) == "polars":
        check_polars(data)
    elif hasattr(data, "__arrow_c_array__") and not hasattr(data, "__arrow_c_stream__"):
        data = _imported(pa.record_batch, data)
    if isinstance(data, (pa.RecordBatch, pa.Table)):
        table = pa.Table.from_batches([data]) if isinstance(data, pa.RecordBatch) else data
        table = normalize_table(table)
        if any(pa.types.is_dictionary(kind) for kind in table.schema.types):
            table = table.unify_dictionaries()
        schema = _with_dictionaries(table)
        batches = table.to_batches(max_chunksize=_rows_at_once(table))
        return Rows(_checked(schema, id_column), batches, in_memory=True)
    if hasattr(data, "stream_batches"):  # a C stream would lose the errors of a collection
        data = data.stream_batches()
    if hasattr(data, "__arrow_c_stream__"):
        given = isinstance(data, pa.RecordBatchReader)
        reader = data if given else _imported(pa.RecordBatchReader.from_stream, data)
        schema = normalize_schema(reader.schema)
        batches = (normalize_batch(batch, schema) for batch in _sliced(reader))
        schema, batches = _with_first_categories(schema, batches)
        return Rows(_checked(schema, id_column), batches)
    if isinstance(data, (str, bytes, Mapping)) or not isinstance(data, Iterable):
        raise InvalidOption(
            f"cannot write {kind_of(data)} as documents",
            advice="give a DataFrame, a Table, a stream, or an iterable of dicts",
        )
    return Rows(None, documents=data)


def _imported(read: Callable[[Any], Any], data: Any) -> Any:
    """Import data of another library by the Arrow C interface."""
    try:
        return read(data)
    except (pa.ArrowException, ValueError, TypeError) as error:
        raise InvalidOption(
            f"cannot write {kind_of(data)} as documents: {error}",
            advice="give a DataFrame, a Table or a stream of record batches with names",
        ) from error


def check_names(fields: Iterable[pa.Field], path: str = "") -> None:
    """Check that names of fields and time zones are UTF-8, which other languages do not ensure.

    Raises
    ------
    UnsupportedType
        A name is not.
    """
    for field in fields:
        try:
            name = field.name
        except UnicodeDecodeError as error:
            raise UnsupportedType(
                f"the name of a column{path and f' in {path!r}'} is not UTF-8: {error.object!r}",
                advice="rename the column",
            ) from error
        kind = field.type
        _check_zone(kind, name)
        check_names((kind.field(index) for index in range(kind.num_fields)), name)


def _check_zone(kind: pa.DataType, name: str) -> None:
    while pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        kind = kind.value_type
    if pa.types.is_timestamp(kind):
        try:
            str(kind.tz)
        except UnicodeDecodeError as error:
            raise UnsupportedType(
                f"the time zone of the column {name!r} is not UTF-8: {error.object!r}",
                advice="cast the column to another time zone",
            ) from error


def _checked(schema: pa.Schema, id_column: str | None) -> pa.Schema:
    check_names(schema)
    names = schema.names
    if len(set(names)) < len(names):
        name = next(name for name, count in Counter(names).items() if count > 1)
        raise UnsupportedType(f"two columns have the name {name!r}", advice="rename one")
    if id_column is not None and id_column not in names:
        raise InvalidOption(
            f"the id column {id_column!r} does not exist", advice=f"the columns are {names}"
        )
    codec.plan_columns(schema)
    _check_recordable(schema)
    return schema


def _check_recordable(schema: pa.Schema) -> None:
    """Check that a file or journal can record the schema."""
    for field in schema:
        if pa.types.is_nested(field.type) and nesting(field.type) > MAX_ARROW_LEVELS:
            try:
                describe_schema(pa.schema([field]))
            except ValueError as error:
                raise UnsupportedType(
                    f"column {field.name!r} nests {nesting(field.type)} types, "
                    f"and at most {MAX_RECORDED_LEVELS} can be recorded",
                    advice="store it as JSON text, or give the rows as dicts",
                ) from error


def _sliced(reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
    batches = iter(reader)
    while True:
        try:
            batch = next(batches, None)
        except pa.ArrowException as error:
            raise InvalidDocument(
                f"the stream of documents failed: {error}", advice="fix the source of the stream"
            ) from error
        if batch is None:
            return
        rows = _rows_at_once(batch)
        for start in range(0, batch.num_rows or 1, rows):  # Categories may have no rows.
            yield batch.slice(start, rows)


def _rows_at_once(data: pa.Table | pa.RecordBatch) -> int:
    """Return the number of rows to encode at once, so that a chunk stays small."""
    names = sum(len(name) + 1 for name in data.schema.names)
    size: int = data.nbytes + data.num_rows * names
    rows: int = data.num_rows * CHUNK_BYTES // max(1, size)
    return max(1, min(ROWS, rows))


def with_first_categories(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Return a stream whose fields have the categories of its first record batch.

    Parameters
    ----------
    reader : pyarrow.RecordBatchReader
        A stream, which is read up to its first record batch if it has dictionaries.

    Returns
    -------
    pyarrow.RecordBatchReader
        Its schema has the categories, and its record batches have the schema of `reader`.
    """
    schema, batches = _with_first_categories(reader.schema, iter(reader))
    return pa.RecordBatchReader.from_batches(schema, batches)


def _with_first_categories(
    schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    unknown = [
        (index, field)
        for index, field in enumerate(schema)
        if pa.types.is_dictionary(field.type) and CATEGORIES_KEY not in (field.metadata or {})
    ]
    first = next(batches, None) if unknown else None
    if first is None:
        return schema, batches
    for index, field in unknown:
        schema = schema.set(index, with_categories(field, first.column(index).dictionary))
    return schema, itertools.chain((first,), batches)


def _with_dictionaries(table: pa.Table) -> pa.Schema:
    """Return the schema, with the categories of small dictionaries in the fields' metadata."""
    schema = table.schema
    for index, field_ in enumerate(schema):
        column = table.column(index)
        if pa.types.is_dictionary(field_.type) and column.num_chunks:
            known = with_categories(field_, column.chunk(0).dictionary)
            schema = schema.set(index, known)
    return schema


def id_column_of(rows: Rows, id_column: str | None) -> str | None:
    """Return the column that has the ids, or None to generate ids."""
    assert rows.schema is not None
    return id_column or (ID_FIELD if ID_FIELD in rows.schema.names else None)


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """Return the schema of a table's documents when they are read, where ids are strings."""
    schema = without_mark(schema)
    if ID_FIELD not in schema.names:
        return schema
    return schema.set(schema.names.index(ID_FIELD), pa.field(ID_FIELD, pa.string()))
