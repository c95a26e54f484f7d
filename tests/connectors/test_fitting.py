"""Columns that get a type which others have fixed: appended rows, later chunks, changed views."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.connectors.columns import fit_columns
from godb_arrow.connectors.etl import copy
from godb_arrow.connectors.fitting import fit_column
from godb_arrow.connectors.pandas import to_godb

DAY, NOON = dt.date(2024, 1, 2), dt.datetime(2024, 1, 2, 12)
POINT = pa.struct({"x": pa.int64(), "y": pa.int64()})
FITTING: list[tuple[pa.DataType, list[Any], pa.DataType, list[Any]]] = [
    (pa.int64(), [1, None], pa.int8(), [1, None]),
    (pa.int64(), [1, 2**53], pa.float64(), [1.0, 2.0**53]),
    (pa.float64(), [1.0, None], pa.int64(), [1, None]),
    (pa.float64(), [0.5, float("inf")], pa.float32(), [0.5, float("inf")]),
    (pa.string(), ["a"], pa.large_string(), ["a"]),
    (pa.string(), ["a", None], pa.dictionary(pa.int8(), pa.string()), ["a", None]),
    (pa.null(), [None], pa.date32(), [None]),
    (pa.bool_(), [None, None], pa.string(), [None, None]),
    (pa.timestamp("s"), [NOON], pa.timestamp("ns"), [NOON]),
    (pa.timestamp("us"), [dt.datetime(2024, 1, 2)], pa.date32(), [DAY]),
    (pa.date32(), [DAY], pa.timestamp("us"), [dt.datetime(2024, 1, 2)]),
    (pa.int64(), [5], pa.decimal128(10, 2), [5]),
    (pa.list_(pa.int64()), [[1], None], pa.list_(pa.float64()), [[1.0], None]),
    (POINT, [{"x": 1, "y": 2}, None], pa.struct({"y": pa.int64(), "x": pa.int64()}),
     [{"y": 2, "x": 1}, None]),
    (pa.struct({"x": pa.int64()}), [{"x": 1}], POINT, [{"x": 1, "y": None}]),
    (pa.struct({"x": pa.int64(), "z": pa.null()}), [{"x": 1}], POINT, [{"x": 1, "y": None}]),
]  # fmt: skip
REFUSED: list[tuple[pa.DataType, list[Any], pa.DataType]] = [
    (pa.int64(), [5, 7], pa.bool_()),
    (pa.bool_(), [True], pa.int64()),
    (pa.int64(), [2**53 + 1], pa.float64()),
    (pa.int64(), [300], pa.int8()),
    (pa.float64(), [0.5], pa.int64()),
    (pa.float64(), [0.1], pa.float32()),
    (pa.float64(), [1e300], pa.float32()),
    (pa.int64(), [5], pa.timestamp("us")),
    (pa.timestamp("us"), [NOON], pa.date32()),
    (pa.timestamp("ns"), [1], pa.timestamp("us")),
    (pa.timestamp("s"), [10**13], pa.timestamp("us")),
    (pa.string(), ["007"], pa.int64()),
    (pa.int64(), [7], pa.string()),
    (pa.struct({"x": pa.int64(), "z": pa.int64()}), [{"x": 1, "z": 3}], POINT),
    (pa.list_(pa.struct({"z": pa.int64()})), [[{"z": 3}]], pa.list_(POINT)),
    (pa.list_(pa.float64()), [[0.5]], pa.list_(pa.int64())),
]


@pytest.mark.parametrize("case", range(len(FITTING)))
def test_values_that_a_type_holds_are_fitted(case: int) -> None:
    kind, values, target, expected = FITTING[case]
    array = pa.array([*values, *values], kind)
    for part in (array, array.slice(len(values))):
        found = fit_column(part, target)
        found.validate(full=True)
        assert found.type.equals(target)
        assert found.to_pylist() == expected * (len(part) // len(values))


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_values_that_a_type_would_change_are_refused(case: int) -> None:
    kind, values, target = REFUSED[case]
    with pytest.raises((ValueError, pa.ArrowException)):
        fit_column(pa.array(values, kind), target)


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_an_append_to_parquet_changes_no_value(case: int, tmp_path: Path) -> None:
    kind, values, target = REFUSED[case]
    place = tmp_path / "t.parquet"
    pa.parquet.write_table(pa.table({"v": pa.nulls(1, target)}), place)
    before = place.read_bytes()
    with pytest.raises(godb_arrow.GodbError, match="'v'"):
        copy(pa.table({"v": pa.array(values, kind)}), place, if_exists="append")
    assert place.read_bytes() == before


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_a_later_chunk_changes_no_value(case: int, tmp_path: Path) -> None:
    kind, values, target = REFUSED[case]
    if pa.types.is_nested(kind):
        pytest.skip("pandas has no columns of structs")
    first = pa.table({"v": pa.nulls(1, target)}).to_pandas(types_mapper=pd.ArrowDtype)
    later = pa.table({"v": pa.array(values, kind)}).to_pandas(types_mapper=pd.ArrowDtype)
    first["v"] = pd.array(pa.array([_example(target)], target), dtype=pd.ArrowDtype(target))
    with pytest.raises(godb_arrow.GodbError, match="'v'"):
        to_godb(iter([first, later]), tmp_path / "t.godb", "c")


def _example(kind: pa.DataType) -> Any:
    if pa.types.is_string(kind):
        return "a"
    return pa.scalar(0, pa.int32()).cast(kind).as_py() if pa.types.is_date32(kind) else (
        True if pa.types.is_boolean(kind) else pa.scalar(0).cast(kind).as_py())  # fmt: skip


CHANGES: list[tuple[dict[str, Any], dict[str, Any], Any]] = [
    ({"s": {"x": 1}}, {"s": {"x": 1, "y": 2}}, ({"x": 1}, {"x": 1})),
    ({"s": {"x": 1}}, {"s": {"y": 7}}, ({"x": 1}, {"x": None})),
    ({"s": [{"x": 1}]}, {"s": [{"x": 1, "y": 2}]}, ([{"x": 1}], [{"x": 1}])),
]


@pytest.mark.parametrize("library", ["polars", "duckdb"])
@pytest.mark.parametrize("case", range(len(CHANGES)))
def test_a_view_shows_nested_fields_under_their_names(
    library: str, case: int, tmp_path: Path
) -> None:
    """A field that came later is not shown, and never another one in its place."""
    pytest.importorskip(library)
    first, later, expected = CHANGES[case]
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert({"_id": "1", **first})
        if library == "polars":
            from godb_arrow.connectors.polars import scan_godb

            frame = scan_godb(collection)
            collection.insert({"_id": "2", **later})
            try:
                found = tuple(frame.sort("_id").collect()["s"].to_list())
            except Exception as error:
                assert "other types than before" in str(error)
                return
        else:
            import duckdb

            from godb_arrow.connectors.duckdb import register

            with duckdb.connect() as connection:
                register(connection, "c", collection)
                collection.insert({"_id": "2", **later})
                try:
                    rows = connection.execute("select s from c order by _id").fetchall()
                except Exception as error:
                    assert "other types than before" in str(error)
                    return
                found = tuple(value for (value,) in rows)
        assert found == expected


def test_moments_that_a_unit_does_not_hold_are_refused() -> None:
    reader = pa.table({"t": pa.array([10**13], pa.timestamp("s"))}).to_reader()
    with pytest.raises(godb_arrow.UnsupportedType, match="'t'"):
        fit_columns(reader, "spark").read_all()


def test_delta_says_that_nanoseconds_are_cut(caplog: pytest.LogCaptureFixture) -> None:
    reader = pa.table({"t": pa.array([1001, 2], pa.timestamp("ns"))}).to_reader()
    fit_columns(reader, "delta").read_all()
    assert "'t'" in caplog.text


def test_csv_refuses_dates_that_it_cannot_write() -> None:
    reader = pa.table({"d": pa.array([30_000_000], pa.int32()).cast(pa.date32())}).to_reader()
    with pytest.raises(godb_arrow.UnsupportedType, match="'d'"):
        fit_columns(reader, "csv").read_all()


def test_rows_of_one_column_that_are_null_stay_in_csv(tmp_path: Path) -> None:
    godb_arrow.write_godb([{"a": "x"}, {"a": None}, {"a": "y"}], tmp_path / "o.godb", "c")
    copy(tmp_path / "o.godb", tmp_path / "o.csv", columns=["a"])
    assert copy(tmp_path / "o.csv", tmp_path / "back.godb").documents == 3
    assert godb_arrow.read_table(tmp_path / "back.godb")["a"].to_pylist() == ["x", None, "y"]


def test_ids_with_zeros_in_front_stay_ids_in_csv(tmp_path: Path) -> None:
    documents = [{"_id": "007", "n": 1}, {"_id": "08", "n": 2}]
    godb_arrow.write_godb(documents, tmp_path / "o.godb", "c")
    copy(tmp_path / "o.godb", tmp_path / "o.csv")
    copy(tmp_path / "o.csv", tmp_path / "back.godb")
    assert list(godb_arrow.open_godb(tmp_path / "back.godb")) == documents


def test_a_csv_column_of_nulls_takes_the_type_of_new_rows(tmp_path: Path) -> None:
    place = tmp_path / "t.csv"
    place.write_text('"a","b"\n,1\n')
    copy(pa.table({"a": ["x"], "b": [2]}), place, if_exists="append")
    assert pa.csv.read_csv(place).to_pydict() == {"a": ["", "x"], "b": [1, 2]} or (
        place.read_text().splitlines()[1:] == [",1", '"x",2']
    )


@pytest.mark.parametrize("extension", ["ndjson", "bson", "godb", "parquet"])
def test_dicts_are_copied_with_the_values_that_documents_hold(
    extension: str, tmp_path: Path
) -> None:
    import uuid
    from decimal import Decimal

    document = {
        "_id": "1", "d": DAY, "c": Decimal("1.5"), "t": dt.time(1, 2), "u": uuid.UUID(int=5),
        "n": np.int64(3),
    }  # fmt: skip
    copy([document], tmp_path / f"t.{extension}")
    copy(tmp_path / f"t.{extension}", tmp_path / "back.godb")
    (found,) = godb_arrow.open_godb(tmp_path / "back.godb")
    godb_arrow.write_godb([document], tmp_path / "own.godb", "c")
    (own,) = godb_arrow.open_godb(tmp_path / "own.godb")
    if extension == "parquet":  # which has types for them
        assert found.keys() == own.keys()
    else:
        assert found == own


@pytest.mark.parametrize("value", [1, None, True, "zz", [1], [], {}, [1, 2, 3], 1.5])
@pytest.mark.parametrize("key", ["$time", "$bytes", "$map", "$float", "$ext"])
def test_maps_that_look_reserved_are_read(key: str, value: Any, tmp_path: Path) -> None:
    import json

    (tmp_path / "t.ndjson").write_text(json.dumps({"_id": "1", "a": {key: value}}) + "\n")
    copy(tmp_path / "t.ndjson", tmp_path / "t.godb")
    assert godb_arrow.verify_godb(tmp_path / "t.godb").ok


@pytest.mark.parametrize("kind", ["parquet", "delta"])
def test_a_folder_that_cannot_be_read_is_an_error_of_ours(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    if kind == "delta":
        pytest.importorskip("deltalake")
        (folder / "_delta_log").mkdir(parents=True)
        (folder / "_delta_log" / "00000000000000000000.json").write_text("garbage")
    else:
        folder.mkdir()
        (folder / "a.parquet").write_bytes(b"garbage")
    with pytest.raises(godb_arrow.GodbError) as raised:
        copy(folder, tmp_path / "t.godb")
    assert "backtrace" not in str(raised.value)


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    pytest.importorskip("adbc_driver_sqlite")
    with pytest.raises(godb_arrow.SourceNotFound):
        copy(f"sqlite:///{tmp_path}/nope.db#t", tmp_path / "t.godb")
    assert not (tmp_path / "nope.db").exists()


def test_parts_of_values_of_mongodb_are_kept(tmp_path: Path) -> None:
    bson = pytest.importorskip("bson")
    document = {
        "_id": "1",
        "regex": bson.Regex("a", "im"),
        "plain": bson.Regex("a"),
        "code": bson.Code("x", {"y": 1}),
        "ref": bson.DBRef("c", "i", "db"),
        "legacy": bson.Binary(b"0123456789abcdef", 3),
        "own": [bson.Binary(b"\xff", 128), {"old": bson.Binary(b"", 2)}],
        "at": bson.Timestamp(1, 2**32 - 1),
        "ends": [bson.MinKey(), bson.MaxKey()],
        "raw": b"x",
    }
    (tmp_path / "t.bson").write_bytes(bson.encode(document))
    copy(tmp_path / "t.bson", tmp_path / "t.godb")
    (found,) = godb_arrow.open_godb(tmp_path / "t.godb")
    assert found == {
        "_id": "1",
        "regex": {"$regex": "a", "$options": "im"},
        "plain": {"$regex": "a"},
        "code": {"$code": "x", "$scope": {"y": 1}},
        "ref": {"$ref": "c", "$id": "i", "$db": "db"},
        "legacy": {"$binary": {"base64": "MDEyMzQ1Njc4OWFiY2RlZg==", "subType": "03"}},
        "own": [
            {"$binary": {"base64": "/w==", "subType": "80"}},
            {"old": {"$binary": {"base64": "", "subType": "02"}}},
        ],
        "at": {"$timestamp": {"t": 1, "i": 2**32 - 1}},
        "ends": [{"$minkey": 1}, {"$maxkey": 1}],
        "raw": b"x",
    }
    copy(tmp_path / "t.godb", tmp_path / "back.bson")
    assert (tmp_path / "back.bson").read_bytes() == (tmp_path / "t.bson").read_bytes()


@pytest.mark.parametrize(
    "value",
    [
        {"$binary": {"base64": "/w==", "subType": "80", "more": 1}},
        {"$binary": {"base64": "/w=", "subType": "80"}},
        {"$binary": {"base64": "/w==", "subType": "999"}},
        {"$binary": b"x"},
        {"$regex": "a", "$options": "mi"},
        {"$regex": "a", "$options": "q"},
        {"$regex": "a\0b"},
        {"$regex": 1},
        {"$code": 1},
        {"$timestamp": {"t": -1, "i": 0}},
        {"$timestamp": {"t": True, "i": 0}},
        {"$minkey": True},
        {"$maxkey": 1, "a": 1},
    ],
)
def test_maps_that_only_look_like_values_of_mongodb(value: Any) -> None:
    pytest.importorskip("bson")
    import io

    from godb_arrow.connectors.etl.bson import BsonSource, encode

    (found,) = BsonSource(io.BytesIO(encode({"x": value, "l": [value]})), "t")
    assert repr(found) == repr({"x": value, "l": [value]})


@pytest.mark.parametrize("key", ["$time", "$map"])
def test_a_document_of_one_reserved_name_is_itself_in_bson(key: str) -> None:
    pytest.importorskip("bson")
    import io

    from godb_arrow.connectors.etl.bson import BsonSource, encode

    (found,) = BsonSource(io.BytesIO(encode({key: 1})), "t")
    assert found == {key: 1}
