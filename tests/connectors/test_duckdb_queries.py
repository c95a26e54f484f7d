"""Queries of DuckDB over collections give what they give over its own tables."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from support.settings import examples

import godb_arrow
from godb_arrow import StorageEngine

duckdb = pytest.importorskip("duckdb")
from godb_arrow.connectors import duckdb as adapter  # noqa: E402

ROWS = 300
QUERIES = examples(60, long=5_000)

NUMBERS = ("n", "u", "x", "f", "d")
"""Columns of numbers, which aggregates and comparisons with numbers use."""

COLUMNS = (*NUMBERS, "s", "b", "t", "z", "day", "clock", "wait", "c", "raw", "l", "st")


def table() -> pa.Table:
    numbers = random.Random(11)

    def column(values: list[Any], kind: pa.DataType) -> pa.Array:
        return pa.array([numbers.choice(values) for _ in range(ROWS)], kind)

    moments = [dt.datetime(2024, 1, 1) + dt.timedelta(hours=7 * n) for n in range(9)]
    reals = [0.5, -1.0, None, float("nan"), float("inf"), 2.0]
    return pa.table({
        "_id": [f"{n:04}" for n in range(ROWS)],
        "n": column([None, *range(-3, 40)], pa.int64()),
        "u": column([None, 0, 1, 200], pa.uint8()),
        "x": column(reals, pa.float64()),
        "f": column(reals, pa.float32()),
        "d": pa.array([None if n % 5 == 0 else f"{n % 7}.{n % 4}0" for n in range(ROWS)],
                      pa.string()).cast(pa.decimal128(9, 2)),
        "s": column(["a", "b", "", None, "Zoë", "a%"], pa.string()),
        "b": column([True, False, None], pa.bool_()),
        "t": column([None, *moments], pa.timestamp("us")),
        "z": column([None, *moments], pa.timestamp("ns", "UTC")),
        "day": column([None, *(moment.date() for moment in moments)], pa.date32()),
        "clock": column([None, dt.time(1), dt.time(2, 3, 4)], pa.time64("us")),
        "wait": column([None, dt.timedelta(hours=1), dt.timedelta(days=2)], pa.duration("us")),
        "c": column([None, "lo", "hi"], pa.string()).dictionary_encode(),
        "raw": column([None, b"", b"\xff\x00"], pa.binary()),
        "l": column([None, [], [1], [1, None, 3]], pa.list_(pa.int32())),
        "st": column([None, {"a": 1, "b": "x"}, {"a": None, "b": "y"}],
                     pa.struct([("a", pa.int16()), ("b", pa.string())])),
    })  # fmt: skip


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Connection with the same rows as a table, a file, and a collection in three states."""
    folder: Path = tmp_path_factory.mktemp("queries")
    rows = table()
    godb_arrow.write_godb(rows, folder / "c.godb", "c")
    with StorageEngine(folder / "data") as engine, duckdb.connect() as connection:
        collection = engine.create_collection("c")
        collection.insert_many(rows[:100])
        engine.save()
        collection.insert_many(rows[100:200])
        engine.save()
        collection.insert_many(rows[200:])
        collection.create_index("n")
        connection.execute("set timezone = 'UTC'")
        connection.register("arrow", rows)
        connection.execute("create table own as select * from arrow")
        shown = adapter.connect({
            "file": godb_arrow.open_godb(folder / "c.godb", batch_size=37),
            "collection": collection,
        }, connection)  # fmt: skip
        yield shown


def literal(numbers: random.Random, name: str) -> str:
    return numbers.choice({
        "n": ["0", "7", "2.5", "-1", "9223372036854775807", "7::tinyint", "1e300"],
        "u": ["0", "200", "255", "256", "-1", "0.5"],
        "x": ["0.5", "-1", "'nan'::double", "'inf'::double", "2", "0.1"],
        "f": ["0.5", "-1", "'nan'::float", "'inf'::float", "2", "0.1"],
        "d": ["1.10", "2", "3.333", "0.0", "1.1::double"],
        "s": ["'a'", "''", "'Zoë'", "'b'", "'~'"],
        "b": ["true", "false"],
        "t": ["timestamp '2024-01-01 07:00'", "date '2024-01-02'", "timestamp '2030-01-01'"],
        "z": ["timestamptz '2024-01-01 07:00+00'", "timestamptz '2024-01-02 00:00:00.5+01'"],
        "day": ["date '2024-01-01'", "timestamp '2024-01-01 12:00'", "date '1900-01-01'"],
        "clock": ["time '01:00'", "time '02:03:04'", "time '23:59:59.999'"],
        "wait": ["interval 1 hour", "interval 2 day", "interval '-1' second"],
        "c": ["'lo'", "'hi'", "'other'"],
        "raw": ["''::blob", "'\\xFF\\x00'::blob"],
        "l": ["[1]", "[1, null, 3]", "[]::int[]"],
        "st": ["struct_pack(a := 1::smallint, b := 'x')", "row(null, 'y')"],
    }[name])  # fmt: skip


