"""DuckDB: SQL over collections, with columns and conditions pushed down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

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
