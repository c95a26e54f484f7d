"""Recorded types stay while they are true, and are forgotten with the documents that had them."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import godb_arrow
from godb_arrow import Collection, StorageEngine

DECLARED = pa.schema([
    ("day", pa.date32()), ("price", pa.decimal128(10, 2)), ("n", pa.int32()), ("f", pa.float32()),
    ("m", pa.map_(pa.string(), pa.int32())), ("t", pa.timestamp("us")),
    ("z", pa.timestamp("ms", "Europe/Berlin")), ("c", pa.dictionary(pa.int8(), pa.string())),
    ("wait", pa.duration("us")), ("at", pa.time32("s")), ("raw", pa.binary(2)),
    ("s", pa.struct([("d", pa.date32()), ("k", pa.int8())])), ("l", pa.list_(pa.date32())),
    ("big", pa.large_string()),
])  # fmt: skip
ROW: dict[str, Any] = {
    "day": dt.date(2020, 1, 1), "price": decimal.Decimal("1.10"), "n": 1, "f": 0.5,
    "m": [("k", 1)], "t": dt.datetime(2020, 1, 1), "z": dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    "c": "x", "wait": dt.timedelta(seconds=1), "at": dt.time(1, 2, 3), "raw": b"ab",
    "s": {"d": dt.date(2020, 1, 1), "k": 1}, "l": [dt.date(2020, 1, 1)], "big": "x",
}  # fmt: skip
TABLE = pa.Table.from_pylist([ROW] * 3, DECLARED)


@pytest.fixture(params=["file", "parts"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageEngine]:
    """Return an engine with a saved collection of declared types."""
    part_size = 1024 if request.param == "parts" else 1 << 27
    with StorageEngine(tmp_path / "data", part_size=part_size) as engine:
        engine.create_collection("c").insert_many(TABLE)
        engine.save()
        yield engine


@pytest.fixture
def collection(engine: StorageEngine) -> Collection:
    return engine["c"]


def types_of(collection: Collection) -> dict[str, pa.DataType]:
    found = collection.to_arrow()
    found.validate(full=True)
    assert found.schema.equals(collection.schema)
    return {field.name: field.type for field in found.schema if field.name != "_id"}


EXPECTED = {field.name: field.type for field in DECLARED}

CHANGES: dict[str, Any] = {
    "an update of another field": lambda c: c.update("1", {"other": "x"}),
    "an update of one field": lambda c: c.update("1", {"n": 7}),
    "a dict": lambda c: c.insert({"n": 5, "day": dt.date(2021, 1, 1)}),
    "a dict of all fields": lambda c: c.insert({**ROW, "m": {"k": 3}}),
    "a null": lambda c: c.insert(dict.fromkeys(ROW)),
    "a deletion": lambda c: c.delete("1"),
    "a replaced document": lambda c: c.replace("2", {"n": 1}),
    "another day": lambda c: c.insert_many(TABLE),
    "a new column": lambda c: c.insert_many(TABLE.append_column("new", pa.array([1, 2, 3]))),
    "fewer columns": lambda c: c.insert_many(TABLE.select(["n", "price"])),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("save", [False, True])
def test_a_change_keeps_the_recorded_types(
    engine: StorageEngine, collection: Collection, change: str, save: bool, tmp_path: Path
) -> None:
    CHANGES[change](collection)
    if save:
        engine.save()
    found = types_of(collection)
    assert {name: found[name] for name in EXPECTED} == EXPECTED
    days = collection.count(pc.field("day") == dt.date(2020, 1, 1))
    assert days >= 2
    if save:
        with StorageEngine(tmp_path / "data", read_only=True) as reader:
            assert types_of(reader["c"]) == found


WIDER: list[tuple[str, Any, pa.DataType]] = [
    ("n", 2**40, pa.int64()),
    ("n", 1.5, pa.float64()),
    ("n", "x", godb_arrow.schema.json_type()),
    ("f", 0.1, pa.float64()),
    ("f", 2**24 + 1, pa.float64()),
    ("day", dt.datetime(2020, 1, 1, 5, tzinfo=dt.UTC), pa.timestamp("us", "UTC")),
    ("price", "nothing", pa.string()),
    ("c", 5, godb_arrow.schema.json_type()),
    ("z", dt.datetime(2020, 1, 1, 0, 0, 0, 5, tzinfo=dt.UTC), pa.timestamp("us", "Europe/Berlin")),
    ("at", -5, pa.int64()),
    ("raw", b"abc", pa.binary()),
    ("l", [dt.date(2020, 1, 1), None], pa.list_(pa.date32())),
    ("l", [5], pa.list_(godb_arrow.schema.json_type())),
]


@pytest.mark.parametrize(("field", "value", "wider"), WIDER, ids=lambda one: str(one)[:20])
def test_a_value_that_does_not_fit_widens_its_own_field_only(
    engine: StorageEngine, collection: Collection, field: str, value: Any, wider: pa.DataType
) -> None:
    collection.insert({field: value})
    for _ in range(2):
        found = types_of(collection)
        assert found == {**EXPECTED, field: wider}
        engine.save()


def test_two_days_of_decimals_stay_decimals(collection: Collection) -> None:
    more = pa.table({"price": pa.array(["123456789.1234"]).cast(pa.decimal128(13, 4))})
    collection.insert_many(more)
    assert types_of(collection)["price"] == pa.decimal128(13, 4)
    prices = collection.to_arrow(columns=["price"])["price"].to_pylist()
    assert sorted(prices) == [*[decimal.Decimal("1.1000")] * 3, decimal.Decimal("123456789.1234")]


def test_more_categories_than_indices_hold(collection: Collection) -> None:
    collection.insert_many([{"c": f"category {n}"} for n in range(500)])
    assert types_of(collection)["c"] == pa.dictionary(pa.int32(), pa.string())


FORGOTTEN: list[tuple[list[dict[str, Any]], dict[str, Any], pa.DataType | None]] = [
    ([{"v": 1}, {"v": 2}], {"w": 1}, None),
    ([{"v": 1}, {"v": 2}], {"v": "x"}, pa.int64()),
    ([{"v": 1}, {"v": 2}], {"v": 0.5}, pa.int64()),
    ([{"v": 1}, {"v": 2}], {"v": 2**64 - 1}, pa.int64()),
    ([{"v": "a"}, {"v": "b"}], {"v": b"x"}, pa.string()),
    ([{"v": {"a": 1}}, {"v": None}], {"v": {"b": 1}}, pa.struct([("a", pa.int64())])),
    ([{"v": [1]}, {"v": []}], {"v": ["x"]}, pa.list_(pa.int64())),
]


@pytest.mark.parametrize("part_size", [1024, 1 << 27])
@pytest.mark.parametrize(("kept", "deleted", "wanted"), FORGOTTEN)
def test_what_only_deleted_documents_had_is_forgotten(
    kept: list[dict[str, Any]],
    deleted: dict[str, Any],
    wanted: pa.DataType | None,
    part_size: int,
    tmp_path: Path,
) -> None:
    (field,) = deleted
    with StorageEngine(tmp_path, part_size=part_size) as engine:
        collection = engine.create_collection("c")
        pad = [{"pad": "x" * 100} for _ in range(40)]
        collection.insert_many([*kept, {**deleted, "_id": "gone"}, *pad])
        engine.save()
        before = collection.schema
        assert field in before.names
        collection.delete("gone")
        engine.save()
        engine.compact("c")
        found = collection.schema
        assert (found.field(field).type if field in found.names else None) == wanted
        assert types_of(collection)
    with StorageEngine(tmp_path, read_only=True) as engine:
        assert engine["c"].schema.equals(found)


def test_a_declared_type_outlives_the_values_that_made_it(
    engine: StorageEngine, collection: Collection
) -> None:
    collection.delete("1")
    engine.save()
    engine.compact("c")
    assert types_of(collection) == EXPECTED


@pytest.mark.parametrize("how", ["append", "upsert"])
def test_appending_to_a_file_keeps_the_types(how: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.godb"
    godb_arrow.write_godb(TABLE, path, "c")
    godb_arrow.write_godb([{"n": 5, "new": 1}], path, "c", if_exists="append")
    more = TABLE.append_column("_id", pa.array(["1", "x", "y"]))
    godb_arrow.write_godb(more, path, "c", if_exists=how) if how == "upsert" else None
    found = godb_arrow.read_table(path)
    assert {field.name: field.type for field in found.schema if field.name in EXPECTED} == EXPECTED
    assert godb_arrow.verify_godb(path).ok


def test_integers_beside_floats_are_read_as_inference_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "a.godb"
    godb_arrow.write_godb([{"v": 1.5}, {"v": 2**53 + 1}], path, "c")
    with godb_arrow.scan_godb(path) as reader:
        found = reader.read_all()
    assert found.equals(godb_arrow.read_table(path, use_hints=False))
    assert found.schema.equals(godb_arrow.read_schema(path), check_metadata=True)
    assert found.schema.metadata is None
    assert godb_arrow.verify_godb(path).ok
    godb_arrow.write_godb([{"v": 7}], path, "c", if_exists="append")
    assert godb_arrow.read_table(path)["v"].to_pylist() == [1.5, 2.0**53, 7.0]


def _typed(rows: int = 5) -> pa.Table:
    return pa.table(
        {
            "day": [dt.date(2020, 1, 1)] * rows,
            "price": pa.array([decimal.Decimal("1.10")] * rows, pa.decimal128(10, 2)),
            "n": pa.array(range(rows), pa.int32()),
            "map": pa.array([[("k", 1)]] * rows, pa.map_(pa.string(), pa.int8())),
        }
    )


@pytest.mark.parametrize("saves", [False, True], ids=["unsaved", "saved"])
@pytest.mark.parametrize("in_parts", [False, True], ids=["file", "parts"])
@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update_many({}, {"$set": {"k": 1}}),
        lambda c: c.update_many({}, {"$inc": {"n": 1}}),
        lambda c: c.update_by_id({str(n): {"k": 1} for n in range(1, 6)}),
        lambda c: [c.replace(str(n), {**c.get(str(n)), "n": 5}) for n in range(1, 6)],
        lambda c: c.upsert_many([{**c.get(str(n)), "n": 5} for n in range(1, 6)]),
    ],
)
def test_a_change_of_all_documents_keeps_the_types(
    tmp_path: Path, change: Callable[[Any], Any], in_parts: bool, saves: bool
) -> None:
    with StorageEngine(tmp_path) as engine:
        c = engine.create_collection("c")
        c.insert_many(_typed())
        if in_parts:
            c.to_folder()
        engine.save()
        change(c)
        if saves:
            engine.save()
        assert [
            c.schema.field(name).type for name in _typed().column_names
        ] == _typed().schema.types
        assert c.count({"day": dt.date(2020, 1, 1)}) == 5
    with StorageEngine(tmp_path, read_only=True) as engine:
        kinds = [engine["c"].schema.field(name).type for name in _typed().column_names]
        assert kinds == _typed().schema.types
    assert godb_arrow.verify_godb(tmp_path).ok


def test_a_change_of_all_documents_forgets_what_no_document_has(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        c = engine.create_collection("c")
        c.insert_many(_typed())
        engine.save()
        c.update_many({}, {"$unset": {"map": 1}, "$set": {"day": "x", "n": 1 << 40}})
        found = {field.name: field.type for field in c.schema}
        assert found == {
            "_id": pa.string(), "day": pa.string(), "price": pa.decimal128(10, 2), "n": pa.int64(),
        }  # fmt: skip
        engine.save()
        c.delete_many({})
        c.insert_many([{"_id": "new", "day": dt.date(2020, 1, 1)}])
        assert c.schema.field("day").type == pa.timestamp("us", "UTC")


def test_an_upsert_of_all_documents_of_a_file_keeps_the_types(tmp_path: Path) -> None:
    path = tmp_path / "a.godb"
    godb_arrow.write_godb(_typed(), path, "c")
    documents = [{"_id": str(n), "day": dt.date(2021, 1, 1), "n": n} for n in range(1, 6)]
    godb_arrow.write_godb(documents, path, "c", if_exists="upsert")
    schema = godb_arrow.read_schema(path)
    assert {field.name: field.type for field in schema if field.name != "_id"} == {
        "day": pa.date32(),
        "n": pa.int32(),
    }
    assert godb_arrow.verify_godb(path).ok
