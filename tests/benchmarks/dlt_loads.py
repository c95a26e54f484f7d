"""Loads by dlt: into DuckDB, of what changed, and into a data directory.

Each figure is processor time, and memory above the start of the step::

    RUNTIME__DLTHUB_TELEMETRY=false python tests/benchmarks/dlt_loads.py --rows 100000
"""

from __future__ import annotations

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import dlt

import godb_arrow
from godb_arrow.connectors.dlt import godb_destination, godb_source

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_mebibytes() -> float:
    """Return the memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES / 2**20


def measure(step: str, run: Callable[[], Any]) -> None:
    """Run a step, and print its figures."""
    start = peak = resident_mebibytes()
    is_over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not is_over.wait(0.005):
            peak = max(peak, resident_mebibytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.process_time()
    run()
    seconds = time.process_time() - began
    is_over.set()
    watcher.join()
    print(f"| {step} | {seconds:.2f} s | {peak - start:.0f} MiB |", flush=True)


def main() -> None:
    """Run the steps in an empty folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with godb_arrow.StorageEngine("shop") as engine:
            engine.create_collection("users").insert_many(
                {
                    "name": f"n{n}",
                    "n": n,
                    "f": n / 3,
                    "t": "x" * 100,
                    "tags": ["a"],
                    "geo": {"x": n},
                }
                for n in range(rows)
            )
        duckdb = dlt.destinations.duckdb("warehouse.duckdb")
        options = {"pipelines_dir": "pipelines"}
        pipeline = dlt.pipeline("shop", destination=duckdb, dataset_name="lake", **options)
        measure("read into a load package", lambda: pipeline.extract(godb_source("shop")))
        pipeline.normalize()
        measure("load into DuckDB", pipeline.load)
        with godb_arrow.StorageEngine("shop") as engine:
            engine["users"].update_many({"n": {"$lt": rows // 100}}, {"$set": {"f": 0}})
        measure("1 % changed, all steps", lambda: pipeline.run(godb_source("shop")))
        back = dlt.pipeline("back", destination=godb_destination("data"), **options)
        back.extract(godb_source("shop"))
        back.normalize()
        measure("load into a data directory", back.load)


if __name__ == "__main__":
    main()
