"""Recorded schemas: plain values, every type, and bytes that lie."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pytest
from support import forge, handmade

import godb_arrow
from godb_arrow import StorageEngine, UnsupportedVersion
from godb_arrow._version import READER
from godb_arrow.recorded_schema import (
    MAX_CATEGORIES,
    MAX_RECORDED_LEVELS,
    category_array,
    describe_schema,
    restore_schema,
    with_categories,
)

TYPES = [
    pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(),
    pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.large_binary(),
    pa.binary_view(), pa.binary(3), pa.date32(), pa.date64(), pa.time32("ms"), pa.time64("ns"),
    pa.timestamp("s"), pa.timestamp("ns", "Europe/Berlin"), pa.timestamp("us", "+02:00"),
    pa.duration("ms"), pa.decimal32(5, 2), pa.decimal64(5, 2), pa.decimal128(10, -2),
    pa.decimal256(70, 3), pa.list_(pa.int8()), pa.large_list(pa.field("x", pa.int8(), False)),
    pa.list_view(pa.int8()), pa.large_list_view(pa.int8()), pa.list_(pa.int8(), 3),
    pa.struct([("a", pa.int8()), pa.field("b", pa.string(), False, {"unit": "°C"})]),
    pa.struct([]), pa.map_(pa.string(), pa.int8()),
    pa.map_(pa.string(), pa.field("v", pa.int8(), False), keys_sorted=True),
    pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.uint16(), pa.int64(), True),
    pa.run_end_encoded(pa.int32(), pa.string()), pa.json_(), pa.json_(pa.large_string()),
    pa.uuid(), pa.bool8(), pa.fixed_shape_tensor(pa.int32(), [2, 3]),
    pa.fixed_shape_tensor(pa.int32(), [2, 3], ["a", "b"], [1, 0]),
    pa.opaque(pa.int32(), "kind", "vendor"), pa.list_(pa.struct([("j", pa.json_())])),
]  # fmt: skip


@pytest.mark.parametrize("data_type", TYPES, ids=str)
def test_a_type_is_recorded_in_plain_values(data_type: pa.DataType) -> None:
    schema = pa.schema([pa.field("a", data_type, metadata={"k": "v"})], metadata={"m": "ä"})
    packed = msgpack.packb(describe_schema(schema))
    restored = restore_schema(msgpack.unpackb(packed))
    assert restored.equals(schema, check_metadata=True)


def test_extension_types_of_other_libraries_are_restored() -> None:
    from pandas.core.arrays.arrow.extension_types import ArrowIntervalType, ArrowPeriodType

    for data_type in (ArrowPeriodType("D"), ArrowIntervalType(pa.int64(), "left")):
        schema = pa.schema({"a": data_type, "b": pa.list_(data_type)})
        assert restore_schema(describe_schema(schema)).equals(schema)


def test_metadata_is_text_and_small() -> None:
    metadata = {"text": "ä", b"\xff": "x", "binary": b"\xff", "large": "x" * (1 << 17)}
    schema = pa.schema([pa.field("a", pa.int8(), metadata=metadata)])
    assert restore_schema(describe_schema(schema)).field(0).metadata == {b"text": "ä".encode()}


@pytest.mark.parametrize(
    "values",
    [
        pa.array(["b", "a"]), pa.array([3, 1], pa.int16()), pa.array([0.5, 0.25]),
        pa.array([True, False]), pa.array([5, 3], pa.date32()), pa.array([5, 3], pa.time64("us")),
        pa.array([5, 3], pa.timestamp("ns", "UTC")), pa.array([5, 3], pa.duration("s")),
        pa.array(["1.10", "0.50"]).cast(pa.decimal128(5, 2)), pa.array(["x"], pa.large_string()),
    ],
    ids=lambda values: str(values.type),
)  # fmt: skip
def test_categories_are_plain_values(values: pa.Array) -> None:
    field = with_categories(pa.field("a", pa.dictionary(pa.int8(), values.type, True)), values)
    recorded = describe_schema(pa.schema([field]))
    assert all(type(one) in (str, int, float, bool) for one in recorded["fields"][0]["categories"])
    found = category_array(restore_schema(recorded).field(0))
    assert found is not None
    assert found.equals(values)


@pytest.mark.parametrize(
    "values",
    [
        pa.array(map(str, range(MAX_CATEGORIES + 1))), pa.array(["x" * (1 << 16)]),
        pa.array([b"x"]), pa.array(["a", None]), pa.array([float("nan")]), pa.array([[1]]),
        pa.array([], pa.string()),
    ],
    ids=["many", "large", "binary", "null", "NaN", "lists", "none"],
)  # fmt: skip
def test_categories_that_are_no_plain_values_or_many_are_not_recorded(values: pa.Array) -> None:
    field = pa.field("a", pa.dictionary(pa.int32(), values.type))
    assert with_categories(field, values).equals(field, check_metadata=True)


@pytest.mark.parametrize("ordered", [True, False])
def test_categories_keep_their_order_and_new_values_follow(ordered: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.godb"
    dictionary = pa.array(["low", "high", "unused"])
    column = pa.DictionaryArray.from_arrays(
        pa.array([1, 0, None, 1], pa.int8()), dictionary, ordered=ordered
    )
    godb_arrow.write_godb(pa.table({"a": column}), path, "c")
    found = godb_arrow.read_table(path)["a"].combine_chunks()
    assert (found.type, found.dictionary) == (column.type, dictionary)
    godb_arrow.write_godb([{"a": "new"}, {"a": "low"}], path, "c", if_exists="append")
    assert godb_arrow.read_table(path)["a"].to_pylist() == [
        "high", "low", None, "high", "new", "low"
    ]  # fmt: skip


def described(field: dict[str, Any]) -> dict[str, Any]:
    return {"fields": [{"name": "_id", "type": "string"}, {"name": "a", **field}]}


def nested(levels: int) -> Any:
    data_type: Any = "int8"
    for _ in range(levels):
        data_type = {"type": "list", "item": {"name": "x", "type": data_type}}
    return data_type


INT8 = {"name": "x", "type": "int8"}
FORGED: dict[str, Any] = {
    "a number": 7,
    "a list": [],
    "no fields": {},
    "fields are a number": {"fields": 1},
    "a field is a number": {"fields": [1]},
    "a field without a type": {"fields": [{"name": "a"}]},
    "a name is a number": {"fields": [{"name": 1, "type": "int8"}]},
    "a name is binary": {"fields": [{"name": b"\xff", "type": "int8"}]},
    "a name is no UTF-8": {"fields": [{"name": "\udcff", "type": "int8"}]},
    "two names are equal": {"fields": [INT8, INT8]},
    "metadata is a list": {"fields": [INT8], "metadata": ["x"]},
    "metadata has numbers": {"fields": [{**INT8, "metadata": {"a": 1}}]},
    "pandas metadata is no JSON": {"fields": [INT8], "metadata": {"pandas": "[" * 100_000}},
    "an unknown type": described({"type": "int7"}),
    "an unknown type with parameters": described({"type": {"type": "union"}}),
    "a type is a number": described({"type": 5}),
    "a type is empty": described({"type": {}}),
    "a type is a function": described({"type": {"type": "array"}}),
    "an unknown unit": described({"type": {"type": "timestamp", "unit": "h"}}),
    "a zone is a number": described({"type": {"type": "timestamp", "unit": "s", "zone": 1}}),
    "a zone is long": described({"type": {"type": "timestamp", "unit": "s", "zone": "x" * 999}}),
    "a zone is a path": described({"type": {"type": "timestamp", "unit": "s", "zone": "../../e"}}),
    "a huge precision": described({"type": {"type": "decimal128", "precision": 10**9, "scale": 0}}),
    "a huge scale": described({"type": {"type": "decimal128", "precision": 9, "scale": -(2**31)}}),
    "a huge fixed size": described({"type": {"type": "fixed_size_binary", "size": 2**31 - 1}}),
    "a negative size": described({"type": {"type": "fixed_size_binary", "size": -5}}),
    "a huge list": described({"type": {
        "type": "fixed_size_list", "size": 2**31 - 1, "item": INT8}}),
    "a huge list in lists": described({"type": {
        "type": "fixed_size_list", "size": 1 << 12, "item": {"name": "x", "type": {
            "type": "fixed_size_list", "size": 1 << 12, "item": INT8}}}}),
    "a huge tensor": described({"type": {
        "type": "extension", "name": "arrow.fixed_shape_tensor", "storage": "int8",
        "shape": [1 << 20, 1 << 20]}}),
    "indices are texts": described({"type": {
        "type": "dictionary", "index": "string", "values": "string", "ordered": False}}),
    "keys may be null": described({"type": {"type": "map", "key": INT8, "value": INT8}}),
    "keys are numbers": described({"type": {
        "type": "map", "key": {**INT8, "nullable": False}, "value": INT8}}),
    "deep": described({"type": nested(MAX_RECORDED_LEVELS + 1)}),
    "very deep": described({"type": nested(400)}),
    "an extension of a number": described({"type": {
        "type": "extension", "name": 7, "storage": "int8"}}),
    "pandas metadata that makes no sense": described({"type": {
        "type": "extension", "name": "pandas.period", "storage": "int64", "parameters": "{"}}),
    "JSON on numbers": described({"type": {
        "type": "extension", "name": "arrow.json", "storage": "int64"}}),
}  # fmt: skip


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_description_is_ignored(case: str) -> None:
    packed = msgpack.packb(FORGED[case], unicode_errors="surrogateescape")
    fields = msgpack.unpackb(packed, unicode_errors="surrogateescape")
    content = forge.collection("c", [forge.entry("1", {"a": 1})], hint={"fields": fields})
    file = forge.godb_file(content)
    assert godb_arrow.read_table(file).to_pylist() == [{"_id": "1", "a": 1}]
    assert godb_arrow.list_collections(file) == {"c": 1}


@pytest.mark.parametrize("case", FORGED)
def test_a_manifest_with_a_forged_description_is_refused(case: str, tmp_path: Path) -> None:
    if case.startswith("pandas metadata"):
        pytest.skip("pandas checks its metadata where it is imported")
    content = forge.collection("c", [{"a": 1}], schema=pa.schema({"a": pa.int64()}))
    tree = forge.part_folder(
        [forge.Part(1, content)], pa.schema({"a": pa.int64()}), fields=FORGED[case]
    )
    forge.write_tree(tmp_path, forge.under("collections/c.parts", tree))
    with (
        pytest.raises(godb_arrow.GodbError),
        StorageEngine(tmp_path, read_only=True) as engine,
    ):
        engine["c"].to_arrow()


FORGED_CATEGORIES: list[Any] = [
    7, [], ["a", "a"], ["a", None], [1], [["x"]], ["x" * (1 << 17)], [float("inf")], {"a": 1},
    list(map(str, range(10_000))), ["\udcff"],
]  # fmt: skip


@pytest.mark.parametrize("categories", FORGED_CATEGORIES, ids=range(len(FORGED_CATEGORIES)))
def test_forged_categories_change_no_value(categories: Any) -> None:
    data_type = {"type": "dictionary", "index": "int32", "values": "string", "ordered": False}
    fields = described({"type": data_type, "categories": categories})
    content = forge.collection("c", [forge.entry("1", {"a": "a"})], hint={"fields": fields})
    found = godb_arrow.read_table(forge.godb_file(content))
    found.validate(full=True)
    assert found["a"].to_pylist() == ["a"]


# --- which reader is needed -------------------------------------------------------------------


def test_what_is_written_says_which_reader_it_needs(tmp_path: Path) -> None:
    file = io.BytesIO()
    godb_arrow.write_godb([{"a": 1}], file, "c")
    assert 1 <= handmade.go_read(file.getvalue())["metadata"]["godb_arrow"]["reader"] <= READER
    with StorageEngine(tmp_path, part_size=1024) as engine:
        engine.create_collection("c").insert({"a": "x" * 4000})
        engine.save()
    (manifest,) = tmp_path.glob("collections/c.parts/*.manifest")
    assert int.from_bytes(manifest.read_bytes()[4:8], "little") == READER


def test_a_file_of_a_later_reader_is_refused() -> None:
    file = forge.godb_file(forge.collection("c", [{"a": 1}]), reader=READER + 1)
    for read in (godb_arrow.read_table, godb_arrow.list_collections, godb_arrow.open_godb):
        with pytest.raises(UnsupportedVersion, match=f"reader of version {READER + 1}"):
            read(file)
    found = godb_arrow.read_table(file, use_hints=False)
    assert found.to_pylist() == [{"_id": "1", "a": 1}]


def test_a_manifest_of_a_later_reader_is_refused(tmp_path: Path) -> None:
    schema = pa.schema({"a": pa.int64()})
    content = forge.collection("c", [{"a": 1}], schema=schema)
    later = b"GODM" + (READER + 1).to_bytes(4, "little")
    tree = forge.part_folder([forge.Part(1, content)], schema, head=later)
    forge.write_tree(tmp_path, forge.under("collections/c.parts", tree))
    with (
        pytest.raises(UnsupportedVersion, match=f"reader of version {READER + 1}"),
        StorageEngine(tmp_path, read_only=True) as engine,
    ):
        engine["c"].to_arrow()


def has_ipc(data: bytes) -> bool:
    return re.search(rb"\xff\xff\xff\xff..\0\0\x10\0\0\0", data, re.DOTALL) is not None


def test_nothing_recorded_is_arrow_ipc(tmp_path: Path) -> None:
    category = pa.array(["a", "b"] * 2000).dictionary_encode()
    table = pa.table({"n": range(4000), "c": category, "day": pa.array([1] * 4000, pa.date32())})
    with StorageEngine(tmp_path, part_size=1 << 15, compression="none") as engine:
        engine.create_collection("c").insert_many(table)
        engine.save()
        engine["c"].insert_many(table)
        files = [path for path in tmp_path.rglob("*") if path.suffix != ".ids" and path.is_file()]
        assert {path.suffix for path in files} >= {".manifest", ".godb", ".journal"}
        assert not any(has_ipc(path.read_bytes()) for path in files)
        engine.close(discard=True)
    with StorageEngine(tmp_path, read_only=True) as engine:
        assert engine["c"].schema.field("day").type == pa.date32()
        assert len(engine["c"]) == 8000
