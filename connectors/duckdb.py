"""SQL queries on collections with DuckDB, with projection and filter pushed down."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.connectors import missing
from godb_arrow.connectors.columns import fit_schema, keep_schema
from godb_arrow.engine.engine import StorageEngine
from godb_arrow.errors import EngineClosed, GodbError
from godb_arrow.query.dataset import CollectionDataset
from godb_arrow.query.fields import check_names
from godb_arrow.query.filters import names_in
from godb_arrow.query.scannable import Scannable

try:
    import duckdb
except ImportError as error:
    raise missing("duckdb", "DuckDB") from error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["connect", "register"]

_STATEMENTS = frozenset(
    ("execute", "executemany", "from_query", "query", "sql", "table", "view", "cursor")
)
"""Methods of a connection that read views."""


def connect(
    source: StorageEngine | Mapping[str, Scannable],
    connection: duckdb.DuckDBPyConnection | None = None,
) -> duckdb.DuckDBPyConnection:
    """Return a connection that has every collection as a view of its name.

    A query reads a snapshot of each collection that it names, with the columns that it uses and
    the documents that match its conditions. Views follow their collections. The next query has the
    fields, types and collections that were added.

    Parameters
    ----------
    source : StorageEngine, or mapping of str to Collection or FileCollection
        Collections to show.
    connection : duckdb.DuckDBPyConnection, optional
        Connection that gets the views. By default it is a new one in memory.

    Returns
    -------
    duckdb.DuckDBPyConnection
        The connection, wrapped: each query updates the views that it names.

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
    >>> users = engine.create_collection("users")
    >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
    >>> sql = connect(engine)
    >>> sql.sql("select name from users where age > 40").fetchall()
    [('Bob',)]
    >>> _ = users.insert({"name": "Cy", "age": 41.5, "city": "Bern"})
    >>> sql.sql("select age, city from users where name = 'Cy'").fetchall()
    [(41.5, 'Bern')]
    >>> sql.close()
    >>> engine.close()
    """
    inner = duckdb.connect() if connection is None else connection
    if isinstance(inner, _Connection):
        inner = inner._inner
    followed = _Connection(inner, source)
    followed.update()
    return cast("duckdb.DuckDBPyConnection", followed)


def show(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    collection: Scannable,
    failures: list[GodbError],
) -> None:
    """Show a collection as a view, and collect the errors of its documents in a list."""
    connection.register(name, _Scanned(collection, failures))


def noting(reader: pa.RecordBatchReader, failures: list[GodbError]) -> pa.RecordBatchReader:
    """Return a reader that collects its errors, of which DuckDB keeps only the text."""

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except GodbError as error:
            failures.append(error)
            raise

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


def register(connection: duckdb.DuckDBPyConnection, name: str, collection: Scannable) -> None:
    """Show a collection as a view.

    The view has the fields that the collection has now; see :func:`connect` for views that follow.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Connection that gets the view.
    name : str
        Name of the view.
    collection : Collection or FileCollection
        Collection to show.

    Examples
    --------
    >>> import io, godb_arrow
    >>> file = io.BytesIO()
    >>> godb_arrow.write_godb([{"n": 1}, {"n": 2}], file, "numbers")
    2
    >>> with duckdb.connect() as sql:
    ...     register(sql, "numbers", godb_arrow.open_godb(file.getvalue()))
    ...     sql.sql("select sum(n) from numbers").fetchall()
    [(3,)]
    """
    connection.register(name, _Scanned(collection))


class _Connection:
    """Connection whose views are updated before a query names them."""

    def __init__(
        self,
        inner: duckdb.DuckDBPyConnection,
        source: StorageEngine | Mapping[str, Scannable],
    ) -> None:
        self._inner = inner
        self._source = source
        self._shown: dict[str, pa.Schema] = {}

    def update(self, text: str | None = None) -> None:
        """Show collections whose fields or types changed, of those that a text names."""
        named = None if text is None else text.lower().replace('""', '"')
        for name in self._source:
            if named is not None and name.lower() not in named:
                continue
            collection = self._source[name]
            schema = collection.schema
            shown = self._shown.get(name)
            if shown is None or not schema.equals(shown):
                register(self._inner, name, collection)
                self._shown[name] = schema

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in _STATEMENTS:
            return found

        def updated(*args: Any, **options: Any) -> Any:
            text = " ".join(str(value) for value in (*args[:1], *options.values()))
            with suppress(EngineClosed):  # queries of other tables go on
                self.update(text)
            result = found(*args, **options)
            if result is self._inner:
                return self
            return _Connection(result, self._source) if name == "cursor" else result

        return updated

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *exception: object) -> None:
        self._inner.close()


class _Scanned(CollectionDataset):
    """Dataset for DuckDB, which takes only the reader of a scanner.

    DuckDB reads the schema once, when the view is made. So scans keep to that schema.
    """

    def __init__(self, collection: Scannable, failures: list[GodbError] | None = None) -> None:
        super().__init__(collection)
        self._failures = failures
        check_names(collection.schema)
        self._own = collection.schema
        self._shown = fit_schema(collection.schema, "duckdb")

    @property
    def schema(self) -> pa.Schema:
        """Schema of the record batches."""
        return self._shown

    def reader(
        self,
        columns: Sequence[str] | None = None,
        filter: pc.Expression | None = None,
        **options: Any,
    ) -> pa.RecordBatchReader:
        """Return a reader; see :meth:`CollectionDataset.reader`."""
        found = super().reader(columns, filter, **options)
        return found if self._failures is None else noting(found, self._failures)

    def scanner(
        self,
        columns: Sequence[str] | Mapping[str, pc.Expression] | None = None,
        filter: pc.Expression | None = None,
        **options: Any,
    ) -> Any:
        current = set(self._collection.schema.names)
        names = self._shown.names if columns is None else list(columns)
        shown = pa.schema([self._shown.field(name) for name in names])
        looked_at = [] if filter is None else names_in(filter)
        if all(self._is_own(name) for name in looked_at):
            present = [name for name in names if name in current]
            return _Scanner(keep_schema(self.reader(present, filter, **options), shown, "duckdb"))
        # The filter speaks of the types of the view, and not of the types of the collection.
        needed = list(dict.fromkeys([*names, *looked_at]))
        wide = pa.schema([self._shown.field(name) for name in needed])
        present = [name for name in needed if name in current]
        found = keep_schema(self.reader(present, None, **options), wide, "duckdb")
        batches = (
            batch.select(names)
            for one in found
            for batch in pa.Table.from_batches([one]).filter(filter).to_batches()
        )
        return _Scanner(pa.RecordBatchReader.from_batches(shown, batches))

    def _is_own(self, name: str) -> bool:
        """Return whether a column of the view still has the type of the collection."""
        current = self._collection.schema
        kind = self._own.field(name).type
        shown = self._shown.field(name).type
        is_same = name in current.names and current.field(name).type.equals(kind)
        return is_same and (shown.equals(kind) or isinstance(kind, pa.BaseExtensionType))


class _Scanner:
    """Scanner of which DuckDB takes the reader."""

    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._reader = reader

    def to_reader(self) -> pa.RecordBatchReader:
        return self._reader
