"""Schemas of Avro as schemas of Arrow, and the reverse."""

from __future__ import annotations

import decimal
import re
from collections.abc import Callable
from typing import Any, TypeAlias

import pyarrow as pa

from godb_arrow.codec.jsontext import to_json_text
from godb_arrow.connectors.etl.avro_plain import ORIGINAL_NAME
from godb_arrow.errors import InvalidDocument, UnsupportedType
from godb_arrow.schema import is_json

__all__ = ["arrow_fields", "avro_schema"]

Convert: TypeAlias = "Callable[[Any], Any] | None"

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_DECIMAL_BYTES = 64
_PRIMITIVES: dict[str, pa.DataType] = {
    "null": pa.null(),
    "boolean": pa.bool_(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "bytes": pa.binary(),
    "string": pa.string(),
}
_LOGICAL: dict[tuple[str, str], pa.DataType] = {
    ("int", "date"): pa.date32(),
    ("int", "time-millis"): pa.time32("ms"),
    ("long", "time-micros"): pa.time64("us"),
    ("long", "timestamp-millis"): pa.timestamp("ms", "UTC"),
    ("long", "timestamp-micros"): pa.timestamp("us", "UTC"),
    ("long", "timestamp-nanos"): pa.timestamp("ns", "UTC"),
    ("long", "local-timestamp-millis"): pa.timestamp("ms"),
    ("long", "local-timestamp-micros"): pa.timestamp("us"),
    ("long", "local-timestamp-nanos"): pa.timestamp("ns"),
}


# --- reading -----------------------------------------------------------------------------------


def arrow_fields(
    fields: list[dict[str, Any]], named: dict[str, Any]
) -> list[tuple[pa.Field, Convert]]:
    """Return the column of each field of a record, and a function that converts its values."""
    reading = _Reading(named)
    return [reading.field(field) for field in fields]


class _Reading:
    """Translation of one plain schema, with its named types."""

    def __init__(self, named: dict[str, Any]) -> None:
        self._named = named

    def field(self, field: dict[str, Any]) -> tuple[pa.Field, Convert]:
        name = str(field.get(ORIGINAL_NAME, field["name"]))
        kind, convert, nullable = self.type(field["type"])
        return pa.field(name, kind, nullable), convert

    def type(self, schema: Any) -> tuple[pa.DataType, Convert, bool]:
        """Return the type, the function that converts values, and whether null is allowed."""
        if isinstance(schema, list):
            others = [one for one in schema if one != "null"]
            if len(others) == 1:
                kind, convert, _ = self.type(others[0])
                return kind, convert, len(others) < len(schema)
            if not others:
                return pa.null(), None, True
            return pa.json_(pa.string()), to_json_text, len(others) < len(schema)
        if isinstance(schema, str):
            if schema in _PRIMITIVES:
                return _PRIMITIVES[schema], None, schema == "null"
            schema = self._named[schema]
        return self._complex(schema)

    def _complex(self, schema: dict[str, Any]) -> tuple[pa.DataType, Convert, bool]:
        kind, logical = schema["type"], schema.get("logical")
        if logical == "decimal" and kind in ("bytes", "fixed"):
            return _decimal(schema)
        if (kind, str(logical)) in _LOGICAL:
            return _LOGICAL[kind, str(logical)], None, False
        if kind == "record":
            parts = [self.field(field) for field in schema["fields"]]
            inner = [
                (given["name"], field.name, convert)
                for given, (field, convert) in zip(schema["fields"], parts, strict=True)
            ]

            def struct(value: dict[str, Any]) -> dict[str, Any]:
                return {
                    shown: value[name] if convert is None or value[name] is None
                    else convert(value[name])
                    for name, shown, convert in inner
                }  # fmt: skip

            return pa.struct([field for field, _ in parts]), struct, False
        if kind == "array":
            item, convert, nullable = self.type(schema["items"])
            return (
                pa.list_(pa.field("item", item, nullable)),
                None if convert is None else lambda values: [_each(convert, one) for one in values],
                False,
            )
        if kind == "map":
            item, convert, nullable = self.type(schema["values"])
            return (
                pa.map_(pa.string(), pa.field("value", item, nullable)),
                lambda found: [(key, _each(convert, one)) for key, one in found.items()],
                False,
            )
        if kind == "enum":
            return pa.string(), None, False
        if kind == "fixed":
            return pa.binary(int(schema["size"])), None, False
        return self.type(kind)


def _each(convert: Convert, value: Any) -> Any:
    return value if convert is None or value is None else convert(value)


def _decimal(schema: dict[str, Any]) -> tuple[pa.DataType, Convert, bool]:
    digits, scale = int(schema["precision"]), int(schema.get("scale", 0))
    if not 0 < digits <= 76:
        raise InvalidDocument(f"the Avro schema has a decimal of {digits} digits")
    make = pa.decimal128 if digits <= 38 else pa.decimal256
    context = decimal.Context(prec=80)

    def convert(raw: bytes) -> decimal.Decimal:
        if len(raw) > _MAX_DECIMAL_BYTES:
            raise InvalidDocument(f"the Avro file has a decimal of {len(raw)} bytes")
        number = int.from_bytes(raw, "big", signed=True)
        return decimal.Decimal(number).scaleb(-scale, context)

    return make(digits, scale), convert, False


# --- writing -----------------------------------------------------------------------------------


def avro_schema(
    schema: pa.Schema,
) -> tuple[dict[str, Any], list[tuple[str, Callable[[pa.Array], list[Any]]]]]:
    """Return the schema of records, with each field's name and a function for its values."""
    writing = _Writing()
    fields, columns = writing.fields(schema)
    if all(field["type"] == "null" for field in fields):
        for field in fields:
            # Readers bound the rows of a block by its bytes, so a record has some.
            field["type"] = _nullable("null")
    return {"type": "record", "name": "Document", "fields": fields}, columns


class _Writing:
    """Translation of one schema, which numbers the records in it."""

    def __init__(self) -> None:
        self._records = 0

    def fields(self, fields: Any) -> tuple[list[Any], list[tuple[str, Any]]]:
        made, columns, taken = [], [], set()
        for field in fields:
            name = field.name
            if not _NAME.fullmatch(name):
                name = re.sub(r"[^A-Za-z0-9_]", "_", name)
                name = name if _NAME.fullmatch(name) else f"_{name}"
            while name in taken:
                name += "_"
            taken.add(name)
            kind, convert = self.type(field.type, field.name)
            described = {"name": name, "type": ["null", kind] if kind != "null" else kind}
            if name != field.name:
                described[ORIGINAL_NAME] = field.name
            made.append(described)
            columns.append((name, convert))
        return made, columns

    def type(self, kind: pa.DataType, path: str) -> tuple[Any, Callable[[pa.Array], list[Any]]]:
        """Return a type of Avro, and a function that returns its values for an array."""
        types = pa.types
        if is_json(kind):
            return "string", lambda array: array.storage.to_pylist()
        if isinstance(kind, pa.BaseExtensionType):
            inner, convert = self.type(kind.storage_type, path)
            return inner, lambda array: convert(array.storage)
        if types.is_dictionary(kind):
            inner, convert = self.type(kind.value_type, path)
            return inner, lambda array: convert(array.dictionary_decode())
        if types.is_struct(kind):
            self._records += 1
            name = f"Record{self._records}"
            fields, columns = self.fields(kind)
            return {"type": "record", "name": name, "fields": fields}, _structs(columns)
        if types.is_map(kind) and types.is_string(kind.key_type):
            inner, convert = self.type(kind.item_type, path)
            return {"type": "map", "values": _nullable(inner)}, _maps(convert)
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            inner, convert = self.type(kind.value_type, path)
            return {"type": "array", "items": _nullable(inner)}, _lists(convert)
        found = _scalar(kind)
        if found is None:
            raise UnsupportedType(
                f"Avro cannot store column {path!r} of type {kind}", advice="choose other columns"
            )
        avro, cast = found
        return avro, _plain_values(cast)


def _nullable(kind: Any) -> list[Any]:
    """Return a union with null, whose values have a byte even if all are null."""
    return ["null", "string" if kind == "null" else kind]


def _plain_values(cast: pa.DataType | None) -> Callable[[pa.Array], list[Any]]:
    """Return a function that returns the values of an array, with moments as plain numbers."""
    if cast is None:
        return lambda array: array.to_pylist()
    number = pa.int32() if cast.bit_width == 32 else pa.int64()
    return lambda array: array.cast(cast).cast(number).to_pylist()


def _structs(columns: list[tuple[str, Any]]) -> Callable[[pa.Array], list[Any]]:
    def values(array: pa.Array) -> list[Any]:
        parts = [
            convert(child) for (_, convert), child in zip(columns, array.flatten(), strict=True)
        ]
        names = [name for name, _ in columns]
        rows = zip(*parts, strict=True) if parts else iter([()] * len(array))
        return [
            dict(zip(names, row, strict=True)) if valid.as_py() else None
            for row, valid in zip(rows, array.is_valid(), strict=True)
        ]

    return values


def _lists(convert: Callable[[pa.Array], list[Any]]) -> Callable[[pa.Array], list[Any]]:
    def values(array: pa.Array) -> list[Any]:
        return [None if one.values is None else convert(one.values) for one in array]

    return values


def _maps(convert: Callable[[pa.Array], list[Any]]) -> Callable[[pa.Array], list[Any]]:
    def values(array: pa.Array) -> list[Any]:
        return [
            None
            if one.values is None
            else dict(
                zip(one.values.field(0).to_pylist(), convert(one.values.field(1)), strict=True)
            )
            for one in array
        ]

    return values


def _scalar(kind: pa.DataType) -> tuple[Any, pa.DataType | None] | None:
    """Return a type of Avro for a plain type, and the type to cast values to."""
    types = pa.types
    if types.is_null(kind):
        return "null", None
    if types.is_boolean(kind):
        return "boolean", None
    if types.is_integer(kind):
        small = kind.bit_width < 32 or kind == pa.int32()
        return ("int", pa.int32()) if small else ("long", pa.int64())
    if types.is_floating(kind):
        return ("double", None) if kind == pa.float64() else ("float", None)
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind):
        return "string", None
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return "bytes", None
    if types.is_decimal(kind):
        return {
            "type": "bytes", "logicalType": "decimal",
            "precision": kind.precision, "scale": kind.scale,
        }, None  # fmt: skip
    if types.is_date(kind):
        return {"type": "int", "logicalType": "date"}, pa.date32()
    if types.is_time32(kind):
        return {"type": "int", "logicalType": "time-millis"}, pa.time32("ms")
    if types.is_time64(kind):
        return {"type": "long", "logicalType": "time-micros"}, pa.time64("us")
    if types.is_timestamp(kind):
        return _timestamp(kind)
    if types.is_duration(kind):
        return "long", pa.int64()
    return None


def _timestamp(kind: pa.DataType) -> tuple[Any, pa.DataType]:
    unit = {"s": "millis", "ms": "millis", "us": "micros", "ns": "nanos"}[kind.unit]
    local = "" if kind.tz else "local-"
    described = {"type": "long", "logicalType": f"{local}timestamp-{unit}"}
    return described, _INTEGERS_OF[unit, bool(kind.tz)]


_INTEGERS_OF = {
    (name, zoned): pa.timestamp(unit, "UTC" if zoned else None)
    for name, unit in (("millis", "ms"), ("micros", "us"), ("nanos", "ns"))
    for zoned in (True, False)
}
