"""Comparison of sorting, distinct values, updates and transactions with SQLite and DuckDB.

    pip install -e '.[bench]'
    python tests/benchmarks/verbs.py

All peers run in turn in one process. Times are processor times, and the results are medians of
several runs. SQLite stores each document as JSON text beside its id, in WAL mode. DuckDB has a
table with a column for each field.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

import godb_arrow
from godb_arrow import StorageEngine


def document(number: int) -> dict[str, Any]:
    return {
        "name": f"user {number:07d}",
        "age": number % 97,
        "city": f"city {number % 1000}",
        "score": number * 7919 % 1_000_003 / 7,
        "active": number % 3 == 0,
    }


def compare(title: str, repeat: int, peers: dict[str, Callable[[], Any]]) -> None:
    taken: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(repeat):
        for name, run in peers.items():
            started = time.process_time()
            run()
            taken[name].append(time.process_time() - started)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    ours = next(iter(medians.values()))
    print(f"\n{title}\n\n| | ms | times ours |\n|---|---:|---:|")
    for name, median in medians.items():
        print(f"| {name} | {median * 1e3:,.1f} | {median / ours:.2f} |", flush=True)


def in_sqlite(path: Path, rows: int) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = normal")
    database.execute("create table c (id text primary key, d text)")
    database.execute("begin")
    made = ((str(n + 1), json.dumps(document(n))) for n in range(rows))
    database.executemany("insert into c values (?, ?)", made)
    database.execute("commit")
    return database


def in_duckdb(path: Path, rows: int) -> duckdb.DuckDBPyConnection:
    database = duckdb.connect(str(path))
    made = pa.Table.from_pylist([{"id": str(n + 1), **document(n)} for n in range(rows)])
    database.register("made", made)
    database.execute("create table c as select * from made")
    database.unregister("made")
    return database


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--transactions", type=int, default=1000)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    rows, repeat = arguments.rows, arguments.repeat
    print(f"godb_arrow {godb_arrow.__version__}, {os.cpu_count()} cores, {rows:,} documents")
    with tempfile.TemporaryDirectory() as folder, StorageEngine(Path(folder, "data")) as engine:
        ours = engine.create_collection("c")
        ours.insert_many([document(n) for n in range(rows)])
        engine.save()
        lite, duck = in_sqlite(Path(folder, "lite"), rows), in_duckdb(Path(folder, "duck"), rows)
        score = "json_extract(d, '$.score')"
        compare("The 10 documents with the highest score", repeat, {
            "godb_arrow": lambda: ours.find(sort="-score", limit=10),
            "SQLite": lambda: lite.execute(
                f"select d from c order by {score} desc limit 10").fetchall(),
            "DuckDB": lambda: duck.execute(
                "select * from c order by score desc limit 10").fetchall(),
        })  # fmt: skip
        compare("All documents by score, as dicts", repeat, {
            "godb_arrow": lambda: sum(1 for _ in ours.find_all_stream(sort="score")),
            "SQLite": lambda: [json.loads(one) for (one,) in lite.execute(
                f"select d from c order by {score}")],
            "DuckDB": lambda: duck.sql(
                "select * from c order by score").to_arrow_table().to_pylist(),
        })  # fmt: skip
        compare("Distinct cities", repeat, {
            "godb_arrow": lambda: ours.distinct("city"),
            "SQLite": lambda: lite.execute(
                "select distinct json_extract(d, '$.city') from c").fetchall(),
            "DuckDB": lambda: duck.execute("select distinct city from c").fetchall(),
        })  # fmt: skip
        compare("Update a third of the documents by a filter", repeat, {
            "godb_arrow": lambda: ours.update_many({"active": True}, {"$inc": {"age": 1}}),
            "SQLite": lambda: lite.execute(
                "update c set d = json_set(d, '$.age', json_extract(d, '$.age') + 1) "
                "where json_extract(d, '$.active')"),
            "DuckDB": lambda: duck.execute("update c set age = age + 1 where active"),
        })  # fmt: skip
        compare("Update all documents", repeat, {
            "godb_arrow": lambda: ours.update_many(None, {"$inc": {"age": 1}}),
            "SQLite": lambda: lite.execute(
                "update c set d = json_set(d, '$.age', json_extract(d, '$.age') + 1)"),
            "DuckDB": lambda: duck.execute("update c set age = age + 1"),
        })  # fmt: skip
        engine.save()
        transactions(engine, lite, duck, arguments.transactions, repeat)
        ours.create_index("score")
        engine.save()
        ours.find(sort="-score", limit=10)
        lite.execute(f"create index i on c ({score})")
        compare("The 10 documents with the highest score, by an index", repeat, {
            "godb_arrow": lambda: ours.find(sort="-score", limit=10),
            "SQLite": lambda: lite.execute(
                f"select d from c order by {score} desc limit 10").fetchall(),
        })  # fmt: skip
        lite.close()
        duck.close()


def transactions(
    engine: StorageEngine, lite: sqlite3.Connection, duck: Any, count: int, repeat: int
) -> None:
    """Change two documents in each transaction."""

    def in_ours() -> None:
        for number in range(1, count + 1):
            with engine.transaction() as tx:
                tx["c"].update(str(number), {"$inc": {"age": -1}})
                tx["c"].update(str(number + count), {"$inc": {"age": 1}})

    def with_begin(database: Any, change: str) -> Callable[[], None]:
        def run() -> None:
            for number in range(1, count + 1):
                database.execute("begin")
                database.execute(change, (-1, str(number)))
                database.execute(change, (1, str(number + count)))
                database.execute("commit")

        return run

    lite_change = "update c set d = json_set(d, '$.age', json_extract(d, '$.age') + ?) where id = ?"
    compare(f"{count:,} transactions of two updates, not synced", repeat, {
        "godb_arrow": in_ours,
        "SQLite": with_begin(lite, lite_change),
        "DuckDB": with_begin(duck, "update c set age = age + ? where id = ?"),
    })  # fmt: skip


if __name__ == "__main__":
    main()
