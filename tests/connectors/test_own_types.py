"""Dictionaries, extension types and sizes come back from formats that lack them."""

from __future__ import annotations

import datetime as dt
import decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from godb_arrow import StorageEngine, open_godb, read_table, write_godb
from godb_arrow.connectors.etl import copy

UUIDS = pa.array([b"a" * 16, b"b" * 16], pa.uuid())
ENCODED: dict[str, pa.Array] = {
    "int": pa.array([1, 2, 1]),
    "float": pa.array([1.5, None, 1.5]),
    "moment": pa.array([1, 2, 1], pa.timestamp("us", "UTC")),
    "second": pa.array([1, 2, None], pa.timestamp("s")),
    "date": pa.array([dt.date(2024, 2, 29)] * 3),
    "time": pa.array([1, 2, 1], pa.time64("us")),
    "duration": pa.array([1, 2, 1], pa.duration("ms")),
    "decimal": pa.array([decimal.Decimal("1.50")] * 3),
    "bool": pa.array([True, False, True]),
    "bytes": pa.array([b"a", b"b", None]),
    "two bytes": pa.array([b"ab"] * 3, pa.binary(2)),
    "text": pa.array(["a", "b", "a"]),
    "large text": pa.array(["a"] * 3, pa.large_string()),
}
COLUMNS: dict[str, pa.Array] = {
    **{name: array.dictionary_encode() for name, array in ENCODED.items()},
    "ordered": pa.DictionaryArray.from_arrays(
        pa.array([1, 0, None], pa.int8()), pa.array(["z", "a", "unused"]), ordered=True
    ),
    "ordered int": pa.DictionaryArray.from_arrays(
        pa.array([1, 0, None], pa.uint16()), pa.array([9, 5, 7]), ordered=True
    ),
    "nulls": pa.array([None] * 3, pa.dictionary(pa.int8(), pa.int64())),
    "list": pa.array([["a", "b"], [], None], pa.list_(pa.dictionary(pa.int32(), pa.string()))),
    "int list": pa.array([[1, 2], [], None], pa.list_(pa.dictionary(pa.int32(), pa.int64()))),
    "struct": pa.array(
        [{"a": 1}, {"a": 2}, None], pa.struct({"a": pa.dictionary(pa.int32(), pa.int64())})
    ),
    "uuid": pa.concat_arrays([UUIDS, pa.nulls(1, pa.uuid())]),
    "uuids": pa.ListArray.from_arrays(pa.array([0, 1, 1, 2], pa.int32()), UUIDS),
    "pair": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2)),
    "large list": pa.array([[1, 2], None, []], pa.large_list(pa.int64())),
    "fixed": pa.array([b"ab", None, b"cd"], pa.binary(2)),
    "large": pa.array(["a", None, "c"], pa.large_string()),
    "large bytes": pa.array([b"a", None, b"c"], pa.large_binary()),
}
TARGETS: dict[str, dict[str, Any]] = {
    "a.parquet": {},
    "a.arrow": {},
    "folder": {"format": "parquet"},
    "delta": {"format": "delta"},
    "data#c": {},
    "b.godb": {},
}


def copied(source: Any, target: Path, **options: Any) -> Path:
    copy(source, target, progress=False, **options)
    return target


@pytest.mark.parametrize("via", TARGETS)
def test_types_and_categories_come_back(tmp_path: Path, via: str) -> None:
    if via == "delta":
        pytest.importorskip("deltalake")
    before = pa.table({"_id": ["a", "b", "c"], **COLUMNS})
    write_godb(before, tmp_path / "a.godb", "c")
    there = copied(tmp_path / "a.godb", tmp_path / via, **TARGETS[via])
    after = read_table(copied(there, tmp_path / "back.godb"))
    for name in before.column_names:
        expected, found = before.column(name), after.column(name)
        assert found.type.equals(expected.type), name
        assert found.to_pylist() == expected.to_pylist(), name
        if pa.types.is_dictionary(expected.type):
            categories = found.chunk(0).dictionary
            assert categories.equals(expected.chunk(0).dictionary), name


def test_a_stream_keeps_the_order_of_its_categories(tmp_path: Path) -> None:
    kind = pa.dictionary(pa.int8(), pa.string(), ordered=True)

    def batch(*values: str | None) -> pa.RecordBatch:
        known = pa.array(["low", "high", "never"])
        codes = pa.array([None if v is None else known.index(v).as_py() for v in values], pa.int8())
        array = pa.DictionaryArray.from_arrays(codes, known, ordered=True)
        return pa.record_batch({"x": array})

    batches = [batch("high", None), batch("low")]
    reader = pa.RecordBatchReader.from_batches(pa.schema({"x": kind}), batches)
    write_godb(reader, tmp_path / "a.godb", "c")
    column = read_table(tmp_path / "a.godb").column("x").combine_chunks()
    assert column.dictionary.to_pylist() == ["low", "high", "never"]
    assert column.to_pylist() == ["high", None, "low"]


