"""Columns in types that a format or database holds, and back in their own types.

A replaced type is noted in the metadata of its field, as text. Formats that keep such metadata
(Parquet, Delta) return the columns in their own types.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.connectors.arrays import convert_array, is_bytes
from godb_arrow.connectors.fitting import fit_column, is_moment
from godb_arrow.connectors.own_types import MARK, OWN_TYPE, describe_own, own_field
from godb_arrow.documents.normalize import convert_columns
from godb_arrow.documents.rows import with_first_categories
from godb_arrow.errors import TypeMismatch, UnsupportedType
from godb_arrow.query.comparable import plain_type
from godb_arrow.schema import is_json, is_text, json_type, storage_schema

__all__ = [
    "JSON_TEXT",
    "RULES",
    "Rule",
    "convert_batch",
    "fit_columns",
    "fit_schema",
    "keep_batch",
    "keep_schema",
    "restore_columns",
]

logger = logging.getLogger(__name__)

JSON_TEXT = "json"
"""Replacement of a type by JSON text; also what the metadata of such a field says."""

_EMPTY_STRUCT = b"struct<>"
_SIGNED = {"uint8": "int16", "uint16": "int32", "uint32": "int64"}
"""Signed types that hold the values of unsigned ones."""

_UINT64_DIGITS = 20
_MAX_DIGITS = 38
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # of the years 1 to 9999

Rule: TypeAlias = "Callable[[pa.DataType], pa.DataType | str | None]"
"""Returns the replacement of a type: another type, `JSON_TEXT`, or None to keep it."""


def _for_parquet(kind: pa.DataType) -> pa.DataType | str | None:
    types = pa.types
    if types.is_struct(kind) and not kind.num_fields:
        return JSON_TEXT
    if types.is_decimal(kind) and kind.scale < 0:
        return pa.string()
    if types.is_timestamp(kind) and kind.unit == "s":
        return pa.timestamp("ms", kind.tz)
    if types.is_time(kind) and kind.unit == "s":
        return pa.time32("ms")
    return pa.date32() if types.is_date64(kind) else None


def _for_ipc(kind: pa.DataType) -> pa.DataType | str | None:
    return None  # Only dictionaries inside of other types change from one record batch to the next.


def _for_delta(kind: pa.DataType) -> pa.DataType | str | None:
    types = pa.types
    if types.is_struct(kind) and not kind.num_fields:
        return JSON_TEXT
    if types.is_null(kind):
        return pa.string()
    if types.is_time(kind) or types.is_duration(kind):
        return pa.int64()
    if types.is_float16(kind):
        return pa.float32()
    if types.is_timestamp(kind) and kind.unit == "ns":
        return pa.timestamp("us", kind.tz)
    if types.is_decimal(kind) and not (kind.precision <= _MAX_DIGITS and kind.scale >= 0):
        return pa.string()
    if types.is_decimal256(kind):
        return pa.decimal128(kind.precision, kind.scale)
    if types.is_uint64(kind):
        return pa.decimal128(_UINT64_DIGITS, 0)
    return pa.type_for_alias(_SIGNED[str(kind)]) if str(kind) in _SIGNED else None


def _for_csv(kind: pa.DataType) -> pa.DataType | str | None:
    types = pa.types
    if types.is_nested(kind) or is_bytes(kind):
        return JSON_TEXT
    return pa.int64() if types.is_duration(kind) else None


def _for_database(kind: pa.DataType) -> pa.DataType | str | None:
    if pa.types.is_fixed_size_binary(kind):
        return pa.binary()
    return JSON_TEXT if pa.types.is_nested(kind) else None


def _for_sqlite(kind: pa.DataType) -> pa.DataType | str | None:
    types = pa.types
    if types.is_decimal(kind):
        return pa.string()
    if types.is_time(kind) or types.is_duration(kind):
        return pa.int64()
    return pa.date32() if types.is_date64(kind) else _for_database(kind)


def _for_duckdb(kind: pa.DataType) -> pa.DataType | str | None:
    return pa.float32() if pa.types.is_float16(kind) else _for_polars(kind)


def _for_polars(kind: pa.DataType) -> pa.DataType | str | None:
    if pa.types.is_struct(kind) and any("\0" in field.name for field in kind):
        return JSON_TEXT  # names end at U+0000 in Arrow's C interface
    is_decimal = pa.types.is_decimal(kind)
    is_fit = is_decimal and kind.precision <= _MAX_DIGITS and kind.scale >= 0
    return pa.string() if is_decimal and not is_fit else None


def _for_spark(kind: pa.DataType) -> pa.DataType | str | None:
    types = pa.types
    if types.is_timestamp(kind):
        return pa.timestamp("us", kind.tz)
    if types.is_duration(kind) and kind.unit != "ns":
        return pa.duration("us")
    if types.is_date64(kind):
        return pa.date32()
    if types.is_fixed_size_binary(kind) or types.is_large_binary(kind):
        return pa.binary()
    return pa.string() if types.is_large_string(kind) else _for_delta(kind)


def _for_dlt(kind: pa.DataType) -> pa.DataType | str | None:
    types = pa.types
    if types.is_null(kind):
        return None  # dlt omits such columns until they have values.
    if types.is_uint64(kind):
        return pa.decimal128(20, 0)
    if types.is_time(kind):
        return pa.time64("us")
    return _for_delta(kind)


RULES: Mapping[str, Rule] = {
    "parquet": _for_parquet,
    "ipc": _for_ipc,
    "delta": _for_delta,
    "csv": _for_csv,
    "database": _for_database,
    "sqlite": _for_sqlite,
    "duckdb": _for_duckdb,
    "polars": _for_polars,
    "spark": _for_spark,
    "dlt": _for_dlt,
}
"""Replacements by format. A format that is missing here holds all types."""

_DESCRIBED = (_for_parquet, _for_ipc, _for_delta)
"""Rules of formats that keep the metadata of fields, which describes the columns' own types."""


