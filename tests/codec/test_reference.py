"""Documents to columns: values, projections, and values that do not fit."""

from __future__ import annotations

import datetime as dt
import io
import struct
from typing import Any

import msgpack
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.handmade import documents, file_of
from support.strategies import documents as any_documents
from support.strategies import tables
from support.values import same

import godb_arrow
from godb_arrow.codec.jsontext import from_json_text
from godb_arrow.documents.normalize import normalize_table


def column(*raw: bytes, schema: Any = None, **options: Any) -> list[Any]:
    wanted = None if schema is None else pa.schema({"v": schema})
    table = godb_arrow.read_table(documents(*raw), schema=wanted, **options)
    table.validate(full=True)
    found: list[Any] = table.column("v").to_pylist()
    return found


def stamp(seconds: int, nanoseconds: int = 0) -> bytes:
    return b"\xc7\x0c\xff" + struct.pack(">Iq", nanoseconds, seconds)


def test_values_of_each_kind() -> None:
    assert column(b"\xc3", b"\xc0", b"\xc2") == [True, None, False]
    assert column(b"\xd3\x80" + bytes(7), b"\x7f") == [-(2**63), 127]
    assert column(b"\xcf" + b"\xff" * 8) == [2**64 - 1]
    assert column(b"\xca\x3f\xc0\0\0", b"\x02") == [1.5, 2.0]
    assert column(b"\xa2\xc3\xa9") == ["é"]
    assert column(b"\xa2\xff\xfe", b"\xa1a", b"\xc4\x00") == [b"\xff\xfe", b"a", b""]
    assert column(b"\x92\x01\xc0", b"\xc0", b"\x90") == [[1, None], None, []]
    assert column(b"\x81\xa1a\x01", b"\x80", b"\xc0") == [{"a": 1}, {"a": None}, None]
    assert column(stamp(-1, 500_000_000)) == [
        dt.datetime(1969, 12, 31, 23, 59, 59, 500_000, tzinfo=dt.UTC)
    ]


def test_absent_and_nil_are_null() -> None:
    rows = {"1": {"a": None}, "2": {}, "3": {"a": 1}}
    data = file_of(msgpack.packb({"collections": {"c": rows}}))
    assert godb_arrow.read_table(data).column("a").to_pylist() == [None, None, 1]
    assert list(godb_arrow.read_documents(data))[1] == {"_id": "2"}


def test_conflicts_are_json_text_that_loses_nothing() -> None:
    raw = [b"\x01", b"\xa11", b"\xcb\x3f\xf0" + bytes(6), b"\x81\xa1a\x92\xc0\xc3", b"\xc4\x01\xff"]
    table = godb_arrow.read_table(documents(*raw))
    assert table.schema.field("v").type == pa.json_(pa.string())
    values = [from_json_text(text) for text in table.column("v").to_pylist()]
    assert values == [1, "1", 1.0, {"a": [None, True]}, b"\xff"]


def test_of_equal_keys_the_last_wins() -> None:
    assert column(b"\x82\xa1a\x01\xa1a\x02") == [{"a": 2}]


def test_keys_that_are_no_strings_keep_apart() -> None:
    # 1, true and 1.0 are equal in Python.
    raw = b"\x83\x01\xa1a\xc3\xa1b\xcb\x3f\xf0" + bytes(6) + b"\xa1c"
    assert column(raw) == [{"1": "a", "true": "b", "1.0": "c"}]
    assert column(b"\x81\x91\x01\xa1x") == [{"[1]": "x"}]


NUMBERS = [b"\x05", b"\xcb\x40\x08" + bytes(6)]  # 5, 3.0


@pytest.mark.parametrize(
    ("raw", "wanted", "expected"),
    [
        (NUMBERS, pa.int64(), [5, 3]),
        (NUMBERS, pa.int8(), [5, 3]),
        (NUMBERS, pa.uint64(), [5, 3]),
        (NUMBERS, pa.float32(), [5.0, 3.0]),
        (NUMBERS, pa.decimal128(5, 1), ["5.0", "3.0"]),
        (NUMBERS, pa.json_(pa.string()), ["5", "3.0"]),
        ([b"\xa11", b"\xc0"], pa.large_string(), ["1", None]),
        ([b"\xa11", b"\xc0"], pa.string_view(), ["1", None]),
        ([b"\xa11"], pa.binary(), [b"1"]),
        ([b"\xa11", b"\xa12", b"\xa11"], pa.dictionary(pa.int8(), pa.string()), ["1", "2", "1"]),
        ([b"\xa41.50"], pa.decimal128(5, 2), ["1.50"]),
        ([stamp(86_400)], pa.date32(), [dt.date(1970, 1, 2)]),
        ([stamp(5, 1999)], pa.timestamp("us"), [dt.datetime(1970, 1, 1, 0, 0, 5, 1)]),
        ([stamp(-1, 1)], pa.timestamp("s"), [dt.datetime(1969, 12, 31, 23, 59, 59)]),
        ([b"\x91\x01"], pa.list_(pa.int8()), [[1]]),
        ([b"\x92\x01\x02"], pa.list_(pa.int32(), 2), [[1, 2]]),
        ([b"\x82\xa1a\x01\xa1b\x02"], pa.struct({"b": pa.int16()}), [{"b": 2}]),
        ([b"\x81\xa1a\x01"], pa.map_(pa.string(), pa.int16()), [[("a", 1)]]),
    ],
)
def test_a_given_schema(raw: list[bytes], wanted: pa.DataType, expected: list[Any]) -> None:
    found = column(*raw, schema=wanted)
    if pa.types.is_decimal(wanted):
        found = [str(value) for value in found]
    assert found == expected


