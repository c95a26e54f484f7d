"""SQL queries on collections with DuckDB, with projection and filter pushed down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from godb_arrow.connectors import missing
from godb_arrow.engine.engine import StorageEngine
from godb_arrow.query.dataset import CollectionDataset
from godb_arrow.query.scannable import Scannable

try:
    import duckdb
except ImportError as error:
    raise missing("duckdb", "DuckDB") from error

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

__all__ = ["connect", "register"]


def connect(
    source: StorageEngine | Mapping[str, Scannable],
    connection: duckdb.DuckDBPyConnection | None = None,
) -> duckdb.DuckDBPyConnection:
    """Return a connection in which each collection is a view.

    A query reads a snapshot of each collection that it names, with the columns that it uses and
    the documents that match its conditions. Call this again with the same connection to add
    collections that are created later.

    Parameters
    ----------
    source : StorageEngine, or mapping of str to Collection or FileCollection
        The collections.
    connection : duckdb.DuckDBPyConnection, optional
        Connection for the views; a new one in memory by default.

    Returns
    -------
    duckdb.DuckDBPyConnection

    Examples
    --------
    >>> import tempfile, godb_arrow
    >>> engine = godb_arrow.StorageEngine(tempfile.mkdtemp())
    >>> users = engine.create_collection("users")
    >>> _ = users.insert_many([{"name": "Ada", "age": 36}, {"name": "Bob", "age": 41}])
    >>> sql = connect(engine)
    >>> sql.sql("select name from users where age > 40").fetchall()
    [('Bob',)]
    >>> sql.close()
    >>> engine.close()
    """
    connection = duckdb.connect() if connection is None else connection
    for name in source:
        register(connection, name, source[name])
    return connection


def register(connection: duckdb.DuckDBPyConnection, name: str, collection: Scannable) -> None:
    """Create a view of a collection.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Connection for the view.
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


class _Scanned(CollectionDataset):
    """Dataset for DuckDB, which uses nothing of a scanner but its reader."""

    def scanner(self, *args: Any, **options: Any) -> Any:
        return _Scanner(self.reader(*args, **options))


class _Scanner:
    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._reader = reader

    def to_reader(self) -> pa.RecordBatchReader:
        return self._reader