def fit_columns(reader: pa.RecordBatchReader, format: str) -> pa.RecordBatchReader:
    """Convert the columns that a format cannot hold, and log which.

    Parameters
    ----------
    reader : pyarrow.RecordBatchReader
        Record batches.
    format : str
        Key of :data:`RULES`; other formats hold all types.

    Returns
    -------
    pyarrow.RecordBatchReader
        JSON text is plain text in it.

    Raises
    ------
    UnsupportedType
        While reading: a value cannot be converted. The message names the column.

    Examples
    --------
    >>> reader = pa.table({"a": [{"b": 1}]}).to_reader()
    >>> fit_columns(reader, "csv").read_all().to_pydict()
    {'a': ['{"b":1}']}
    """
    if format not in RULES:
        return reader
    if RULES[format] in _DESCRIBED:
        reader = with_first_categories(reader)
    own = reader.schema
    schema = fit_schema(own, format)
    for before, after in zip(storage_schema(own), schema, strict=True):
        if not plain_type(before.type).equals(plain_type(after.type)):
            logger.warning("column %r of type %s becomes %s", before.name, before.type, after.type)
    return _converted(reader, schema, format == "csv")


def fit_schema(schema: pa.Schema, format: str) -> pa.Schema:
    """Return the schema of columns that a format holds.

    Parameters
    ----------
    schema : pyarrow.Schema
        Any schema.
    format : str
        Key of :data:`RULES`.

    Returns
    -------
    pyarrow.Schema

    Examples
    --------
    >>> fit_schema(pa.schema({"a": pa.uint8()}), "spark").field("a").type
    DataType(int16)
    """
    rule = RULES[format]
    fields = [field if _is_kept(field.type, rule) else _fit_field(field, rule) for field in schema]
    if rule in _DESCRIBED:
        has_sizes = rule is not _for_delta
        fields = [
            describe_own(own, field, has_sizes=has_sizes)
            for own, field in zip(schema, fields, strict=True)
        ]
    return pa.schema(fields, metadata=schema.metadata)


