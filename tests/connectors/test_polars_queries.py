"""Lazy queries of Polars over collections give what they give over its own frames."""

from __future__ import annotations

import datetime as dt
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.arrow_types import SCALARS
from support.settings import examples

import godb_arrow
from godb_arrow import StorageEngine, TypeMismatch

pl = pytest.importorskip("polars")
from polars.io.plugins import register_io_source  # noqa: E402
from polars.testing import assert_frame_equal  # noqa: E402

from godb_arrow.connectors import polars as adapter  # noqa: E402

ROWS = 400
QUERIES = examples(250, long=5_000)


@pytest.fixture(scope="module")
def collections() -> dict[str, Any]:
    numbers = random.Random(7)
    documents = [
        {
            "_id": f"{n:04}",
            "n": n if n % 7 else None,
            "x": numbers.choice([0.5, -1.0, float("nan"), None, float("inf")]),
            "s": numbers.choice(["a", "b", "", None, "Zoë"]),
            "b": numbers.choice([True, False, None]),
            "t": dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=n),
            "l": [n % 3] * (n % 4),
            "": n % 5,
            "st": {"a": n % 2, "": "x"},
        }
        for n in range(ROWS)
    ]
    file = io.BytesIO()
    godb_arrow.write_godb(documents, file, "c")
    return {"file": godb_arrow.open_godb(file.getvalue(), batch_size=37)}


def predicate(numbers: random.Random) -> pl.Expr:
    n, x, s, b = pl.col("n"), pl.col("x"), pl.col("s"), pl.col("b")
    return numbers.choice([
        n > numbers.randrange(ROWS), n == numbers.randrange(ROWS), n.is_null(), n.is_in([3, 5, 9]),
        x > 0.25, x.is_nan(), x.eq_missing(x), x.is_between(-2, 1), x.is_not_null(),
        s == "a", s.is_in(["b", ""]), s.str.contains("o"), s.str.len_chars() > 0, s < "b",
        b, ~b, b.is_null(), pl.col("") == 3, pl.col("l").list.len() > 1,
        pl.col("l").list.contains(2), pl.col("st").struct.field("a") == 1,
        pl.col("t") > dt.datetime(2024, 1, 5, tzinfo=dt.UTC), pl.lit(True), pl.lit(False),
        pl.all_horizontal(n > 50, x.is_not_null()), pl.any_horizontal(b, s == "a"),
        (n > 10) & (s == "a") | b, ~(n > 100), n % 2 == 0, (n + 1) > n,
    ])  # fmt: skip


def step(frame: pl.LazyFrame, numbers: random.Random) -> pl.LazyFrame:
    size = numbers.choice([0, 1, 5, 40, 1000])
    steps: list[Callable[[], pl.LazyFrame]] = [
        lambda: frame.filter(predicate(numbers)),
        lambda: frame.filter(predicate(numbers), predicate(numbers)),
        lambda: frame.head(size),
        lambda: frame.limit(size),
        lambda: frame.tail(size),
        lambda: frame.slice(numbers.choice([0, 3, 50, -20]), size),
        lambda: frame.select(pl.all().exclude("t")) if numbers.random() < 0.3 else frame,
        lambda: frame.with_columns(pl.lit(numbers.randrange(9)).alias("k")),
        lambda: frame.with_row_index(f"row{numbers.randrange(10**9)}"),
    ]
    return numbers.choice(steps)()


def answer(source: pl.LazyFrame, query: int) -> pl.DataFrame:
    """Return what a random query gives over a source."""
    numbers = random.Random(query)
    frame = source
    for _ in range(numbers.randrange(1, 5)):
        try:
            following = step(frame, numbers)
            following.collect_schema()
            frame = following
        except pl.exceptions.ColumnNotFoundError:
            break
    names = numbers.sample(["n", "s", "x", "_id", ""], 2)
    if numbers.random() < 0.5:
        frame = frame.select(names)
    return frame.collect(engine=numbers.choice(["streaming", "in-memory"]))


