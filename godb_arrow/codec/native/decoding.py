"""Documents to Arrow arrays in the kernel; see :mod:`godb_arrow.codec.reference.documents`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgpack
import pyarrow as pa

import godb_arrow.codec.native._native as _native  # noqa: PLR0402 (mypy knows it by this name)
from godb_arrow.codec.columns import ColumnPlan, Core, DecodePlan
from godb_arrow.codec.entries import Entries, MeasuredEntries, UnscannedEntries
from godb_arrow.codec.reference import documents as reference
from godb_arrow.codec.reference.cells import too_sparse
from godb_arrow.errors import CorruptFile, LimitExceeded, TypeMismatch
from godb_arrow.schema import ID_FIELD

__all__ = ["decode", "decode_front", "decode_unscanned"]

_CORRUPT, _MISMATCH, _UNKNOWN_FIELD, _TOO_SPARSE = 1, 2, 3, 5


def decode(entries: Entries, plan: DecodePlan, *, whole: bool = True) -> list[pa.Array]:
    """Decode documents into the core arrays of a plan.

    Documents of which only the front was scanned are not `whole`.
    """
    names = [column.name for column in plan.columns]
    places: bytes | None = None
    order: tuple[int, ...] = ()
    if not plan.strict and entries.fields and set(names) <= {ID_FIELD, *entries.fields}:
        places = entries.places
        order = tuple(-1 if n == ID_FIELD else entries.fields.index(n) for n in names)
    columns, failure = _native.decode(
        entries.data,
        entries.bounds,
        *_plan(plan),
        places,
        order,
        whole,
    )
    if failure is not None:
        raise _error(entries, *failure)
    return _arrays(columns, plan)


def decode_unscanned(entries: UnscannedEntries, plan: DecodePlan) -> list[pa.Array] | None:
    """Decode whole entries while they are located, or return None where that does not work."""
    columns = _native.decode_unscanned(entries.data, len(entries), *_plan(plan))
    return None if columns is None else _arrays(columns, plan)


def _plan(plan: DecodePlan) -> tuple[tuple[Any, ...], int, bool, bool, bool]:
    names = [column.name for column in plan.columns]
    children = tuple(_column(column) for column in plan.columns)
    root = (int(Core.STRUCT), 0, "", "", children, False)
    identity = names.index(ID_FIELD) if ID_FIELD in names else -1
    return root, identity, plan.strict, plan.on_mismatch == "null", plan.is_guess


def _arrays(columns: Sequence[Any], plan: DecodePlan) -> list[pa.Array]:
    return [
        _array(found, column.core_type) for found, column in zip(columns, plan.columns, strict=True)
    ]


def decode_front(measured: MeasuredEntries, plan: DecodePlan) -> list[pa.Array] | None:
    """Decode the fields of a plan, reading documents only up to these fields."""
    fields = tuple(column.name for column in plan.columns if column.name != ID_FIELD)
    if plan.strict or not fields:
        return None
    raw = [name.encode("utf-8", "surrogateescape") for name in fields]
    found = _native.scan_fronts(measured.data, measured.edges, raw)
    if found is None:
        return None
    bounds, places = found
    try:
        # The entries are decoded in place, so none of them leaves this function.
        seen: Any = measured.data
        return decode(Entries(seen, bounds, measured.base, fields, places), plan, whole=False)
    except (CorruptFile, LimitExceeded, TypeMismatch):
        return None


def _column(column: ColumnPlan) -> tuple[Any, ...]:
    children = tuple(_column(child) for child in column.children)
    if column.core is Core.MAP:
        children += ((int(Core.STRING), 0, "key", "", (), False),)
    type_name = str(column.core_type) if column.core is Core.TIMESTAMP else ""
    return int(column.core), column.unit, column.name, type_name, children, column.exact


def _array(found: Any, data_type: pa.DataType) -> pa.Array:
    length, nulls, owned, children = found
    if pa.types.is_null(data_type):
        return pa.nulls(length)
    buffers = [None if memory is None else pa.py_buffer(memory) for memory in owned]
    if pa.types.is_map(data_type):
        items, keys = children
        entries = pa.StructArray.from_arrays(
            [_array(keys, pa.string()), _array(items, data_type.item_type)],
            fields=[data_type.key_field, data_type.item_field],
        )
        arrays = [entries]
    elif pa.types.is_list(data_type):
        arrays = [_array(children[0], data_type.value_type)]
    else:
        arrays = [
            _array(child, data_type.field(index).type) for index, child in enumerate(children)
        ]
    return pa.Array.from_buffers(data_type, length, buffers, nulls, children=arrays or None)


def _error(
    entries: Entries,
    problem: int,
    document: int,
    path: str,
    expected: str,
    value: bytes,
    field: str,
) -> CorruptFile | TypeMismatch | LimitExceeded:
    if problem == _CORRUPT:
        return reference.invalid_document(entries, document)
    if problem == _MISMATCH:
        found = reference.type_name(_first_value(value))
        return reference.mismatch_error(entries.id(document), path, expected, found)
    if problem == _UNKNOWN_FIELD:
        where = f"{path}.{field}" if path else field
        return reference.unknown_field(entries.id(document), where)
    if problem == _TOO_SPARSE:
        return too_sparse(entries.id(document), path)
    return reference.too_large()


def _first_value(data: bytes) -> Any:
    unpacker = msgpack.Unpacker(
        raw=False,
        unicode_errors="surrogateescape",
        strict_map_key=False,
        object_pairs_hook=tuple,
        timestamp=0,
        max_buffer_size=len(data) + 1,
    )
    unpacker.feed(data)
    return unpacker.unpack()
