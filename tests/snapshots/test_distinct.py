"""Distinct values of more bytes than memory are those that fit into memory."""

from __future__ import annotations

import datetime as dt
import gc
import math
import random
import sys
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any

import msgpack
import pytest
from support.settings import for_seeds

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.snapshots import distinct

UTC = dt.UTC
VALUES = [
    None, True, False, 0, 1, -1, 1.0, -0.0, 0.0, 1.5, 2**53, 2.0**53, 2**53 + 1, 2**63, 2.0**63,
    2**64 - 1, -(2**63), math.inf, math.nan, -math.nan, "", "a", "é😀", "x" * 9000, b"", b"a",
    b"\xff", dt.datetime(2024, 1, 1, tzinfo=UTC), msgpack.Timestamp(5, 7),
    msgpack.ExtType(7, b"x"), msgpack.ExtType(8, b"x"), {}, {"k": 1}, {"k": 1.0}, {"a": 1, "b": 2},
    {"b": 2, "a": 1}, [], [[]], [[1], 1], [[1.0], [True]], [["é"], {"k": 1}], ["a", 1, None],
]  # fmt: skip


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"k": value}
    return value


def shown(values: list[Any]) -> list[tuple[str, str]]:
    return [(type(value).__name__, repr(value)) for value in values]


def documents(source: random.Random, count: int) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for _ in range(count):
        value = source.choice(VALUES)
        if source.random() < 0.4:
            value = source.choice([source.randrange(200), source.randrange(200) / 2,
                                   f"text {source.randrange(200)}"])  # fmt: skip
        made.append({"v": value} if source.random() < 0.9 else {"w": 1, "m": {"v": value}})
    return made


@for_seeds(12, long=400)
def test_values_in_sorted_runs_are_those_in_memory(seed: int) -> None:
    source = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, StorageEngine(folder, part_size="8KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many(documents(source, source.choice([1, 60, 700])))
        collection.insert({"v": nested(120)})
        engine.save()
        collection.delete_many({"v": source.choice(["a", 1, None])})
        collection.insert_many(documents(source, 40))
        conditions: list[Any] = [None, {"v": {"$ne": 1}}]
        calls = [(field, condition) for field in ("v", "m.v") for condition in conditions]
        wanted = [shown(collection.distinct(*call)) for call in calls]
        runs: list[int] = []
        write = distinct._Distinct._write

        def counted(self: Any) -> None:
            runs.append(len(self._found))
            write(self)

        with pytest.MonkeyPatch.context() as patch:
            size = source.choice([1, 2_000, 20_000])
            patch.setattr(distinct, "_MIN_VALUES_BYTES", size)
            patch.setattr(distinct, "_MAX_SHARE", 1 << 40)
            patch.setattr(distinct, "_BLOCK_BYTES", source.choice([1, 300, 8_192]))
            patch.setattr(distinct, "_VALUES_AT_ONCE", source.choice([1, 7, 4_096]))
            patch.setattr(distinct._Distinct, "_write", counted)
            assert [shown(collection.distinct(*call)) for call in calls] == wanted
            assert size > 1 or len(runs) > 4
        assert engine._components.memory.streams == 0


def test_values_beyond_the_limit_are_in_memory_once(tmp_path: Path) -> None:
    source = random.Random(0)
    with StorageEngine(tmp_path, max_memory="2MiB", part_size="1MiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many({"n": n, "t": source.randbytes(100).hex()} for n in range(30_000))
        engine.save()
        collection.distinct("none")
        for field, found_bytes in (("t", 30_000 * (8 + 249)), ("n", 30_000 * (8 + 32))):
            gc.collect()
            engine._components.memory.peak = 0
            tracemalloc.start()
            try:
                found = collection.distinct(field)
                peak = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert len(found) == 30_000
            assert found == sorted(found)
            assert sum(map(sys.getsizeof, found)) <= found_bytes
            assert peak < 1.2 * found_bytes + (3 << 20), f"{field}: {peak:,} bytes"
            counted = engine._components.memory.peak
            assert 500_000 < counted < 4 << 20, "values that wait are counted"
            del found


def test_a_failed_call_closes_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distinct, "_MIN_VALUES_BYTES", 1_000)
    monkeypatch.setattr(distinct, "_MAX_SHARE", 1 << 40)
    files: list[Any] = []
    made = distinct.tempfile.TemporaryFile

    def opened(**options: Any) -> Any:
        files.append(made(**options))
        return files[-1]

    monkeypatch.setattr(distinct.tempfile, "TemporaryFile", opened)
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many({"n": n} for n in range(100))
        monkeypatch.setattr(distinct, "scan", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            collection.distinct("n")
        assert [one.closed for one in files] == [True]
        assert engine._components.memory.streams == 0
        with pytest.raises(godb_arrow.InvalidOption):
            collection.distinct("")