MISFITS = [
    (b"\xa1x", pa.int64()),
    (b"\xcb\x3f\xf8" + bytes(6), pa.int64()),
    (b"\xcb\x7f\xf8" + bytes(6), pa.int64()),
    (b"\xc3", pa.int64()),
    (b"\xcf" + b"\xff" * 8, pa.int64()),
    (b"\xff", pa.uint64()),
    (b"\xcd\x01\x00", pa.uint8()),
    (b"\x01", pa.bool_()),
    (b"\x01", pa.string()),
    (b"\xa1\xff", pa.string()),
    (b"\x01", pa.binary()),
    (b"\xc4\x01a", pa.binary(2)),
    (b"\xa1x", pa.float64()),
    (b"\x01", pa.timestamp("us")),
    (stamp(2**40), pa.timestamp("ns")),
    (b"\xa1x", pa.decimal128(5, 2)),
    (b"\xa412.345"[:6], pa.decimal128(3, 2)),
    (b"\x01", pa.list_(pa.int64())),
    (b"\x91\x01", pa.struct({"a": pa.int64()})),
    (b"\x01", pa.map_(pa.string(), pa.int64())),
    (b"\x93\x01\x02\x03", pa.list_(pa.int64(), 2)),
    (b"\x01", pa.null()),
]


@pytest.mark.parametrize(("raw", "wanted"), MISFITS)
def test_a_value_that_does_not_fit_is_named(raw: bytes, wanted: pa.DataType) -> None:
    with pytest.raises(godb_arrow.TypeMismatch, match="document '2', field 'v'"):
        column(b"\xc0", raw, schema=wanted)
    assert column(b"\xc0", raw, schema=wanted, on_mismatch="null") == [None, None]


def test_the_path_to_a_misfit_is_given() -> None:
    wanted = pa.struct({"x": pa.list_(pa.struct({"y": pa.int64()}))})
    raw = msgpack.packb({"x": [{"y": 1}, {"y": "two"}]})
    with pytest.raises(godb_arrow.TypeMismatch, match=r"'v\.x\[1\]\.y': expected int64"):
        column(raw, schema=wanted)
    assert column(raw, schema=wanted, on_mismatch="null") == [{"x": [{"y": 1}, {"y": None}]}]


def test_fields_outside_a_given_schema_are_left_alone() -> None:
    rows = {"1": {"a": 1, "b": {"deep": object}}}
    rows["1"]["b"] = {"deep": [1, "x"]}
    data = file_of(msgpack.packb({"collections": {"c": rows}}))
    schema = pa.schema({"a": pa.int32(), "new": pa.string()})
    table = godb_arrow.read_table(data, schema=schema)
    assert table.schema == schema
    assert table.to_pylist() == [{"a": 1, "new": None}]


def test_a_field_that_may_not_be_null_must_be_there() -> None:
    schema = pa.schema([pa.field("v", pa.int64(), nullable=False)])
    assert godb_arrow.read_table(documents(b"\x01"), schema=schema).schema == schema
    with pytest.raises(godb_arrow.TypeMismatch, match="document '2', field 'v'"):
        godb_arrow.read_table(documents(b"\x01", b"\xc0"), schema=schema)


def test_schemas_that_documents_cannot_have_are_refused() -> None:
    for kind in (pa.month_day_nano_interval(), pa.map_(pa.int64(), pa.int64()),
                 pa.dense_union([pa.field("a", pa.int64())])):  # fmt: skip
        with pytest.raises(godb_arrow.UnsupportedType, match=r"'v\[\]'"):
            column(b"\x90", schema=pa.list_(kind))


@given(st.lists(any_documents, max_size=6))
@pytest.mark.filterwarnings("ignore::godb_arrow.CompatibilityWarning")
def test_documents_of_any_kind_are_read_as_written_and_become_columns(
    found: list[dict[str, Any]],
) -> None:
    file = io.BytesIO()
    godb_arrow.write_godb(found, file, "c")
    stored = list(godb_arrow.read_documents(file.getvalue()))
    expected = [{"_id": str(n), **document} for n, document in enumerate(found, 1)]
    assert same(stored, expected)
    table = godb_arrow.read_table(file.getvalue())
    table.validate(full=True)
    assert table.num_rows == len(found)
    assert table.column("_id").to_pylist() == [d["_id"] for d in expected]
    inferred = godb_arrow.read_table(file.getvalue(), use_hints=False)
    assert inferred.schema.equals(table.schema)


@given(tables())
def test_a_table_of_any_kind_is_read_as_written(table: pa.Table) -> None:
    file = io.BytesIO()
    godb_arrow.write_godb(table, file, "c")
    found = godb_arrow.read_table(file.getvalue())
    found.validate(full=True)
    if not table.num_columns:
        return
    stored = normalize_table(table)  # such as strings for string views
    assert found.schema.equals(stored.schema, check_metadata=True)
    assert found.equals(stored)


@given(tables(), st.integers(1, 4))
def test_batches_of_any_size_hold_the_same_rows(table: pa.Table, size: int) -> None:
    file = io.BytesIO()
    godb_arrow.write_godb(table, file, "c")
    whole = godb_arrow.read_table(file.getvalue())
    with godb_arrow.scan_godb(file.getvalue(), batch_size=size) as reader:
        batches = list(reader)
    assert all(batch.num_rows <= size for batch in batches)
    assert pa.Table.from_batches(batches, reader.schema).equals(whole)
