"""SQL and aggregations of collections and engines."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.arrow_compute import pc

UTC = dt.UTC


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    with StorageEngine(tmp_path) as engine:
        people = engine.create_collection("people")
        people.insert_many([
            {"name": "Ada", "city": "Bern", "age": 36, "born": dt.datetime(2024, 1, 1, tzinfo=UTC)},
            {"name": "Bob", "city": "Rome", "age": 41, "address": {"zip": "1"}},
            {"name": "Cy", "city": "Rome", "tags": ["a", "b"]},
        ])  # fmt: skip
        engine.create_collection("cities").insert_many([{"name": "Bern"}, {"name": "Rome"}])
        yield engine


def test_an_engine_answers_sql_about_all_collections(engine: StorageEngine) -> None:
    query = "select c.name, count(*) as n from people p join cities c on p.city = c.name " \
            "group by c.name order by 1"  # fmt: skip
    result = engine.sql(query)
    assert result.to_dicts() == [{"name": "Bern", "n": 1}, {"name": "Rome", "n": 2}]
    assert result.to_arrow().column("n").to_pylist() == [1, 2]
    assert result.to_pandas()["n"].tolist() == [1, 2]
    assert result.to_polars()["n"].to_list() == [1, 2]
    assert pa.table(result).num_rows == len(result) == 2
    assert result.schema.names == ["name", "n"]
    assert "2 rows" in repr(result)
    assert "Rome" in result._repr_html_()
    assert engine.sql("select 1 as one").to_dicts() == [{"one": 1}]
    assert engine.sql("select age from people where name = $1", ["Bob"]).to_dicts() == [{"age": 41}]


def test_a_collection_is_self_and_its_own_name(engine: StorageEngine) -> None:
    people = engine["people"]
    for name in ("self", "people"):
        found = people.sql(f"select max(age) as age, min(born) as born from {name}").to_dicts()
        assert found == [{"age": 41, "born": dt.datetime(2024, 1, 1, tzinfo=UTC)}]
    with pytest.raises(godb_arrow.InvalidQuery, match="cities"):
        people.sql("select * from cities")


@pytest.mark.parametrize("query", ["selec 1", "select * from nowhere", "select x from people", 5])
def test_a_wrong_query_is_an_error_of_ours(engine: StorageEngine, query: Any) -> None:
    with pytest.raises(godb_arrow.InvalidQuery):
        engine.sql(query)


def test_a_closed_engine_answers_nothing(tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path)
    engine.close()
    with pytest.raises(godb_arrow.EngineClosed):
        engine.sql("select 1")


def test_documents_are_aggregated_by_groups(engine: StorageEngine) -> None:
    people = engine["people"]
    result = people.aggregate("city", n="count", ages=("age", "count"), top=("age", "max"),
                              mean=("age", "mean"), names=("name", "list"))  # fmt: skip
    assert result.to_dicts() == [
        {"city": "Bern", "n": 1, "ages": 1, "top": 36, "mean": 36.0, "names": ["Ada"]},
        {"city": "Rome", "n": 2, "ages": 1, "top": 41, "mean": 41.0, "names": ["Bob", "Cy"]},
    ]
    assert people.aggregate(n="count").to_dicts() == [{"n": 3}]
    assert people.aggregate(filter={"city": "Rome"}, n="count").to_dicts() == [{"n": 2}]
    assert people.aggregate(filter=pc.field("age") > 40, n=("age", "sum")).to_dicts() == [{"n": 41}]
    assert people.aggregate(["address.zip"], n="count").to_dicts() == [
        {"address.zip": "1", "n": 1}, {"address.zip": None, "n": 2},
    ]  # fmt: skip
    assert people.aggregate(["city", "name"], {"age": 36}).to_dicts() == [
        {"city": "Bern", "name": "Ada"}
    ]
    assert people.aggregate(c=("city", "distinct"), m=("age", "median")).to_dicts() == [
        {"c": 2, "m": 38.5}
    ]


@pytest.mark.parametrize(
    ("by", "outputs"),
    [
        (None, {}),
        ("city", {"n": "sum"}),
        ("city", {"n": ("age", "mode")}),
        ("city", {"n": ("age",)}),
        ("city", {"city": "count"}),
        ("city", {"n": (1, "sum")}),
    ],
)
def test_aggregations_that_make_no_sense_are_refused(
    engine: StorageEngine, by: Any, outputs: Any
) -> None:
    with pytest.raises(godb_arrow.InvalidOption):
        engine["people"].aggregate(by, **outputs)


def test_an_aggregation_that_a_field_does_not_allow_is_an_error_of_ours(
    engine: StorageEngine,
) -> None:
    with pytest.raises(godb_arrow.InvalidQuery):
        engine["people"].aggregate(n=("name", "sum"))
    with pytest.raises(godb_arrow.FieldNotFound):
        engine["people"].aggregate("nowhere", n="count")


def test_an_engine_imports_no_duckdb_before_it_is_asked(tmp_path: Path) -> None:
    code = f"import sys, godb_arrow; godb_arrow.StorageEngine({str(tmp_path)!r}).close()"
    subprocess.run(
        [sys.executable, "-c", f"{code}; assert 'duckdb' not in sys.modules"], check=True
    )


def test_damage_of_a_file_is_not_reported_as_a_wrong_query(tmp_path: Path) -> None:
    path = tmp_path / "a.godb"
    godb_arrow.write_godb([{"n": n, "t": f"text {n * 7919}"} for n in range(20_000)], path, "c")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 50] = bytes(byte ^ 0xFF for byte in data[middle : middle + 50])
    path.write_bytes(data)
    collection = godb_arrow.open_godb(path)
    for ask in (
        lambda: collection.sql("select sum(n) from c"),
        lambda: collection.aggregate(total=("n", "sum")),
        lambda: collection.aggregate("t", documents="count"),
    ):
        with pytest.raises(godb_arrow.CorruptFile):
            ask()
