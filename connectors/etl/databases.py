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
from godb_arrow.connectors.etl.base import STATE, Data, Target
from godb_arrow.connectors.etl.sqlite import create_table, literal, open_sqlite, quoted
from godb_arrow.errors import (
    FieldNotFound,
    GodbError,
    SourceNotFound,
    StorageError,
)
from godb_arrow.options import IfExists
from godb_arrow.schema import ID_FIELD

__all__ = [
    "DeltaTarget",
    "SqlTarget",
    "connect",
    "deltalake_module",
    "is_database",
    "open_sql",
    "sql_errors",
]


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
        self.place = place
        self.partition_by = partition_by

    def exists(self) -> bool:
        """Return whether the table exists."""
        return bool(self._delta.DeltaTable.is_deltatable(self.place))

    def write(self, data: Data, if_exists: IfExists) -> None:
        """Write all documents in one transaction."""
        assert isinstance(data, pa.RecordBatchReader)
        reader = fit_columns(data, "delta")
        with self.errors():
            if if_exists == "upsert" and self.exists():
                if ID_FIELD not in reader.schema.names:
                    raise FieldNotFound(
                        f"the source has no field {ID_FIELD!r}", advice="copy this field, too"
                    )
                merge = self._delta.DeltaTable(self.place).merge(
                    reader,
                    predicate=f"target.{ID_FIELD} = source.{ID_FIELD}",
                    source_alias="source",
                    target_alias="target",
                )
                merge.when_matched_update_all().when_not_matched_insert_all().execute()
            else:
                self._delta.write_deltalake(
                    self.place,
                    reader,
                    mode=_DELTA_MODES[if_exists],
                    schema_mode="overwrite" if if_exists == "replace" else None,
                    partition_by=self.partition_by or None,
                )

    @staticmethod
    @contextmanager
    def errors() -> Iterator[None]:
        """Convert errors of the package."""
        try:
            yield
        except GodbError:
            raise
        except BaseException as error:  # deltalake raises errors of all kinds, also its panics
            if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError)):
                raise
            first_line = str(error).partition("\n")[0]
            raise StorageError(
                f"the Delta table was not written: {first_line}",
                advice="choose columns, or check the address of the table",
            ) from error


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


def connect(place: str) -> Any:
    """Connect to a database."""
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
def sql_errors(what: str) -> Iterator[None]:
    """Convert errors of a driver."""
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
    with sql_errors("read"), connect(place) as connection, connection.cursor() as cursor:
        if place.startswith("sqlite:"):
            yield open_sqlite(cursor, table)
            return
        cursor.execute(f"SELECT * FROM {quoted(table)}")
        yield cursor.fetch_record_batch()


class SqlTarget(Target):
    """Table of a database, to which each copy is one transaction."""

    def __init__(self, name: str, place: str, table: str, id_column: str | None) -> None:
        super().__init__(name)
        self.place, self.table = place, table
        self._id_column = id_column or ID_FIELD

    def exists(self) -> bool:
        """Return whether the table exists."""
        with sql_errors("inspect the table"), connect(self.place) as connection:
            return self.has_table(connection, self.table)

    @staticmethod
    def has_table(connection: Any, table: str) -> bool:
        """Return whether a database has a table."""
        try:
            connection.adbc_get_table_schema(table)
        except _adbc_error():
            return False
        return True

    def write(self, data: Data, if_exists: IfExists) -> None:
        """Write all documents in one transaction."""
        assert isinstance(data, pa.RecordBatchReader)
        is_sqlite = self.place.startswith("sqlite:")
        reader = fit_columns(data, "sqlite" if is_sqlite else "database")
        with (
            sql_errors("write"),
            connect(self.place) as connection,
            connection.cursor() as cursor,
        ):
            there = self.has_table(connection, self.table)
            if if_exists == "upsert" and there:
                self._upsert(cursor, reader)
            else:
                if if_exists == "replace" and there:
                    cursor.execute(f"DROP TABLE {quoted(self.table)}")
                appends = if_exists == "append" and there
                if is_sqlite and not appends:
                    create_table(cursor, self.table, reader.schema)
                    appends = True
                cursor.adbc_ingest(self.table, reader, mode="append" if appends else "create")
            if self.has_table(connection, STATE):  # Incremental copies do not know these rows.
                cursor.execute(f"DELETE FROM {STATE} WHERE name = {literal(self.table)}")
            connection.commit()

    def _upsert(self, cursor: Any, reader: pa.RecordBatchReader) -> None:
        key, table = quoted(self._id_column), quoted(self.table)
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
