"""Python values and documents as MessagePack."""

from __future__ import annotations

import datetime as dt
import decimal
import math
import uuid
from collections import ChainMap
from types import MappingProxyType
from typing import Any

import msgpack
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from support.strategies import documents
from support.values import same

from godb_arrow import DepthExceeded, InvalidDocument
from godb_arrow.codec import load, pack


@given(documents)
def test_a_document_is_read_as_it_was_written(document: dict[str, Any]) -> None:
    assert same(load(pack(document)), document)


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (np.int64(5), 5),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.array([1, 2]), [1, 2]),
        (np.datetime64("1970-01-01T00:00:01"), msgpack.Timestamp(1, 0)),
        (np.datetime64("NaT", "us"), None),
        (np.array(["1970-01-01", "NaT"], "datetime64[ns]"), [msgpack.Timestamp(0, 0), None]),
        (pd.Timestamp("1970-01-01T00:00:00.000000001"), msgpack.Timestamp(0, 1)),
        (pd.Timestamp("1970-01-01T01:00", tz="Europe/Berlin"), msgpack.Timestamp(0, 0)),
        (pd.NaT, None),
        (pd.NA, None),
        (pd.Timedelta(5, "ns"), 5),
        (dt.datetime(1970, 1, 1, 0, 0, 1), msgpack.Timestamp(1, 0)),
        (dt.date(1970, 1, 2), msgpack.Timestamp(86400, 0)),
        (dt.time(0, 0, 1, 5), 1_000_005_000),
        (dt.timedelta(microseconds=-1), -1000),
        (decimal.Decimal("1.50"), "1.50"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        ((1, 2), [1, 2]),
        (np.datetime64("3000-01-01"), msgpack.Timestamp(32_503_680_000, 0)),
        (np.datetime64("2500"), msgpack.Timestamp(16_725_225_600, 0)),
        (np.datetime64("-0001-03"), msgpack.Timestamp(-62_193_657_600, 0)),
        (np.datetime64("1500-01-01T00:00:00", "s"), msgpack.Timestamp(-14_831_769_600, 0)),
        (np.datetime64(10, "25s"), msgpack.Timestamp(250, 0)),
        (np.datetime64(2_000, "ps"), msgpack.Timestamp(0, 2)),
        (np.datetime64(-1, "ns"), msgpack.Timestamp(-1, 999_999_999)),
        (np.timedelta64(3, "W"), 3 * 7 * 86_400 * 10**9),
        (np.timedelta64(-5, "us"), -5_000),
        (np.timedelta64("NaT", "ns"), None),
        (np.timedelta64("NaT", "Y"), None),
        (np.array([[1], ["NaT"]], "m8[s]"), [[10**9], [None]]),
        (np.array([["2020-01-01"]], "M8[D]"), [[msgpack.Timestamp(1_577_836_800, 0)]]),
        (np.array([{"a": np.int8(1)}, None], object), [{"a": 1}, None]),
        (np.longdouble(0.5), 0.5),
        (np.ma.masked_array([1, 2], [False, True]), [1, None]),
        (pd.Timestamp("3000-01-01").as_unit("s"), msgpack.Timestamp(32_503_680_000, 0)),
        (pd.Timedelta(5, "s"), 5 * 10**9),
        (pd.Series([1, None], dtype="Int64"), [1, None]),
        (pa.scalar(decimal.Decimal("1.50")), "1.50"),
        (pa.array([dt.date(1970, 1, 2), None]), [msgpack.Timestamp(86_400, 0), None]),
        (pa.chunked_array([[1], [None]]), [1, None]),
        (pa.scalar({"a": [1]}), {"a": [1]}),
        (pa.scalar([("a", 1)], pa.map_(pa.string(), pa.int8())), {"a": 1}),
        ([pa.scalar([("a", [1])], pa.map_(pa.string(), pa.list_(pa.int8())))], [{"a": [1]}]),
        (MappingProxyType({"b": MappingProxyType({"c": 1})}), {"b": {"c": 1}}),
        (ChainMap({"b": 1}, {"c": 2}), {"c": 2, "b": 1}),
    ],
)
def test_values_beyond_messagepack(value: Any, stored: Any) -> None:
    packed = pack({"v": value})
    assert msgpack.unpackb(packed, timestamp=0) == {"v": stored}


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"a": {1, 2}}, "a"),
        ({"a": [1, {"b": object()}]}, r"a\[1\]\.b"),
        ({"a": 2**64}, "a"),
        ({"a": {"x": -(2**63) - 1}}, r"a\.x"),
        ({"a": 1j}, "a"),
    ],
)
def test_what_cannot_be_stored_is_named_by_its_path(document: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidDocument, match=f"at {path} ") as raised:
        pack(document)
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (2**64, "20 digits does not fit in 64 bits"),
        (-(2**63) - 1, "64 bits"),
        (1 << 10_000, "64 bits"),
        (np.timedelta64(200_000, "D"), "64 bits of nanoseconds"),
        (dt.timedelta(days=200_000), "64 bits of nanoseconds"),
        (np.timedelta64(1, "M"), "months"),
        (np.frombuffer(b"\1" + bytes(7), "m8")[0], "without a unit"),
        (np.datetime64(1, "ps"), "finer than a nanosecond"),
        (np.datetime64(2**62, "D"), "64 bits of seconds"),
        (np.complex128(1), "complex128"),
        (np.nextafter(np.longdouble(1), np.longdouble(2)), "would round"),
        (pd.Period("2020-01"), "Period"),
    ],
)
def test_values_that_would_change_are_refused(value: Any, words: str) -> None:
    with pytest.raises(InvalidDocument, match=words) as error:
        pack({"a": [value]})
    assert "a[0]" in str(error.value)


def test_mappings_of_any_kind_count_as_levels() -> None:
    value: Any = 1
    for _ in range(200):
        value = MappingProxyType({"a": value})
    with pytest.raises(DepthExceeded):
        pack({"a": value})


def test_a_document_that_contains_itself_is_refused() -> None:
    document: dict[str, Any] = {}
    document["self"] = document
    with pytest.raises(DepthExceeded):
        pack(document)


def test_times_that_a_datetime_cannot_hold_stay_exact() -> None:
    stamps = [msgpack.Timestamp(0, 1), msgpack.Timestamp(2**40, 0), msgpack.Timestamp(1, 5000)]
    loaded = load(pack({"v": stamps}))["v"]
    assert loaded[:2] == stamps[:2]
    assert loaded[2] == dt.datetime(1970, 1, 1, 0, 0, 1, 5, dt.UTC)


def test_keys_that_python_cannot_hash_become_tuples() -> None:
    raw = b"\x82\x91\x01\xa1a\x81\xa1k\x05\xc0"
    assert load(raw) == {(1,): "a", (("k", 5),): None}


def test_floats_keep_their_sign_and_nan() -> None:
    loaded = load(pack({"v": [-0.0, math.nan, math.inf]}))["v"]
    assert math.copysign(1, loaded[0]) == -1
    assert math.isnan(loaded[1])
    assert loaded[2] == math.inf
