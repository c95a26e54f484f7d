"""Copies from and to databases with an ADBC driver, and Delta tables, in one transaction each."""

from __future__ import annotations

import importlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from godb_arrow.connectors import missing
from godb_arrow.connectors.columns import fit_columns
from godb_arrow.connectors.etl.base import Data, Target
from godb_arrow.connectors.etl.sqlite import create_table, open_sqlite, quoted
from godb_arrow.errors import (
    FieldNotFound,
    GodbError,
    SourceNotFound,
    StorageError,
)
from godb_arrow.options import IfExists
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


_DELTA_MODES: dict[IfExists, str] = {
    "error": "error",
    "append": "append",
    "replace": "overwrite",
    "upsert": "error",  # of a table that another writer created meanwhile
}


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

    def write(self, data: Data, if_exists: IfExists) -> None:
        """Write all documents in one transaction."""
        assert isinstance(data, pa.RecordBatchReader)
        reader = fit_columns(data, "delta")
        try:
            if if_exists == "upsert" and self.exists():
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
                    mode=_DELTA_MODES[if_exists],
                    schema_mode="overwrite" if if_exists == "replace" else None,
                    partition_by=self._partition_by or None,
                )
        except GodbError:
            raise
        except BaseException as error:  # deltalake raises errors of all kinds, also its panics
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            first_line = str(error).partition("\n")[0]
            raise StorageError(
                f"the Delta table was not written: {first_line}",
                advice="choose columns, or check the address of the table",
            ) from None


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


@contextmanager
def open_sql(place: str, table: str) -> Iterator[pa.RecordBatchReader]:
    """Open the rows of a table; return a context manager."""
    path = place.removeprefix("sqlite:///")
    if path != place and not os.path.exists(path):  # the driver would create an empty database
        raise SourceNotFound(f"the database {path!r} does not exist", advice="check the path")
    with _sql_errors("read"), _connect(place) as connection, connection.cursor() as cursor:
        if place.startswith("sqlite:"):
            yield open_sqlite(cursor, table)
            return
        cursor.execute(f"SELECT * FROM {quoted(table)}")
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

    def write(self, data: Data, if_exists: IfExists) -> None:
        """Write all documents in one transaction."""
        assert isinstance(data, pa.RecordBatchReader)
        is_sqlite = self._place.startswith("sqlite:")
        reader = fit_columns(data, "sqlite" if is_sqlite else "database")
        with (
            _sql_errors("write"),
            _connect(self._place) as connection,
            connection.cursor() as cursor,
        ):
            there = self._is_there(connection)
            if if_exists == "upsert" and there:
                self._upsert(cursor, reader)
            else:
                if if_exists == "replace" and there:
                    cursor.execute(f"DROP TABLE {quoted(self._table)}")
                appends = if_exists == "append" and there
                if is_sqlite and not appends:
                    create_table(cursor, self._table, reader.schema)
                    appends = True
                cursor.adbc_ingest(self._table, reader, mode="append" if appends else "create")
            connection.commit()

    def _upsert(self, cursor: Any, reader: pa.RecordBatchReader) -> None:
        key, table = quoted(self._id_column), quoted(self._table)
        if self._id_column not in reader.schema.names:
            raise FieldNotFound(
                f"the source has no field {self._id_column!r}", advice="copy this field, too"
            )
        staged = f"godb_arrow_{secrets.token_hex(8)}"
        columns = ", ".join(quoted(name) for name in reader.schema.names)
        cursor.adbc_ingest(staged, reader, mode="create")
        cursor.execute(f"DELETE FROM {table} WHERE {key} IN (SELECT {key} FROM {quoted(staged)})")
        cursor.execute(f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {quoted(staged)}")
        cursor.execute(f"DROP TABLE {quoted(staged)}")
