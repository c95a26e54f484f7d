"""The change feed under kills: a copy that its changes maintain equals the collection."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from support.processes import start
from support.settings import LONG

from godb_arrow import StorageEngine

KILLS = 300 if LONG else 2
WRITER = """
import random, sys
from godb_arrow import StorageEngine
folder, seed = sys.argv[1], int(sys.argv[2])
rng = random.Random(seed)
engine = StorageEngine(folder, part_size="16KiB", part_grace="1ms", versions="all")
names = ("users", "orders")
for name in names:
    if name not in engine:
        engine.create_collection(name)
print("ready", flush=True)
while True:
    name = rng.choice(names)
    collection, key = engine[name], str(rng.randrange(60))
    choice = rng.random()
    if choice < 0.3:
        collection.upsert_many([{"_id": key, "n": rng.random()}, {"_id": key + "x", "n": 0}])
    elif choice < 0.45:
        if key in collection:
            collection.update(key, {"m": rng.random()})
    elif choice < 0.65:
        if key in collection:
            collection.delete(key)
    elif choice < 0.75:
        collection.insert_many({"n": n} for n in range(rng.randrange(1, 100)))
    elif choice < 0.85:
        with engine.transaction() as tx:
            for other in names:
                tx[other].upsert_many([{"_id": "t", "n": rng.random()}])
    elif choice < 0.9:
        collection.delete_many({"n": {"$gt": rng.randrange(100)}})
    elif choice < 0.97:
        engine.save()
    else:
        engine.compact(name)
"""


class Copy:
    """Documents that changes maintain, and that must fit them exactly."""

    def __init__(self, token: str) -> None:
        self.documents: dict[tuple[str, str], Any] = {}
        self.token = token
        self.sequence = 0

    def apply(self, change: Any) -> None:
        assert change.sequence >= self.sequence, "in order"
        self.sequence = change.sequence
        place = (change.collection, change.id)
        assert (place in self.documents) == (change.operation != "insert"), change
        if change.operation == "delete":
            del self.documents[place]
        else:
            self.documents[place] = change.document

    def follow(self, feed: Any, most: int, lost_at: int | None = None) -> None:
        """Apply whole units, and lose one that was not stored with its token."""
        waiting = []
        for number, change in enumerate(feed):
            waiting.append(change)
            if change.last:
                for one in waiting:
                    self.apply(one)
                waiting, self.token = [], feed.token
                most -= 1
            if most <= 0 or (lost_at is not None and number >= lost_at):
                return


def test_each_change_counts_once_under_kills(tmp_path: Path) -> None:
    folder, rng = tmp_path / "data", random.Random(7)
    with StorageEngine(folder) as engine:
        copy = Copy(engine.changes().token)
    for kill in range(KILLS):
        process = start(WRITER, folder, kill, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        if kill % 2:
            with StorageEngine(folder, read_only=True) as reader:
                copy.follow(reader.changes(copy.token), rng.randrange(1, 200), rng.randrange(500))
        time.sleep(rng.uniform(0.01, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with StorageEngine(folder, part_size="16KiB", read_only=kill % 3 == 0) as engine:
            for _ in range(3):
                copy.follow(engine.changes(copy.token), rng.randrange(1, 1000), rng.randrange(2000))
            copy.follow(engine.changes(copy.token), 10**9)
            assert list(engine.changes(copy.token)) == []
            found = {
                (name, document["_id"]): document
                for name in engine.collections()
                for document in engine[name]
            }
        assert copy.documents == found, kill
    assert copy.sequence > 10 * KILLS
