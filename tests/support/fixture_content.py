"""Documents, tables and DataFrames that fixtures hold, with the types that readers must find."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import msgpack
import numpy as np
import pandas as pd
import pyarrow as pa
from support.expected import Content, stored_documents

Documents = list[dict[Any, Any]]


def people(first: int, count: int) -> Documents:
    """Return flat documents."""
    names, cities = ["Ada", "Bob", "Zoë", "李"], ["Rome", "Oslo", None]
    return [
        {
            "_id": str(n),
            "name": names[n % 4],
            "age": 20 + n % 50,
            "score": n / 8,
            "active": n % 3 == 0,
            "city": cities[n % 3],
        }
        for n in range(first, first + count)
    ]


PEOPLE = pa.schema(
    {
        "_id": pa.string(),
        "name": pa.string(),
        "age": pa.int64(),
        "score": pa.float64(),
        "active": pa.bool_(),
        "city": pa.string(),
    }
)


def people_content(documents: Documents, **facts: Any) -> Content:
    return Content(documents, pa.Table.from_pylist(documents, PEOPLE), facts)


def nested() -> Content:
    """Return documents with structs, lists, absent fields, and a map of more than 200 keys."""
    moment = dt.datetime(2024, 2, 29, 6, 30, 0, 250_000, dt.UTC)
    documents: Documents = [
        {
            "_id": "1",
            "user": {"name": "Ada", "geo": {"cc": "GB", "at": [51.5, -0.25]}},
            "tags": ["a", "b"],
            "at": moment,
            "lines": [{"sku": "x", "n": 1}, {"sku": "y", "n": None}],
            "counts": {f"key{n}": n for n in range(150)},
        },
        {"_id": "2", "user": {"name": "Bob", "geo": None}, "tags": [], "at": None},
        {"_id": "3", "user": {}, "lines": [], "counts": {f"key{n}": -n for n in range(100, 250)}},
        {"_id": "4"},
    ]
    line = pa.struct({"sku": pa.string(), "n": pa.int64()})
    geo = pa.struct({"cc": pa.string(), "at": pa.list_(pa.float64())})
    schema = pa.schema(
        {
            "_id": pa.string(),
            "user": pa.struct({"name": pa.string(), "geo": geo}),
            "tags": pa.list_(pa.string()),
            "at": pa.timestamp("us", "UTC"),
            "lines": pa.list_(line),
            "counts": pa.map_(pa.string(), pa.int64()),
        }
    )
    columns = {name: [document.get(name) for document in documents] for name in schema.names}
    columns["counts"] = [value and list(value.items()) for value in columns["counts"]]
    return Content(documents, pa.table(columns, schema))


def mixed() -> Content:
    """Return fields that become JSON text, since no single Arrow type holds their values."""
    documents: Documents = [
        {"_id": "1", "v": 1, "w": [1, "a"], "big": -1, "x": {"a": 1}},
        {"_id": "2", "v": "one", "w": {"a": None}, "big": 2**63, "x": 2**64 - 1},
        {"_id": "3", "v": 1.0, "w": True, "big": 2**64 - 1, "x": "text"},
        {"_id": "4", "v": None, "w": float("nan"), "x": False},
        {"_id": "5", "v": b"\x00\xff", "w": "null"},
        {"_id": "6", "v": dt.datetime(2024, 2, 29, 6, 30, tzinfo=dt.UTC)},
    ]
    json = pa.json_(pa.string())
    texts = {
        "v": ["1", '"one"', "1.0", None, '{"$bytes":"00ff"}', '{"$time":"2024-02-29T06:30:00Z"}'],
        "w": ['[1,"a"]', '{"a":null}', "true", '{"$float":"NaN"}', '"null"', None],
        "big": ["-1", str(2**63), str(2**64 - 1), None, None, None],
        "x": ['{"a":1}', str(2**64 - 1), '"text"', "false", None, None],
    }
    columns = {name: pa.array(values, json) for name, values in texts.items()}
    return Content(documents, pa.table({"_id": [str(n) for n in range(1, 7)], **columns}))


def odd() -> Content:
    """Return values at the edges of MessagePack; go-db refuses some of them."""
    keys = {2: "two", True: [], b"\xff": None, "$map": {}}
    documents: Documents = [
        {"_id": "1", "f": float("nan"), "s": "caf\udce9", "n": 2**64 - 1},
        {"_id": "2", "f": float("-inf"), "s": "Zoë", "e": msgpack.ExtType(5, b"\x01\x02")},
        {"_id": "3", "f": -0.0, "s": b"\xff", "n": 0, "t": msgpack.Timestamp(1, 1)},
        {"_id": "4", "f": 2, "t": msgpack.Timestamp(-(2**40), 999), "e": msgpack.ExtType(99, b"")},
        {"_id": "Zoë", "f": 5e-324, "keys": keys, "deep": deep(100), "": {"": None}},
    ]
    return Content(documents)


def deep(levels: int) -> Any:
    value: Any = "bottom"
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


def types() -> pa.Table:
    """Return a column of every Arrow type that 0.1.0 writes."""
    columns: dict[str, pa.Array] = {}
    for bits in (8, 16, 32, 64):
        signed = [-(2 ** (bits - 1)), None, 2 ** (bits - 1) - 1]
        columns[f"int{bits}"] = pa.array(signed, f"int{bits}")
        columns[f"uint{bits}"] = pa.array([0, None, 2**bits - 1], f"uint{bits}")
    columns["float16"] = pa.array([np.float16(1.5), None, np.float16(-0.0)], pa.float16())
    columns["float32"] = pa.array([1.5, None, float("inf")], pa.float32())
    columns["float64"] = pa.array([0.1, None, float("nan")])
    columns["bool"] = pa.array([True, None, False])
    columns["null"] = pa.nulls(3)
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        columns[str(kind)] = pa.array(["Zoë", None, ""], kind)
    for kind in (pa.binary(), pa.large_binary(), pa.binary_view()):
        columns[str(kind)] = pa.array([b"\x00\xff", None, b""], kind)
    columns["fixed_size_binary"] = pa.array([b"abcd", None, b"\x00\xff\x00\xff"], pa.binary(4))
    columns |= moments()
    for kind, value in (
        (pa.decimal32(9, 2), "-1234567.89"),
        (pa.decimal64(18, 4), "0.0001"),
        (pa.decimal128(38, 10), "1234567890123456789012345678.0123456789"),
        (pa.decimal256(50, 2), "-123456789012345678901234567890123456789012345678.90"),
    ):
        columns[str(kind)] = pa.array([Decimal(value), None, Decimal(0)], kind)
    columns |= containers()
    columns |= dictionaries()
    columns["json"] = pa.array(['{"a":[1,2.5,null]}', None, '"text"'], pa.json_(pa.string()))
    ids = pa.array([b"0123456789abcdef", None, bytes(range(16))], pa.binary(16))
    columns["uuid"] = pa.ExtensionArray.from_storage(pa.uuid(), ids)
    flags = pa.array([1, None, 0], pa.int8())
    columns["bool8"] = pa.ExtensionArray.from_storage(pa.bool8(), flags)
    columns["run_end_encoded"] = pa.RunEndEncodedArray.from_arrays(
        pa.array([1, 2, 3], pa.int32()), pa.array([7, None, 8])
    )
    fields = [pa.field(name, array.type) for name, array in columns.items()]
    fields.append(pa.field("required", pa.int64(), nullable=False, metadata={"unit": "m/s"}))
    schema = pa.schema(fields, metadata={"owner": "Zoë"})
    return pa.table([*columns.values(), pa.array([1, 2, 3])], schema=schema)


def moments() -> dict[str, pa.Array]:
    columns = {}
    ticks = [-1, None, 1_709_188_200_123_456_789]
    for unit, length in (("s", 10**9), ("ms", 10**6), ("us", 1000), ("ns", 1)):
        values = [tick and tick // length for tick in ticks]
        for zone in (None, "UTC", "Europe/Berlin", "+05:30"):
            columns[f"timestamp {unit} {zone}"] = pa.array(values, pa.timestamp(unit, zone))
        columns[f"duration {unit}"] = pa.array(values, pa.duration(unit))
    days = [dt.date(1815, 12, 10), None, dt.date(2024, 2, 29)]
    columns["date32"], columns["date64"] = pa.array(days), pa.array(days, pa.date64())
    for kind in (pa.time32("s"), pa.time32("ms")):
        columns[str(kind)] = pa.array([dt.time(23, 59, 59), None, dt.time()], kind)
    for kind in (pa.time64("us"), pa.time64("ns")):
        columns[str(kind)] = pa.array([dt.time(23, 59, 59, 999_999), None, dt.time()], kind)
    return columns


def containers() -> dict[str, pa.Array]:
    columns = {}
    for kind in (
        pa.list_(pa.int8()),
        pa.large_list(pa.int8()),
        pa.list_view(pa.int8()),
        pa.large_list_view(pa.int8()),
    ):
        columns[str(kind)] = pa.array([[1, None], None, []], kind)
    columns["fixed_size_list"] = pa.array([[1, 2], None, [3, None]], pa.list_(pa.int16(), 2))
    price = pa.struct({"amount": pa.decimal128(5, 2), "on": pa.date32()})
    struct = pa.struct({"a": pa.uint8(), "price": price})
    value = {"amount": Decimal("1.50"), "on": dt.date(2024, 2, 29)}
    columns["struct"] = pa.array([{"a": 255, "price": value}, None, {"price": None}], struct)
    columns["list of struct"] = pa.array([[value, None], None, []], pa.list_(price))
    columns["map"] = pa.array([[("x", 1), ("y", None)], None, []], pa.map_(pa.string(), pa.int32()))
    spans = pa.map_(pa.large_string(), pa.list_(pa.duration("s")))
    columns["map of lists"] = pa.array([[("x", [dt.timedelta(1), None])], None, []], spans)
    return columns


def dictionaries() -> dict[str, pa.Array]:
    """Return dictionary columns with unused values, and with an order."""
    columns = {}
    values = pa.array(["small", "large", "unused"])
    for index in (pa.int8(), pa.uint16(), pa.int64()):
        indices = pa.array([1, None, 0], index)
        columns[f"dictionary {index}"] = pa.DictionaryArray.from_arrays(indices, values)
    indices = pa.array([1, None, 0], pa.int8())
    columns["dictionary ordered"] = pa.DictionaryArray.from_arrays(indices, values, ordered=True)
    for kind, some in (
        (pa.int16(), [300, -1]),
        (pa.date32(), [dt.date(2024, 2, 29), dt.date(1815, 12, 10)]),
        (pa.decimal128(5, 2), [Decimal("2.50"), Decimal("-1.00")]),
        (pa.timestamp("us"), [dt.datetime(2024, 2, 29), dt.datetime(1815, 12, 10)]),
    ):
        columns[f"dictionary of {kind}"] = pa.DictionaryArray.from_arrays(
            indices, pa.array(some, kind)
        )
    nested = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0], pa.int8()), pa.array(["a", "b"]))
    columns["list of dictionary"] = pa.ListArray.from_arrays(
        pa.array([0, 2, None, 3], pa.int32()), nested
    )
    columns["struct of dictionary"] = pa.StructArray.from_arrays([nested], ["kind"])
    return columns


def money(first: int, count: int) -> pa.Table:
    """Return rows whose declared types only the recorded schema tells."""
    numbers = range(first, first + count)
    day, moment = dt.date(2024, 2, 29), dt.datetime(2024, 2, 29, 6, 30)
    kinds = pa.array([n % 2 for n in numbers], pa.int8())
    return pa.table(
        {
            "_id": [f"m{n:04}" for n in numbers],
            "amount": pa.array([Decimal(n) / 4 for n in numbers], pa.decimal128(12, 2)),
            "on": pa.array([day + dt.timedelta(days=n) for n in numbers]),
            "at": pa.array([moment + dt.timedelta(hours=n) for n in numbers], pa.timestamp("ms")),
            "time": pa.array([dt.time(n % 24, n % 60) for n in numbers], pa.time32("s")),
            "took": pa.array([dt.timedelta(seconds=n) for n in numbers], pa.duration("ms")),
            "count": pa.array([n % 200 for n in numbers], pa.uint8()),
            "labels": pa.array([[("n", n)] for n in numbers], pa.map_(pa.string(), pa.int32())),
            "kind": pa.DictionaryArray.from_arrays(kinds, pa.array(["cash", "card"])),
        }
    )


def events(first: int, count: int) -> Documents:
    """Return documents for a collection in parts."""
    return [
        {"_id": f"e{n:04}", "n": n, "kind": f"kind {n % 5}", "text": "some text " * 6}
        for n in range(first, first + count)
    ]


EVENTS = pa.schema({"_id": pa.string(), "n": pa.int64(), "kind": pa.string(), "text": pa.string()})


def events_content(documents: Documents, **facts: Any) -> Content:
    return Content(documents, pa.Table.from_pylist(documents, EVENTS), facts)


def table_content(table: pa.Table, **facts: Any) -> Content:
    return Content([*stored_documents(table)], table, facts)


def frames() -> dict[str, pd.DataFrame]:
    """Return DataFrames whose index and dtypes the recorded metadata restore."""
    n = np.arange(6)
    labels = [f"row {one}" for one in n]
    days = pd.date_range("2024-02-28", periods=6, freq="D", tz="Europe/Berlin")
    sizes = pd.CategoricalDtype(["small", "large", "unused"], ordered=True)
    return {
        "range": pd.DataFrame({"n": n, "text": labels}, pd.RangeIndex(10, 22, 2, name="position")),
        "index": pd.DataFrame({"n": n / 2}, pd.Index(labels, name="label")),
        "dates": pd.DataFrame({"n": n}, days),
        "multiindex": pd.DataFrame(
            {"n": n},
            pd.MultiIndex.from_product([["a", "b"], [1, 2, 3]], names=["letter", "number"]),
        ),
        "categories": pd.DataFrame(
            {
                "size": pd.Categorical(["small", "large", None] * 2, dtype=sizes),
                "city": pd.Categorical(["Rome", "Oslo", "Rome"] * 2, ["Rome", "Oslo", "Bonn"]),
                "number": pd.Categorical([3, 1, 3] * 2),
            }
        ),
        "dtypes": pd.DataFrame(
            {
                "Int64": pd.array([2**53 + 1, None, -1] * 2, "Int64"),
                "UInt8": pd.array([255, None, 0] * 2, "UInt8"),
                "boolean": pd.array([True, None, False] * 2, "boolean"),
                "string": pd.array(["Zoë", None, ""] * 2, "string"),
                "float32": np.float32(n) / 3,
                "arrow": pd.array([Decimal("1.50")] * 6, pd.ArrowDtype(pa.decimal128(5, 2))),
                "naive": days.tz_localize(None),
                "zoned": days,
                "took": pd.to_timedelta(n, "h"),
                "object": [b"bytes", None] * 3,
            }
        ),
        "labels": pd.DataFrame({0: n, 1: n * 2}),
    }


def large(rows: int) -> pa.Table:
    """Return more than three mebibytes of documents, which compress well."""
    n = np.arange(rows)
    return pa.table(
        {
            "_id": [str(one) for one in n + 1],
            "n": n,
            "at": pa.array(n * 60_000_000 + 1_700_000_000_000_000, pa.timestamp("us", "UTC")),
            "kind": [f"kind {one}" for one in n % 4],
            "share": pa.array(n % 8 / 8, mask=n % 16 == 0),
            "text": ["some text that is long and the same in each document. " * 50] * rows,
        }
    )
