"""Types of a table of dlt, which later runs must keep.

dlt does not convert columns of Arrow, and a destination would round or refuse values of another
type.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from godb_arrow.connectors.arrays import as_json_texts, convert_array, is_bytes
from godb_arrow.errors import SchemaError, TypeMismatch
from godb_arrow.schema import ID_FIELD, is_json, is_text

__all__ = ["TableTypes"]

_INTEGER_DIGITS = 19  # of 64 bits
_KINDS: Mapping[str, Callable[[pa.DataType], bool]] = {
    "bool": pa.types.is_boolean,
    "bigint": pa.types.is_integer,
    "double": pa.types.is_floating,
    "decimal": pa.types.is_decimal,
    "timestamp": pa.types.is_timestamp,
    "date": pa.types.is_date,
    "time": pa.types.is_time,
    "text": is_text,
    "binary": is_bytes,
    "json": pa.types.is_nested,
}
"""Types of dlt, with tests of the types of Arrow that dlt maps to them."""


class TableTypes:
    """Types of the columns that earlier runs loaded into a table.

    Parameters
    ----------
    schema : dlt.Schema
        Schema of the source.
    resource : str
        Name of the resource.

    Attributes
    ----------
    json : list of str
        Columns of JSON text, after :meth:`fit`.
    """

    def __init__(self, schema: Any, resource: str) -> None:
        self._naming = schema.naming
        self._resource = resource
        name = schema.naming.normalize_table_identifier(resource)
        self._columns: Mapping[str, Any] = schema.tables.get(name, {}).get("columns", {})
        self.json: list[str] = []
        self._texts: dict[str, pa.DataType] = {}  # own types of columns that become JSON text

    def fit(self, own: pa.Schema, schema: pa.Schema) -> pa.Schema:
        """Return the schema of the columns for dlt.

        Columns of nulls are omitted, because dlt warns of them, and the id is not null.

        Parameters
        ----------
        own : pyarrow.Schema
            Schema of the collection.
        schema : pyarrow.Schema
            The same in types of dlt.

        Raises
        ------
        TypeMismatch
            A column has another type than in the table, which would change values.
        SchemaError
            A field has a name that dlt refuses.
        """
        fields = []
        for before, field in zip(own, schema, strict=True):
            if pa.types.is_null(field.type):
                continue
            known = self._columns.get(self._column_name(field.name), {})
            if is_json(before.type) or (pa.types.is_nested(before.type) and is_text(field.type)):
                self.json.append(field.name)
            elif known.get("data_type") == "json" and not pa.types.is_nested(field.type):
                self.json.append(field.name)
                self._texts[field.name] = before.type
                field = pa.field(field.name, pa.string())
            self._check(field, known)
            fields.append(field.with_nullable(field.name != ID_FIELD))
        return pa.schema(fields)

    def _column_name(self, name: str) -> str:
        try:
            return str(self._naming.normalize_identifier(name))
        except ValueError as error:  # such as an empty name
            raise SchemaError(
                f"the field {name!r} of {self._resource!r} has no name for a column of dlt",
                advice="rename the field in the documents",
            ) from error

    def _check(self, field: pa.Field, known: Mapping[str, Any]) -> None:
        before = known.get("data_type")
        now = "json" if field.name in self.json else _kind_of(field.type)
        if before is None or now is None or (before, now) == ("double", "bigint"):
            return
        if before == "decimal" and now in ("bigint", "decimal"):
            if _has_room(known, field.type):
                return
        elif before == now:
            return
        raise TypeMismatch(
            f"the column {field.name!r} of {self._resource!r} is {field.type} now, and its table "
            f"has the type {before}",
            advice="load the table again, with a new godb_source and "
            'pipeline.run(…, refresh="drop_resources")',
        )

    def convert(self, batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
        """Return a record batch with a schema that :meth:`fit` returned."""
        columns = []
        for field in schema:
            column = batch.column(field.name)
            if field.name in self._texts:
                column = as_json_texts(convert_array(column, self._texts[field.name]))
            columns.append(column)
        return pa.RecordBatch.from_arrays(columns, schema=schema)


def _has_room(known: Mapping[str, Any], kind: pa.DataType) -> bool:
    """Return whether a column of decimals has the digits of a type."""
    precision, scale = known.get("precision"), known.get("scale")
    if precision is None or scale is None:
        return True
    if pa.types.is_integer(kind):
        return bool(precision - scale >= _INTEGER_DIGITS)
    return bool(scale >= kind.scale and precision - scale >= kind.precision - kind.scale)


def _kind_of(kind: pa.DataType) -> str | None:
    return next((name for name, is_of in _KINDS.items() if is_of(kind)), None)