def source_in_python(frame: pl.DataFrame) -> pl.LazyFrame:
    """Return a source of Polars that pushes nothing down but what it must."""

    def read(columns: Any, predicate: Any, rows: int | None, size: Any) -> Iterator[pl.DataFrame]:
        found = frame if rows is None else frame.head(rows)
        found = found if predicate is None else found.filter(predicate)
        yield found if columns is None else found.select(columns)

    return register_io_source(read, schema=frame.schema)


@pytest.mark.parametrize("part", range(5))
def test_random_queries(collections: dict[str, Any], part: int) -> None:
    collection = collections["file"]
    whole = adapter.read_godb(collection)
    for query in range(part, QUERIES, 5):
        found, expected = (
            answer(source, query) for source in (adapter.scan_godb(collection), whole.lazy())
        )
        if found.height > expected.height:
            # Polars forgets the first of two limits around a row index that no column needs.
            expected = answer(source_in_python(whole), query)
        assert_frame_equal(found, expected, check_row_order=True)


def test_sql(collections: dict[str, Any]) -> None:
    context = pl.SQLContext(c=adapter.scan_godb(collections["file"]))
    own = pl.SQLContext(c=adapter.read_godb(collections["file"]).lazy())
    for query in (
        "select count(*) from c where n > 10 and s = 'a'",
        "select s, sum(n) as n from c where b group by s order by s",
        "select n from c where x is not null limit 3",
        "select a.n from c a join c b on a._id = b._id where a.n < 9 order by a.n",
        "select * from c where s in ('a', 'b') order by _id limit 2 offset 3",
    ):
        assert_frame_equal(context.execute(query).collect(), own.execute(query).collect())


@pytest.mark.parametrize("engine", ["streaming", "in-memory"])
def test_columns_of_every_type(engine: str) -> None:
    stored = {
        name: pa.concat_arrays([array] * 2)[:3]
        for name, array in SCALARS.items()
        if name not in ("month_day_nano_interval", "dense union", "map of numbers")
    }
    file = io.BytesIO()
    godb_arrow.write_godb(pa.table({**stored, "k": [1, 2, 3]}), file, "c")
    lazy = adapter.scan_godb(file.getvalue())
    whole = lazy.collect(engine=engine)
    assert whole.height == 3
    for name, column in stored.items():
        some = lazy.filter(pl.col("k") > 1).select(name).collect(engine=engine)
        assert_frame_equal(some, whole.select(name).tail(2))
        valid = lazy.filter(pl.col(name).is_not_null()).select("k").collect(engine=engine)
        assert valid.height == 3 - column.null_count, name


FRAME = pl.DataFrame({
    "decimal": pl.Series(["1.10", None], dtype=pl.Decimal(20, 2)),
    "array": pl.Series([[1, 2], None], dtype=pl.Array(pl.Int8, 2)),
    "duration": pl.Series([5, None], dtype=pl.Duration("ms")),
    "time": pl.Series([dt.time(1), None]),
    "date": pl.Series([dt.date(2024, 1, 1), None]),
    "struct": pl.Series([{"a": 1, "b": [dt.time(2)]}, None]),
    "list": pl.Series([[dt.date(2024, 1, 1), None], []]),
    "moment": pl.Series([dt.datetime(2024, 1, 1), None], dtype=pl.Datetime("us", "Asia/Tokyo")),
    "null": pl.Series([None, None]),
    "binary": pl.Series([b"\xff", None]),
    "text": pl.Series(["Zoë", None]),
    "small": pl.Series([1, None], dtype=pl.UInt8),
})  # fmt: skip


@pytest.mark.parametrize("sink", [True, False])
def test_frames_are_read_as_they_were_written(tmp_path: Path, sink: bool) -> None:
    path = tmp_path / "a.godb"
    if sink:
        assert adapter.sink_godb(FRAME.lazy(), path, "c") == 2
    else:
        assert godb_arrow.write_godb(FRAME, path, "c") == 2
    assert_frame_equal(adapter.read_godb(path), FRAME)
    assert_frame_equal(adapter.scan_godb(path).filter(pl.col("small") == 1).collect(), FRAME[:1])
    with StorageEngine(tmp_path / "data") as engine:
        collection = engine.create_collection("c")
        collection.insert_many(FRAME)
        engine.save()
        collection.insert_many(FRAME)
        found = adapter.read_godb(collection, columns=FRAME.columns)
        assert_frame_equal(found, pl.concat([FRAME, FRAME]))


