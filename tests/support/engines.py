"""Engines for tests: crashed, with many parts, and with a script of changes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import godb_arrow
from godb_arrow import StorageEngine


def crash(engine: StorageEngine) -> None:
    """Leave the engine as a killed process leaves it: what is on the disk stays, the rest goes."""
    parts = engine._components
    parts.workers.stop()
    parts.syncer.stop()
    parts.lifecycle.is_closed = True
    for collection in parts.catalog.used():
        collection.checkpointer.end()
    parts.directory.close(stored=True)


ABSENT = None


class Promises:
    """Possible values of each document: one if it was acknowledged, else also the former one."""

    def __init__(self) -> None:
        self.allowed: dict[tuple[str, str], list[Any]] = {}
        self.together: list[list[tuple[str, str]]] = []

    def copy(self) -> Promises:
        made = Promises()
        made.allowed = {key: list(values) for key, values in self.allowed.items()}
        made.together = list(self.together)
        return made

    def expect(self, changes: dict[tuple[str, str], Any], done: bool) -> None:
        # What changes later goes its own way.
        self.together = [[one for one in keys if one not in changes] for keys in self.together]
        for key, value in changes.items():
            before = self.allowed.get(key, [ABSENT])
            self.allowed[key] = [value] if done else [*before, value]
        if len(changes) > 2 and not done:
            self.together.append(list(changes))

    def check(self, engine: StorageEngine) -> None:
        found: dict[tuple[str, str], Any] = {}
        for name in engine.collections():
            for document in engine[name]:
                key = (name, document["_id"])
                assert key not in found, "twice"
                found[key] = document["v"]
            assert len(engine[name]) == sum(key[0] == name for key in found)
        assert found.keys() <= self.allowed.keys()
        for key, values in self.allowed.items():
            assert found.get(key, ABSENT) in values, f"{key} is {found.get(key)}, not of {values}"
        for keys in self.together:
            assert len({key in found for key in keys}) == 1, "a part of a batch"


Step = tuple[Callable[[StorageEngine], Any], dict[tuple[str, str], Any]]


def steps() -> Iterator[Step]:
    """Yield operations on an engine, each with the documents that must exist afterwards."""
    yield lambda e: e.create_collection("a"), {}
    for n in range(3):
        yield (
            lambda e, n=n: e.insert("a", {"_id": f"s{n}", "v": n}),
            {("a", f"s{n}"): n},
        )
    yield lambda e: e.save(), {}
    yield lambda e: e.update("a", "s0", {"v": "new"}), {("a", "s0"): "new"}
    yield lambda e: e.delete("a", "s1"), {("a", "s1"): ABSENT}
    batch = [{"_id": f"b{n}", "v": n} for n in range(100)]
    yield lambda e: e.insert_many("a", batch), {("a", d["_id"]): d["v"] for d in batch}
    yield lambda e: e["a"].checkpoint(), {}
    yield lambda e: e.create_collection("old"), {}
    yield lambda e: e.insert("old", {"_id": "1", "v": 1}), {("old", "1"): 1}
    yield lambda e: e.save(), {}
    yield (
        lambda e: e.rename_collection("old", "new"),
        {("old", "1"): ABSENT, ("new", "1"): 1},
    )
    yield lambda e: e.create_collection("old"), {}
    yield lambda e: e.insert("old", {"_id": "2", "v": 2}), {("old", "2"): 2}
    yield lambda e: e.drop_collection("new"), {("new", "1"): ABSENT}
    yield lambda e: e.save(), {}
    yield lambda e: e.replace("a", "s2", {"v": "last"}), {("a", "s2"): "last"}


def steps_of_parts() -> Iterator[Step]:
    """Yield operations on collections that have several files, in the same form."""
    yield from steps()
    for first in (0, 40):
        batch = [{"_id": f"p{n}", "v": n, "text": "x" * 40} for n in range(first, first + 40)]
        yield (
            lambda e, batch=batch: e.insert_many("a", batch),
            {("a", d["_id"]): d["v"] for d in batch},
        )
        yield lambda e: e.save(), {}
    yield (
        lambda e: e.update_by_id("a", {f"p{n}": {"v": "new"} for n in range(0, 40, 20)}),
        {("a", f"p{n}"): "new" for n in range(0, 40, 20)},
    )
    yield lambda e: e.delete("a", "p1"), {("a", "p1"): ABSENT}
    yield lambda e: e["a"].checkpoint(), {}
    yield lambda e: e.delete("a", "p2"), {("a", "p2"): ABSENT}
    yield lambda e: e.compact("a"), {}
    yield lambda e: e.delete("a", "p3"), {("a", "p3"): ABSENT}
    last = {"v": "last"}
    yield lambda e: e.update("a", "p4", last), {("a", "p4"): "last"}
    yield lambda e: e.save(), {}
    yield lambda e: e.pack("a"), {}
    yield lambda e: e.delete("a", "p5"), {("a", "p5"): ABSENT}
    yield lambda e: e.save(), {}


PART = "16KiB"


def numbers(first: int, count: int) -> pa.Table:
    n = np.arange(first, first + count)
    return pa.table({"n": n, "text": [f"number {one}" for one in n]})


def grown(engine: StorageEngine, saves: int = 6) -> godb_arrow.Collection:
    """Create a collection of several files, by default with six times 1000 documents."""
    collection = engine.create_collection("c")
    for index in range(saves):
        collection.insert_many(numbers(1000 * index, 1000))
        engine.save()
    return collection


def values(collection: Any) -> list[int]:
    return [document["n"] for document in collection]


def open_engine(folder: Path, **options: Any) -> StorageEngine:
    return StorageEngine(folder, **{"part_size": PART, "part_grace": 0.001, **options})
