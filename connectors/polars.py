"""GODB files and collections in Polars, with projection, filter and limit pushed down."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Unpack

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from godb_arrow.connectors import missing
from godb_arrow.file.collection import open_godb
from godb_arrow.file.writing import write_godb
from godb_arrow.options import ReadKeywords
from godb_arrow.query.filters import Filter, RowFilter, comparison_of
from godb_arrow.query.scannable import Scannable
from godb_arrow.schema import storage_schema
from godb_arrow.storage.source import Location

try:
    import polars as pl
    from polars.io.plugins import register_io_source
except ImportError as error:
    raise missing("polars", "Polars") from error

if TYPE_CHECKING:
    from godb_arrow.file.writing import IfExists

__all__ = ["read_godb", "scan_godb", "sink_godb"]

_LEAST_BATCH = 1024


def scan_godb(
    source: Location | Scannable,
    collection: str | None = None,
    **options: Unpack[ReadKeywords],
) -> pl.LazyFrame:
    """Scan a collection lazily: what a query needs is read when it is collected.

    The columns that the query uses, its filter, and its limit reach the decoder: other columns
    are not decoded, and of documents that the filter drops only what the filter looks at.

    Parameters
    ----------
    source : path, URL, bytes, open binary file, Collection or FileCollection
        The GODB file, or a collection of an engine or of :func:`~godb_arrow.open_godb`.
    collection : str, optional
        Which collection of the file. May be left out when it has one only.
    **options
        As for :func:`godb_arrow.scan_godb`.

    Returns
    -------
    polars.LazyFrame
        JSON text is a string column.

    Examples
    --------
    >>> import io, godb_arrow, polars as pl
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}], file, "u")
    2
    >>> frame = scan_godb(file.getvalue()).filter(pl.col("age") > 40).select("name").collect()
    >>> frame.to_dicts()
    [{'name': 'Bob'}]
    """
    found = source if isinstance(source, Scannable) else open_godb(source, collection, **options)
    schema = storage_schema(found.schema)
    return register_io_source(
        _Scan(found, options), schema=pl.DataFrame(schema.empty_table()).schema, is_pure=True
    )


class _Scan:
    """What Polars calls with what it needs of a collection."""

    def __init__(self, collection: Scannable, options: ReadKeywords) -> None:
        self._collection = collection
        self._options = options

    def __call__(
        self,
        columns: list[str] | None,
        predicate: pl.Expr | None,
        rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        options = self._options
        if rows is not None and predicate is None:
            options = {**options, "batch_size": max(rows, 1)}
        elif batch_size is not None:
            options = {**options, "batch_size": max(batch_size, _LEAST_BATCH)}
        condition = None
        if predicate is not None:
            condition = _filter(predicate, storage_schema(self._collection.schema))
        with self._collection.stream_batches(columns, condition, **options) as reader:
            for batch in reader:
                frame = _frame(batch)
                if rows is not None:
                    frame = frame.head(rows)
                    rows -= len(frame)
                yield frame
                if rows == 0:
                    return


def _filter(predicate: pl.Expr, schema: pa.Schema) -> Filter:
    def keep(batch: pa.RecordBatch) -> pa.Array:
        return _frame(batch).select(predicate.alias("keep"))["keep"].to_arrow()

    fields = list(dict.fromkeys(predicate.meta.root_names()))
    asked = _Asked(pa.schema([schema.field(name) for name in fields]))
    pl.scan_pyarrow_dataset(asked).filter(predicate).collect()
    # Of more than one comparison of integers it may be a part, and NaN compares otherwise there.
    found = comparison_of(asked.schema, asked.filter)
    if found is not None and pa.types.is_integer(found.value.type):
        kind = pl.DataFrame(asked.schema.empty_table()).schema[found.field]
        whole = found.operator(pl.col(found.field), pl.lit(found.value.as_py(), kind))
        if whole.meta.eq(predicate):
            return asked.filter
    return RowFilter(fields, keep, asked.filter)


class _Asked(ds.Dataset):  # type: ignore[misc]
    """An empty dataset that notes what Polars asks of it: its own translation of a predicate."""

    def __init__(self, schema: pa.Schema) -> None:
        self._schema = schema
        self.filter: pc.Expression | None = None

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def to_batches(
        self, *, filter: pc.Expression | None = None, **options: Any
    ) -> Iterator[pa.RecordBatch]:
        self.filter = filter
        return iter(())

    def to_table(self, **options: Any) -> pa.Table:
        return pa.Table.from_batches(self.to_batches(**options), self._schema)


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    plain = storage_schema(batch.schema)
    return pl.DataFrame(batch if plain.equals(batch.schema) else batch.cast(plain))


def read_godb(
    source: Location | Scannable,
    collection: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    **options: Unpack[ReadKeywords],
) -> pl.DataFrame:
    """Read a collection into a DataFrame of Polars.

    Parameters
    ----------
    source, collection, **options
        As for :func:`scan_godb`.
    columns : sequence of str, optional
        Fields to read; all, if left out.

    Returns
    -------
    polars.DataFrame

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"name": "Ada", "age": 36}], file, "users")
    1
    >>> read_godb(file.getvalue(), columns=["age"]).to_dicts()
    [{'age': 36}]
    """
    frame = scan_godb(source, collection, **options)
    return (frame if columns is None else frame.select(columns)).collect()


def sink_godb(
    frame: pl.LazyFrame | pl.DataFrame,
    path: str | os.PathLike[str] | IO[bytes],
    collection: str,
    *,
    if_exists: IfExists = "replace",
    **options: Any,
) -> int:
    """Write a lazy frame into a GODB file, batch by batch as Polars makes it.

    Parameters
    ----------
    frame : polars.LazyFrame or polars.DataFrame
        The rows.
    path, collection, if_exists, **options
        As for :func:`godb_arrow.write_godb`.

    Returns
    -------
    int
        How many documents were written.

    Examples
    --------
    >>> import io, polars as pl
    >>> file = io.BytesIO()
    >>> sink_godb(pl.LazyFrame({"n": [1, 2, 3]}).filter(pl.col("n") > 1), file, "numbers")
    2
    """
    if isinstance(frame, pl.DataFrame):
        return write_godb(frame, path, collection, if_exists=if_exists, **options)
    # Types that Arrow's views stand for are those of the documents, too.
    schema = pl.DataFrame(schema=frame.collect_schema()).to_arrow().schema

    def batches() -> Iterator[pa.RecordBatch]:
        for part in frame.collect_batches():
            yield from part.to_arrow().cast(schema).to_batches()

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    return write_godb(reader, path, collection, if_exists=if_exists, **options)
