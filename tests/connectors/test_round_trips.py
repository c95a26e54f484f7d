"""Copies to files, folders, tables and databases and back change no document."""

from __future__ import annotations

import datetime as dt
import decimal
import logging
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.arrow_types import SCALARS
from support.settings import LONG

import godb_arrow
from godb_arrow import StorageEngine, TargetExists, UnsupportedType
from godb_arrow.connectors.etl import copy as copy_with_progress
from godb_arrow.connectors.etl.pipeline import CopySummary

STORED = {
    name: array
    for name, array in SCALARS.items()
    if name not in ("month_day_nano_interval", "dense union", "map of numbers")
}
LOSSLESS = ("parquet", "arrow", "ndjson", "bson", "folder", "delta")


def copy(source: Any, target: Any, **options: Any) -> CopySummary:
    return copy_with_progress(source, target, progress=False, **options)


def target_of(folder: Path, kind: str) -> tuple[str, dict[str, Any]]:
    """Return an address and the options of a copy to it."""
    if kind == "sqlite":
        pytest.importorskip("adbc_driver_sqlite")
        return f"sqlite:///{folder}/t.db#t", {}
    if kind == "delta":
        pytest.importorskip("deltalake")
        return str(folder / "delta"), {"format": "delta"}
    if kind == "folder":
        return str(folder / "folder"), {"format": "parquet"}
    if kind == "bson":
        pytest.importorskip("bson")
    if kind in ("directory", "url"):
        return (f"{folder}/data#c" if kind == "directory" else "memory://trips/data#c"), {}
    return str(folder / f"t.{kind}"), {}


def there_and_back(folder: Path, source: Any, kind: str) -> list[dict[str, Any]]:
    target, options = target_of(folder, kind)
    copy(source, target, **options)
    copy(target, folder / "back.godb#c", if_exists="replace")
    return list(godb_arrow.read_documents(folder / "back.godb"))


@pytest.mark.parametrize("kind", LOSSLESS)
def test_values_of_every_type(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "a.godb"
    columns = {name: pa.concat_arrays([array] * 2)[:3] for name, array in STORED.items()}
    if kind == "bson":
        del columns["uint64 extremes"]  # BSON has no such integers, and says so
    godb_arrow.write_godb(pa.table(columns), source, "c")
    found = there_and_back(tmp_path, source, kind)
    for before, after in zip(godb_arrow.read_documents(source), found, strict=True):
        assert after.keys() == before.keys()
        for name in before:
            assert after[name] == before[name], name
    if kind in ("parquet", "arrow", "folder"):
        back = godb_arrow.read_schema(tmp_path / "back.godb")
        for field in godb_arrow.read_schema(source):
            is_same = back.field(field.name).type.equals(field.type)
            assert is_same or field.name == "decimal of tens", field.name


MIXED = [
    {"_id": "1", "x": "Alien", "deep": {"x": 1, "l": [1, "a"]}, "t": dt.time(1).isoformat()},
    {"_id": "2", "x": 1776, "deep": {"x": "1", "l": []}, "t": None},
    {"_id": "3", "x": ["x", {"y": 2.5}], "deep": {"x": None, "l": None}, "t": "3"},
    {"_id": "4", "x": b"\x00\xff", "deep": {"x": [True], "l": [None]}, "t": "null"},
]


@pytest.mark.parametrize("kind", LOSSLESS)
def test_fields_of_several_types(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "a.godb"
    godb_arrow.write_godb(MIXED, source, "c")
    assert there_and_back(tmp_path, source, kind) == MIXED


def test_other_readers_of_parquet_get_text(tmp_path: Path) -> None:
    godb_arrow.write_godb(MIXED, tmp_path / "a.godb", "c")
    copy(tmp_path / "a.godb", tmp_path / "a.parquet")
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.schema.field("x").type == pa.string()
    assert table["x"].to_pylist()[:2] == ['"Alien"', "1776"]
    copy(tmp_path / "a.godb", tmp_path / "a.parquet", if_exists="append", filter={"_id": "1"})
    copy(tmp_path / "a.parquet", tmp_path / "b.godb#c", columns=["x"])
    values = [document["x"] for document in godb_arrow.read_documents(tmp_path / "b.godb")]
    assert values == [*(document["x"] for document in MIXED), "Alien"]


@pytest.mark.parametrize(
    "moment",
    [
        dt.datetime(2024, 1, 1, 0, 0, 0, 123_456, dt.UTC),
        dt.datetime(2024, 1, 1, 0, 0, 0, 123_000, dt.UTC),
        msgpack.Timestamp(5, 123_456_789),
        msgpack.Timestamp(2**40, 0),
        msgpack.Timestamp(-(2**50), 1),
        {"$time": "2024-01-01T00:00:00Z"},
        {"$map": [1]},
    ],
)
def test_moments_in_bson(tmp_path: Path, moment: Any) -> None:
    documents = [{"_id": "1", "t": moment, "l": [moment, {"deep": moment}]}]
    godb_arrow.write_godb(documents, tmp_path / "a.godb", "c")
    assert there_and_back(tmp_path, tmp_path / "a.godb", "bson") == documents


# --- CSV ------------------------------------------------------------------------------------------


def read_csv(folder: Path, text: str | bytes) -> dict[str, list[Any]]:
    path = folder / "a.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    copy(path, folder / "a.godb#c", if_exists="replace")
    table = godb_arrow.read_table(folder / "a.godb")
    return table.drop_columns(["_id"] if "_id" in table.column_names else []).to_pydict()


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ('a,b\n"",1\n,\n"x",3\n', {"a": ["", None, "x"], "b": [1, None, 3]}),
        ("a,b\nNA,NA\n7,x\n", {"a": [None, 7], "b": ["NA", "x"]}),
        ('a\n"1"\n""\n"3"\n', {"a": [1, None, 3]}),
        ('a,b\n"",1\n,\n', {"a": ["", None], "b": [1, None]}),
        ('a\n""\n""\n', {"a": ["", ""]}),
        ("a\n18446744073709551615\n3\n", {"a": [2**64 - 1, 3]}),
        ("a\n1.5\n9007199254740993\n", {"a": ["1.5", "9007199254740993"]}),
        ("a\n-1\n18446744073709551615\n", {"a": ["-1", "18446744073709551615"]}),
        ("a\n1" + "0" * 400 + "\n2\n", {"a": ["1" + "0" * 400, "2"]}),
        ("a\n1.5\n-2\n", {"a": [1.5, -2.0]}),
        ("a\ntrue\nfalse\n", {"a": [True, False]}),
        ('a\n"x\ny"\n"z, ""q"""\n', {"a": ["x\ny", 'z, "q"']}),
        (b"a\n\xff\nx\n", {"a": [b"\xff", b"x"]}),
        (",b\n1,2\n", {"": [1], "b": [2]}),
    ],
)
def test_csv_fields(tmp_path: Path, text: str | bytes, columns: dict[str, list[Any]]) -> None:
    assert read_csv(tmp_path, text) == columns


