"""Updates by operators and by filters, with answers as MongoDB gives them."""

from __future__ import annotations

import datetime as dt
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import godb_arrow
from godb_arrow import InvalidDocument, InvalidUpdate, StorageEngine, UpdateResult, codec
from godb_arrow.arrow_compute import pc
from godb_arrow.connectors.etl.base import Documents
from godb_arrow.engine.writer import CollectionWriter
from godb_arrow.query.update import Update

AT = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)

# A document without its id, the changes, and the document after them.
CHANGED: list[tuple[Any, Any, Any]] = [
    # $set
    ({}, {"$set": {"a": 1}}, {"a": 1}),
    ({"a": 1}, {"$set": {"a": "x"}}, {"a": "x"}),
    ({"a": 1, "b": 2}, {"$set": {"a": None}}, {"a": None, "b": 2}),
    ({}, {"$set": {"a.b": 1}}, {"a": {"b": 1}}),
    ({"a": {"c": 2}}, {"$set": {"a.b": 1}}, {"a": {"c": 2, "b": 1}}),
    ({"a": {"b": {"c": 1}}}, {"$set": {"a.b.c": 2, "a.b.d": 3}}, {"a": {"b": {"c": 2, "d": 3}}}),
    ({"a": [1, 2, 3]}, {"$set": {"a.1": 9}}, {"a": [1, 9, 3]}),
    ({"a": [1]}, {"$set": {"a.3": 9}}, {"a": [1, None, None, 9]}),
    ({"a": [{"b": 1}, {"b": 2}]}, {"$set": {"a.1.b": 9}}, {"a": [{"b": 1}, {"b": 9}]}),
    ({"a": [1]}, {"$set": {"a.2.b": 9}}, {"a": [1, None, {"b": 9}]}),
    ({}, {"$set": {"a.0": 1}}, {"a": {"0": 1}}),
    ({"a": 1}, {"$set": {"a": {"b": [1, {"c": AT}]}}}, {"a": {"b": [1, {"c": AT}]}}),
    ({"a": 1}, {"$set": {"b": 2, "c": 3}}, {"a": 1, "b": 2, "c": 3}),
    # $unset
    ({"a": 1, "b": 2}, {"$unset": {"a": ""}}, {"b": 2}),
    ({"a": 1}, {"$unset": {"b": 1}}, {"a": 1}),
    ({"a": {"b": 1, "c": 2}}, {"$unset": {"a.b": 1}}, {"a": {"c": 2}}),
    ({"a": {"b": 1}}, {"$unset": {"a.b": 1}}, {"a": {}}),
    ({"a": [1, 2]}, {"$unset": {"a.0": 1}}, {"a": [None, 2]}),
    ({"a": 1}, {"$unset": {"a.b": 1}}, {"a": 1}),
    ({"a": [1]}, {"$unset": {"a.5": 1}}, {"a": [1]}),
    # $inc
    ({"n": 1}, {"$inc": {"n": 2}}, {"n": 3}),
    ({"n": 1}, {"$inc": {"n": -0.5}}, {"n": 0.5}),
    ({}, {"$inc": {"n": 5}}, {"n": 5}),
    ({}, {"$inc": {"a.b": 5}}, {"a": {"b": 5}}),
    ({"a": [1, 2]}, {"$inc": {"a.0": 5}}, {"a": [6, 2]}),
    ({"n": 2**40}, {"$inc": {"n": 1}}, {"n": 2**40 + 1}),
    ({"n": 1, "m": 1}, {"$inc": {"n": 1, "m": -1}}, {"n": 2, "m": 0}),
    # $min, $max
    ({"n": 5}, {"$min": {"n": 3}}, {"n": 3}),
    ({"n": 5}, {"$min": {"n": 7}}, {"n": 5}),
    ({"n": 5}, {"$max": {"n": 7}}, {"n": 7}),
    ({"n": 5}, {"$max": {"n": 3}}, {"n": 5}),
    ({}, {"$min": {"n": 3}}, {"n": 3}),
    ({}, {"$max": {"a.b": 3}}, {"a": {"b": 3}}),
    ({"n": "x"}, {"$min": {"n": 3}}, {"n": 3}),
    ({"n": 3}, {"$max": {"n": "x"}}, {"n": "x"}),
    ({"n": None}, {"$max": {"n": 0}}, {"n": 0}),
    ({"t": AT}, {"$max": {"t": AT + dt.timedelta(1)}}, {"t": AT + dt.timedelta(1)}),
    # $rename
    ({"a": 1}, {"$rename": {"a": "b"}}, {"b": 1}),
    ({"a": 1, "b": 2}, {"$rename": {"a": "b"}}, {"b": 1}),
    ({"b": 2}, {"$rename": {"a": "b"}}, {"b": 2}),
    ({"a": {"x": 1, "y": 2}}, {"$rename": {"a.x": "a.z"}}, {"a": {"y": 2, "z": 1}}),
    ({"a": {"x": 1}}, {"$rename": {"a.x": "x"}}, {"a": {}, "x": 1}),
    # $push
    ({"a": [1]}, {"$push": {"a": 2}}, {"a": [1, 2]}),
    ({}, {"$push": {"a": 1}}, {"a": [1]}),
    ({"a": [1]}, {"$push": {"a": [2, 3]}}, {"a": [1, [2, 3]]}),
    ({"a": [1]}, {"$push": {"a": {"$each": [2, 3]}}}, {"a": [1, 2, 3]}),
    ({"a": [1, 2]}, {"$push": {"a": {"$each": [9], "$position": 0}}}, {"a": [9, 1, 2]}),
    ({"a": [1, 2]}, {"$push": {"a": {"$each": [9], "$position": -1}}}, {"a": [1, 9, 2]}),
    ({"a": [1, 2]}, {"$push": {"a": {"$each": [3, 4], "$slice": -3}}}, {"a": [2, 3, 4]}),
    ({"a": [1, 2]}, {"$push": {"a": {"$each": [3], "$slice": 2}}}, {"a": [1, 2]}),
    ({"a": [1, 2]}, {"$push": {"a": {"$each": [], "$slice": 0}}}, {"a": []}),
    ({"a": {"b": [1]}}, {"$push": {"a.b": {"c": 1}}}, {"a": {"b": [1, {"c": 1}]}}),
    # $addToSet
    ({"a": [1]}, {"$addToSet": {"a": 1}}, {"a": [1]}),
    ({"a": [1]}, {"$addToSet": {"a": 2}}, {"a": [1, 2]}),
    ({}, {"$addToSet": {"a": {"$each": [1, 1, 2]}}}, {"a": [1, 2]}),
    ({"a": [1]}, {"$addToSet": {"a": 1.0}}, {"a": [1]}),
    # $pull
    ({"a": [1, 2, 1, 3]}, {"$pull": {"a": 1}}, {"a": [2, 3]}),
    ({"a": [1, 2]}, {"$pull": {"a": 9}}, {"a": [1, 2]}),
    ({}, {"$pull": {"a": 1}}, {}),
    ({"a": [1, 5, 8]}, {"$pull": {"a": {"$gte": 5}}}, {"a": [1]}),
    ({"a": ["x", "y", "z"]}, {"$pull": {"a": {"$in": ["x", "z"]}}}, {"a": ["y"]}),
    ({"a": [{"b": 1, "c": 2}, {"b": 2}]}, {"$pull": {"a": {"b": 1}}}, {"a": [{"b": 2}]}),
    ({"a": [{"b": 1}, {"b": 7}]}, {"$pull": {"a": {"b": {"$gt": 5}}}}, {"a": [{"b": 1}]}),
    ({"a": [[1], [2]]}, {"$pull": {"a": [1]}}, {"a": [[2]]}),
    ({"a": {"b": [1, 2]}}, {"$pull": {"a.b": 1}}, {"a": {"b": [2]}}),
    # several
    ({"a": 1, "b": 2}, {"$set": {"a": 5}, "$inc": {"b": 1}, "$unset": {"c": 1}}, {"a": 5, "b": 3}),
    ({"a": 1}, {"$setOnInsert": {"a": 9}}, {"a": 1}),
    ({"_id": "1"}, {"$set": {"_id": "1", "a": 1}}, {"a": 1}),
]  # fmt: skip

