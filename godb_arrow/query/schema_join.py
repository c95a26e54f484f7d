"""Schemas of collections that get documents: recorded types stay while they are true.

Types that inference does not find, such as dates, decimals and 32-bit integers, come from tables
and are recorded. A field keeps its type while every new value fits exactly. Else it gets a wider
type of the same kind, or the type that is inferred from all documents.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import pyarrow as pa

from godb_arrow import codec
from godb_arrow.errors import GodbError
from godb_arrow.schema import (
    ID_FIELD,
    DocumentSummary,
    infer_schema,
    is_json,
    is_partial,
    rounded_fields,
    with_rounded,
)

__all__ = ["find_misfits", "join_schemas", "narrow_schema", "types_of_replaced"]

_UNITS = ("s", "ms", "us", "ns")
_MAX_DIGITS_128, _MAX_DIGITS_256 = 38, 76  # of decimals

Runs = Callable[[], Iterable[codec.Entries]]


def join_schemas(
    recorded: pa.Schema | None,
    declared: Sequence[pa.Schema],
    summary: DocumentSummary,
    runs: Runs,
    summarize_all: Callable[[], DocumentSummary],
) -> pa.Schema:
    """Join the schema of a collection with new documents.

    Parameters
    ----------
    recorded : pyarrow.Schema or None
        Schema of the documents before; None without any.
    declared : sequence of pyarrow.Schema
        Schemas of tables that the new documents come from, as far as they have any.
    summary : DocumentSummary
        Kinds of values in the new documents.
    runs : callable
        Returns the new documents, in runs.
    summarize_all : callable
        Returns the kinds of values in all documents; called if a type must be inferred again.

    Returns
    -------
    pyarrow.Schema
        Fields of `recorded` come first, in their order.
    """
    inferred = infer_schema(summary)
    rounded = set(rounded_fields(inferred))
    wanted: dict[str, pa.Field] = {}
    if recorded is not None:
        rounded |= rounded_fields(recorded)
        wanted = {field.name: field for field in recorded}
    for schema in declared:
        for field in schema:
            known = wanted.get(field.name)
            if known is not None:
                wanted[field.name] = _merged(known, field)
            else:
                wanted[field.name] = field if recorded is None else field.with_nullable(True)
    unsure: list[pa.Field] = []
    for field in inferred:
        known = wanted.get(field.name)
        wanted[field.name] = field if known is None else _merged(known, field)
        if known is not None and not _is_certain(field, wanted[field.name], rounded):
            unsure.append(wanted[field.name])
    required = [field for field in wanted.values() if not field.nullable]
    unsure += [field for field in required if field.name not in inferred.names]
    misfits = find_misfits(unsure, runs)
    for name, field in _widened(misfits, wanted, declared, inferred, runs).items():
        wanted[name] = field
        misfits.remove(name)
    if misfits:
        everything = infer_schema(summarize_all())
        wanted.update({name: everything.field(name) for name in misfits})
        rounded = (rounded - set(misfits)) | (rounded_fields(everything) & set(misfits))
    sources = [schema for schema in (recorded, *declared) if schema is not None]
    metadata = sources[0].metadata if sources else None
    return with_rounded(pa.schema(list(wanted.values()), metadata=metadata), sorted(rounded))


def _is_certain(found: pa.Field, wanted: pa.Field, rounded: set[str]) -> bool:
    """Return whether values of an inferred type fit a type, whatever the values are."""
    return wanted.nullable and _holds(found.type, wanted.type, found.name in rounded)


def _holds(found: pa.DataType, wanted: pa.DataType, may_round: bool) -> bool:
    types = pa.types
    if found.equals(wanted) or types.is_null(found) or is_json(wanted):
        return True
    if types.is_struct(found) and types.is_struct(wanted):
        names = {field.name: field for field in wanted}
        return all(
            field.name in names
            and names[field.name].nullable
            and _holds(field.type, names[field.name].type, may_round)
            for field in found
        )
    if types.is_list(found) and types.is_list(wanted):
        return _holds(found.value_type, wanted.value_type, may_round)
    if types.is_string(found):
        return bool(types.is_large_string(wanted) or types.is_binary(wanted))
    return may_round and bool(types.is_integer(found) and types.is_float64(wanted))


def find_misfits(fields: Sequence[pa.Field], runs: Runs) -> list[str]:
    """Return the fields that have values which do not fit their type exactly."""
    found: dict[str, None] = {}
    if fields:
        for run in runs():
            left = [field for field in fields if field.name not in found]
            found.update(dict.fromkeys(_misfits_in(run, left)))
    return list(found)


def _misfits_in(run: codec.Entries, fields: Sequence[pa.Field]) -> list[str]:
    if not fields or not len(run):
        return []
    try:
        codec.decode_batch(run, codec.plan_columns(pa.schema(fields), exact=True))
    except GodbError:
        if len(fields) == 1:
            return [fields[0].name]
        middle = len(fields) // 2
        return _misfits_in(run, fields[:middle]) + _misfits_in(run, fields[middle:])
    return []


def _merged(known: pa.Field, new: pa.Field) -> pa.Field:
    """Return a field with its types kept, and with what the other one has besides."""
    merged = _merged_type(known.type, new.type)
    return known if merged.equals(known.type) else known.with_type(merged)


def _merged_type(known: pa.DataType, new: pa.DataType) -> pa.DataType:
    types = pa.types
    if types.is_null(known):
        return new
    if types.is_struct(known) and types.is_struct(new):
        fields = {field.name: field for field in known}
        for field in new:
            mine = fields.get(field.name)
            fields[field.name] = field.with_nullable(True) if mine is None else _merged(mine, field)
        return pa.struct(list(fields.values()))
    if types.is_list(known) and types.is_list(new):
        return pa.list_(_merged(known.value_field, new.value_field))
    return known


def _widened(
    misfits: Sequence[str],
    wanted: Mapping[str, pa.Field],
    declared: Sequence[pa.Schema],
    inferred: pa.Schema,
    runs: Runs,
) -> dict[str, pa.Field]:
    """Return those misfits that a wider type of the same kind holds, with that type."""
    wider: list[pa.Field] = []
    for name in misfits:
        known = wanted[name].with_nullable(True)
        kind: pa.DataType | None = known.type
        of_tables = [schema for schema in declared if name in schema.names]
        for schema in of_tables or [inferred]:
            if kind is not None and name in schema.names:
                kind = _wider(kind, schema.field(name).type)
        if kind is not None:
            wider.append(known.with_type(kind))
    left = set(find_misfits(wider, runs))
    return {field.name: field for field in wider if field.name not in left}


def _wider(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """Return a type that holds all values of two types exactly; None where there is none."""
    types = pa.types
    if first.equals(second) or types.is_null(second):
        return first
    if types.is_null(first):
        return second
    if types.is_dictionary(first):
        values = second.value_type if types.is_dictionary(second) else second
        same = first.value_type.equals(values)
        return pa.dictionary(pa.int32(), first.value_type) if same else None
    if types.is_decimal(first) and types.is_decimal(second):
        return _wider_decimal(first, second)
    if types.is_integer(first) and types.is_integer(second):
        return _wider_integer(first, second)
    if types.is_floating(first) and types.is_floating(second):
        return max(first, second, key=lambda kind: kind.bit_width)
    if types.is_duration(first) and types.is_duration(second):
        return pa.duration(max(first.unit, second.unit, key=_UNITS.index))
    if types.is_time(first) and types.is_time(second):
        unit = max(first.unit, second.unit, key=_UNITS.index)
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    if types.is_timestamp(first) and types.is_timestamp(second):
        # Without a zone a moment means UTC, as where it is inferred.
        same_zone = second.tz in (first.tz, "UTC")
        unit = max(first.unit, second.unit, key=_UNITS.index)
        return pa.timestamp(unit, first.tz) if same_zone else None
    if types.is_struct(first) and types.is_struct(second):
        return _wider_struct(first, second)
    if types.is_list(first) and types.is_list(second):
        item = _wider(first.value_type, second.value_type)
        return None if item is None else pa.list_(first.value_field.with_type(item))
    return None


def _wider_integer(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    types = pa.types
    if types.is_signed_integer(first) == types.is_signed_integer(second):
        return max(first, second, key=lambda kind: kind.bit_width)
    return None if types.is_uint64(first) or types.is_uint64(second) else pa.int64()


def _wider_decimal(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    scale = max(first.scale, second.scale)
    digits = max(first.precision - first.scale, second.precision - second.scale) + scale
    if digits > _MAX_DIGITS_256:
        return None
    is_long = pa.types.is_decimal256(first) or digits > _MAX_DIGITS_128
    return pa.decimal256(digits, scale) if is_long else pa.decimal128(digits, scale)


def _wider_struct(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    fields = {field.name: field for field in first}
    for field in second:
        mine = fields.get(field.name)
        kind = field.type if mine is None else _wider(mine.type, field.type)
        if kind is None:
            return None
        fields[field.name] = (field if mine is None else mine).with_type(kind).with_nullable(True)
    return pa.struct(list(fields.values()))


def types_of_replaced(recorded: pa.Schema, found: pa.Schema) -> pa.Schema | None:
    """Return the schema of documents that were all replaced, for the documents after them.

    Types that inference cannot find, such as dates and decimals, are kept. Fields that the new
    documents lack are forgotten.

    Parameters
    ----------
    recorded : pyarrow.Schema
        Schema of the former documents.
    found : pyarrow.Schema
        Schema that is inferred from the new documents.

    Returns
    -------
    pyarrow.Schema or None
        None where nothing is kept.

    Examples
    --------
    >>> recorded = pa.schema({"day": pa.date32(), "n": pa.string(), "gone": pa.int8()})
    >>> types_of_replaced(recorded, pa.schema({"n": pa.int64(), "day": pa.int64()})).types
    [DataType(date32[day]), DataType(int64)]
    """
    if is_partial(recorded) or is_partial(found):
        return None
    fields = [
        found.field(field.name) if _is_inferred(field.type) else field
        for field in recorded
        if field.name in found.names
    ]
    joined = pa.schema(fields, metadata=recorded.metadata)
    return with_rounded(joined, rounded_fields(found))


def narrow_schema(schema: pa.Schema, deleted: DocumentSummary, runs: Runs) -> pa.Schema:
    """Forget what only deleted documents had: fields, and kinds of values.

    Parameters
    ----------
    schema : pyarrow.Schema
        Schema of all documents, with the deleted ones.
    deleted : DocumentSummary
        Kinds of values in the deleted documents.
    runs : callable
        Returns the documents that are left. They are read until nothing more can be forgotten.

    Returns
    -------
    pyarrow.Schema
    """
    left = {
        field.name: field
        for field in schema
        if field.name in deleted.fields
        and deleted.fields[field.name].kinds
        and field.name != ID_FIELD
    }
    if not left or is_partial(schema):
        return schema
    found = DocumentSummary()
    rounded = rounded_fields(schema)
    for run in runs():
        codec.infer(run, found)
        if found.is_partial:
            return schema
        seen = infer_schema(_only(found, left))
        for field in seen:
            known = left.get(field.name)
            if known is not None and (
                not _is_inferred(known.type)
                or (
                    known.type.equals(field.type)
                    and (field.name in rounded) == (field.name in rounded_fields(seen))
                )
            ):
                del left[field.name]
        if not left:
            return schema
    before = DocumentSummary()
    before.merge(_only(found, left))
    seen = infer_schema(before)
    before.merge(_only(deleted, left))
    joined = infer_schema(before)
    fields, kept = [], set(rounded)
    for field in schema:
        name = field.name
        if name not in left or not field.type.equals(joined.field(name).type):
            fields.append(field)
        elif name in seen.names:
            fields.append(field.with_type(seen.field(name).type))
            if name not in rounded_fields(seen):
                kept.discard(name)
    return with_rounded(pa.schema(fields, metadata=schema.metadata), sorted(kept))


def _only(summary: DocumentSummary, names: Iterable[str]) -> DocumentSummary:
    """Return the summary of some fields."""
    found = DocumentSummary()
    for name in names:
        if name in summary.fields:
            found.field(name).merge(summary.fields[name])
    return found


def _is_inferred(kind: pa.DataType) -> bool:
    """Return whether a type may come from inference, rather than from a table."""
    types = pa.types
    if is_json(kind):
        return True
    if types.is_struct(kind):
        return all(_is_inferred(field.type) for field in kind)
    if types.is_list(kind):
        return _is_inferred(kind.value_type)
    if types.is_map(kind):
        return _is_inferred(kind.item_type)
    return kind in _inferred_types()


@functools.cache
def _inferred_types() -> frozenset[pa.DataType]:
    plain = [pa.null(), pa.bool_(), pa.int64(), pa.uint64(), pa.float64()]
    moments = [pa.timestamp("us", "UTC"), pa.timestamp("ns", "UTC")]
    return frozenset((*plain, pa.string(), pa.binary(), *moments))