@pytest.mark.parametrize(
    ("series", "words"),
    [
        (pl.Series([Path("a")], dtype=pl.Object), "Object"),
        (pl.Series([2**100], dtype=pl.Int128), "Int128"),
        (pl.Series([[1]], dtype=pl.List(pl.Int128)), "Int128"),
        (pl.Series([{"a": 1}], dtype=pl.Struct({"a": pl.Int128})), "Int128"),
    ],
)
def test_types_that_documents_cannot_hold(tmp_path: Path, series: pl.Series, words: str) -> None:
    frame = series.alias("x").to_frame()
    for write in (godb_arrow.write_godb, adapter.sink_godb):
        with pytest.raises(godb_arrow.UnsupportedType, match=f"'x'.*{words}"):
            write(frame, tmp_path / "a.godb", "c")
    with pytest.raises(godb_arrow.UnsupportedType, match=f"'x'.*{words}"):
        adapter.sink_godb(frame.lazy(), tmp_path / "a.godb", "c")
    with pytest.raises(godb_arrow.InvalidOption, match="to_frame"):
        godb_arrow.write_godb(series, tmp_path / "a.godb", "c")


def test_a_lazy_frame_of_a_collection_that_grows(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": 1, "s": "x"}, {"n": 2}])
        lazy = adapter.scan_godb(collection)
        collection.insert({"n": 3.0, "more": True})
        assert lazy.select("n").collect()["n"].to_list() == [1, 2, 3]
        assert lazy.filter(pl.col("n") > 1).collect().columns == ["_id", "n", "s"]
        collection.insert({"n": 0.5})
        with pytest.raises(Exception, match="other types than before") as error:
            lazy.collect()
        assert isinstance(error.value, (TypeMismatch, pl.exceptions.ComputeError))
        assert adapter.scan_godb(collection).collect().height == 4


def test_names_that_the_arrow_interface_cuts(tmp_path: Path) -> None:
    documents = [{"_id": "1", "a\0x": 1, "a": 2, "": 3, "deep": {"b\0y": 1, "b": 2}}]
    godb_arrow.write_godb(documents, tmp_path / "a.godb", "c")
    lazy = adapter.scan_godb(tmp_path / "a.godb")
    whole = lazy.collect()
    assert whole.select("a\0x", "a", "").rows() == [(1, 2, 3)]
    assert whole["deep"].to_list() == ['{"b\\u0000y":1,"b":2}']
    assert lazy.filter(pl.col("a\0x") == 1).select("").collect().rows() == [(3,)]


CATEGORIES = pl.DataFrame({
    "c": pl.Series(["a", None, "b"], dtype=pl.Categorical),
    "e": pl.Series(["a", None, "b"], dtype=pl.Enum(["b", "a"])),
    "l": pl.Series([["a"], None, ["b", "a"]], dtype=pl.List(pl.Categorical)),
    "n": [1, 2, 3],
})  # fmt: skip


@pytest.mark.parametrize("engine", ["streaming", "in-memory"])
def test_categories_and_enums(tmp_path: Path, engine: str) -> None:
    godb_arrow.write_godb(CATEGORIES, tmp_path / "a.godb", "c")
    scanned = adapter.scan_godb(tmp_path / "a.godb")
    queries: list[Callable[[pl.LazyFrame], pl.LazyFrame]] = [
        lambda frame: frame,
        lambda frame: frame.filter(pl.col("c") == "a"),
        lambda frame: frame.filter(pl.col("e") > "b"),
        lambda frame: frame.filter(pl.col("n") > 1),
        lambda frame: frame.filter(pl.col("c").is_in(["a", "b"])).select("e"),
        lambda frame: frame.filter(pl.col("e").is_not_null()).tail(1),
    ]
    for query in queries:
        found = query(scanned).collect(engine=engine)
        assert_frame_equal(found, query(CATEGORIES.lazy()).collect())