def convert_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Convert a record batch to a schema that :func:`fit_schema` returned.

    Raises
    ------
    UnsupportedType
        A value cannot be converted. The message names the column.
    """
    return convert_columns(batch, schema, convert_array, advice="choose columns, or another format")


def keep_schema(
    reader: pa.RecordBatchReader, schema: pa.Schema, format: str
) -> pa.RecordBatchReader:
    """Return record batches with the schema that a consumer saw before.

    A collection may have got wider types meanwhile, and may have lost fields.

    Parameters
    ----------
    reader : pyarrow.RecordBatchReader
        Record batches of a collection.
    schema : pyarrow.Schema
        What :func:`fit_schema` returned, or a part of it.
    format : str
        Key of :data:`RULES`, of the consumer.

    Returns
    -------
    pyarrow.RecordBatchReader
        Missing fields are null.

    Raises
    ------
    TypeMismatch
        While reading: a value does not fit the schema.
    """
    batches = (keep_batch(batch, schema, format) for batch in reader)
    return pa.RecordBatchReader.from_batches(schema, batches)


def keep_batch(batch: pa.RecordBatch, schema: pa.Schema, format: str) -> pa.RecordBatch:
    """Return one record batch with the schema that a consumer saw before.

    Fields that the consumer did not see are dropped, also in structs; see :func:`keep_schema`.
    """
    if not schema.names:  # a record batch keeps its number of rows
        return batch
    own = batch.schema
    places = {name: place for place, name in enumerate(own.names)}
    shown = [place for field in schema if (place := places.get(field.name)) is not None]
    current = fit_schema(pa.schema([own.field(place) for place in shown]), format)
    converted = iter(convert_batch(batch.select(shown), current).columns)
    columns = []
    for field in schema:
        if field.name not in places:
            columns.append(pa.nulls(len(batch), field.type))
            continue
        try:
            columns.append(fit_column(next(converted), field.type, drop_fields=True))
        except (pa.ArrowException, ValueError) as error:
            raise TypeMismatch(
                f"the collection has other types than before: column {field.name!r}: {error}",
                advice="scan the collection again, or register it again",
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def restore_columns(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """Convert the columns that :func:`fit_columns` converted to their own types.

    Parameters
    ----------
    reader : pyarrow.RecordBatchReader
        Record batches of a format that keeps the metadata of fields.

    Returns
    -------
    pyarrow.RecordBatchReader
    """
    own = reader.schema
    if not any(_is_marked(field) for field in own):
        return reader
    schema = pa.schema([_restore_field(field) for field in own], metadata=own.metadata)
    return _converted(reader, schema)


def _converted(
    reader: pa.RecordBatchReader, schema: pa.Schema, check_years: bool = False
) -> pa.RecordBatchReader:
    def batches() -> Iterator[pa.RecordBatch]:
        for batch in reader:
            converted = convert_batch(batch, schema)
            if check_years:
                for field, column in zip(schema, converted.columns, strict=True):
                    if is_moment(field.type):
                        _check_years(column, field.name)
            yield converted

    return pa.RecordBatchReader.from_batches(schema, batches())


def _check_years(moments: pa.Array, name: str) -> None:
    seconds = moments.cast(pa.timestamp("s", getattr(moments.type, "tz", None)), safe=False)
    ends = pc.min_max(seconds.cast(pa.int64())).as_py()
    for end in ends.values():
        if end is not None and not _FIRST_SECOND <= end <= _LAST_SECOND:
            raise UnsupportedType(
                f"column {name!r} has a moment outside the years 1 to 9999",
                advice="choose columns, or another format such as Parquet",
            )


# --- types --------------------------------------------------------------------------------------


def _fit_field(field: pa.Field, rule: Rule) -> pa.Field:
    kind = plain_type(field.type)
    if rule is _for_ipc and is_json(field.type):
        return field
    found = JSON_TEXT if is_json(field.type) else rule(kind)
    metadata = {
        key: value
        for key, value in (field.metadata or {}).items()
        if not key.startswith(b"ARROW:extension")
    }
    if found is None and rule in (_for_parquet, _for_ipc):
        fitted = _children(kind, lambda child: _fit_field(child, rule))
        if fitted.equals(kind) and not pa.types.is_dictionary(field.type):
            return field  # with its extension type
    if found is None and rule in (_for_polars, _for_duckdb) and _is_category(field.type):
        return field
    if found is None and rule is _for_delta and _has_marked_elements(kind, rule):
        found = JSON_TEXT  # Delta keeps the metadata of the fields of structs only
    if found is None:
        return field.with_type(
            _children(kind, lambda child: _fit_field(child, rule))
        ).with_metadata(metadata or None)
    if found == JSON_TEXT:
        is_empty = pa.types.is_struct(kind) and not kind.num_fields
        metadata[MARK] = _EMPTY_STRUCT if is_empty else JSON_TEXT.encode()
        return field.with_type(pa.string()).with_metadata(metadata)
    if not (pa.types.is_decimal(kind) or pa.types.is_null(kind)):
        metadata[MARK] = str(kind).encode()
    return field.with_type(found).with_metadata(metadata or None)


def _is_category(kind: pa.DataType) -> bool:
    return pa.types.is_dictionary(kind) and is_text(kind.value_type)


def _is_kept(kind: pa.DataType, rule: Rule) -> bool:
    """Return whether a format has dictionaries of a type as columns.

    No format has them inside of other types, since they differ between record batches.
    """
    if not pa.types.is_dictionary(kind):
        return False
    has_texts = rule is _for_parquet and (is_text(kind.value_type) or is_bytes(kind.value_type))
    return rule is _for_ipc or has_texts


def _has_marked_elements(kind: pa.DataType, rule: Rule) -> bool:
    if pa.types.is_struct(kind) or not pa.types.is_nested(kind):
        return False
    return _is_marked(pa.field("", _children(kind, lambda child: _fit_field(child, rule))))


def _is_marked(field: pa.Field) -> bool:
    kind = field.type
    if not (field.metadata or {}).keys().isdisjoint((MARK, OWN_TYPE)):
        return True
    return any(_is_marked(kind.field(index)) for index in range(kind.num_fields))


def _restore_field(field: pa.Field) -> pa.Field:
    own = own_field(field)
    if own is not None:
        return own
    mark = (field.metadata or {}).get(MARK)
    if mark is None:
        return field.with_type(_children(field.type, _restore_field))
    metadata = {key: value for key, value in field.metadata.items() if key != MARK}
    kind = field.type
    if mark == JSON_TEXT.encode():
        kind = json_type() if is_text(kind) else kind
    elif mark == _EMPTY_STRUCT:
        kind = pa.struct([]) if is_text(kind) else kind
    else:
        try:
            name = mark.decode()
            is_zoned = pa.types.is_timestamp(kind) and ", tz=" in name
            wanted = pa.type_for_alias(f"{name.partition(',')[0]}]" if is_zoned else name)
            wanted = pa.timestamp(wanted.unit, kind.tz) if is_zoned else wanted
        except (ValueError, UnicodeDecodeError):
            wanted = kind
        if pa.types.is_primitive(wanted) and not pa.types.is_nested(kind):
            kind = wanted
    return field.with_type(kind).with_metadata(metadata or None)


def _children(kind: pa.DataType, change: Callable[[pa.Field], pa.Field]) -> pa.DataType:
    """Return a type with changed children."""
    types = pa.types
    if types.is_struct(kind):
        return pa.struct([change(child) for child in kind])
    if types.is_map(kind):
        return pa.map_(kind.key_field, change(kind.item_field), kind.keys_sorted)
    if types.is_fixed_size_list(kind):
        return pa.list_(change(kind.value_field), kind.list_size)
    if types.is_large_list(kind):
        return pa.large_list(change(kind.value_field))
    return pa.list_(change(kind.value_field)) if types.is_list(kind) else kind
