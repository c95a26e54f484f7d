"""Polars: what a query needs reaches the decoder, and nothing else."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.connectors.columns import keep_batch
from godb_arrow.query.projection import project

pl = pytest.importorskip("polars")
from godb_arrow.connectors import polars as adapter  # noqa: E402

ROWS = 30_000


def table(rows: int = ROWS) -> pa.Table:
    return pa.table({
        **{f"n{i}": [n * i % 1000 for n in range(rows)] for i in range(1, 7)},
        **{f"t{i}": [f"text {n * i % 100}" for n in range(rows)] for i in range(1, 7)},
    })  # fmt: skip


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("polars") / "wide.godb"
    godb_arrow.write_godb(table(), path, "wide")
    return path


def test_projection_and_predicate_reach_the_decoder(path: Path, decoded: Any) -> None:
    found = (
        adapter.scan_godb(path)
        .filter(pl.col("n1") < 10, pl.col("t2").str.ends_with("4"))
        .select("t1", "n2")
        .collect()
    )
    frame = pl.DataFrame(table())
    expected = frame.filter(pl.col("n1") < 10, pl.col("t2").str.ends_with("4")).select("t1", "n2")
    assert found.equals(expected)
    assert len(found) > 0
    columns = {names for _, names in decoded}
    assert columns <= {("n1", "t2"), ("n1", "n2", "t1", "t2")}
    whole = sum(rows for rows, names in decoded if len(names) == 4)
    assert whole == len(found), "other documents were decoded for the filter's fields only"


def test_a_limit_stops_early(path: Path, decoded: Any) -> None:
    found = adapter.scan_godb(path, threads=1).head(3).select("n1").collect()
    assert found["n1"].to_list() == [0, 1, 2]
    assert sum(rows for rows, _ in decoded) < ROWS
    assert {names for _, names in decoded} == {("n1",)}


def test_everything_else_is_as_in_polars(path: Path) -> None:
    lazy = adapter.scan_godb(path)
    frame = pl.DataFrame(table())
    for query in (
        lambda f: f.group_by("t1").agg(pl.col("n2").sum()).sort("t1"),
        lambda f: f.filter(pl.col("n1").is_null()),
        lambda f: f.filter(pl.col("n1") > 990).head(5).select("n1", "t6"),
        lambda f: f.select(pl.len()),
        lambda f: f.with_columns(x=pl.col("n1") + 1).filter(pl.col("x") == 7).select("x"),
        lambda f: f.filter((pl.col("n1") == 3) | pl.lit(False)).select("n1"),
        lambda f: f.tail(3).select("n3"),
        lambda f: f.join(f, left_on="n1", right_on="n2").select(pl.len()),
    ):
        assert query(lazy).collect().equals(query(frame.lazy()).collect())


def test_types_come_as_polars_knows_them(tmp_path: Path) -> None:
    documents = [
        {"_id": "a", "mixed": 1, "list": [{"x": 1}, {"x": "s"}], "nothing": None, "bin": b"\0"},
        {"_id": "b", "mixed": "s", "map": {"k": 1.5}},
    ]
    godb_arrow.write_godb(documents, tmp_path / "t.godb", "t")
    frame = adapter.read_godb(tmp_path / "t.godb")
    assert frame["mixed"].dtype == pl.String
    assert frame["mixed"].to_list() == ["1", '"s"']
    assert frame["list"].to_list() == [[{"x": "1"}, {"x": '"s"'}], None]
    assert frame["map"].to_list() == [None, {"k": 1.5}]
    lazy = adapter.scan_godb(tmp_path / "t.godb").filter(pl.col("mixed") == '"s"')
    assert lazy.select("_id").collect()["_id"].to_list() == ["b"]
    assert adapter.read_godb(tmp_path / "t.godb", columns=["bin"])["bin"].to_list() == [b"\0", None]


def test_an_engines_collection(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        wide = engine.create_collection("wide")
        wide.insert_many(table(1000))
        lazy = adapter.scan_godb(wide)
        assert lazy.filter(pl.col("n1") == 7).select("t1").collect()["t1"].to_list() == ["text 7"]
        wide.delete_many({"n1": 7})
        assert len(lazy.filter(pl.col("n1") == 7).collect()) == 0, "each query sees the present"


def test_sink_and_read_back(tmp_path: Path) -> None:
    lazy = pl.LazyFrame({"n": range(1000), "s": ["a", "b"] * 500}).filter(pl.col("n") % 2 == 0)
    assert adapter.sink_godb(lazy, tmp_path / "s.godb", "s") == 500
    frame = adapter.read_godb(tmp_path / "s.godb")
    assert frame.select("n", "s").equals(lazy.collect())
    assert adapter.sink_godb(frame, tmp_path / "s.godb", "s2") == 500
    empty = io.BytesIO()
    assert adapter.sink_godb(lazy.filter(pl.col("n") < 0), empty, "none") == 0


def test_an_error_is_ours(tmp_path: Path) -> None:
    with pytest.raises(godb_arrow.SourceNotFound):
        adapter.scan_godb(tmp_path / "none.godb")


@pytest.mark.parametrize("name", ["small", "large", "real"])
def test_comparisons_keep_what_polars_keeps(tmp_path: Path, name: str) -> None:
    values = {
        "small": pa.array([None, -1, 0, 3, 3, 9] * 5000, pa.int64()),
        "large": pa.array([None, 2**64 - 1, 0, 3, 2**63, 9] * 5000, pa.uint64()),
        "real": pa.array([None, float("nan"), float("inf"), -0.0, 3.0, 9.5] * 5000),
    }
    path = tmp_path / "numbers.godb"
    godb_arrow.write_godb(pa.table(values), path, "c")
    frame = pl.DataFrame(pa.table(values))
    field = pl.col(name)
    for condition in (
        field < 3, field <= 3, field > 3, field >= 3, field == 3, field != 3, pl.lit(3) > field,
        field < 3.5, field == pl.lit(float("nan")), field > -1, field.is_between(3, 9),
        ~(field < 3), (field > 0) & (field < 9), field.cast(pl.Int32, strict=False) < 3,
        field.is_null(),
    ):  # fmt: skip
        found = adapter.scan_godb(path).filter(condition).select(name).collect()
        assert found.equals(frame.filter(condition).select(name)), condition


def test_many_columns_take_time_in_proportion_to_their_number() -> None:
    def seconds(width: int) -> float:
        batch = pa.record_batch({f"column {number}": [1.5] for number in range(width)})
        started = time.process_time()
        keep_batch(batch, batch.schema, "polars")
        project(batch.schema, batch.schema.names, None)
        return time.process_time() - started

    few = min(seconds(400) for _ in range(3))
    assert min(seconds(6_400) for _ in range(2)) < 60 * few  # 256 times, where it is quadratic
