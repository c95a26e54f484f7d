"""Hypothesis strategies for what documents and tables can hold."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import msgpack
import pyarrow as pa
from hypothesis import strategies as st

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
invalid_utf8 = st.binary(min_size=1, max_size=6).map(
    lambda raw: raw.decode("utf-8", "surrogateescape")
)
integers = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([0, -1, -32, -33, 127, 128, 255, 256, 2**31, 2**53 + 1, 2**63 - 1, 2**63]),
)
datetimes = st.datetimes(timezones=st.just(dt.UTC))
timestamps = st.builds(
    msgpack.Timestamp, st.integers(-(2**63), 2**63 - 1), st.integers(0, 999_999_999)
)
extensions = st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
scalars = st.one_of(
    st.none(), st.booleans(), integers, st.floats(), texts, invalid_utf8, st.binary(max_size=8),
    datetimes, extensions,
)  # fmt: skip
keys = st.one_of(texts, st.sampled_from(["a", "b", "c", "_id", "$time", "$bytes", "x.y"]))
odd_keys = st.one_of(keys, st.integers(-5, 300), st.binary(max_size=3), invalid_utf8)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda children: st.one_of(
        st.lists(children, max_size=4), st.dictionaries(odd_keys, children, max_size=4)
    ),
    max_leaves=12,
)
documents = st.dictionaries(keys.filter(lambda key: key != "_id"), values, max_size=6)
"""Documents as services write them, and stranger."""

raw_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(scalars.filter(lambda value: not isinstance(value, dt.datetime)), timestamps),
    lambda children: st.one_of(
        st.lists(children, max_size=4), st.dictionaries(odd_keys, children, max_size=4)
    ),
    max_leaves=12,
)

_decimals = st.decimals(-(10**8), 10**8, allow_nan=False, allow_infinity=False, places=2)
_ns = st.integers(-(2**63), 2**63 - 1)

columns: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.null(), st.none()),
    (pa.bool_(), st.booleans()),
    (pa.int8(), st.integers(-128, 127)),
    (pa.int16(), st.integers(-(2**15), 2**15 - 1)),
    (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint8(), st.integers(0, 255)),
    (pa.uint16(), st.integers(0, 2**16 - 1)),
    (pa.uint32(), st.integers(0, 2**32 - 1)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float16(), st.floats(width=16, allow_nan=False)),
    (pa.float32(), st.floats(width=32, allow_nan=False)),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.string(), texts),
    (pa.large_string(), texts),
    (pa.string_view(), texts),
    (pa.binary(), st.binary(max_size=8)),
    (pa.large_binary(), st.binary(max_size=8)),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.date32(), st.dates()),
    (pa.date64(), st.dates()),
    (pa.timestamp("s"), st.integers(-(10**11), 10**11)),
    (pa.timestamp("ms", "UTC"), st.integers(-(10**14), 10**14)),
    (pa.timestamp("us", "Europe/Berlin"), _ns),
    (pa.timestamp("ns", "UTC"), _ns),
    (pa.time32("s"), st.times().map(lambda time: time.replace(microsecond=0))),
    (pa.time32("ms"), st.times().map(lambda time: time.replace(microsecond=1000))),
    (pa.time64("us"), st.times()),
    (pa.time64("ns"), st.times()),
    (pa.duration("s"), st.integers(-(10**9), 10**9)),
    (pa.duration("ns"), _ns),
    (pa.decimal128(12, 2), _decimals.map(decimal.Decimal)),
    (pa.decimal256(50, 2), _decimals),
    (pa.dictionary(pa.int32(), pa.string()), texts),
    (pa.list_(pa.int64()), st.lists(st.none() | st.integers(-5, 5), max_size=3)),
    (pa.large_list(pa.string()), st.lists(texts, max_size=3)),
    (pa.list_(pa.int32(), 2), st.lists(st.integers(-5, 5), min_size=2, max_size=2)),
    (pa.list_view(pa.int16()), st.lists(st.integers(-5, 5), max_size=3)),
    (pa.list_(pa.date32()), st.lists(st.none() | st.dates(), max_size=3)),
    (
        pa.struct([("a", pa.int8()), ("b", pa.decimal128(12, 2))]),
        st.fixed_dictionaries({"a": st.integers(0, 9), "b": st.none() | _decimals}),
    ),
    (
        pa.list_(pa.struct([("x", pa.list_(pa.string()))])),
        st.lists(st.fixed_dictionaries({"x": st.none() | st.lists(texts, max_size=2)}), max_size=2),
    ),
    (
        pa.map_(pa.string(), pa.int16()),
        st.dictionaries(texts, st.none() | st.integers(-9, 9), max_size=3).map(
            lambda found: list(found.items())
        ),
    ),
]


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Draw a table with columns of any type that documents can have, and with nulls."""
    rows = draw(st.integers(0, 6))
    chosen = draw(st.lists(st.sampled_from(columns), max_size=6))
    arrays = {}
    for number, (data_type, strategy) in enumerate(chosen):
        cells = draw(st.lists(st.none() | strategy, min_size=rows, max_size=rows))
        arrays[f"c{number}"] = pa.array(cells, type=data_type)
    return pa.table(arrays)
