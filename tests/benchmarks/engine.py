"""Comparison of the engine with TinyDB and SQLite, and of its cache with other caches.

    pip install -e '.[bench]'
    python tests/benchmarks/engine.py

All peers run in turn in one process, and the results are medians of several runs. SQLite stores
each document as JSON text beside its id, in WAL mode. TinyDB stores one JSON file, and gets fewer
documents.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lz4.block
import pyarrow as pa
from harness import add_result, write_results

import godb_arrow
from godb_arrow import StorageEngine

THREADS = 4
MEBIBYTE = 1 << 20


def document(number: int) -> dict[str, Any]:
    return {
        "name": f"user {number:07d}",
        "age": number % 97,
        "city": f"city {number % 1000}",
        "score": number / 7,
        "active": number % 3 == 0,
    }


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


class Report:
    """Rates of the peers, as a table with the first peer as the measure."""

    def __init__(self, repeat: int) -> None:
        self.repeat = repeat

    def compare(
        self, title: str, unit: str, count: int, peers: dict[str, Callable[[], Any]]
    ) -> dict[str, float]:
        taken: dict[str, list[float]] = {name: [] for name in peers}
        for _ in range(self.repeat):
            for name, run in peers.items():
                taken[name].append(seconds(run))
        print(f"\n{title}\n\n| | {unit}/s | times ours |\n|---|---:|---:|")
        medians = {name: statistics.median(values) for name, values in taken.items()}
        ours = next(iter(medians.values()))
        add_result(title, count, medians)
        for name, median in medians.items():
            print(f"| {name} | {count / median:,.0f} | {median / ours:.2f} |", flush=True)
        return medians


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def sqlite(path: Path, synchronous: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=60)
    database.execute("pragma journal_mode = wal")
    database.execute(f"pragma synchronous = {synchronous}")
    database.execute("create table if not exists c (id text primary key, document text)")
    return database


def in_threads(work: Callable[[int], None]) -> None:
    threads = [threading.Thread(target=work, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def inserts(report: Report, count: int) -> None:
    """Insert single documents, from one thread and from four."""

    def ours(durability: Any, threads: int) -> Callable[[], None]:
        def run() -> None:
            with folder() as path, StorageEngine(path, durability=durability) as engine:
                collection = engine.create_collection("c")

                def work(_: int) -> None:
                    for number in range(count // threads):
                        collection.insert(document(number))

                if threads == 1:
                    work(0)
                else:
                    in_threads(work)

        return run

    def theirs(synchronous: str, threads: int) -> Callable[[], None]:
        def run() -> None:
            with folder() as path:
                sqlite(path / "db", synchronous).close()

                def work(thread: int) -> None:
                    database = sqlite(path / "db", synchronous)
                    for number in range(count // threads):
                        text = json.dumps(document(number))
                        database.execute(
                            "insert into c values (?, ?)", (f"{thread}-{number}", text)
                        )
                    database.close()

                if threads == 1:
                    work(0)
                else:
                    in_threads(work)

        return run

    def tiny() -> None:
        import tinydb

        with folder() as path, tinydb.TinyDB(path / "db.json") as database:
            for number in range(count // 100):
                database.insert(document(number))

    for threads in (1, THREADS):
        report.compare(
            f"Insert {count:,} documents one by one, {threads} thread{'s'[: threads > 1]}, synced",
            "documents",
            count,
            {
                'godb_arrow, durability="commit"': ours("commit", threads),
                "SQLite, WAL, synchronous=FULL": theirs("full", threads),
            },
        )
        report.compare(
            f"Insert {count:,} documents one by one, {threads} thread{'s'[: threads > 1]}",
            "documents",
            count,
            {
                'godb_arrow, durability="interval"': ours("interval", threads),
                'godb_arrow, durability="checkpoint"': ours("checkpoint", threads),
                "SQLite, WAL, synchronous=NORMAL": theirs("normal", threads),
            },
        )
    report.compare(
        f"Insert {count // 100:,} documents one by one",
        "documents",
        count // 100,
        {
            "godb_arrow": lambda: _insert_few(count // 100),
            "TinyDB": tiny,
        },
    )


def _insert_few(count: int) -> None:
    with folder() as path, StorageEngine(path) as engine:
        collection = engine.create_collection("c")
        for number in range(count):
            collection.insert(document(number))


def batches(report: Report, table: pa.Table) -> None:
    """Insert many documents at once."""
    documents = table.to_pylist()

    def ours(data: Any, durability: Any = "interval") -> Callable[[], None]:
        def run() -> None:
            with opened.engine(durability) as engine:
                engine["c"].insert_many(data)

        return run

    class opened:  # noqa: N801 (Creating and saving do not count as the time of inserting.)
        @staticmethod
        @contextmanager
        def engine(durability: Any) -> Iterator[StorageEngine]:
            path = tempfile.mkdtemp()
            engine = StorageEngine(path, durability=durability, max_memory="4GB")
            engine.create_collection("c")
            yield engine
            engine.drop_collection("c")
            engine.close()

    def theirs() -> None:
        with folder() as path:
            database = sqlite(path / "db", "normal")
            rows = ((str(n), json.dumps(one)) for n, one in enumerate(documents))
            database.execute("begin")
            database.executemany("insert into c values (?, ?)", rows)
            database.execute("commit")
            database.close()

    report.compare(
        f"Insert {table.num_rows:,} documents at once",
        "documents",
        table.num_rows,
        {
            "godb_arrow, from Arrow": ours(table),
            'godb_arrow, from Arrow, durability="commit"': ours(table, "commit"),
            "godb_arrow, from dicts": ours(documents),
            "SQLite, one transaction, from dicts": theirs,
        },
    )


def reads(report: Report, table: pa.Table) -> None:
    """Read documents by id and by value, and streams."""
    rows = table.num_rows
    chance = random.Random(5)
    wanted = [str(chance.randrange(rows) + 1) for _ in range(2000)]
    cities = [f"user {chance.randrange(rows):07d}" for _ in range(200)]
    with folder() as path, StorageEngine(path / "ours", max_memory="4GB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many(table)
        engine.save()
        database = sqlite(path / "db", "normal")
        documents = table.to_pylist()
        database.execute("begin")
        database.executemany(
            "insert into c values (?, ?)",
            ((str(n), json.dumps(one)) for n, one in enumerate(documents, 1)),
        )
        database.execute("commit")
        del documents
        collection.get("1")

        def sqlite_get() -> None:
            for one in wanted:
                (text,) = database.execute("select document from c where id = ?", (one,)).fetchone()
                json.loads(text)

        report.compare(
            f"Get documents by id, of {rows:,}",
            "documents",
            len(wanted),
            {
                "godb_arrow": lambda: [collection.get(one) for one in wanted],
                "SQLite": sqlite_get,
            },
        )
        select = "select document from c where json_extract(document, '$.name') = ?"

        def sqlite_find(names: list[str]) -> Callable[[], None]:
            def run() -> None:
                for one in names:
                    assert [json.loads(t) for (t,) in database.execute(select, (one,))]

            return run

        report.compare(
            f"Find by a field without an index, of {rows:,}",
            "searches",
            3,
            {
                "godb_arrow": lambda: [collection.find({"name": one}) for one in cities[:3]],
                "SQLite, json_extract": sqlite_find(cities[:3]),
            },
        )
        collection.create_index("name")
        database.execute("create index i on c (json_extract(document, '$.name'))")
        engine.save()
        collection.get("1")
        collection.find({"name": cities[0]})
        report.compare(
            f"Find by a field with an index, of {rows:,}",
            "searches",
            len(cities),
            {
                "godb_arrow": lambda: [collection.find({"name": one}) for one in cities],
                "SQLite": sqlite_find(cities),
            },
        )

        def cold() -> None:
            engine._components.memory.cache.shrink(0)
            assert sum(batch.num_rows for batch in collection.stream_batches()) == rows

        def cached() -> None:
            assert sum(batch.num_rows for batch in collection.stream_batches()) == rows

        def all_of_sqlite() -> None:
            rows_ = database.execute("select document from c")
            pa.Table.from_pylist([json.loads(text) for (text,) in rows_])

        cold()
        report.compare(
            f"Stream {rows:,} documents as record batches",
            "documents",
            rows,
            {
                "godb_arrow, from the file": cold,
                "godb_arrow, cached": cached,
                "SQLite, json.loads, Table.from_pylist": all_of_sqlite,
            },
        )
        report.compare(
            f"Stream {rows:,} documents as dicts (the Go design says 6.3 million/s)",
            "documents",
            rows,
            {"godb_arrow": lambda: sum(1 for _ in collection.find_all_stream())},
        )
        database.close()


def checkpoints(report: Report, table: pa.Table) -> None:
    """Save a change of one document in a hundred, compared with compressing the same bytes."""
    rows = table.num_rows
    with folder() as path, StorageEngine(path, max_memory="4GB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many(table)
        engine.save()
        raw = (path / "collections" / "c.godb").read_bytes()[8:]
        body = lz4.block.decompress(raw, uncompressed_size=10 * len(raw))

        def change() -> None:
            collection.update_by_id({str(n): {"age": -n} for n in range(1, rows, 100)})

        times = []
        for _ in range(report.repeat):
            change()
            times.append(seconds(engine.save))
        compress = [
            seconds(lambda: lz4.block.compress(body, store_size=False))
            for _ in range(report.repeat)
        ]
        ours, theirs = statistics.median(times), statistics.median(compress)
        megabytes = len(body) / 1e6
        print(f"\nCheckpoint of a 1 % change to {rows:,} documents ({megabytes:.0f} MB)\n")
        print("| | MB/s | times ours |\n|---|---:|---:|")
        print(f"| godb_arrow: read, replace, compress, sync | {megabytes / ours:.0f} | 1.00 |")
        print(f"| lz4.block.compress alone | {megabytes / theirs:.0f} | {theirs / ours:.2f} |")


def opening(report: Report, count: int) -> None:
    """Open a directory with many collections."""
    with folder() as path:
        with StorageEngine(path) as engine:
            engine.create_collection("0").insert_many([document(n) for n in range(10)])
        made = (path / "collections" / "0.godb").read_bytes()
        for number in range(count):
            (path / "collections" / f"{number}.godb").write_bytes(made)
        code = (
            "import sys, time; from godb_arrow import StorageEngine\n"
            "def resident(): return int(open('/proc/self/statm').read().split()[1]) * 4096\n"
            "before, started = resident(), time.perf_counter()\n"
            "with StorageEngine(sys.argv[1]) as engine:\n"
            "    print(time.perf_counter() - started, resident() - before, len(engine))\n"
        )
        found = []
        for _ in range(report.repeat):  # each in a process of its own, whose memory is all new
            ran = subprocess.run(
                [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
            )
            seconds, taken, names = ran.stdout.split()
            assert int(names) == count
            found.append((float(seconds), int(taken)))
        seconds, taken = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"\nOpen {count:,} collections: {seconds:.3f} s, {taken / MEBIBYTE:.1f} MiB")


class Locked:
    """A peer with a lock around each operation."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache
        self._lock = threading.Lock()

    def get(self, key: int) -> Any:
        with self._lock:
            return self._cache.get(key)

    def put(self, key: int, value: Any, _: int) -> None:
        with self._lock:
            self._cache[key] = value