# A document, and changes that MongoDB refuses.
REFUSED: list[tuple[Any, Any]] = [
    ({}, {}),
    ({}, {"a": 1}),
    ({}, {"$set": {"a": 1}, "b": 2}),
    ({}, {"$nonsense": {"a": 1}}),
    ({}, {"$set": 5}),
    ({"a": 1}, {"$set": {"a.b": 1}}),
    ({"a": None}, {"$set": {"a.b": 1}}),
    ({"a": [1]}, {"$set": {"a.b": 1}}),
    ({}, {"$set": {"a": 1, "a.b": 2}}),
    ({}, {"$set": {"a": 1}, "$inc": {"a": 1}}),
    ({}, {"$set": {"a.b": 1}, "$unset": {"a": 1}}),
    ({}, {"$set": {"": 1}}),
    ({}, {"$set": {"a..b": 1}}),
    ({}, {"$set": {"_id": "2"}}),
    ({}, {"$unset": {"_id": 1}}),
    ({}, {"$inc": {"_id": 1}}),
    ({}, {"$rename": {"_id": "a"}}),
    ({"a": 1}, {"$rename": {"a": "_id"}}),
    ({"a": "x"}, {"$inc": {"a": 1}}),
    ({"a": None}, {"$inc": {"a": 1}}),
    ({"a": 1}, {"$inc": {"a": "x"}}),
    ({"a": 1}, {"$inc": {"a": True}}),
    ({"a": 1}, {"$push": {"a": 1}}),
    ({"a": 1}, {"$pull": {"a": 1}}),
    ({"a": 1}, {"$addToSet": {"a": 1}}),
    ({"a": [1]}, {"$push": {"a": {"$each": 5}}}),
    ({"a": [1]}, {"$push": {"a": {"$each": [5], "$slice": "x"}}}),
    ({"a": [1]}, {"$push": {"a": {"$bad": [5]}}}),
    ({"a": 1}, {"$rename": {"a": "a"}}),
    ({"a": 1}, {"$rename": {"a": 5}}),
    ({"a": [{"b": 1}]}, {"$rename": {"a.0.b": "c"}}),
    ({"a": [1]}, {"$set": {"a.99999999": 1}}),
]

