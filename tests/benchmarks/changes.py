"""Reading of changes, and incremental copies of 1 % of a collection beside copies of all of it.

    python tests/benchmarks/changes.py

Times are processor times, and the results are medians of several runs.
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from verbs import compare, document

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.connectors.etl import copy

SHARE = 100  # One in so many documents changes between two copies.
TARGETS = {
    "a data directory": ("mirror#c", None),
    "a GODB file": ("c.godb", None),
    "SQLite": ("sqlite:///c.db#c", None),
    "a Delta table": ("c-table", "delta"),
    "NDJSON": ("c.ndjson", None),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    rows, repeat = arguments.rows, arguments.repeat
    print(f"godb_arrow {godb_arrow.__version__}, {os.cpu_count()} cores, {rows:,} documents")
    with tempfile.TemporaryDirectory() as folder, StorageEngine(Path(folder, "data")) as engine:
        os.chdir(folder)
        users = engine.create_collection("c")
        token = users.snapshot().token
        users.insert_many([document(n) for n in range(rows)])
        compare(f"Read {rows:,} changes of one call", repeat, reading(users, token))
        token = users.snapshot().token
        for number in range(rows):
            users.insert(document(number))
        compare(f"Read {rows:,} changes of as many calls", repeat, reading(users, token))
        engine.save()
        rounds = itertools.count()
        for name, (target, format) in TARGETS.items():
            copies(users, name, target, format, rounds, repeat)


def reading(users: Any, token: str | None) -> dict[str, Callable[[], Any]]:
    return {
        "as documents": lambda: sum(1 for _ in users.changes(token)),
        "as record batches": lambda: sum(len(batch) for batch in users.changes(token).batches()),
        "a scan of all documents": lambda: sum(1 for _ in users.find_all_stream()),
    }


def copies(
    users: Any, name: str, target: str, format: str | None, rounds: Any, repeat: int
) -> None:
    """Change some documents and copy them, beside a copy of all documents."""

    def changed() -> None:
        mark = next(rounds)
        ids = range(1, len(users), SHARE)
        users.upsert_many([{"_id": str(n), **document(n), "age": mark} for n in ids])

    def run() -> None:
        summary = copy(users, target, format=format, mode="sync", progress=False)
        assert not summary.is_whole

    def with_changes() -> None:
        changed()
        run()

    def whole() -> None:
        copy(users, f"all-{target}" if "://" not in target else target.replace("c.db", "all.db"),
             format=format, if_exists="replace", progress=False)  # fmt: skip

    copy(users, target, format=format, mode="sync", progress=False)
    compare(f"Copy to {name}", repeat, {
        "1 % that changed": with_changes, "of these, changing 1 %": changed, "all": whole,
    })  # fmt: skip


if __name__ == "__main__":
    main()
