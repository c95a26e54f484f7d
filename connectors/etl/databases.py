"""Copies from and to databases with an ADBC driver, and Delta tables, in one transaction each."""

from __future__ import annotations

import importlib
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from godb_arrow.connectors import missing
from godb_arrow.connectors.etl.base import Data, Mode, Target
from godb_arrow.connectors.etl.files import flattened, has_no_children, is_nested_or_binary
from godb_arrow.errors import (
    FieldNotFound,
    StorageError,
)
from godb_arrow.schema import ID_FIELD

__all__ = ["DeltaTarget", "SqlTarget", "deltalake_module", "is_database", "open_sql"]


def deltalake_module() -> Any:
    """Import the package deltalake.

    Raises
    ------
    MissingDependency
        The package is not installed.
    """
    try:
        import deltalake
    except ImportError as error:
        raise missing("delta", "deltalake") from error
    return deltalake


class DeltaTarget(Target):
    """Delta table, in which each copy is one version."""

    def __init__(self, name: str, place: str, partition_by: list[str]) -> None:
        super().__init__(name)
        self._delta = deltalake_module()
        self._place = place
        self._partition_by = partition_by

    def exists(self) -> bool:
        """Return whether the table exists."""
        return bool(self._delta.DeltaTable.is_deltatable(self._place))

    def write(self, data: Data, mode: Mode) -> None:
        """Write all documents in one transaction."""
        assert isinstance(data, pa.RecordBatchReader)
        reader = flattened(data, lambda kind: pa.types.is_null(kind) or has_no_children(kind))
        try:
            if mode == "upsert" and self.exists():
                if ID_FIELD not in reader.schema.names:
                    raise FieldNotFound(
                        f"the source has no field {ID_FIELD!r}", advice="copy this field, too"
                    )
                merge = self._delta.DeltaTable(self._place).merge(
                    reader,
                    predicate=f"target.{ID_FIELD} = source.{ID_FIELD}",
                    source_alias="source",
                    target_alias="target",
                )
                merge.when_matched_update_all().when_not_matched_insert_all().execute()
            else:
                self._delta.write_deltalake(
                    self._place,
                    reader,
                    mode="overwrite"
                    if mode == "overwrite"
                    else "append"
                    if mode == "append"
                    else "error",
                    schema_mode="overwrite" if mode == "overwrite" else None,
                    partition_by=self._partition_by or None,
                )
        except self._delta.exceptions.DeltaError as error:
            raise StorageError(f"the Delta table was not written: {error}") from error


# --- databases --------------------------------------------------------------------------------

_DRIVERS = {
    "sqlite": "adbc_driver_sqlite.dbapi",
    "postgresql": "adbc_driver_postgresql.dbapi",
    "snowflake": "adbc_driver_snowflake.dbapi",
    "flightsql": "adbc_driver_flightsql.dbapi",
}


def is_database(place: str) -> bool:
    """Return whether an address is a URL of a database."""
    return place.partition("://")[0] in _DRIVERS


def _connect(place: str) -> Any:
    scheme, _, rest = place.partition("://")
    try:
        driver: Any = importlib.import_module(_DRIVERS[scheme])
    except ImportError as error:
        raise missing("sql", f"the ADBC driver for {scheme}") from error
    # The path is relative in sqlite:///shop.db, and absolute in sqlite:////shop.db.
    return driver.connect(rest.removeprefix("/") if scheme == "sqlite" else place)


def _adbc_error() -> type[Exception]:
    try:
        from adbc_driver_manager import Error
    except ImportError as error:
        raise missing("sql", "ADBC's driver manager") from error
    return Error


@contextmanager
def _sql_errors(what: str) -> Iterator[None]:
    error_of_adbc = _adbc_error()
    try:
        yield
    except error_of_adbc as error:
        raise StorageError(f"the database refused to {what}: {error}") from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


@contextmanager
def open_sql(place: str, table: str) -> Iterator[pa.RecordBatchReader]:
    """Open the rows of a table; return a context manager."""
    with _sql_errors("read"), _connect(place) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT * FROM {_quoted(table)}")
        yield cursor.fetch_record_batch()


class SqlTarget(Target):
    """Table of a database, to which each copy is one transaction."""

    def __init__(self, name: str, place: str, table: str, id_column: str | None) -> None:
        super().__init__(name)
        self._place, self._table = place, table
        self._id_column = id_column or ID_FIELD

    def exists(self) -> bool:
        """Return whether the table exists."""
        with _sql_errors("inspect the table"), _connect(self._place) as connection:
            return self._is_there(connection)

    def _is_there(self, connection: Any) -> bool:
        try:
            connection.adbc_get_table_schema(self._table)
        except _adbc_error():
            return False
        return True

    def write(self, data: Data, mode: Mode) -> None:
        """Write all documents in one transaction."""
        assert isinstance(data, pa.RecordBatchReader)
        reader = flattened(data, lambda kind: is_nested_or_binary(kind) and not _is_bytes(kind))
        with (
            _sql_errors("write"),
            _connect(self._place) as connection,
            connection.cursor() as cursor,
        ):
            there = self._is_there(connection)
            if mode == "upsert" and there:
                self._upsert(cursor, reader)
            else:
                if mode == "overwrite" and there:
                    cursor.execute(f"DROP TABLE {_quoted(self._table)}")
                cursor.adbc_ingest(
                    self._table, reader, mode="append" if mode == "append" and there else "create"
                )
            connection.commit()

    def _upsert(self, cursor: Any, reader: pa.RecordBatchReader) -> None:
        key, table = _quoted(self._id_column), _quoted(self._table)
        if self._id_column not in reader.schema.names:
            raise FieldNotFound(
                f"the source has no field {self._id_column!r}", advice="copy this field, too"
            )
        staged = f"godb_arrow_{secrets.token_hex(8)}"
        columns = ", ".join(_quoted(name) for name in reader.schema.names)
        cursor.adbc_ingest(staged, reader, mode="create")
        cursor.execute(f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {_quoted(staged)})")
        cursor.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {_quoted(staged)}")
        cursor.execute(f"DROP TABLE {_quoted(staged)}")


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
