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
from godb_arrow.errors import (
    FieldNotFound,
    GodbError,
    SourceNotFound,
    StorageError,
)
from godb_arrow.options import IfExists
from godb_arrow.schema import ID_FIELD, JSON_TYPE

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

_MAX_EXACT_INTEGER = 2**53  # of a float of 64 bits
_PROBES = {"": "NULL", "integer": "0", "real": "0.0", "text": "''", "blob": "x''"}
_SQLITE_JSON = (
    "CASE typeof({column}) WHEN 'null' THEN NULL WHEN 'blob' "
    "THEN json_object('$bytes', lower(hex({column}))) ELSE json_quote({column}) END"
)
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
    path = place.removeprefix("sqlite:///")
    if path != place and not os.path.exists(path):  # the driver would create an empty database
        raise SourceNotFound(f"the database {path!r} does not exist", advice="check the path")
    with _sql_errors("read"), _connect(place) as connection, connection.cursor() as cursor:
        if place.startswith("sqlite:"):
            yield _open_sqlite(cursor, table)
            return
        cursor.execute(f"SELECT * FROM {_quoted(table)}")
        yield cursor.fetch_record_batch()


def _open_sqlite(cursor: Any, table: str) -> pa.RecordBatchReader:
    """Open the rows of a table whose columns may have values of any type.

    The driver takes the type of a column from its first rows. So a row of known types goes before
    them, and columns of several types are read as JSON text.
    """
    cursor.execute(f"SELECT name FROM pragma_table_info({_literal(table)})")
    names = [name for (name,) in cursor.fetchall()]
    if not names:  # the driver says what is wrong with the table
        cursor.execute(f"SELECT * FROM {_quoted(table)}")
        return cursor.fetch_record_batch()
    probes, values, json_names = [], [], set()
    for name in names:
        column = _quoted(name)
        cursor.execute(
            f"SELECT group_concat(DISTINCT typeof({column})), "
            f"max(CASE typeof({column}) WHEN 'integer' THEN abs(CAST({column} AS REAL)) END) "
            f"FROM {_quoted(table)}"
        )
        kinds, largest = cursor.fetchone()
        kinds = frozenset((kinds or "").split(",")) - {"null", ""}
        if kinds == {"integer", "real"} and largest < _MAX_EXACT_INTEGER:
            kinds, column = frozenset({"real"}), f"CAST({column} AS REAL)"
        elif len(kinds) > 1:
            json_names.add(name)
            kinds, column = frozenset({"text"}), _SQLITE_JSON.format(column=column)
        probes.append(f"{_PROBES[''.join(kinds)]} AS {_quoted(name)}")
        values.append(column)
    cursor.execute(
        f"SELECT {', '.join(probes)} UNION ALL SELECT {', '.join(values)} FROM {_quoted(table)}"
    )
    return _without_probe(cursor.fetch_record_batch(), json_names)


def _without_probe(reader: pa.RecordBatchReader, json_names: set[str]) -> pa.RecordBatchReader:
    """Drop the first row, and give JSON text its type."""
    schema = pa.schema(
        [
            field.with_type(JSON_TYPE) if field.name in json_names else field
            for field in reader.schema
        ]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        skipped = 1
        for batch in reader:
            rows = batch.slice(skipped)
            skipped = max(0, skipped - len(batch))
            columns = [
                pa.ExtensionArray.from_storage(JSON_TYPE, column)
                if field.name in json_names
                else column
                for column, field in zip(rows.columns, schema, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


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
                    cursor.execute(f"DROP TABLE {_quoted(self._table)}")
                appends = if_exists == "append" and there
                cursor.adbc_ingest(self._table, reader, mode="append" if appends else "create")
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
