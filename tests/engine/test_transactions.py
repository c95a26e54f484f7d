"""Transactions: all or nothing, at once, isolated, also after kills and power cuts."""

from __future__ import annotations

import gc
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.disks import FaultyDisk, RecordingDisk, after_power_cut, put, using
from support.engines import crash
from support.processes import start
from support.settings import LONG

import godb_arrow
from godb_arrow import (
    Follower,
    MemoryLimitExceeded,
    StorageEngine,
    TransactionClosed,
    TransactionConflict,
)

TOTAL = 100


def accounts(engine: StorageEngine) -> None:
    """Create two collections whose euros sum up to a total."""
    for name in ("a", "b"):
        engine.create_collection(name)
    engine["a"].insert_many([{"_id": str(n), "euros": 10} for n in range(10)])
    engine["b"].insert({"_id": "0", "euros": 0})


def move(engine: StorageEngine, key: str, amount: int = 1) -> None:
    with engine.transaction() as tx:
        tx["a"].update(key, {"$inc": {"euros": -amount}})
        tx["b"].update_one({"_id": key}, {"$inc": {"euros": amount}}, upsert=True)


def total(engine: StorageEngine) -> int:
    return sum(one["euros"] for name in ("a", "b") for one in engine[name])


def test_all_changes_take_effect_at_the_end_of_the_block(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        accounts(engine)
        engine.save()
        with engine.transaction() as tx:
            a, b = tx["a"], tx["b"]
            assert a.get("1")["euros"] == 10
            a.update("1", {"$inc": {"euros": -5}})
            identity = b.insert({"euros": 5})
            assert b.insert_many([{"x": n} for n in range(100)])[-1]
            assert (a.get("1")["euros"], b.get(identity)["euros"]) == (5, 5)
            assert b.find({"euros": 5}) == [{"_id": identity, "euros": 5}]
            assert a.find_one(sort="euros") == {"_id": "1", "euros": 5}
            assert len(b) == 102
            assert a.count({"euros": 10}) == 9
            assert identity in b
            assert "nowhere" not in b
            assert b.get("nowhere", None) is None
            assert a.delete_many({"_id": ["8", "9"]}) == 2
            a.replace("7", {"euros": 1})
            assert a.compare_and_swap("6", {"euros": 10}, {"euros": 2})
            b.upsert_many([{"_id": "0", "euros": 3}, {"_id": "z", "euros": 4}])
            assert b.to_arrow(["euros"]).num_rows == 103
            b.delete("z")
            b.insert({"_id": "temporary"})
            b.delete("temporary")
            # Nothing is visible outside.
            assert engine["a"].get("1")["euros"] == 10
            assert len(engine["b"]) == 1
        assert engine["a"].get("1")["euros"] == 5
        assert engine["b"].get(identity) == {"_id": identity, "euros": 5}
        assert engine["b"].get("0")["euros"] == 3
        assert (len(engine["a"]), len(engine["b"])) == (8, 102)
        assert engine["a"].get("6") == {"_id": "6", "euros": 2}
        assert engine._components.memory._changes_of.keys() <= {
            id(one.store) for one in engine._catalog.all()
        }
        assert engine["b"].insert({}) not in (identity, "0")
        wanted = [engine[name].find(sort="_id") for name in ("a", "b")]
        assert not godb_arrow.verify_godb(tmp_path).problems
        crash(engine)
    with StorageEngine(tmp_path) as engine:
        assert [engine[name].find(sort="_id") for name in ("a", "b")] == wanted
        engine.save()
        assert [engine[name].find(sort="_id") for name in ("a", "b")] == wanted


def test_an_exception_undoes_all_changes(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        accounts(engine)
        with pytest.raises(ValueError, match="mine"), engine.transaction() as tx:
            tx["a"].delete_many(None)
            raise ValueError("mine")
        assert total(engine) == TOTAL
        tx = engine.transaction()
        tx["a"].delete_many(None)
        tx.rollback()
        tx.rollback()
        assert total(engine) == TOTAL
        with pytest.raises(TransactionClosed):
            tx["a"]
        with engine.transaction() as tx:
            a = tx["a"]
        with pytest.raises(TransactionClosed):
            a.insert({})
        with pytest.raises(TransactionClosed):
            a.find()
        with pytest.raises(TransactionClosed):
            tx.commit()


def test_a_transaction_reads_the_state_from_when_it_began(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, part_size="1KiB") as engine:
        accounts(engine)
        engine.save()
        with engine.transaction() as tx:
            move(engine, "3")
            engine["b"].insert({"_id": "late", "euros": 9})
            engine.save()
            engine.compact()
            assert sum(one["euros"] for name in ("a", "b") for one in tx[name]) == TOTAL
            assert "late" not in tx["b"]
            tx["a"].update("4", {"n": 1})  # another document: no conflict
        assert engine["a"].get("3")["euros"] == 9
        assert engine["a"].get("4")["n"] == 1
        engine.create_collection("new")
        with engine.transaction() as tx:
            engine.create_collection("newer")
            with pytest.raises(godb_arrow.CollectionNotFound):
                tx["newer"]
            engine.drop_collection("new")
            with pytest.raises(godb_arrow.CollectionNotFound):
                tx["new"]


@pytest.mark.parametrize("how", ["update", "delete", "insert", "save"])
def test_the_first_committer_wins(tmp_path: Path, how: str) -> None:
    with StorageEngine(tmp_path) as engine:
        accounts(engine)
        engine.save()
        tx = engine.transaction()
        tx["a"].update("5", {"n": 1})
        tx["b"].insert({"_id": "x"})
        if how == "update":
            engine["a"].update("5", {"n": 2})
        elif how == "delete":
            engine["a"].delete("5")
        elif how == "insert":
            engine["b"].insert({"_id": "x", "first": True})
        else:
            engine["a"].update("5", {"n": 2})
            engine.save()
        before = engine["a"].find(sort="_id"), engine["b"].find(sort="_id")
        with pytest.raises(TransactionConflict) as caught:
            tx.commit()
        assert caught.value.ids == (["x"] if how == "insert" else ["5"])
        assert caught.value.collection == ("b" if how == "insert" else "a")
        assert (engine["a"].find(sort="_id"), engine["b"].find(sort="_id")) == before


def test_without_a_journal_a_transaction_is_refused(tmp_path: Path) -> None:
    refused = pytest.raises(TransactionClosed, match="durability")
    with StorageEngine(tmp_path, durability="checkpoint") as engine, refused:
        engine.transaction()
    with StorageEngine(tmp_path, read_only=True) as engine, pytest.raises(godb_arrow.ReadOnly):
        engine.transaction()


def test_threads_that_try_again_lose_no_change(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        accounts(engine)
        seen: list[int] = []
        errors: list[BaseException] = []

        def work(seed: int) -> None:
            number = random.Random(seed)
            try:
                for _ in range(25):
                    while True:
                        try:
                            move(engine, str(number.randrange(3)))
                            break
                        except TransactionConflict:
                            continue
            except BaseException as error:
                errors.append(error)

        def watch() -> None:
            for _ in range(30):
                with engine.transaction() as tx:
                    seen.append(sum(one["euros"] for name in ("a", "b") for one in tx[name]))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
        threads.append(threading.Thread(target=watch))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not errors
        assert set(seen) == {TOTAL}
        assert total(engine) == TOTAL
        assert sum(one["euros"] for one in engine["b"]) == 75


@pytest.mark.parametrize("durability", ["interval", "commit"])
def test_a_power_cut_leaves_all_of_a_transaction_or_nothing(
    tmp_path: Path, durability: Any
) -> None:
    folder = tmp_path / "made"
    for part in ("collections", "journal"):
        (folder / part).mkdir(parents=True)
    disk = RecordingDisk(str(folder))
    with using(disk):
        engine = StorageEngine(folder, durability=durability, sync_interval="1h")
        accounts(engine)
        engine.save()
        for step in range(8):
            move(engine, str(step))
            if step % 3 == 0:
                engine["a"].checkpoint()
            elif step == 4:
                engine["b"].checkpoint()
            elif step == 5:
                engine.save()
            disk.acknowledged = step + 1 if durability == "commit" else 0
            disk._remember()
        crash(engine)
    number = random.Random(7)
    begun = False
    every = 1 if LONG else max(1, len(disk.cuts) // 30)
    for index, (acknowledged, state) in list(enumerate(disk.cuts))[::every]:
        for how in ("least", "most", "any"):
            target = tmp_path / "cut"
            put(after_power_cut(state, how, number), str(folder), target)
            with StorageEngine(target) as again:
                names = again.collections()
                begun = begun or (names == ["a", "b"] and len(again["b"]) > 0)
                if names == ["a", "b"] and len(again["a"]) and len(again["b"]):
                    assert total(again) == TOTAL, f"cut {index}, {how}"
                    moved = sum(one["euros"] for one in again["b"])
                    assert moved >= acknowledged, f"cut {index}, {how}"
            shutil.rmtree(target)
    assert begun


def test_a_fault_of_the_disk_leaves_nothing_of_a_transaction(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        accounts(engine)
        engine.save()
        disk = FaultyDisk(0)
        with using(disk), pytest.raises(godb_arrow.StorageError):
            move(engine, "1")
        assert total(engine) == TOTAL
        assert engine["a"].get("1")["euros"] == 10
        move(engine, "1")
        assert engine["a"].get("1")["euros"] == 9
        crash(engine)
    with StorageEngine(tmp_path) as engine:
        assert total(engine) == TOTAL
        assert engine["b"].get("1")["euros"] == 1


WRITER = """
import random, sys
from godb_arrow import StorageEngine
engine = StorageEngine(sys.argv[1], durability=sys.argv[2])
print("ready", flush=True)
number = random.Random(int(sys.argv[3]))
while True:
    key = str(number.randrange(10))
    with engine.transaction() as tx:
        tx["a"].update(key, {"$inc": {"euros": -1}})
        tx["b"].update_one({"_id": key}, {"$inc": {"euros": 1}}, upsert=True)
    if number.random() < 0.1:
        engine[number.choice("ab")].checkpoint()
"""


@pytest.mark.parametrize("durability", ["interval", "commit"])
def test_a_kill_leaves_all_of_a_transaction_or_nothing(tmp_path: Path, durability: str) -> None:
    with StorageEngine(tmp_path) as engine:
        accounts(engine)
    number = random.Random(3)
    moved = 0
    for kill in range(100 if LONG else 2):
        process = start(WRITER, tmp_path, durability, kill, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(number.uniform(0.05, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with StorageEngine(tmp_path) as engine:
            assert total(engine) == TOTAL
            now = sum(one["euros"] for one in engine["b"])
            assert now >= moved
            moved = now
    assert moved


def test_followers_have_all_of_a_transaction_or_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    with StorageEngine(source) as engine:
        accounts(engine)
        replica = engine.replicate_to(target, mode="acknowledged")
        for step in range(9):
            move(engine, str(step))
            if step % 3 == 0:
                engine["a"].checkpoint()
            with StorageEngine(target, read_only=True) as copy:
                assert total(copy) == TOTAL
                assert copy["b"].get(str(step))["euros"] == 1
        replica.stop()
        with Follower(source, target) as follower:
            follower.step()
        with StorageEngine(target, read_only=True) as copy:
            assert total(copy) == TOTAL


def test_a_transaction_that_is_left_open_gives_its_memory_back(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        accounts(engine)
        before = engine.memory_stats().changes_bytes
        tx = engine.transaction()
        tx["a"].insert_many([{"text": "x" * 1000} for _ in range(100)])
        assert engine.memory_stats().changes_bytes > before + 100_000
        del tx
        gc.collect()
        assert engine.memory_stats().changes_bytes == before


def test_more_than_memory_is_refused_in_a_transaction(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="1MiB", part_size="128KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many({"n": n, "text": "x" * 200} for n in range(6000))
        for change in (
            lambda one: one.update_many(None, {"$inc": {"n": 1}}),
            lambda one: one.update_by_id({str(n): {"m": 1} for n in range(1, 6001)}),
            lambda one: one.insert_many([{"text": "x" * 200}] * 6000),
        ):
            with pytest.raises(MemoryLimitExceeded), engine.transaction() as tx:
                change(tx["c"])
        assert collection.distinct("n") == list(range(6000)) and collection.count() == 6000