# A filter, the changes of an upsert, and the inserted document.
UPSERTED: list[tuple[Any, Any, Any]] = [
    ({"k": 1}, {"$set": {"n": 2}}, {"k": 1, "n": 2}),
    ({"k": 1, "m": {"$gt": 5}}, {"$set": {"n": 2}}, {"k": 1, "n": 2}),
    ({"k": {"$eq": 1}}, {"$inc": {"n": 2}}, {"k": 1, "n": 2}),
    ({"k.j": 1}, {"$setOnInsert": {"n": 2}}, {"k": {"j": 1}, "n": 2}),
    ({"$and": [{"k": 1}, {"m": "x"}]}, {"$push": {"n": 2}}, {"k": 1, "m": "x", "n": [2]}),
    ({"k": 1}, {"$inc": {"k": 2}}, {"k": 3}),
    ({"k": 1}, {"$unset": {"k": 1}}, {}),
    ({"_id": "x"}, {"$set": {"n": 2}}, {"_id": "x", "n": 2}),
    ({"k": [1, 2]}, {"$set": {"n": 2}}, {"n": 2}),
    ({"k": {"a": 1}}, {"$set": {"k.b": 2}}, {"k": {"a": 1, "b": 2}}),
    ({"$or": [{"k": 1}, {"k": 2}]}, {"$set": {"n": 2}}, {"n": 2}),
]