class Ordered(OrderedDict[int, Any]):
    def get(self, key: int, default: Any = None) -> Any:
        if key not in self:
            return default
        self.move_to_end(key)
        return self[key]

    def __setitem__(self, key: int, value: Any) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > 1000:
            self.popitem(last=False)


def followers(report: Report, table: pa.Table, count: int) -> None:
    """Measure the write latency that followers add, and the time to fill a new follower."""

    def insert(threads: int, **options: Any) -> Callable[[], None]:
        def run() -> None:
            with folder() as path, StorageEngine(path / "data", durability="commit") as engine:
                if options:
                    engine.replicate_to(path / "follower", **options)
                collection = engine.create_collection("c")

                def work(_: int) -> None:
                    for number in range(count // THREADS):
                        collection.insert(document(number))

                if threads == 1:
                    for _ in range(THREADS):
                        work(0)
                else:
                    in_threads(work)

        return run

    for threads in (1, THREADS):
        report.compare(
            f'Insert {count:,} documents one by one, durability="commit", {threads} threads',
            "documents",
            count,
            {
                "acknowledged by a follower": insert(threads, mode="acknowledged"),
                "with an asynchronous follower": insert(threads, mode="asynchronous"),
                "without": insert(threads),
            },
        )
    with folder() as path, StorageEngine(path / "data") as engine:
        engine.create_collection("c").insert_many(table)
        engine.save()
        size = engine.info("c").disk_bytes
        taken = seconds(lambda: engine.replicate_to(path / "follower"))
    print(f"\nA follower of {len(table):,} documents: {size / taken / 1e6:,.0f} MB/s")


def caches(report: Report, count: int) -> None:
    """Read and write a cache of 1,000 out of 1,200 keys."""
    import cachetools
    import zict

    chance = random.Random(1)
    for share in (0.0, 0.1, 0.5):
        steps = [(chance.random() < share, chance.randrange(1200)) for _ in range(count)]

        def drive(cache: Any, steps: Any = steps) -> Callable[[], None]:
            for key in range(1000):
                cache.put(key, key, 1)

            def run() -> None:
                get, put = cache.get, cache.put
                for is_put, key in steps:
                    if is_put:
                        put(key, key, 1)
                    else:
                        get(key)

            return run

        report.compare(
            f"Cache: {share:.0%} puts",
            "operations",
            count,
            {
                "godb_arrow.LRUCache": drive(godb_arrow.LRUCache(1000)),
                "OrderedDict with a lock": drive(Locked(Ordered())),
                "cachetools.LRUCache with a lock": drive(Locked(cachetools.LRUCache(1000))),
                "zict.LRU with a lock": drive(Locked(zict.LRU(1000, {}))),
            },
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--inserts", type=int, default=10_000)
    parser.add_argument("--collections", type=int, default=10_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    report = Report(arguments.repeat)
    print(f"godb_arrow {godb_arrow.__version__}, {os.cpu_count()} cores")
    caches(report, 300_000)
    inserts(report, arguments.inserts)
    table = pa.Table.from_pylist([document(n) for n in range(arguments.rows)])
    batches(report, table)
    reads(report, table)
    checkpoints(report, table)
    followers(report, table, arguments.inserts)
    opening(report, arguments.collections)
    write_results(arguments.json)


if __name__ == "__main__":
    main()
