"""Copies to Parquet, and queries of Polars and DuckDB with pushdown, compared with alternatives.

    pip install -e '.[bench]'
    python tests/benchmarks/copy_and_query.py

Each copy runs in its own process, whose peak memory is measured. Queries run in turn in one
process. Mapping filters run beside SQLite's json_extract, by processor time. Documents have four
integers, four reals and four texts. The last integer grows as a time does.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
from harness import add_result, write_results

import godb_arrow
from godb_arrow import Scannable
from godb_arrow.connectors import duckdb as in_duckdb
from godb_arrow.connectors import polars as in_polars

_PART = 100_000


def documents(rows: int, first: int = 0) -> pa.Table:
    random = np.random.default_rng(first)
    words = np.array([f"word {n} of many" for n in range(10_000)])
    return pa.table({
        **{f"n{i}": random.integers(0, 1000, rows) for i in range(3)},
        "n3": np.arange(first, first + rows),
        **{f"f{i}": random.random(rows) for i in range(4)},
        **{f"t{i}": words[random.integers(0, 10_000, rows)] for i in range(4)},
    })  # fmt: skip


def batches(rows: int) -> pa.RecordBatchReader:
    schema = documents(1).schema
    parts = (documents(min(_PART, rows - at), at) for at in range(0, rows, _PART))
    return pa.RecordBatchReader.from_batches(
        schema, (batch for part in parts for batch in part.to_batches())
    )


_MEASURED = """
import json, sys, time
import pyarrow as pa
import godb_arrow
from godb_arrow.connectors.etl.pipeline import copy
from godb_arrow.connectors.etl import files

def resident():
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])

def made(rows):
    # What the decoder gives, without decoding.
    with godb_arrow.scan_godb(sys.argv[1]) as reader:
        batch = next(reader)
    starts = range(0, rows, len(batch))
    again = (batch.slice(0, min(len(batch), rows - at)) for at in starts)
    return pa.RecordBatchReader.from_batches(batch.schema, again)

before = resident()
rows = godb_arrow.list_collections(sys.argv[1])["c"]
started = time.perf_counter()
if sys.argv[3] == "copy":
    copy(sys.argv[1], sys.argv[2], if_exists="replace", progress=False)
elif sys.argv[3] == "decode":
    for batch in godb_arrow.scan_godb(sys.argv[1]):
        pass
else:
    files.export_file(made(rows), sys.argv[2])
