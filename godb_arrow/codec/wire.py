"""Conversion of record batches to the few Arrow types that the kernel writes to documents.

The rules are the same as in :mod:`godb_arrow.codec.values`, on whole arrays. Signed integers become
int64, dates timestamps, times and durations nanoseconds, decimals text, and so on. Values without
such a form are packed one by one.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from godb_arrow.arrow_compute import pc
from godb_arrow.codec.columns import UNITS, Core
from godb_arrow.codec.values import check_map_type, check_struct_type, pack, wire_values
from godb_arrow.errors import UnsupportedType
from godb_arrow.schema import ID_FIELD, is_json

__all__ = ["list_offsets", "map_lists", "wire_columns"]

_PACKED = 12  # code after the core types, for values that are MessagePack already

_Plan = tuple[int, int, bytes, tuple[Any, ...]]


def wire_columns(
    batch: pa.RecordBatch, *, ignored: str | None = ID_FIELD
) -> tuple[pa.Array, _Plan]:
    """Prepare the rows of a record batch for the kernel.

    Parameters
    ----------
    batch : pyarrow.RecordBatch
        Rows.
    ignored : str or None
        Column to ignore, default ``_id``.

    Returns
    -------
    rows : pyarrow.StructArray
        Columns, in types that the kernel knows.
    plan : tuple
        Plan of each column: code, unit, packed name, children.
    """
    arrays, plans, names = [], [], []
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if name != ignored:
            array, plan = _wire(column, name, pack(name))
            arrays.append(array)
            plans.append(plan)
            names.append(name)
    plan = (int(Core.STRUCT), 0, b"", tuple(plans))
    if not arrays:
        return pa.StructArray.from_buffers(pa.struct([]), batch.num_rows, [None]), plan
    return pa.StructArray.from_arrays(arrays, names), plan


def _wire(array: pa.Array, path: str, key: bytes) -> tuple[pa.Array, _Plan]:
    """Convert an array to a type that the kernel knows, and plan how to write it."""
    types = pa.types
    data_type = array.type
    if is_json(data_type):
        return _packed(array, path, key)
    if isinstance(data_type, pa.BaseExtensionType):
        return _wire(array.storage, path, key)
    if types.is_dictionary(data_type):
        return _wire(array.dictionary_decode(), path, key)
    if types.is_run_end_encoded(data_type):
        return _wire(pc.run_end_decode(array), path, key)
    found = _scalar(array, path)
    if found is not None:
        core, unit, plain = found
        return plain, (int(core), unit, key, ())
    if types.is_struct(data_type):
        check_struct_type(data_type, path)
        parts = [
            _wire(child, f"{path}.{field.name}", pack(field.name))
            for child, field in zip(array.flatten(), data_type, strict=True)
        ]
        plan = (int(Core.STRUCT), 0, key, tuple(plan for _, plan in parts))
        if not parts:
            return array, plan
        names = [field.name for field in data_type]
        mask = array.is_null() if array.null_count else None
        return pa.StructArray.from_arrays([part for part, _ in parts], names, mask=mask), plan
    if types.is_map(data_type):
        check_map_type(data_type, path)
        return _map(array, path, key)
    if types.is_list(data_type) or types.is_large_list(data_type) or _is_other_list(data_type):
        return _list(array, path, key)
    return _packed(array, path, key)


def _scalar(array: pa.Array, path: str) -> tuple[Core, int, pa.Array] | None:
    types = pa.types
    data_type = array.type
    if types.is_null(data_type):
        return Core.NULL, 0, array
    if types.is_boolean(data_type):
        return Core.BOOL, 0, array
    if types.is_uint64(data_type):
        return Core.UINT64, 0, array
    if types.is_integer(data_type):
        return Core.INT64, 0, _cast(array, pa.int64())
    if types.is_floating(data_type):
        return Core.FLOAT64, 0, _cast(array, pa.float64())
    if types.is_string(data_type) or types.is_large_string(data_type):
        return Core.STRING, 0, _cast(array, pa.string())
    if types.is_string_view(data_type):
        return Core.STRING, 0, array.cast(pa.string())
    if types.is_binary(data_type) or types.is_large_binary(data_type):
        return Core.BINARY, 0, _cast(array, pa.binary())
    if types.is_fixed_size_binary(data_type) or types.is_binary_view(data_type):
        return Core.BINARY, 0, array.cast(pa.binary())
    if types.is_timestamp(data_type):
        return Core.TIMESTAMP, UNITS[data_type.unit], array
    if types.is_date32(data_type):
        return Core.TIMESTAMP, 1, array.cast(pa.timestamp("s"))
    if types.is_date64(data_type):
        return Core.TIMESTAMP, 1_000, array.cast(pa.timestamp("ms"))
    if types.is_time(data_type) or types.is_duration(data_type):
        middle = pa.time64("ns") if types.is_time(data_type) else pa.duration("ns")
        try:
            return Core.INT64, 0, array.cast(middle).cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise UnsupportedType(
                f"column {path!r}: a {data_type} value does not fit in nanoseconds",
                advice="cast the column to a number",
            ) from error
    if types.is_decimal(data_type):
        return Core.STRING, 0, pa.array(wire_values(array, path), pa.string())
    return None


def _cast(array: pa.Array, data_type: pa.DataType) -> pa.Array:
    return array if array.type == data_type else array.cast(data_type)


def _packed(array: pa.Array, path: str, key: bytes) -> tuple[pa.Array, _Plan]:
    values = wire_values(array, path)
    packed = [None if value is None else pack(value) for value in values]
    return pa.array(packed, pa.binary()), (_PACKED, 0, key, ())


def _is_other_list(data_type: pa.DataType) -> bool:
    types = pa.types
    return bool(
        types.is_fixed_size_list(data_type)
        or types.is_list_view(data_type)
        or types.is_large_list_view(data_type)
    )


def _list(array: pa.Array, path: str, key: bytes) -> tuple[pa.Array, _Plan]:
    # flatten() returns the elements of the valid rows, in order, for every layout.
    values, plan = _wire(array.flatten(), f"{path}[]", b"")
    if pa.types.is_fixed_size_list(array.type):
        lengths = pc.if_else(array.is_valid(), array.type.list_size, 0)
    else:
        lengths = pc.fill_null(pc.list_value_length(array), 0)
    rows = pa.ListArray.from_arrays(
        _offsets(lengths), values, mask=array.is_null() if array.null_count else None
    )
    return rows, (int(Core.LIST), 0, key, (plan,))


def _offsets(lengths: pa.Array) -> pa.Array:
    ends = pc.cumulative_sum(lengths.cast(pa.int32()))
    return pa.concat_arrays([pa.array([0], pa.int32()), ends])


def _map(array: pa.Array, path: str, key: bytes) -> tuple[pa.Array, _Plan]:
    lists = map_lists(array)
    entries = lists.flatten()
    items, plan = _wire(entries.field(1), f"{path}.*", b"")
    keys = _cast(entries.field(0), pa.string())
    rows = pa.MapArray.from_arrays(list_offsets(lists), keys, items)
    return rows, (int(Core.MAP), 0, key, (plan,))


def map_lists(array: pa.MapArray) -> pa.ListArray:
    """Return maps as lists of structs; below a null map there may be entries."""
    kind = array.type
    entries = pa.StructArray.from_arrays(
        [array.keys, array.items], fields=[kind.key_field, kind.item_field]
    )
    return pa.Array.from_buffers(
        pa.list_(entries.type),
        len(array),
        array.buffers()[:2],
        array.null_count,
        array.offset,
        children=[entries],
    )


def list_offsets(lists: pa.Array, kind: pa.DataType | None = None) -> pa.Array:
    """Return the offsets of lists into their flattened elements; null where a list is null."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int64())
    ends = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)])
    offsets = ends.cast(kind or pa.int32())
    if not lists.null_count:
        return offsets
    valid = pa.concat_arrays([lists.is_valid(), pa.array([True])])
    return pc.if_else(valid, offsets, pa.scalar(None, offsets.type))
