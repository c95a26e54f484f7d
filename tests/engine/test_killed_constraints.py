"""Constraints under kills: no two documents share a value, and the settings hold."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from support.processes import start
from support.settings import LONG

import godb_arrow
from godb_arrow import DuplicateValue, SchemaViolation, StorageEngine, verify_godb

WRITER = """
import random, sys, threading
import datetime as dt
from godb_arrow import DuplicateValue, StorageEngine, TransactionConflict

folder, seed, part_size = sys.argv[1], int(sys.argv[2]), sys.argv[3]
engine = StorageEngine(folder, background_save=0.05, part_size=part_size, part_grace=0.05)
engine._components.expirer.clock = lambda: 1e9
engine.remove_worker("expirer")
engine.add_worker("expirer", 0.02, engine._components.expirer.expire_in_background)
engine.start_background_workers()
users = engine["users"]
said = threading.Lock()
old = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)

def write(thread):
    chosen = random.Random(seed * 10 + thread)
    while True:
        number = chosen.randrange(400)
        document = {"v": number, "w": [number + 10_000], "text": "x" * chosen.randrange(300)}
        if chosen.random() < 0.2:
            document["at"] = old
        try:
            action = chosen.randrange(6)
            if action == 0:
                users.insert_many([{**document, "v": 1000 + number}, document])
            elif action == 1:
                users.update_many({"v": number}, {"$inc": {"v": chosen.randrange(3)}})
            elif action == 2:
                users.delete_many({"v": number})
            elif action == 3:
                with engine.transaction() as tx:
                    tx["users"].insert(document)
                    tx["users"].insert({"v": number + 5000})
            else:
                identity = users.insert(document)
                if "at" not in document:
                    with said:
                        print(identity, number, flush=True)
        except (DuplicateValue, TransactionConflict):
            pass

print("ready", flush=True)
for thread in range(3):
    threading.Thread(target=write, args=(thread,)).start()
"""


@pytest.mark.parametrize("part_size", ["128MiB", "16KiB"])
def test_killed_at_any_moment_no_value_is_there_twice(tmp_path: Path, part_size: str) -> None:
    folder, chosen = tmp_path / "data", random.Random(part_size)
    with StorageEngine(folder, part_size=part_size) as engine:
        users = engine.create_collection("users")
        users.create_index("v", unique=True)
        users.create_index(["w", "v"], unique=True)
        users.create_ttl("at", "1 day")
        users.set_validation(pa.schema({"v": pa.int64()}), allow_extra=True)
    for kill in range(100 if LONG else 2):
        process = start(WRITER, folder, str(kill), part_size, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(chosen.uniform(0.05, 0.5))
        process.send_signal(signal.SIGKILL)
        process.stdout.read()
        process.wait()
        process.stdout.close()
        with StorageEngine(folder, part_size=part_size) as engine:
            users = engine["users"]
            count = Counter(one["v"] for one in users.find())
            assert set(count.values()) <= {1}
            assert [one.unique for one in users.list_indexes()] == [True, True, False]
            for value in list(count)[:20]:
                with pytest.raises(DuplicateValue):
                    users.insert({"v": value})
                assert users.count({"v": value}) == 1
            with pytest.raises(SchemaViolation):
                users.insert({"v": "text"})
            users.expire()
            assert (
                users.count(
                    {"at": {"$ne": None}},
                )
                == 0
            )
            assert len(users) == sum(1 for _ in users.find())
        assert verify_godb(folder).ok


def test_a_power_cut_keeps_the_settings(tmp_path: Path) -> None:
    """With "commit", a setting is on the disk when its call returns."""
    engine = StorageEngine(tmp_path / "data", durability="commit")
    users = engine.create_collection("users")
    users.create_index("v", unique=True)
    users.create_ttl("at", 1)
    users.set_validation(pa.schema({"v": pa.int64()}))
    synced = engine._components.directory.journal
    assert synced.position(0) is not None
    assert synced.syncs >= 4  # one of each setting
    engine.close(discard=True)
    with StorageEngine(tmp_path / "data") as engine:
        assert engine["users"].list_indexes()[0].unique
        assert set(engine["users"].ttl) == {"at"}
        with pytest.raises(godb_arrow.SchemaViolation):
            engine["users"].insert({"v": "x"})
