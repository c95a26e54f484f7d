"""Columns of every type that Arrow can build, in every layout."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

__all__ = ["LAYOUTS", "SCALARS", "columns"]

UNITS = ("s", "ms", "us", "ns")
MOMENT = dt.datetime(2024, 2, 29, 6, 30)
CLOCK = dt.time(6, 30, 15)
WAIT = dt.timedelta(hours=-3)


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    return pa.array([*values, None, values[0]], kind)


def _extension(kind: pa.DataType, storage: pa.Array) -> pa.Array:
    return pa.ExtensionArray.from_storage(kind, storage)


SCALARS: dict[str, pa.Array] = {
    "null": pa.nulls(3),
    "bool": _array([True, False], pa.bool_()),
    **{str(kind): _array([1, 100], kind) for kind in (
        pa.int8(), pa.int16(), pa.int32(), pa.int64(),
        pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
    )},
    "int64 extremes": _array([2**63 - 1, -(2**63)], pa.int64()),
    "uint64 extremes": _array([2**64 - 1, 0], pa.uint64()),
    **{str(kind): _array([0.5, -2.0], kind) for kind in (
        pa.float16(), pa.float32(), pa.float64()
    )},
    **{str(kind): _array(["Zoë", ""], kind) for kind in (
        pa.string(), pa.large_string(), pa.string_view()
    )},
    **{str(kind): _array([b"\xff\x00", b""], kind) for kind in (
        pa.binary(), pa.large_binary(), pa.binary_view()
    )},
    "fixed binary": _array([b"ab", b"\x00\xff"], pa.binary(2)),
    **{str(kind): _array([dt.date(2024, 2, 29), dt.date(1960, 1, 1)], kind) for kind in (
        pa.date32(), pa.date64()
    )},
    **{f"timestamp {unit}": _array([MOMENT], pa.timestamp(unit)) for unit in UNITS},
    **{f"timestamp {unit} zone": _array([MOMENT], pa.timestamp(unit, "Europe/Berlin"))
       for unit in UNITS},
    "far timestamp": pa.array([2**40, None, -(2**40)], pa.int64()).cast(pa.timestamp("s")),
    **{f"time {unit}": _array([CLOCK], pa.time32(unit)) for unit in ("s", "ms")},
    **{f"time {unit}": _array([CLOCK], pa.time64(unit)) for unit in ("us", "ns")},
    **{f"duration {unit}": _array([WAIT], pa.duration(unit)) for unit in UNITS},
    **{f"decimal{bits}": _array([decimal.Decimal("1.10"), decimal.Decimal("-2.50")], kind)
       for bits, kind in {32: pa.decimal32(5, 2), 64: pa.decimal64(12, 2),
                          128: pa.decimal128(38, 2), 256: pa.decimal256(50, 2)}.items()},
    "decimal of tens": _array([decimal.Decimal("1200")], pa.decimal128(5, -2)),
    "uuid": _extension(pa.uuid(), _array([b"0123456789abcdef"], pa.binary(16))),
    "json": _extension(pa.json_(pa.string()), _array(['{"a":[1,2.5]}', "1"], pa.string())),
    "json view": _extension(
        pa.json_(pa.string_view()), _array(['{"a":[1,2.5]}', "1"], pa.string_view())
    ),
    "bool8": _extension(pa.bool8(), _array([0, 1], pa.int8())),
    "opaque": _extension(pa.opaque(pa.string(), "kind", "vendor"), _array(["a"], pa.string())),
    "empty struct": pa.array([{}, None, {}], pa.struct([])),
    "struct": _array([{"a": 1, "b": "x"}, {"a": None, "b": "y"}],
                     pa.struct([("a", pa.int32()), ("b", pa.string())])),
    "list": _array([[1, 2], []], pa.list_(pa.int16())),
    "map": _array([[("a", 1), ("b", None)], []], pa.map_(pa.string(), pa.int16())),
    "map of views": _array([[("a", "x")], []], pa.map_(pa.string_view(), pa.string_view())),
    "tensor": _extension(
        pa.fixed_shape_tensor(pa.int32(), [2]), _array([[1, 2]], pa.list_(pa.int32(), 2))
    ),
    "month_day_nano_interval": _array([pa.MonthDayNano([1, 2, 3])], pa.month_day_nano_interval()),
    "dense union": pa.UnionArray.from_dense(
        pa.array([0, 1, 0], pa.int8()), pa.array([0, 0, 1], pa.int32()),
        [pa.array([1, 2]), pa.array(["x"])],
    ),
    "map of numbers": _array([[(1, 2)]], pa.map_(pa.int32(), pa.int32())),
}  # fmt: skip


def _in_list(kind: Callable[[pa.DataType], pa.DataType]) -> Callable[[pa.Array], pa.Array]:
    def build(array: pa.Array) -> pa.Array:
        offsets = pa.array([0, 2, 2, len(array)], pa.int32())
        mask = pa.array([False, True, False])
        lists = pa.ListArray.from_arrays(offsets, array, mask=mask)
        target = kind(array.type)
        if pa.types.is_list(target):
            return lists
        if pa.types.is_large_list(target):
            return pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), array, mask=mask)
        sizes = pa.array([2, 0, len(array) - 2], pa.int32())
        if pa.types.is_list_view(target):
            return pa.ListViewArray.from_arrays(offsets[:3], sizes, array, mask=mask)
        return pa.LargeListViewArray.from_arrays(
            offsets[:3].cast(pa.int64()), sizes.cast(pa.int64()), array, mask=mask
        )

    return build


def _over_entries(array: pa.Array) -> pa.Array:
    """Return lists where a null one has elements."""
    lists = pa.ListArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), array)
    return pa.Array.from_buffers(
        lists.type, 3, [pa.py_buffer(b"\x05"), lists.buffers()[1]], children=[array]
    )


def _maps_over_entries(array: pa.Array) -> pa.Array:
    """Return maps where a null one has entries."""
    kind = pa.map_(pa.string(), array.type)
    keys = pa.array(list("abcdefg")[: len(array)])
    entries = pa.StructArray.from_arrays([keys, array], fields=[kind.key_field, kind.item_field])
    offsets = pa.array([0, 1, 2, 3], pa.int32()).buffers()[1]
    return pa.Array.from_buffers(kind, 3, [pa.py_buffer(b"\x05"), offsets], children=[entries])


def _structs(array: pa.Array) -> pa.Array:
    mask = pa.array([False, False, True, *[False] * (len(array) - 3)])
    return pa.StructArray.from_arrays([array], ["a"], mask=mask)


def _dictionary(array: pa.Array) -> pa.Array:
    indices = pa.array([1, None, 0, 1, 2], pa.int8())
    return pa.DictionaryArray.from_arrays(indices, array)


def _runs(array: pa.Array) -> pa.Array:
    return pa.RunEndEncodedArray.from_arrays(pa.array([2, 3, 7][: len(array)], pa.int32()),
                                             array[:3])  # fmt: skip


LAYOUTS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "plain": lambda array: array,
    "sliced": lambda array: pa.concat_arrays([array, array]).slice(1, 4),
    "list": _in_list(pa.list_),
    "large list": _in_list(pa.large_list),
    "list view": _in_list(pa.list_view),
    "large list view": _in_list(pa.large_list_view),
    "null lists over elements": _over_entries,
    "fixed list": lambda array: pa.FixedSizeListArray.from_arrays(
        pa.concat_arrays([array, array])[:6], 3, mask=pa.array([True, False])
    ),
    "struct": _structs,
    "null maps over entries": _maps_over_entries,
    "dictionary": _dictionary,
    "runs": _runs,
    "sliced list": lambda array: _over_entries(array).slice(1),
    "sliced map": lambda array: _maps_over_entries(array).slice(1),
    "sliced runs": lambda array: _runs(array).slice(1),
    "sliced dictionary": lambda array: _dictionary(array).slice(1),
    "list of dictionaries": lambda array: _over_entries(_dictionary(array)[:3]),
    "struct of runs": lambda array: _structs(_runs(array)),
}


def columns() -> Iterator[tuple[str, pa.Array]]:
    """Return columns of every type in every layout, with a name for each."""
    for name, array in SCALARS.items():
        for layout, build in LAYOUTS.items():
            try:
                yield f"{name}, {layout}", build(array[:3])
            except (pa.ArrowException, TypeError, ValueError):
                continue  # Arrow cannot build it
