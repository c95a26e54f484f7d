"""Many threads on one engine: every snapshot is one that was, and memory stays bounded."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.acero
import pyarrow.dataset  # noqa: F401 (what a first filter loads is not the engine's memory)
import pytest
from support.settings import LONG

import godb_arrow
from godb_arrow import StorageEngine

SECONDS = 60 if LONG else 4
LIMIT = 1 << 20
GROUP = 20  # documents that change together
GROUPS = 150  # of each thread
TEXT = "some text that takes room " * 40
MEBIBYTE = 1 << 20


def resident() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    pytest.skip("the memory of the process cannot be seen here")


class Writers:
    """Threads that change groups of documents: a group has one version, or is not there."""

    def __init__(self, engine: StorageEngine) -> None:
        self.engine = engine
        self.shared = engine.create_collection("shared")
        self.stop = threading.Event()
        self.errors: list[BaseException] = []
        self.operations = 0
        self.models: list[dict[str, int]] = [{} for _ in range(4)]  # group: version, by thread

    def run(self, function: Callable[[int], None], number: int) -> None:
        try:
            while not self.stop.is_set():
                function(number)
                self.operations += 1
        except BaseException as error:
            self.errors.append(error)
            self.stop.set()

    def ids(self, thread: int, group: int) -> list[str]:
        return [f"{thread}/{group}/{i}" for i in range(GROUP)]

    def check(self, documents: Any) -> dict[str, int]:
        """The version of each group that is there; each is there whole, in one version."""
        versions: dict[str, list[int]] = {}
        seen = set()
        for document in documents:
            assert document["_id"] not in seen, "twice"
            seen.add(document["_id"])
            group = document["_id"].rpartition("/")[0]
            versions.setdefault(group, []).append(document["v"])
        for group, found in versions.items():
            assert len(found) == GROUP, f"{group}: {len(found)} of {GROUP}"
            assert len(set(found)) == 1, f"{group}: {set(found)}"
        return {group: found[0] for group, found in versions.items()}

    def fill(self) -> None:
        """About ten times the limit, once all groups are there; half of them for now."""
        for thread, model in enumerate(self.models):
            for group in range(0, GROUPS, 2):
                self.insert(thread, group, model)
        self.engine.save()
        self.check(self.shared.find_all_stream())

    def insert(self, thread: int, group: int, model: dict[str, int]) -> None:
        ids = self.ids(thread, group)
        self.shared.insert_many([{"_id": one, "v": 0, "text": TEXT} for one in ids])
        model[f"{thread}/{group}"] = 0

    def write(self, thread: int) -> None:
        chance = random.Random()
        model = self.models[thread]
        group = chance.randrange(GROUPS)
        name, ids = f"{thread}/{group}", self.ids(thread, group)
        if name not in model:
            self.insert(thread, group, model)
        elif chance.random() < 0.2:
            assert self.shared.delete_many({"_id": ids}) == GROUP
            del model[name]
        else:
            model[name] += 1
            self.shared.update_by_id({one: {"v": model[name]} for one in ids})
        if chance.random() < 0.02:
            found = self.check(self.shared.find_all_stream())
            assert {k: v for k, v in found.items() if k.startswith(f"{thread}/")} == model

    def stream(self, _: int) -> None:
        columns = self.shared.to_arrow(["_id", "v"]).to_pydict().values()
        self.check({"_id": i, "v": v} for i, v in zip(*columns, strict=True))
        with self.shared.find_all_stream() as some:  # closed early
            for _ in zip(range(10), some, strict=False):
                pass

    def drop_and_create(self, _: int) -> None:
        other = self.engine.create_collection("other")
        other.insert_many([{"n": n} for n in range(500)])
        left = other.stream_batches()
        self.engine.drop_collection("other")
        assert sum(batch.num_rows for batch in left) == 500
        with pytest.raises(godb_arrow.CollectionNotFound):
            other.insert({})

    def save(self, _: int) -> None:
        self.engine.save()
        assert 0 <= self.engine.memory_stats().cache_bytes <= LIMIT

    def go(self) -> int:
        """Have all at work; returns by how many bytes the process grew."""
        jobs = [(self.write, 0), (self.write, 1), (self.write, 2), (self.write, 3),
                (self.stream, 0), (self.stream, 1), (self.drop_and_create, 0),
                (self.save, 0)]  # fmt: skip
        threads = [threading.Thread(target=self.run, args=job) for job in jobs]
        before, highest = resident(), 0
        for thread in threads:
            thread.start()
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends and not self.stop.is_set():
            highest = max(highest, resident() - before)
            time.sleep(0.05)
        self.stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        if self.errors:
            raise self.errors[0]
        return highest


def test_eight_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    engine = StorageEngine(tmp_path, max_memory=LIMIT, background_save="100ms")
    engine.start_background_workers()
    work = Writers(engine)
    work.fill()
    highest = work.go()
    expected = {name: version for model in work.models for name, version in model.items()}
    assert work.check(work.shared.find_all_stream()) == expected
    stats = engine.stats()
    engine.close()
    assert highest < LIMIT + 64 * MEBIBYTE, f"{highest / MEBIBYTE:.0f} MiB"
    assert threading.active_count() <= before
    assert work.operations > 100
    assert stats.checkpoints > 5
    with StorageEngine(tmp_path) as again:
        assert work.check(again["shared"]) == expected
    if LONG:
        print(f"{work.operations} operations, {highest / MEBIBYTE:.0f} MiB, {stats}")


def test_names_come_and_go_while_files_are_written(tmp_path: Path) -> None:
    """Whoever creates, renames and drops takes the locks in the same order as who saves."""
    engine = StorageEngine(tmp_path, max_memory=LIMIT)
    ends = time.monotonic() + (10 if LONG else 2)
    errors: list[BaseException] = []
    expected = (godb_arrow.CollectionExists, godb_arrow.CollectionNotFound)

    steps: list[Callable[[str, str], Any]] = [
        lambda name, _: engine.create_collection(name),
        engine.rename_collection,
        lambda name, _: engine.drop_collection(name),
        lambda name, _: engine.insert_many(name, [{"t": "x" * 100}] * 50),
        lambda *_: engine.save(),
        lambda name, _: engine.find_all(name),
        lambda name, _: engine[name].checkpoint(),
    ]

    def work(number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < ends:
            names = chance.sample(["a", "b", "c"], 2)
            step = chance.choice(steps)
            try:
                step(*names)
            except expected:
                continue
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "they wait for each other"
    if errors:
        raise errors[0]
    counts = {name: len(engine.find_all(name)) for name in engine.collections()}
    engine.close()
    with StorageEngine(tmp_path) as again:
        assert {name: len(again[name]) for name in again} == counts
    assert len(list((tmp_path / "collections").iterdir())) == len(counts)
