"""Tables of SQLite, whose columns have values of any type, with the types that a table declares.

SQLite stores dates and moments as text, and booleans as 0 and 1. A declared type such as ``DATE``
says what the values mean. It counts if it fits all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from godb_arrow.schema import is_json, json_type

__all__ = ["add_column", "create_table", "literal", "open_sqlite", "quoted"]

_MAX_EXACT_INTEGER = 2**53  # of a float of 64 bits
_MAX_MICROSECOND_TEXT = len("2024-02-29 06:30:00.123456")
_MAX_NANOSECOND_TEXT = len("2024-02-29 06:30:00.123456789")
_PROBES = {"": "NULL", "integer": "0", "real": "0.0", "text": "''", "blob": "x''"}
_AFFINITIES = (
    ("INT", "integer"),
    ("CHAR", "text"),
    ("CLOB", "text"),
    ("TEXT", "text"),
    ("BLOB", "blob"),
    ("REAL", "real"),
    ("FLOA", "real"),
    ("DOUB", "real"),
)
"""Kinds of values by a part of a declared type, in the order in which SQLite looks for them."""

_JSON = (
    "CASE typeof({column}) WHEN 'null' THEN NULL WHEN 'blob' "
    "THEN json_object('$bytes', lower(hex({column}))) ELSE json_quote({column}) END"
)
_IS_DATE = "{column} IS NULL OR ({column} GLOB '[0-9]*' AND date({column}) IS {column})"
_IS_MOMENT = (
    "{column} IS NULL OR ({column} GLOB '[0-9]*' AND length({column}) <= {longest} AND "
    "strftime('%Y-%m-%d %H:%M:%S', substr({column}, 1, 19)) IS "
    "replace(substr({column}, 1, 19), 'T', ' ') AND (length({column}) = 19 OR "
    "(substr({column}, 20) GLOB '.[0-9]*' AND substr({column}, 21) NOT GLOB '*[^0-9]*')))"
)
_IS_NANOSECOND_YEAR = "{column} IS NULL OR substr({column}, 1, 4) BETWEEN '1678' AND '2261'"
_IS_BOOLEAN = "{column} IS NULL OR {column} IN (0, 1)"

_DECLARED: tuple[tuple[str, Callable[[pa.DataType], bool]], ...] = (
    ("BOOLEAN", pa.types.is_boolean),
    ("DATE", pa.types.is_date),
    ("TIMESTAMP WITH TIME ZONE", lambda kind: pa.types.is_timestamp(kind) and bool(kind.tz)),
    ("TIMESTAMP", pa.types.is_timestamp),
)
"""Declared types that say more than the values do, with tests of the types of columns."""


def quoted(name: str) -> str:
    """Return a name of SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Return a text of SQL."""
    return "'" + text.replace("'", "''") + "'"


def create_table(cursor: Any, table: str, schema: pa.Schema) -> None:
    """Create an empty table, and declare types that SQLite does not have."""
    columns = ", ".join(f"{quoted(field.name)} {_declared(field.type)}" for field in schema)
    cursor.execute(f"CREATE TABLE {quoted(table)} ({columns})")


def add_column(cursor: Any, table: str, field: pa.Field) -> None:
    """Add a column to a table."""
    column = f"{quoted(field.name)} {_declared(field.type)}"
    cursor.execute(f"ALTER TABLE {quoted(table)} ADD COLUMN {column}")


def _declared(kind: pa.DataType) -> str:
    types = pa.types
    for name, is_one in _DECLARED:
        if is_one(kind):
            return name
    if types.is_integer(kind):
        return "INTEGER"
    if types.is_floating(kind):
        return "REAL"
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind)
    return "BLOB" if is_bytes else "" if types.is_null(kind) else "TEXT"


def open_sqlite(cursor: Any, table: str) -> pa.RecordBatchReader:
    """Open the rows of a table whose columns may have values of any type.

    The driver takes the type of a column from its first rows. So a row of known types goes before
    them, and columns of several types are read as JSON text.
    """
    cursor.execute(f"SELECT name, type FROM pragma_table_info({literal(table)})")
    declared: dict[str, str] = dict(cursor.fetchall())
    if not declared:  # the driver says what is wrong with the table
        cursor.execute(f"SELECT * FROM {quoted(table)}")
        return cursor.fetch_record_batch()
    probes, values = [], []
    wanted: dict[str, pa.DataType] = {}
    for name, type_name in declared.items():
        column = quoted(name)
        cursor.execute(
            f"SELECT group_concat(DISTINCT typeof({column})), "
            f"max(CASE typeof({column}) WHEN 'integer' THEN abs(CAST({column} AS REAL)) END) "
            f"FROM {quoted(table)}"
        )
        kinds, largest = cursor.fetchone()
        kinds = frozenset((kinds or "").split(",")) - {"null", ""}
        kind = _meant(cursor, table, column, type_name.upper(), kinds)
        if kind is not None:
            wanted[name] = kind
            kinds = frozenset({"integer" if pa.types.is_boolean(kind) else "text"})
        elif kinds == {"integer", "real"} and largest < _MAX_EXACT_INTEGER:
            kinds, column = frozenset({"real"}), f"CAST({column} AS REAL)"
        elif len(kinds) > 1:
            wanted[name] = json_type()
            kinds, column = frozenset({"text"}), _JSON.format(column=column)
        elif not kinds:
            kinds = frozenset({_affinity(type_name.upper())})
        probes.append(f"{_PROBES[''.join(kinds)]} AS {quoted(name)}")
        values.append(column)
    cursor.execute(
        f"SELECT {', '.join(probes)} UNION ALL SELECT {', '.join(values)} FROM {quoted(table)}"
    )
    return _without_probe(cursor.fetch_record_batch(), wanted)


def _affinity(declared: str) -> str:
    """Return the kind of values of a declared type, for a column without any."""
    return next((kind for name, kind in _AFFINITIES if name in declared), "")


def _meant(
    cursor: Any, table: str, column: str, declared: str, kinds: frozenset[str]
) -> pa.DataType | None:
    """Return the type that a declaration means, if all values of the column fit it."""

    def fits(condition: str) -> bool:
        text = condition.format(column=column, longest=_MAX_NANOSECOND_TEXT)
        cursor.execute(f"SELECT count(*) FROM {quoted(table)} WHERE NOT ({text})")
        return bool(cursor.fetchone()[0] == 0)

    if declared in ("BOOLEAN", "BOOL") and kinds <= {"integer"} and fits(_IS_BOOLEAN):
        return pa.bool_()
    if not kinds <= {"text"}:
        return None
    if declared == "DATE" and fits(_IS_DATE):
        return pa.date32()
    if not declared.startswith(("TIMESTAMP", "DATETIME")) or not fits(_IS_MOMENT):
        return None
    zone = "UTC" if "WITH TIME ZONE" in declared else None
    cursor.execute(f"SELECT max(length({column})) FROM {quoted(table)}")
    if (cursor.fetchone()[0] or 0) <= _MAX_MICROSECOND_TEXT:
        return pa.timestamp("us", zone)
    return pa.timestamp("ns", zone) if fits(_IS_NANOSECOND_YEAR) else None


def _without_probe(
    reader: pa.RecordBatchReader, wanted: Mapping[str, pa.DataType]
) -> pa.RecordBatchReader:
    """Drop the first row, and give columns the types that their values mean."""
    schema = pa.schema(
        [field.with_type(wanted.get(field.name, field.type)) for field in reader.schema]
    )

    def batches() -> Iterator[pa.RecordBatch]:
        skipped = 1
        for batch in reader:
            rows = batch.slice(skipped)
            skipped = max(0, skipped - len(batch))
            columns = [
                _converted(column, field.type)
                for column, field in zip(rows.columns, schema, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _converted(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if is_json(kind):
        return pa.ExtensionArray.from_storage(kind, column)
    if pa.types.is_timestamp(kind):  # texts without a zone are in UTC
        return column.cast(pa.timestamp(kind.unit)).cast(kind)
    return column.cast(kind)