@pytest.fixture(params=["saved", "unsaved", "parts"])
def collection(tmp_path: Path, request: Any) -> Any:
    with StorageEngine(tmp_path / "data") as engine:
        collection = engine.create_collection("c")
        if request.param == "parts":
            collection.to_folder()
        yield _Saving(collection, request.param)


class _Saving:
    """Collection that saves after an insert, or does not."""

    def __init__(self, collection: godb_arrow.Collection, how: str) -> None:
        self.collection = collection
        self._saves = how != "unsaved"

    def insert(self, document: dict[str, Any]) -> str:
        identity = self.collection.insert(document)
        if self._saves:
            self.collection.checkpoint()
        return identity


@pytest.mark.parametrize(("before", "changes", "after"), CHANGED, ids=lambda one: str(one)[:40])
def test_operators_change_documents_as_in_mongodb(
    tmp_path: Path, before: Any, changes: Any, after: Any
) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert({"_id": "1", **before})
        result = collection.update_many(None, changes)
        wanted = {"_id": "1", **after}
        assert collection.get("1") == wanted
        is_changed = {"_id": "1", **before} != wanted
        assert result == UpdateResult(1, int(is_changed))
        # The same by id, in an upsert of the same document, and as the first of several.
        collection.replace("1", before)
        assert collection.update("1", changes) == wanted
        collection.replace("1", before)
        found = collection.find_one_and_update({"_id": "1"}, changes, return_new=True)
        assert found == wanted
        engine.save()
        assert collection.get("1") == wanted


@pytest.mark.parametrize(("before", "changes"), REFUSED, ids=lambda one: str(one)[:40])
def test_operators_refuse_what_mongodb_refuses(tmp_path: Path, before: Any, changes: Any) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"_id": "0", "z": 1}, {"_id": "1", **before}])
        wanted = collection.find()
        with pytest.raises(InvalidUpdate):
            collection.update_many({"_id": "1"}, changes)
        if changes and any(key.startswith("$") for key in changes):
            with pytest.raises(InvalidUpdate):
                collection.update("1", changes)
        assert collection.find() == wanted


@pytest.mark.parametrize(("filter", "changes", "after"), UPSERTED, ids=lambda one: str(one)[:40])
def test_an_upsert_inserts_what_the_filter_requires(
    tmp_path: Path, filter: Any, changes: Any, after: Any
) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert({"_id": "other", "n": 0})
        result = collection.update_one(filter, changes, upsert=True)
        wanted = {"_id": "1", **after}
        assert result == UpdateResult(0, 0, wanted["_id"])
        assert collection.get(wanted["_id"]) == wanted
        assert len(collection) == 2


def test_there_are_a_hundred_cases() -> None:
    assert len(CHANGED) + len(REFUSED) + len(UPSERTED) >= 100


def test_an_update_by_filter_changes_all_documents_or_none(collection: Any) -> None:
    for number in range(200):
        collection.collection.insert({"n": number, "k": number % 4})
    collection.insert({"n": "text", "k": 9})
    c = collection.collection
    assert c.update_many({"k": 1}, {"$inc": {"n": 1000}}) == UpdateResult(50, 50)
    assert c.count({"n": {"$gte": 1000}}) == 50
    before = c.find(sort="_id")
    with pytest.raises(InvalidUpdate, match="document '201'"):
        c.update_many(None, {"$inc": {"n": 1}})
    assert c.find(sort="_id") == before
    assert c.update_many({"k": 2}, {"$set": {"k": 2}}) == UpdateResult(50, 0)
    assert c.update_many(pc.field("k") == 3, {"$unset": {"k": 1}}) == UpdateResult(50, 50)
    assert c.update_one({"k": 0}, {"$set": {"first": True}}, sort="-_id").modified == 1
    assert [one["_id"] for one in c.find({"first": True})] == ["97"]
    with pytest.raises(godb_arrow.FieldNotFound):
        c.update_many({"kk": 1}, {"$set": {"x": 1}})
    assert c.update_many({"k": 77}, {"$set": {"x": 1}}) == UpdateResult(0, 0)
    assert c.find_one_and_update({"k": 77}, {"$set": {"x": 1}}) is None


