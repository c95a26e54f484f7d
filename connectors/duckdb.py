"""SQL over collections, by DuckDB, with projection and filter pushed down."""

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
    """A connection that has every collection as a view of its name.

    A query reads a snapshot of each collection that it names: the columns that it uses, and the
    documents that its conditions keep. Collections that are made later are shown after another
    call with the same connection.

    Parameters
    ----------
    source : StorageEngine, or mapping of str to Collection or FileCollection
        The collections.
    connection : duckdb.DuckDBPyConnection, optional
        Where to show them; a new one in memory, if left out.

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
    """Show a collection as a view.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
        Where to show it.
    name : str
        The view's name.
    collection : Collection or FileCollection
        What to show.

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
    """What DuckDB scans: of a scanner it wants the reader, and gets nothing else."""

    def scanner(self, *args: Any, **options: Any) -> Any:
        return _Scanner(self.reader(*args, **options))


class _Scanner:
    def __init__(self, reader: pa.RecordBatchReader) -> None:
        self._reader = reader

    def to_reader(self) -> pa.RecordBatchReader:
        return self._reader
