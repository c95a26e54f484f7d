"""DuckDB: SQL over collections, with columns and conditions pushed down."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.arrow_types import SCALARS

import godb_arrow
from godb_arrow import StorageEngine

duckdb = pytest.importorskip("duckdb")
from godb_arrow.connectors import duckdb as adapter  # noqa: E402


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StorageEngine]:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.insert_many(pa.table({
            "name": [f"user {n}" for n in range(5000)],
            "age": [n % 90 for n in range(5000)],
            "city": [n % 10 for n in range(5000)],
        }))  # fmt: skip
        engine.save()
        engine.create_collection("odd name").insert_many(
            [{"mixed": 1, "geo": {"cc": "DE"}}, {"mixed": "s"}]
        )
        yield engine


def test_every_collection_is_a_view(engine: StorageEngine) -> None:
    with adapter.connect(engine) as sql:
        assert sql.sql("select count(*) from users").fetchall() == [(5000,)]
        assert sql.sql("select count(*) from users where age > 80").fetchall() == [(495,)]
        assert sql.sql('select geo.cc, mixed from "odd name" order by 1').fetchall() == [
            ("DE", "1"), (None, '"s"'),
        ]  # fmt: skip
        joined = "select count(*) from users a join users b using (_id) where a.age = 3"
        assert sql.sql(joined).fetchall() == [(56,)]
        assert sql.sql("select name from users limit 1").fetchall() == [("user 0",)]
        engine.insert("users", {"name": "new", "age": 200, "city": 1})
        assert sql.sql("select name from users where age = 200").fetchall() == [("new",)]
        engine.create_collection("more").insert({"n": 1})
        adapter.connect(engine, sql)
        assert sql.sql("select n from more").fetchall() == [(1,)]


def test_only_what_the_query_needs_is_decoded(engine: StorageEngine, decoded: Any) -> None:
    with adapter.connect(engine) as sql:
        rows = sql.sql("select name from users where age = 17 order by name limit 2").fetchall()
        assert rows == [("user 1007",), ("user 107",)]
    assert {names for _, names in decoded} == {("age",), ("name", "age")}
    whole = sum(rows for rows, names in decoded if len(names) > 1)
    assert whole == 56, "of the others, the filter's field only"


def test_a_notebook_needs_no_connection(engine: StorageEngine, tmp_path: Path) -> None:
    path = tmp_path / "one.godb"
    godb_arrow.write_godb([{"n": 1}, {"n": 2}], path, "numbers")
    numbers = godb_arrow.open_godb(path)  # noqa: F841 (DuckDB finds it by its name)
    assert duckdb.sql("select sum(n) from numbers").fetchall() == [(3,)]
    assert duckdb.sql("select sum(n) from numbers").fetchall() == [(3,)], "as often as wanted"
    users = engine["users"]
    assert duckdb.sql("select max(age) from users").fetchall() == [(89,)]
    reader = users.stream_batches(["age"])  # noqa: F841
    assert duckdb.sql("select min(age) from reader").fetchall() == [(0,)]


def test_views_follow_their_collections(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine, adapter.connect(engine) as sql:
        engine.create_collection("users").insert({"name": "Ada", "age": 36})
        query = "select name, age from users order by _id"
        assert sql.sql(query).fetchall() == [("Ada", 36)]
        engine.insert("users", {"name": "Bob", "age": 41.5, "city": "Bern"})
        assert sql.execute(query).fetchall() == [("Ada", 36.0), ("Bob", 41.5)]
        assert sql.sql("select city from users where age > 40").fetchall() == [("Bern",)]
        engine.insert("users", {"name": 5, "geo": {"cc": "CH"}})
        engine.insert("users", {"geo": {"lat": 46.9}})
        assert sql.sql(query).fetchall()[2] == ("5", None)
        geo = "select geo.cc, geo.lat from users where geo is not null order by _id"
        assert sql.cursor().execute(geo).fetchall() == [("CH", None), (None, 46.9)]
        engine.create_collection('a"b').insert({"n": 1})
        assert sql.sql('select n from "a""b"').fetchall() == [(1,)]
    assert adapter.connect({}).sql("select 1").fetchall() == [(1,)]


def test_a_registered_view_keeps_its_fields(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine, duckdb.connect() as sql:
        numbers = engine.create_collection("numbers")
        numbers.insert({"n": 1, "s": "x"})
        adapter.register(sql, "numbers", numbers)
        numbers.insert({"n": 2.0, "more": True})
        assert sql.sql("select * from numbers where n > 1").fetchall() == [("2", 2, None)]
        numbers.insert({"n": 2.5})
        with pytest.raises(duckdb.Error, match="other types than before"):
            sql.sql("select n from numbers").fetchall()


def test_types_that_duckdb_lacks(tmp_path: Path) -> None:
    columns = {
        name: pa.concat_arrays([array] * 2)[:3]
        for name, array in SCALARS.items()
        if name not in ("month_day_nano_interval", "dense union", "map of numbers")
    }
    godb_arrow.write_godb(pa.table({**columns, "k": [1, 2, 3]}), tmp_path / "a.godb", "c")
    with duckdb.connect() as sql:
        adapter.register(sql, "c", godb_arrow.open_godb((tmp_path / "a.godb").read_bytes()))
        for name, column in columns.items():
            counted = f'select count("{name}"), count(distinct "{name}") from c where k > 0'
            valid, distinct = sql.sql(counted).fetchall()[0]
            assert valid == 3 - column.null_count
            assert distinct <= valid
        assert sql.sql("select k from c where halffloat = 0.5").fetchall() in ([(1,)], [(1,), (3,)])
        assert sql.sql("select decimal256 from c where decimal256 = '1.10'").fetchall()[0] == (
            "1.10",
        )


def test_names_that_the_arrow_interface_cuts(tmp_path: Path) -> None:
    file = io.BytesIO()
    godb_arrow.write_godb([{"a\0x": 1, "a": 2}], file, "c")
    collection = godb_arrow.open_godb(file.getvalue())
    with pytest.raises(godb_arrow.UnsupportedType, match="name of field"):
        pa.table(collection)
    with duckdb.connect() as sql, pytest.raises(godb_arrow.UnsupportedType, match="name of field"):
        adapter.register(sql, "c", collection)
    assert godb_arrow.read_table(file.getvalue())["a\0x"].to_pylist() == [1]