def test_categories_that_only_later_batches_have_come_last(tmp_path: Path) -> None:
    first = pa.record_batch({"x": pa.array(["b", "a"]).dictionary_encode()})
    second = pa.record_batch({"x": pa.array(["c", "a"]).dictionary_encode()})
    write_godb(
        pa.RecordBatchReader.from_batches(first.schema, [first, second]), tmp_path / "a.godb", "c"
    )
    there = copied(tmp_path / "a.godb", tmp_path / "a.parquet")
    column = read_table(copied(there, tmp_path / "b.godb")).column("x").combine_chunks()
    assert column.to_pylist() == ["b", "a", "c", "a"]
    assert column.dictionary.to_pylist() == ["b", "a", "c"]


def test_a_collection_as_data_keeps_categories(tmp_path: Path) -> None:
    write_godb(pa.table({"x": COLUMNS["ordered"]}), tmp_path / "a.godb", "c")
    with StorageEngine(tmp_path / "data") as engine:
        engine.create_collection("c").insert_many(open_godb(tmp_path / "a.godb"))
        engine.save()
        write_godb(engine["c"], tmp_path / "b.godb", "c")
    column = read_table(tmp_path / "b.godb").column("x").combine_chunks()
    assert column.dictionary.to_pylist() == ["z", "a", "unused"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"[]",
        b'{"name": "", "type": "nothing"}',
        b'{"name": "", "type": {"type": "dictionary", "index": "string", "values": "int64"}}',
    ],
)
def test_descriptions_without_sense_are_ignored(tmp_path: Path, text: bytes) -> None:
    field = pa.field("x", pa.int64(), metadata={b"godb_arrow.own_type": text})
    table = pa.table([pa.array([1, 2])], schema=pa.schema([field]))
    pa.parquet.write_table(table, tmp_path / "a.parquet")
    found = read_table(copied(tmp_path / "a.parquet", tmp_path / "a.godb"))
    assert found.column("x").to_pylist() == [1, 2]


def test_a_column_that_another_program_changed(tmp_path: Path) -> None:
    write_godb(pa.table({"x": COLUMNS["int"]}), tmp_path / "a.godb", "c")
    copied(tmp_path / "a.godb", tmp_path / "a.parquet")
    table = pa.parquet.read_table(tmp_path / "a.parquet")
    field = table.schema.field("x").with_type(pa.string())
    changed = table.set_column(table.schema.names.index("x"), field, [pa.array(["a", "b", None])])
    pa.parquet.write_table(changed, tmp_path / "b.parquet")
    found = read_table(copied(tmp_path / "b.parquet", tmp_path / "b.godb"))
    assert found.column("x").to_pylist() == ["a", "b", None]


def encoded(*values: str | None) -> pa.RecordBatch:
    nested = pa.array(
        [[value] for value in values], pa.list_(pa.dictionary(pa.int8(), pa.string()))
    )
    return pa.record_batch({"x": pa.array(values).dictionary_encode(), "l": nested})


@pytest.mark.parametrize("name", ["b.arrow", "b.parquet", "b.godb"])
@pytest.mark.parametrize("append", [False, True])
def test_record_batches_with_other_categories(tmp_path: Path, name: str, append: bool) -> None:
    batches = [encoded("b", "a"), encoded("c", None, "a"), encoded("b", "d")]
    if append:
        for batch in batches:
            copied(pa.Table.from_batches([batch]), tmp_path / name, if_exists="append")
    else:
        reader = pa.RecordBatchReader.from_batches(batches[0].schema, batches)
        copied(reader, tmp_path / name)
    found = read_table(copied(tmp_path / name, tmp_path / "back.godb"))
    assert found.schema.field("x").type == batches[0].schema.field("x").type
    assert found["x"].to_pylist() == ["b", "a", "c", None, "a", "b", "d"]
    assert found["l"].to_pylist() == [[value] for value in found["x"].to_pylist()]


def test_a_dictionary_partitions_a_folder(tmp_path: Path) -> None:
    table = pa.table({"k": pa.array(["x", "y", "x"]).dictionary_encode(), "n": [1, 2, 3]})
    write_godb(table, tmp_path / "a.godb", "c")
    folder = copied(tmp_path / "a.godb", tmp_path / "f", format="parquet", partition_by=["k"])
    found = read_table(copied(folder, tmp_path / "b.godb"))
    assert found.schema.field("k").type == table.schema.field("k").type
    rows = sorted(zip(found["n"].to_pylist(), found["k"].to_pylist(), strict=True))
    assert rows == [(1, "x"), (2, "y"), (3, "x")]
