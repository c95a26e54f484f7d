"""DataFrames of Polars, read from GODB files and collections with pushdown."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Iterator, Sequence
from typing import IO, TYPE_CHECKING, Any, Unpack

import pyarrow as pa
import pyarrow.dataset as ds

from godb_arrow.arrow_compute import pc
from godb_arrow.connectors import missing
from godb_arrow.connectors.columns import fit_schema, keep_batch, keep_schema
from godb_arrow.documents.frames import check_polars
from godb_arrow.engine.reading import Sources, open_godb
from godb_arrow.file.writing import write_godb
from godb_arrow.keywords import explain_keywords
from godb_arrow.options import ReadKeywords
from godb_arrow.query.filters import Filter, RowFilter
from godb_arrow.query.literals import compared, fits_exactly, type_at
from godb_arrow.query.scannable import Scannable
from godb_arrow.schema import storage_schema
from godb_arrow.storage.url_options import StorageOptions

try:
    import polars as pl
    from polars.io.plugins import register_io_source
except ImportError as error:
    raise missing("polars", "Polars") from error

if TYPE_CHECKING:
    from godb_arrow.options import IfExists

__all__ = ["read_godb", "scan_godb", "sink_godb"]

_MIN_BATCH_SIZE = 1024


@explain_keywords
def scan_godb(
    source: Sources | Scannable,
    collection: str | None = None,
    *,
    storage_options: StorageOptions = None,
    **options: Unpack[ReadKeywords],
) -> pl.LazyFrame:
    """Scan a collection lazily, so that each query reads only what it needs.

    The columns, filter and limit of a query are pushed down to the decoder. Other columns are not
    decoded. Of documents that do not match the filter, only its fields are decoded.

    Parameters
    ----------
    source : path, URL, bytes, open binary file, Collection or FileCollection
        A GODB file, a data directory, or several, as for :func:`godb_arrow.scan_godb`. It may also
        be a collection of an engine or of :func:`~godb_arrow.open_godb`.
    collection : str, optional
        Name of the collection. Optional if there is only one.
    storage_options : mapping, optional
        Keyword arguments for the file system of a URL; see :func:`scan_godb`.
    **options
        See :func:`godb_arrow.scan_godb`.

    Returns
    -------
    polars.LazyFrame
        Lazy frame, in which JSON text is a string column.

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
    scanned = (
        source
        if isinstance(source, Scannable)
        else open_godb(source, collection, storage_options=storage_options, **options)
    )
    schema = fit_schema(scanned.schema, "polars")
    return register_io_source(
        _Scan(scanned, schema, options), schema=_empty(schema).schema, is_pure=True
    )


class _Scan:
    """Function that Polars calls with the columns, filter and limit of a query."""

    def __init__(self, collection: Scannable, schema: pa.Schema, options: ReadKeywords) -> None:
        self._collection = collection
        self._schema = schema
        self._options = options

    def __call__(
        self,
        columns: list[str] | None,
        predicate: pl.Expr | None,
        rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        options = self._options
        if rows is not None:
            options = {**options, "batch_size": max(rows, 1)}
        elif batch_size is not None:
            options = {**options, "batch_size": max(batch_size, _MIN_BATCH_SIZE)}
        current = set(self._collection.schema.names)
        names = self._schema.names if columns is None else columns
        present = [name for name in names if name in current]
        shown = pa.schema([self._schema.field(name) for name in names])
        condition = None
        if predicate is not None:
            looked_at = list(dict.fromkeys(predicate.meta.root_names()))
            # With a limit, Polars wants the first rows, and of these the ones that match.
            if rows is None and set(looked_at) <= current:
                condition, predicate = self._filter(predicate, looked_at), None
            else:  # or a field that the collection no longer has
                wide = list(dict.fromkeys([*names, *looked_at]))
                present = [name for name in wide if name in current]
                shown = pa.schema([self._schema.field(name) for name in wide])
        with self._collection.stream_batches(present, condition, **options) as reader:
            for batch in keep_schema(reader, shown, "polars"):
                frame = _frame(batch)
                if rows is not None:
                    frame = frame.head(rows)
                    rows -= len(frame)
                yield frame if predicate is None else frame.filter(predicate).select(names)
                if rows == 0:
                    return

    def _filter(self, predicate: pl.Expr, fields: list[str]) -> Filter:
        shown = pa.schema([self._schema.field(name) for name in fields])

        def keep(batch: pa.RecordBatch) -> pa.Array:
            frame = _frame(keep_batch(batch, shown, "polars")) if fields else pl.DataFrame()
            found = frame.select(predicate.alias("keep"))["keep"]
            if len(found) != len(batch):  # a constant
                found = pl.repeat(found[0], len(batch), dtype=pl.Boolean, eager=True)
            return found.to_arrow()

        own = storage_schema(self._collection.schema)
        has_own_types = all(own.field(field.name).type.equals(field.type) for field in shown)
        if not has_own_types or not all(name and "\0" not in name for name in fields):
            return RowFilter(fields, keep)  # no expression of Arrow means the same
        asked = _Asked(shown)
        pl.scan_pyarrow_dataset(asked).filter(predicate).collect()
        # Only a single comparison of integers is exact. Polars compares NaN differently.
        for path, call, value in compared(asked.filter) if asked.filter is not None else ():
            kind = type_at(asked.schema, path)
            if call not in _OPERATORS or kind is None or not pa.types.is_integer(kind):
                continue
            if fits_exactly(value, kind):
                literal = pl.lit(value, _empty(asked.schema).schema[path[0]])
                if _OPERATORS[call](pl.col(path[0]), literal).meta.eq(predicate):
                    return asked.filter
        return RowFilter(fields, keep, asked.filter)


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "less": operator.lt,
    "less_equal": operator.le,
    "greater": operator.gt,
    "greater_equal": operator.ge,
    "equal": operator.eq,
    "not_equal": operator.ne,
}


