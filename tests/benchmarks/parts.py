"""Cost of appending, opening, reading and compacting a collection that grows to many files.

    pip install -e '.[bench]'
    python tests/benchmarks/parts.py --rows 20000000 --plot scaling.png

Documents are appended in batches, and each batch is saved. The process's memory is measured after
each million. Then random updates follow, and the bytes that compaction writes for them are counted.
At the end a model computes the cost of collections of up to 10^10 documents from the measurements.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.acero
import pyarrow.compute as pc
import pyarrow.dataset

import godb_arrow
from godb_arrow import StorageEngine

MEBIBYTE = 1 << 20


def batch(first: int, rows: int) -> pa.Table:
    numbers = np.arange(first, first + rows)
    return pa.table({
        "n": numbers,
        "name": [f"user {n % 1_000_000:07d}" for n in numbers],
        "score": numbers * 0.37 % 1000,
        "on": numbers % 2 == 0,
    })  # fmt: skip


def resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def append(engine: StorageEngine, rows: int, size: int) -> list[float]:
    collection = engine.create_collection("c")
    rates, taken, since = [], 0.0, 0
    print("\n| documents | appended/s | files | resident MiB |\n|---:|---:|---:|---:|")
    for first in range(0, rows, size):
        table = batch(first, min(size, rows - first))
        spent, _ = seconds(lambda table=table: (collection.insert_many(table), engine.save()))
        taken, since = taken + spent, since + table.num_rows
        if since >= min(rows // 20, 1_000_000):
            files = engine.versions("c")[-1:]
            print(f"| {first + size:,} | {since / taken:,.0f} | "
                  f"{files[0].parts if files else 1} | {resident():.0f} |", flush=True)  # fmt: skip
            rates.append(since / taken)
            taken, since = 0.0, 0
    return rates


def update(engine: StorageEngine, rows: int, changes: int, rounds: int) -> float:
    """Make random updates, and return the number of written bytes for each updated byte."""
    chance = random.Random(1)
    folder = Path(engine["c"].path or "")
    seen = {path.name for path in folder.glob("*.godb")}
    written = added = 0

    def note() -> int:
        nonlocal written
        new = [path for path in folder.glob("*.godb") if path.name not in seen]
        seen.update(path.name for path in new)
        size = sum(path.stat().st_size for path in new)
        written += size
        return size

    for _ in range(rounds):
        ids = [str(chance.randrange(1, rows + 1)) for _ in range(changes)]
        engine.update_by_id("c", {one: {"score": chance.random()} for one in ids})
        engine["c"].checkpoint()
        added += note()
        engine["c"].compact()
        note()
    return written / added


def model(measured: dict[str, float], plot: str | None) -> None:
    """Compute the cost of collections of other sizes from the measurements of this one."""
    sizes = [10.0**power for power in range(6, 11)]
    rows = measured["rows"]
    per_part = rows / measured["parts"]
    costs: dict[str, list[float]] = {
        # A manifest has a few hundred bytes for each file, and is read whole.
        "open": [measured["open"] * max(1.0, size / rows) for size in sizes],
        # Existing parts are unchanged, and the manifest is rewritten.
        "append 100,000": [
            measured["append"] + measured["manifest"] * size / per_part for size in sizes
        ],
        # Each file is asked for the id by two binary searches.
        "point read": [measured["get"] * max(1.0, size / rows) for size in sizes],
        "scan": [measured["scan"] * size / rows for size in sizes],
        # A part at a time, whatever the size.
        "compact a part": [measured["compact"] for _ in sizes],
    }
    print("\n| seconds, by the model | " + " | ".join(f"{size:.0e}" for size in sizes) + " |")
    print("|---|" + "---:|" * len(sizes))
    for name, found in costs.items():
        print(f"| {name} | " + " | ".join(f"{one:,.4f}" for one in found) + " |")
    if plot:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt

        figure, axes = plt.subplots(figsize=(7, 4.5))
        for name, found in costs.items():
            axes.plot(sizes, found, marker="o", label=name)
        axes.set(xscale="log", yscale="log", xlabel="documents", ylabel="seconds")
        axes.set_title("Costs by the model; measured at one size")
        axes.axvline(rows, color="grey", linestyle=":", linewidth=1)
        axes.legend()
        figure.savefig(plot, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=20_000_000)
    parser.add_argument("--batch", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--part-size", default="128MiB")
    parser.add_argument("--plot", help="Write the model's curves to this picture.")
    arguments = parser.parse_args()
    rows = arguments.rows
    print(f"godb_arrow {godb_arrow.__version__}, {os.cpu_count()} cores, {rows:,} documents of "
          f"five fields, appended by {arguments.batch:,}")  # fmt: skip
    measured: dict[str, float] = {"rows": rows}
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {
            "part_size": arguments.part_size, "part_grace": 0.001, "max_memory": "256MB",
        }  # fmt: skip
        with StorageEngine(folder, **options) as engine:
            rates = append(engine, rows, arguments.batch)
            measured["append"] = arguments.batch / rates[-1]
            print(f"\nthe last million at {rates[-1] / rates[0]:.2f} of the speed of the first")
            engine.compact()
        spent = []
        for _ in range(5):
            engine = StorageEngine(folder, **options)
            spent.append(seconds(lambda engine=engine: len(engine["c"]))[0])
            engine.close()
        measured["open"] = statistics.median(spent)
        with StorageEngine(folder, **options) as engine:
            collection = engine["c"]
            info = collection.versions()[-1]
            measured["parts"] = info.parts
            manifest = max(Path(collection.path or "").glob("*.manifest"))
            measured["manifest"] = manifest.stat().st_size / info.parts / 500e6
            chance = random.Random(2)
            ids = [str(chance.randrange(1, rows + 1)) for _ in range(200)]
            first, _ = seconds(lambda: collection.get(ids[0]))
            gets = [seconds(lambda one=one: collection.get(one))[0] for one in ids[1:]]
            measured["get"] = statistics.median(gets)
            measured["scan"], _ = seconds(
                lambda: sum(one.num_rows for one in collection.stream(["n"]))
            )
            few, found = seconds(lambda: collection.count(pc.field("n") >= rows - 1000))
            assert found == 1000
            size = f"{info.parts} files of {info.disk_bytes / MEBIBYTE:,.0f} MiB"
            print("\n| | seconds |\n|---|---:|")
            for what, taken in (
                (f"open, and count: {size}", measured["open"]),
                ("the first document by its id", first),
                ("others, median", measured["get"]),
                ("one column of all", measured["scan"]),
                ("the last 1,000 documents by a filter", few),
            ):
                print(f"| {what} | {taken:.4f} |")
            amplification = update(engine, rows, arguments.changes, arguments.rounds)
            print(f"\nrandom updates: {amplification:.2f} bytes written for each that was saved")
            measured["compact"], size = seconds(lambda: engine.compact("c"))
            measured["compact"] /= max(1.0, size / (info.disk_bytes / info.parts))
            print(f"resident at the end: {resident():.0f} MiB")
    model(measured, arguments.plot)


if __name__ == "__main__":
    main()
