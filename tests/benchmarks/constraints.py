"""Comparison of unique and compound indexes with SQLite, and with no index.

    python tests/benchmarks/constraints.py

All peers run in turn in one process. Times are processor times, and the results are medians of
several runs. SQLite stores each document as JSON text beside its id, in WAL mode, with an index on
an expression of the text.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.engine.collection import Collection


def document(number: int) -> dict[str, Any]:
    return {
        "email": f"user{number:07d}@example.org",
        "country": f"country {number % 50}",
        "city": f"city {number % 997}",
        "age": number % 97,
    }


def compare(title: str, repeat: int, count: int, peers: dict[str, Callable[[], Any]]) -> None:
    taken: dict[str, list[float]] = {name: [] for name in peers}
    for _ in range(repeat):
        for name, run in peers.items():
            started = time.process_time()
            run()
            taken[name].append((time.process_time() - started) / count)
    medians = {name: statistics.median(values) for name, values in taken.items()}
    ours = next(iter(medians.values()))
    print(f"\n{title}\n\n| | µs | times ours |\n|---|---:|---:|")
    for name, median in medians.items():
        print(f"| {name} | {median * 1e6:,.1f} | {median / ours:.2f} |", flush=True)


def in_sqlite(path: Path, index: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("pragma journal_mode = wal")
    database.execute("pragma synchronous = normal")
    database.execute("create table c (id integer primary key, d text)")
    database.execute(index)
    return database


def documents(numbers: Iterator[int], count: int) -> list[dict[str, Any]]:
    return [document(number) for number in itertools.islice(numbers, count)]


def inserts(folder: Path, engine: StorageEngine, rows: int, repeat: int) -> None:
    """Compare inserts with and without a unique index."""
    names = {"godb_arrow, unique": True, "godb_arrow": False}
    ours = {name: engine.create_collection(name.replace(", ", "-")) for name in names}
    ours["godb_arrow, unique"].create_index("email", unique=True)
    text = "(json_extract(d, '$.email'))"
    lite = {
        "SQLite, unique": in_sqlite(folder / "u", f"create unique index i on c {text}"),
        "SQLite": in_sqlite(folder / "n", "select 1"),
    }
    numbers = {name: itertools.count() for name in (*ours, *lite)}
    insert = "insert into c (d) values (?)"

    def one_by_one(collection: Collection, name: str) -> None:
        for one in documents(numbers[name], rows // 10):
            collection.insert(one)

    def one_by_one_of_sqlite(database: sqlite3.Connection, name: str) -> None:
        for one in documents(numbers[name], rows // 10):
            database.execute(insert, (json.dumps(one),))

    def at_once_of_sqlite(database: sqlite3.Connection, name: str) -> None:
        database.execute("begin")
        made = documents(numbers[name], rows)
        database.executemany(insert, ((json.dumps(one),) for one in made))
        database.execute("commit")

    compare(f"Insert {rows:,} documents at once, each", repeat, rows, {
        **{name: lambda c=c, name=name: c.insert_many(documents(numbers[name], rows))
           for name, c in ours.items()},
        **{name: lambda d=d, name=name: at_once_of_sqlite(d, name) for name, d in lite.items()},
    })  # fmt: skip
    engine.save()
    compare(f"Insert one by one, beside {repeat * rows:,} saved ones", repeat, rows // 10, {
        **{name: lambda c=c, name=name: one_by_one(c, name) for name, c in ours.items()},
        **{name: lambda d=d, name=name: one_by_one_of_sqlite(d, name) for name, d in lite.items()},
    })  # fmt: skip


def searches(folder: Path, engine: StorageEngine, rows: int, repeat: int) -> None:
    """Compare filters on two fields."""
    made = documents(itertools.count(), rows)
    ours = {name: engine.create_collection(name) for name in ("compound", "single", "none")}
    ours["compound"].create_index(["country", "city", "age"])
    ours["single"].create_index("country")
    ours["single"].create_index("city")
    columns = ", ".join(f"json_extract(d, '$.{one}')" for one in ("country", "city", "age"))
    lite = in_sqlite(folder / "s", f"create index i on c ({columns})")
    lite.execute("begin")
    lite.executemany("insert into c (d) values (?)", ((json.dumps(one),) for one in made))
    lite.execute("commit")
    for collection in ours.values():
        collection.insert_many(made)
    engine.save()
    wanted = [(f"country {n % 50}", f"city {n % 997}") for n in range(0, 4000, 40)]

    def find(collection: Collection, count: int) -> None:
        for country, city in wanted[:count]:
            collection.find({"country": country, "city": city, "age": {"$gte": 40}})

    def find_in_sqlite() -> None:
        for country, city in wanted:
            found = lite.execute(
                "select d from c where json_extract(d, '$.country') = ? and "
                "json_extract(d, '$.city') = ? and json_extract(d, '$.age') >= 40",
                (country, city),
            )
            [json.loads(one) for (one,) in found]

    for collection in ours.values():
        find(collection, 2)
    compare(f"Find by two values and a range, of {rows:,}", repeat, len(wanted), {
        "godb_arrow, compound": lambda: find(ours["compound"], len(wanted)),
        "godb_arrow, two single indexes": lambda: find(ours["single"], len(wanted)),
        "SQLite, compound": find_in_sqlite,
    })  # fmt: skip
    compare("The same without an index", repeat, 5, {"godb_arrow": lambda: find(ours["none"], 5)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    rows, repeat = arguments.rows, arguments.repeat
    print(f"godb_arrow {godb_arrow.__version__}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as folder, StorageEngine(Path(folder, "data")) as engine:
        inserts(Path(folder), engine, rows, repeat)
        searches(Path(folder), engine, rows, repeat)


if __name__ == "__main__":
    main()