print(json.dumps([time.perf_counter() - started, (resident() - before) / 1024, rows]))
"""


def copies(folder: Path, rows: int, repeat: int) -> None:
    source, target = folder / "copied.godb", folder / "copied.parquet"
    godb_arrow.write_godb(batches(rows), source, "c")
    found: dict[str, list[list[float]]] = {}
    for _ in range(repeat):
        for what in ("copy", "decode", "write"):
            command = [sys.executable, "-c", _MEASURED, str(source), str(target), what]
            ran = subprocess.run(command, capture_output=True, text=True, check=True)
            found.setdefault(what, []).append(json.loads(ran.stdout))
    print(f"\nCopy {rows:,} documents to Parquet\n\n| | documents/s | peak MiB above the start |")
    print("|---|---:|---:|")
    for what, runs in found.items():
        seconds, peak, _ = (statistics.median(column) for column in zip(*runs, strict=True))
        print(f"| {what} | {rows / seconds:,.0f} | {peak:.0f} |")


def seconds(function: Callable[[], Any], repeat: int) -> tuple[float, Any]:
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - started)
    return statistics.median(times), result


def queries(folder: Path, rows: int, repeat: int) -> None:
    path, lines = folder / "wide.godb", folder / "wide.ndjson"
    godb_arrow.write_godb(batches(rows), path, "wide")
    pl.DataFrame(godb_arrow.read_table(path)).write_ndjson(lines)
    wide = godb_arrow.open_godb(path)
    compare(rows, repeat, wide, lines, "a file")
    with godb_arrow.StorageEngine(folder / "data", max_memory="4GB") as engine:
        engine.load_collection_metadata(path)
        engine.save()
        engine.to_arrow("wide")  # is in the cache from now on
        compare(rows, repeat, engine["wide"], lines, "an engine's cache")
    with godb_arrow.StorageEngine(folder / "small", max_memory="8MB") as engine:
        engine.load_collection_metadata(path)
        engine.save()
        compare(rows, repeat, engine["wide"], lines, "an engine with 8 MB")


def compare(rows: int, repeat: int, wide: Scannable, lines: Path, place: str) -> None:
    for what, field in (("here and there", "n1"), ("in one place", "n3")):
        limit = 10 if field == "n1" else rows // 100
        compare_on(field, limit, rows, repeat, wide, lines, f"{what}, from {place}")


def compare_on(
    field: str, limit: int, rows: int, repeat: int, wide: Scannable, lines: Path, place: str
) -> None:
    sql = f"select n0, t0 from {{}} where {field} < {limit}"
    connection = in_duckdb.connect({"wide": wide})

    def polars(frame: pl.LazyFrame) -> pl.DataFrame:
        return frame.filter(pl.col(field) < limit).select("n0", "t0").collect()

    def duck(table: str) -> Any:
        return connection.sql(sql.format(table)).to_arrow_table()

    def duck_on_table() -> Any:
        connection.register("whole", wide.to_arrow())
        return duck("whole")

    peers: dict[str, dict[str, Callable[[], Any]]] = {
        "Polars": {
            "pushed down": lambda: polars(in_polars.scan_godb(wide)),
            "through a full table": lambda: polars(pl.DataFrame(wide.to_arrow()).lazy()),
            "on NDJSON": lambda: polars(pl.scan_ndjson(lines)),
        },
        "DuckDB": {
            "pushed down": lambda: duck("wide"),
            "through a full table": duck_on_table,
            "on NDJSON": lambda: duck(f"read_json('{lines}')"),
        },
    }
    for engine, ways in peers.items():
        print(f"\n{engine}, 2 of 12 columns and 1 % of {rows:,} documents, {place}\n")
        print("| | s | times ours |\n|---|---:|---:|")
        ours, expected = 0.0, 0
        medians = {}
        for way, run in ways.items():
            taken, result = seconds(run, repeat)
            medians[way] = taken
            ours, expected = ours or taken, expected or len(result)
            assert len(result) == expected
            print(f"| {way} | {taken:.3f} | {taken / ours:.2f} |")
        add_result(f"{engine}, {place}", rows, medians)
    connection.close()


MAPPINGS: dict[str, dict[str, Any]] = {
    "n1 = 5": {"n1": 5},
    "n1 in (5, 6, 7)": {"n1": [5, 6, 7]},
    "t3 = text": {"t3": "word 77 of many"},
    "n1 = 5 and t0 = text": {"n1": 5, "t0": "word 77 of many"},
    "n3 = one": {"n3": 77_777},
}
_SQL = {
    "n1 = 5": "json_extract(d, '$.n1') = 5",
    "t3 = text": "json_extract(d, '$.t3') = 'word 77 of many'",
}


def mappings(folder: Path, rows: int, repeat: int) -> None:
    """Measure mapping filters on a file, in memory and on parts, and SQLite without an index."""
    path = folder / "filtered.godb"
    godb_arrow.write_godb(batches(rows), path, "c")
    file = godb_arrow.open_godb(path)
    found: dict[str, dict[str, float]] = {}

    def measure(place: str, read: Callable[[Any], int]) -> None:
        for what, condition in MAPPINGS.items():
            taken, _ = processor_seconds(lambda chosen=condition: read(chosen), repeat)
            found.setdefault(what, {})[place] = taken

    measure("file", lambda one: file.to_arrow(["n0", "t0"], one).num_rows)
    with godb_arrow.StorageEngine(folder / "loaded", max_memory="4GB") as engine:
        engine.load_collection_metadata(path)
        engine.save()
        collection = engine["c"]
        collection.find_page(limit=1)  # loads the documents
        measure("find, in memory", lambda one: len(collection.find(one)))
        measure("count, in memory", collection.count)
        collection.to_arrow()  # caches the columns
        measure("columns, cached", lambda one: collection.to_arrow(["n0", "t0"], one).num_rows)
    with godb_arrow.StorageEngine(
        folder / "parted", part_size="16MiB", max_memory="32MB"
    ) as engine:
        collection = engine.create_collection("c")
        collection.insert_many(batches(rows))
        engine.save()
        measure("find, 16 MiB parts", lambda one: len(collection.find(one)))
        measure("count, 16 MiB parts", collection.count)
    connection = sqlite3.connect(":memory:")
    connection.execute("create table c (d text)")
    for part in batches(rows):
        lines = ((json.dumps(row),) for row in part.to_pylist())
        connection.executemany("insert into c values (?)", lines)
    for what, where in _SQL.items():
        query = f"select count(*) from c where {where}"
        taken, _ = processor_seconds(lambda chosen=query: connection.execute(chosen).fetchone(), 3)
        found[what]["SQLite json_extract"] = taken
    connection.close()
    places = list(found["n1 = 5"])
    print(f"\nMapping filters on {rows:,} documents, processor time in ms\n")
    print(f"| | {' | '.join(places)} |\n|---|{'---:|' * len(places)}")
    for what, times in found.items():
        cells = (f"{1000 * times[one]:.1f}" if one in times else "" for one in places)
        print(f"| {what} | {' | '.join(cells)} |")


def processor_seconds(function: Callable[[], Any], repeat: int) -> tuple[float, Any]:
    """Return the min processor time of all threads, which other processes disturb less."""
    times = []
    for _ in range(repeat):
        started = time.process_time()
        result = function()
        times.append(time.process_time() - started)
    return min(times), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--copied", type=int, default=5_000_000)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--mappings", action="store_true", help="Only mapping filters.")
    parser.add_argument("--json", type=Path, help="file for the results")
    arguments = parser.parse_args()
    print(f"godb_arrow {godb_arrow.__version__}, {os.cpu_count()} cores, "
          f"Polars {pl.__version__}, DuckDB {duckdb.__version__}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        mappings(Path(folder), arguments.rows // 4, arguments.repeat)
        if arguments.mappings:
            return
        queries(Path(folder), arguments.rows, arguments.repeat)
        copies(Path(folder), arguments.copied, max(1, arguments.repeat // 2))
    write_results(arguments.json)


if __name__ == "__main__":
    main()
