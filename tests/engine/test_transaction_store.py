"""Transactions look up documents together: they find what single lookups find."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from support.settings import for_seeds

from godb_arrow import StorageEngine, TransactionConflict
from godb_arrow.engine import transaction
from godb_arrow.engine.transaction_store import TransactionStore
from godb_arrow.snapshots.base import Base
from godb_arrow.snapshots.parted_base import PartedBase


def at_begin(store: TransactionStore, identity: str) -> bytes | None:
    """Return a document by a search for its id alone."""
    found = store.overlay.find_frozen(identity)
    return store.base.find(identity) if isinstance(found, bool) else found


@for_seeds(20, long=400)
def test_documents_are_found_together_as_one_by_one(seed: int) -> None:
    source = random.Random(seed)
    size = source.choice(["1GiB", "2KiB"])
    with tempfile.TemporaryDirectory() as folder, StorageEngine(folder, part_size=size) as engine:
        collection = engine.create_collection("c")
        ids = [f"id {number}" for number in range(200)]
        collection.upsert_many([{"_id": one, "n": 0} for one in source.sample(ids, 120)])
        if source.random() < 0.8:
            engine.save()
        collection.delete_many({"_id": {"$in": source.sample(ids, 30)}})
        collection.upsert_many([{"_id": one, "n": 1} for one in source.sample(ids, 40)])
        collection.insert_many({"n": 2} for _ in range(source.choice([3, 100])))
        collection.delete_many({"_id": {"$in": source.sample(ids, 20)}})
        with engine.transaction() as tx:
            inside = tx["c"]
            inside.delete_many({"_id": {"$in": source.sample(ids, 60)}})
            inside.upsert_many([{"_id": one, "n": 3} for one in source.sample(ids, 20)])
            inside.delete_many({"_id": {"$in": source.sample(ids, 20)}})
            store = inside._store
            wanted = [*ids, *map(str, range(1, 120)), "none"]
            source.shuffle(wanted)
            found = {key: at_begin(store, key) for key in wanted}
            present = {key: raw for key, raw in found.items() if raw is not None}
            assert store.documents_at_begin(wanted) == present
            assert store.existed_at_begin(wanted) == present.keys()
            versions = store.overlay.own_versions()
            gone = [key for key, raw in versions.items() if raw is None and at_begin(store, key)]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(transaction, "_IDS_AT_ONCE", source.choice([1, 7, 1_024]))
                change = transaction._change_of(store)
            assert change is not None and change.deleted == gone


@pytest.mark.parametrize("at_once", [1, 7, 1_024])
def test_a_conflict_names_the_documents_in_their_order(
    tmp_path: Path, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transaction, "_IDS_AT_ONCE", at_once)
    with StorageEngine(tmp_path, part_size="1KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many({"n": number} for number in range(100))
        engine.save()

        def commit(others: list[dict[str, Any]], deleted: list[str]) -> None:
            with engine.transaction() as tx:
                tx["c"].delete_many({"n": {"$gte": 10, "$lt": 30}})
                tx["c"].upsert_many([{"_id": "50", "n": -1}, {"_id": "new", "n": -1}])
                collection.upsert_many(others)
                for identity in deleted:
                    collection.delete(identity)

        with pytest.raises(TransactionConflict) as caught:
            commit([{"_id": "15", "n": 9}, {"_id": "50", "n": 9}, {"_id": "new", "n": 9}], ["29"])
        assert caught.value.ids == ["50", "new", "15", "29"]
        assert len(collection) == 100
        collection.delete("new")
        commit([{"_id": "90", "n": 9}], ["91"])
        left = {"15", "50", "90", "new", *map(str, [*range(1, 11), *range(31, 101)])} - {"91"}
        assert {one["_id"] for one in collection.find()} == left


def test_a_transaction_searches_all_parts_for_many_ids_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searches: list[type] = []
    located = Base._located_packed

    def counted(self: Any, *arguments: Any) -> Any:
        searches.append(type(self))
        return located(self, *arguments)

    with StorageEngine(tmp_path, max_memory="2MiB", part_size="128KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many({"n": number, "text": "x" * 900} for number in range(4_000))
        engine.save()
        base = collection._store.base
        assert isinstance(base, PartedBase) and len(base.parts) > 3
        monkeypatch.setattr(Base, "_located_packed", counted)
        with engine.transaction() as tx:
            tx["c"].delete_many({"n": {"$gte": 1_000}})
            collection.update("1", {"$set": {"n": -1}})
        assert len(collection) == 1_000
        assert len(searches) < 15 * len(base.parts)