class _Asked(ds.Dataset):  # type: ignore[misc]
    """Empty dataset that records how Polars translates a predicate."""

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
    """Convert a record batch; names are set afterwards, since Arrow's C interface cuts some."""
    positions = [str(position) for position in range(batch.num_columns)]
    frame = pl.DataFrame(batch.rename_columns(positions))
    frame.columns = batch.schema.names
    return frame


def _empty(schema: pa.Schema) -> pl.DataFrame:
    arrays = [pa.nulls(0, field.type) for field in schema]
    return _frame(pa.RecordBatch.from_arrays(arrays, schema=schema))


@explain_keywords
def read_godb(
    source: Sources | Scannable,
    collection: str | None = None,
    *,
    columns: Sequence[str] | None = None,
    storage_options: StorageOptions = None,
    **options: Unpack[ReadKeywords],
) -> pl.DataFrame:
    """Read a collection into a DataFrame of Polars.

    Parameters
    ----------
    source, collection, storage_options, **options
        See :func:`scan_godb`.
    columns : sequence of str, optional
        Fields to read; all by default.

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
    frame = scan_godb(source, collection, storage_options=storage_options, **options)
    return (frame if columns is None else frame.select(columns)).collect()


def sink_godb(
    frame: pl.LazyFrame | pl.DataFrame,
    path: str | os.PathLike[str] | IO[bytes],
    collection: str,
    *,
    if_exists: IfExists = "replace",
    **options: Any,
) -> int:
    """Write a lazy frame into a GODB file, in the batches that Polars produces.

    Parameters
    ----------
    frame : polars.LazyFrame or polars.DataFrame
        Rows to write.
    path, collection, if_exists, **options
        See :func:`godb_arrow.write_godb`.

    Returns
    -------
    int
        Number of documents written.

    Examples
    --------
    >>> import io, polars as pl
    >>> file = io.BytesIO()
    >>> sink_godb(pl.LazyFrame({"n": [1, 2, 3]}).filter(pl.col("n") > 1), file, "numbers")
    2
    """
    if isinstance(frame, pl.DataFrame):
        return write_godb(frame, path, collection, if_exists=if_exists, **options)
    check_polars(pl.DataFrame(schema=frame.collect_schema()))
    # Documents have the same types as columns that are Arrow views.
    schema = pl.DataFrame(schema=frame.collect_schema()).to_arrow().schema

    def batches() -> Iterator[pa.RecordBatch]:
        for part in frame.collect_batches():
            yield from part.to_arrow().cast(schema).to_batches()

    reader = pa.RecordBatchReader.from_batches(schema, batches())
    return write_godb(reader, path, collection, if_exists=if_exists, **options)