def test_an_upsert_with_an_id_that_exists_is_refused(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert({"_id": "x", "n": 1})
        with pytest.raises(godb_arrow.DuplicateId):
            collection.update_one({"_id": "x", "n": 2}, {"$set": {"m": 1}}, upsert=True)
        with pytest.raises(InvalidUpdate):
            collection.update_one(pc.field("n") == 9, {"$set": {"m": 1}}, upsert=True)
        found = collection.find_one_and_update(
            {"k": 5}, {"$inc": {"n": 1}}, upsert=True, return_new=True
        )
        assert found == {"_id": "1", "k": 5, "n": 1}
        assert collection.find_one_and_update({"k": 6}, {"$inc": {"n": 1}}, upsert=True) is None


def test_a_document_is_swapped_only_for_the_expected_one(collection: Any) -> None:
    identity = collection.insert({"n": 1, "m": {"a": 1, "b": 2}})
    c = collection.collection
    assert c.compare_and_swap(identity, {"m": {"b": 2, "a": 1.0}, "n": 1}, {"n": 2})
    assert not c.compare_and_swap(identity, {"n": 1}, {"n": 3})
    assert c.get(identity) == {"_id": identity, "n": 2}
    with pytest.raises(godb_arrow.DocumentNotFound):
        c.compare_and_swap("9", {}, {})
    with pytest.raises(InvalidDocument):
        c.compare_and_swap(identity, {"n": 2}, {"_id": "7"})


def test_a_replaced_id_is_an_error(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert({"n": 1})
        with pytest.raises(InvalidDocument, match="'7'"):
            collection.replace("1", {"_id": "7", "n": 2})
        collection.replace("1", {"_id": 1, "n": 2})
        assert collection.get("1") == {"_id": "1", "n": 2}


def test_changes_survive_a_crash(tmp_path: Path) -> None:
    from support.engines import crash

    engine = StorageEngine(tmp_path)
    collection = engine.create_collection("c")
    collection.insert_many([{"n": n} for n in range(300)])
    engine.save()
    collection.update_many({"n": {"$gte": 100}}, {"$set": {"m": 1}})
    collection.update_one({"n": 5}, {"$set": {"m": 2}})
    collection.update_one({"n": -5}, {"$set": {"m": 3}}, upsert=True)
    wanted = collection.find(sort="_id")
    crash(engine)
    with StorageEngine(tmp_path) as engine:
        assert engine["c"].find(sort="_id") == wanted
        assert engine["c"].count({"m": 1}) == 200


def test_more_than_memory_is_updated(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="1MiB", part_size="128KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many({"n": n, "text": "x" * 200} for n in range(6000))
        assert collection.update_many(None, {"$inc": {"n": 1}}) == UpdateResult(6000, 6000)
        assert collection.distinct("n") == list(range(1, 6001))


def test_few_documents_of_large_runs_are_not_larger_than_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StorageEngine(tmp_path, max_memory="1MiB", part_size="128KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many({"n": n, "text": "x" * 200} for n in range(6000))
        engine.save()
        monkeypatch.setattr(CollectionWriter, "replace_in_files", None)
        assert collection.update_many({"n": {"$in": [*range(0, 6000, 200)]}}, {"$inc": {"n": 1}})
        assert collection.count({"n": {"$in": [*range(0, 6000, 200)]}}) == 0


def test_an_upsert_has_values_as_they_are_stored(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        done = collection.update_many({"n": np.int64(4)}, {"$inc": {"n": 1}}, upsert=True)
        assert collection.get(done.upserted)["n"] == 5


def test_a_push_of_nothing_changes_nothing(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert({"_id": "e", "list": []})
        push = {"$push": {"list": {"$each": []}}}
        assert collection.update_one({"_id": "e"}, push) == UpdateResult(1, 0)
        assert collection.update_one({"_id": "e"}, {"$push": {"new": {"$each": []}}}).modified == 1
        assert collection.get("e") == {"_id": "e", "list": [], "new": []}


def test_threads_take_each_job_once_and_count_all_changes(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"state": "new"} for _ in range(60)] + [{"_id": "n", "n": 0}])
        taken: list[str] = []
        errors: list[BaseException] = []

        def work() -> None:
            try:
                while True:
                    job = collection.find_one_and_update(
                        {"state": "new"}, {"$set": {"state": "taken"}}
                    )
                    if job is None:
                        return
                    taken.append(job["_id"])
                    collection.update_one({"_id": "n"}, {"$inc": {"n": 1}})
                    collection.update_many({"state": "taken"}, {"$inc": {"seen": 1}})
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert sorted(taken) == sorted({str(n) for n in range(1, 61)})
        assert collection.get("n")["n"] == 60


def raw_of(collection: Any) -> list[tuple[str, bytes]]:
    return [
        (run.id(index), run.document(index))
        for run in collection.stored_entries()
        for index in range(len(run))
    ]


@pytest.mark.parametrize("saved", [False, True])
def test_updates_of_messagepack_and_of_dicts_have_the_same_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, saved: bool
) -> None:
    cases = [case for case in CHANGED if "_id" not in str(case)]
    with StorageEngine(tmp_path) as engine:
        raw, results = [], []
        for name in ("messagepack", "dicts"):
            collection = engine.create_collection(name)
            for number, (before, _, _) in enumerate(cases):
                collection.insert({"_id": str(number), "n": 1, **before, "z": AT})
            if saved:
                engine.save()
            if name == "dicts":
                monkeypatch.setattr(Update, "patch", None)
            for number, (_, changes, _) in enumerate(cases):
                results.append(collection.update_many({"_id": str(number)}, changes))
            raw.append(raw_of(collection))
        assert raw[0] == raw[1]
        assert results[: len(cases)] == results[len(cases) :]


@pytest.mark.parametrize("saved", [False, True])
def test_updates_keep_the_bytes_of_other_fields(tmp_path: Path, saved: bool) -> None:
    odd = b"\xa1f\xca\x3f\x80\x00\x00" + b"\xa1e\xc7\x01\x07x" + b"\xa1i\xcd\x00\x05"
    document = b"\x85\xa3_id\xa11" + odd + b"\xa1n\x01"
    entries = codec.scan_entries(b"\xa11" + document, 0, 1, 100, 0)
    godb_arrow.write_godb(Documents(pa.schema([]), iter([entries])), tmp_path / "c.godb", "c")
    with StorageEngine(tmp_path / "data") as engine:
        engine.load_collection_metadata(tmp_path / "c.godb")
        collection = engine["c"]
        assert collection.update_many(None, {"$inc": {"n": 1}}) == UpdateResult(1, 1)
        assert collection.update_many(None, {"$set": {"m.k": 2}}) == UpdateResult(1, 1)
        if saved:
            engine.save()
        changed = b"\x86\xa3_id\xa11" + odd + b"\xa1n\x02\xa1m\x81\xa1k\x02"
        assert raw_of(collection) == [("1", changed)]


def test_an_update_that_makes_a_document_too_large_is_refused(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_document_bytes="1KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": n} for n in range(3)])
        before = raw_of(collection)
        with pytest.raises(godb_arrow.DocumentTooLarge, match="'1'"):
            collection.update_many(None, {"$set": {"t": "x" * 1100}})
        assert raw_of(collection) == before
