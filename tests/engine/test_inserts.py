"""Inserts of single documents: with and without room in memory, and what they count."""

from __future__ import annotations

from pathlib import Path

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