def comparison(numbers: random.Random) -> str:
    name = numbers.choice(COLUMNS)
    sign = numbers.choice(["=", "!=", "<", "<=", ">", ">=", "is distinct from"])
    value, other = literal(numbers, name), literal(numbers, name)
    return numbers.choice([
        f"{name} {sign} {value}",
        f"{name} {sign} {value}",
        f"{name} is null",
        f"{name} is not null",
        f"{name} in ({value}, {other})",
        f"{name} not in ({value}, {other})",
        f"{name} between {value} and {other}",
        f"coalesce({name}, {value}) = {value}",
        "s like 'a%'",
        "s ilike '%O%'",
        "starts_with(s, 'Z')",
        "length(s) > 0",
        "n % 3 = 0",
        "n + u > 20",
        "x > f",
        "isnan(x)",
        "len(l) = 1",
        "list_contains(l, 3)",
        "l[1] = 1",
        "st.a = 1",
        "st.b is null",
        "st.b in ('x', 'z')",
        "year(day) = 2024",
        "t < z::timestamp",
        "b",
        "_id > '0150'",
        "_id in ('0007', '0250', 'x')",
    ])  # fmt: skip


def condition(numbers: random.Random, depth: int = 0) -> str:
    if depth == 2 or numbers.random() < 0.4:
        return comparison(numbers)
    parts = [condition(numbers, depth + 1) for _ in range(2)]
    return numbers.choice([
        f"({parts[0]}) and ({parts[1]})", f"({parts[0]}) or ({parts[1]})", f"not ({parts[0]})",
    ])  # fmt: skip


def query(numbers: random.Random) -> str:
    """Return a query with a placeholder for the table; the order of its rows is determined."""
    where = f"where {condition(numbers)}" if numbers.random() < 0.9 else ""
    names = ", ".join(numbers.sample(COLUMNS, numbers.randrange(1, 4)))
    key = numbers.choice(["s", "b", "c", "u", "day", "st", "l"])
    number = numbers.choice(["n", "u", "d"])
    limit, offset = numbers.choice([0, 1, 5, 40]), numbers.choice([0, 3, 250])
    others = condition(numbers)
    shapes: list[Callable[[], str]] = [
        lambda: f"select _id, {names} from {{0}} {where} order by _id",
        lambda: f"select * from {{0}} {where} order by _id limit {limit} offset {offset}",
        lambda: f"select {names}, _id from {{0}} {where} order by {names}, _id limit {limit}",
        lambda: f"select count(*), sum({number}), min(s), max(t) from {{0}} {where}",
        lambda: (
            f"select {key}, count(*), sum({number}) from {{0}} {where} group by all order by all"
        ),
        lambda: f"select distinct {names} from {{0}} {where} order by all",
        lambda: (
            f"select a._id, b.n from (select * from {{0}} {where}) a join {{0}} b "
            f"on a._id = b._id and b.n > 5 order by all"
        ),
        lambda: (
            f"select _id from {{0}} {where} except select _id from {{0}} where {others} "
            "order by all"
        ),
        lambda: (
            f"select _id from {{0}} {where} union all select _id from {{0}} where {others} "
            "order by all"
        ),
        lambda: (
            f"select _id, row_number() over (partition by {key} order by _id) from {{0}} "
            f"{where} order by _id"
        ),
        lambda: f"select _id from {{0}} where n = (select max(n) from {{0}} {where}) order by _id",
        lambda: f"select _id, u from {{0}} where u in (select u from {{0}} {where}) order by _id",
    ]
    return numbers.choice(shapes)()


def answer(connection: Any, text: str) -> Any:
    """Return the rows of a query, or the type of its error."""
    try:
        return repr(connection.sql(text).fetchall())
    except duckdb.Error as error:
        return type(error).__name__


@pytest.mark.parametrize("part", range(5))
def test_random_queries(connection: Any, part: int) -> None:
    answered = 0
    for number in range(part, QUERIES, 5):
        numbers = random.Random(number)
        text = query(numbers)
        expected = answer(connection, text.format("own"))
        answered += expected.startswith("[")
        for source in ("file", "collection"):
            assert answer(connection, text.format(source)) == expected, (number, source, text)
    assert answered > QUERIES // 5 * 0.8