LATER = ["x", "2.5", "18446744073709551615", "", "NA", '""']


@pytest.mark.parametrize("later", LATER if LONG else LATER[:2])
def test_csv_rows_of_another_type_after_many(tmp_path: Path, later: str) -> None:
    rows = 2_200_000  # more than a block
    found = read_csv(tmp_path, "k\n" + "1234567\n" * rows + f"{later}\n")["k"]
    expected: dict[str, Any] = {"x": "x", "2.5": 2.5, "18446744073709551615": 2**64 - 1}
    assert len(found) == rows + 1  # an empty line of a single column is a null
    assert found[-1] == expected.get(later)


def test_csv_null_and_empty_text(tmp_path: Path) -> None:
    documents = [{"_id": "1", "s": "x"}, {"_id": "2", "s": None}, {"_id": "3", "s": ""}]
    godb_arrow.write_godb(documents, tmp_path / "a.godb", "c")
    assert there_and_back(tmp_path, tmp_path / "a.godb", "csv") == documents


def test_csv_refuses_moments_that_it_cannot_write(tmp_path: Path) -> None:
    godb_arrow.write_godb(pa.table({"t": STORED["far timestamp"]}), tmp_path / "a.godb", "c")
    with pytest.raises(UnsupportedType, match="'t' has a moment outside"):
        copy(tmp_path / "a.godb", tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()


# --- databases and tables -------------------------------------------------------------------------


def test_types_that_sqlite_lacks(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = pa.table({
        "price": [decimal.Decimal("1.10")],
        "at": [dt.time(1, 2)],
        "wait": [dt.timedelta(seconds=5)],
        "small": pa.array([200], pa.uint8()),
        "raw": pa.array([b"ab"], pa.binary(2)),
    })  # fmt: skip
    godb_arrow.write_godb(table, tmp_path / "a.godb", "c")
    with caplog.at_level(logging.WARNING):
        assert there_and_back(tmp_path, tmp_path / "a.godb", "sqlite") == list(
            godb_arrow.read_documents(tmp_path / "a.godb")
        )
    assert "column 'at' of type time64[us] becomes int64" in caplog.text
    assert "'small'" not in caplog.text


def test_a_column_of_sqlite_with_values_of_several_types(tmp_path: Path) -> None:
    pytest.importorskip("adbc_driver_sqlite")
    path = tmp_path / "a.db"
    with sqlite3.connect(path) as database:
        database.execute('CREATE TABLE t (k, mixed, number, "big ""x" , late)')
        rows = [(n, n, n, n, None) for n in range(3_000)]
        rows += [(3_000, "x", 0.5, 2**53 + 1, "at last"), (3_001, b"\xff", None, 0.5, None)]
        database.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", rows)
    database.close()
    copy(f"sqlite:///{path}#t", tmp_path / "a.godb#c")
    *_, before, last, after = godb_arrow.read_documents(tmp_path / "a.godb")
    assert (before["mixed"], before["number"], before['big "x']) == (2_999, 2_999.0, 2_999)
    assert (last["mixed"], last["number"], last['big "x']) == ("x", 0.5, 2**53 + 1)
    assert last["late"] == "at last"
    assert (after["mixed"], after["number"], after['big "x']) == (b"\xff", None, 0.5)


def read_sqlite(folder: Path, *statements: str) -> pa.Table:
    pytest.importorskip("adbc_driver_sqlite")
    with sqlite3.connect(folder / "a.db") as database:
        for statement in statements:
            database.execute(statement)
    database.close()
    copy(f"sqlite:///{folder}/a.db#t", folder / "back.godb#c")
    return godb_arrow.read_table(folder / "back.godb")


@pytest.mark.parametrize("rows", [0, 1, 3_000])
def test_types_that_sqlite_declares(tmp_path: Path, rows: int) -> None:
    pytest.importorskip("adbc_driver_sqlite")
    moment = dt.datetime(1960, 2, 29, 6, 30, 1, 999_999)
    table = pa.table({
        "day": pa.array([None, dt.date(1, 1, 1), dt.date(9999, 12, 31)], pa.date32()),
        "yes": [None, True, False],
        "at": pa.array([None, moment, dt.datetime(2024, 1, 1)], pa.timestamp("us")),
        "fine": pa.array([None, -1, 10**18 + 1], pa.int64()).cast(pa.timestamp("ns")),
        "zone": pa.array([None, moment, None], pa.timestamp("us", "UTC")),
        "none": pa.nulls(3, pa.timestamp("us")),
    })  # fmt: skip
    table = pa.concat_tables([table[:0], *[table] * rows])
    godb_arrow.write_godb(table, tmp_path / "a.godb", "c")
    copy(tmp_path / "a.godb", f"sqlite:///{tmp_path}/a.db#t")
    copy(tmp_path / "a.godb", f"sqlite:///{tmp_path}/a.db#t", if_exists="append")
    copy(f"sqlite:///{tmp_path}/a.db#t", tmp_path / "back.godb#c")
    found = godb_arrow.read_table(tmp_path / "back.godb", columns=table.column_names)
    expected = pa.concat_tables([table, table])
    if not rows:  # without a value, the unit of a moment is not known
        found, expected = found.drop_columns("fine"), expected.drop_columns("fine")
    assert found.equals(expected)


@pytest.mark.parametrize(
    ("declared", "values", "found"),
    [
        ("date", "'2024-02-29'), (null", [dt.date(2024, 2, 29), None]),
        ("DATE", "'2024-02-30'", ["2024-02-30"]),
        ("DATE", "'2024-1-1'", ["2024-1-1"]),
        ("DATE", "'now'), ('x'", ["now", "x"]),
        ("DATE", "20240101", [20240101]),
        ("DATETIME", "'2024-01-01T10:00:00'", [dt.datetime(2024, 1, 1, 10)]),
        ("timestamp", "'2024-01-01 10:00:00.5'", [dt.datetime(2024, 1, 1, 10, 0, 0, 500_000)]),
        ("timestamp", "'2024-01-01'", ["2024-01-01"]),
        ("timestamp", "'2024-01-01 10:00:00+01:00'", ["2024-01-01 10:00:00+01:00"]),
        ("timestamp", "'2024-01-01 10:00:00.'", ["2024-01-01 10:00:00."]),
        ("timestamp", "'3024-01-01 10:00:00.1234567'", ["3024-01-01 10:00:00.1234567"]),
        ("timestamp", "'2024-01-01 10:00:00.1234567890'", ["2024-01-01 10:00:00.1234567890"]),
        ("timestamp", "1700000000", [1_700_000_000]),
        ("boolean", "1), (0), (null", [True, False, None]),
        ("boolean", "1), (2", [1, 2]),
        ("boolean", "'t'", ["t"]),
        ("DATE", "'2024-01-01'), (5", ['"2024-01-01"', "5"]),
    ],
)
def test_values_that_may_not_fit_a_declared_type(
    tmp_path: Path, declared: str, values: str, found: list[Any]
) -> None:
    table = read_sqlite(
        tmp_path, f"CREATE TABLE t (x {declared})", f"INSERT INTO t VALUES ({values})"
    )
    assert table["x"].to_pylist() == found


def test_errors_of_delta_are_ours(tmp_path: Path) -> None:
    deltalake = pytest.importorskip("deltalake")
    target = tmp_path / "t"
    deltalake.write_deltalake(str(target), pa.table({"a": ["x"]}))
    with pytest.raises(godb_arrow.GodbError) as error:
        copy(pa.table({"b": [{"c": 1}]}), target, if_exists="append")
    assert "<unknown>" not in str(error.value)


# --- addresses and empty collections --------------------------------------------------------------


@pytest.mark.parametrize("kind", [*LOSSLESS, "csv", "sqlite", "directory", "url"])
def test_empty_collections(tmp_path: Path, kind: str) -> None:
    table = pa.table({"_id": pa.array([], pa.string()), "n": pa.array([], pa.int64())})
    godb_arrow.write_godb(table, tmp_path / "a.godb", "c")
    assert there_and_back(tmp_path, tmp_path / "a.godb", kind) == []


@pytest.mark.parametrize("kind", ["directory", "url"])
def test_new_and_present_data_directories(tmp_path: Path, kind: str) -> None:
    documents = [{"_id": "1", "a": 1}]
    godb_arrow.write_godb(documents, tmp_path / "a.godb", "c")
    target, _ = target_of(tmp_path, kind)
    target = target.replace("trips", f"trips-{tmp_path.name}")
    copy(tmp_path / "a.godb", target)
    with pytest.raises(TargetExists):
        copy(tmp_path / "a.godb", target)
    copy([{"_id": "2"}], target, if_exists="append")
    copy([{"_id": "2", "b": 1}], target, if_exists="upsert")
    copy(target, tmp_path / "b.godb#c")
    assert len(list(godb_arrow.read_documents(tmp_path / "b.godb"))) == 2
    copy(tmp_path / "a.godb", target, if_exists="replace")
    with StorageEngine(target.rpartition("#")[0], read_only=True) as engine:
        assert list(engine["c"]) == documents


def test_names_with_a_number_sign(tmp_path: Path) -> None:
    folder = tmp_path / "c#"
    folder.mkdir()
    godb_arrow.write_godb([{"a": 1}], folder / "u.godb", "users")
    for target in (folder / "x.parquet", folder / "y#1.csv", folder / "z.godb#users"):
        copy(folder / "u.godb#users", target)
        copy(target, tmp_path / f"{target.name}.godb#c")
    assert sorted(path.name for path in folder.iterdir()) == [
        "u.godb", "x.parquet", "y#1.csv", "z.godb",
    ]  # fmt: skip


def test_standard_input_and_output(tmp_path: Path) -> None:
    godb_arrow.write_godb([{"a": 1}, {"a": "x"}], tmp_path / "a.godb", "c")
    code = (
        "import sys; from godb_arrow.connectors.etl import copy; "
        "copy(*sys.argv[1:], progress=False)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.godb"), "-"], capture_output=True, check=True
    ).stdout
    assert out.splitlines() == [b'{"_id":"1","a":1}', b'{"_id":"2","a":"x"}']
    back = [sys.executable, "-c", code, "-", f"{tmp_path}/b.godb#c"]
    subprocess.run(back, input=out, check=True)
    assert [d["a"] for d in godb_arrow.read_documents(tmp_path / "b.godb")] == [1, "x"]


KEYS = {
    "text": pa.array(["01", "x/y", None]),
    "small": pa.array([1, 200, None], pa.uint8()),
    "int64": pa.array([2**40, -1, None]),
    "flag": pa.array([True, False, None]),
    "day": pa.array([dt.date(2024, 2, 29), dt.date(1960, 1, 1), None]),
}


@pytest.mark.parametrize("name", KEYS)
def test_partition_keys_come_back(tmp_path: Path, name: str) -> None:
    table = pa.table({"key": KEYS[name], "n": pa.array([1, 2, 3], pa.int16())})
    copy(table, tmp_path / "parts", partition_by=["key"])
    copy(tmp_path / "parts", tmp_path / "back.godb#c")
    found = godb_arrow.read_table(tmp_path / "back.godb", columns=["key", "n"]).sort_by("n")
    assert found.schema.types == table.schema.types
    assert found.to_pydict() == table.to_pydict()
