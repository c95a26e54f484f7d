"""Inserts of single documents: with and without room in memory, and what they count."""

from __future__ import annotations

import threading
from collections import UserDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from godb_arrow import DuplicateId, InvalidDocument, StorageEngine


def test_inserts_that_need_room_are_like_others(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="1MiB") as engine:
        collection = engine.create_collection("c")
        ids = [collection.insert({"n": n, "text": "x" * 3000}) for n in range(500)]
        assert ids == [str(n) for n in range(1, 501)]
        assert engine.memory_stats().changes_bytes <= 1 << 19
        collection.delete("7")
        assert collection.insert({"_id": 7, "n": -1}) == "7"
        assert collection.insert({"_id": 700}) == "700"
        assert collection.insert({}) == "701"
        for identity in (7, "7", 700, "12"):
            with pytest.raises(DuplicateId) as caught:
                collection.insert({"_id": identity})
            assert (caught.value.operation, caught.value.collection) == ("insert", "c")
        with pytest.raises(InvalidDocument, match="document '702'"):
            collection.insert({"bad": object()})
        assert len(collection) == 502
        expected = {document["_id"]: document for document in collection.find_all()}
    with StorageEngine(tmp_path) as engine:
        found = {document["_id"]: document for document in engine["c"].find_all()}
    assert found == expected and found["7"]["n"] == -1


def test_unsaved_inserts_are_counted(tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path, durability="checkpoint")
    collection = engine.create_collection("c")
    for number in range(100):
        collection.insert({"_id": f"key {number}", "n": number})
    store = collection._store
    assert store.changed_bytes == store.overlay.size == engine.memory_stats().changes_bytes
    assert len(collection) == 100 and collection.info().access_count >= 100
    engine.close()


@pytest.mark.parametrize("durability", ["commit", "interval", "checkpoint"])
def test_threads_that_insert_lose_nothing(durability: Any, tmp_path: Path) -> None:
    count = 50 if durability == "commit" else 1000
    with StorageEngine(tmp_path, durability=durability) as engine:
        collection = engine.create_collection("c")

        def work(thread: int) -> None:
            for number in range(count):
                collection.insert({"thread": thread, "n": number})

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    with StorageEngine(tmp_path) as engine:
        found = sorted((one["thread"], one["n"]) for one in engine["c"].find_all())
    assert found == [(thread, number) for thread in range(4) for number in range(count)]


def test_an_insert_waits_for_its_turn_for_a_limited_time(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        turn = collection._store.context.turn
        assert turn is not None
        thread = threading.Thread(target=turn.acquire)  # An interrupt ends it within its turn.
        thread.start()
        thread.join(10)
        assert collection.insert({}) == "1"
        assert collection._store.context.turn is not turn, "later inserts do not wait"
        assert [collection.insert({"n": n}) for n in range(2)] == ["2", "3"]


def test_a_mapping_may_wait_for_another_thread_that_inserts(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        turn = collection._store.context.turn

        class Waiting(UserDict[str, Any]):
            def __iter__(self) -> Iterator[str]:
                thread = threading.Thread(target=collection.insert, args=({"n": 1},))
                thread.start()
                thread.join(10)
                assert not thread.is_alive()
                return super().__iter__()

        collection.insert(Waiting(n=2))
        assert sorted(collection.to_arrow()["n"].to_pylist())[-1] == 2
        assert collection._store.context.turn is turn


def test_an_insert_that_fails_ends_its_turn(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert({"_id": 1})
        for bad in ({"_id": 1}, {"n": object()}):
            with pytest.raises((DuplicateId, InvalidDocument)):
                collection.insert(bad)
        turn = collection._store.context.turn
        thread = threading.Thread(target=collection.insert, args=({"n": 1},))
        thread.start()
        thread.join(10)
        assert collection._store.context.turn is turn, "the other thread did not wait"


def test_a_turn_that_another_thread_replaced_is_not_ended(tmp_path: Path) -> None:
    """Of threads that wait for a stuck turn, the first replaces it while the others wait."""
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        context = collection._store.context
        fresh = threading.RLock()

        class Stuck:
            def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
                context.turn = fresh
                return False

            def release(self) -> None:
                raise RuntimeError("cannot release un-acquired lock")

        context.turn = Stuck()  # type: ignore[assignment]
        assert collection.insert({"n": 1}) == "1"
        assert context.turn is fresh
        thread = threading.Thread(target=collection.insert, args=({"n": 2},))
        thread.start()
        thread.join(10)
        assert context.turn is fresh, "nobody holds it"
