"""Verbs that change an engine, with checks that a change was applied as a whole."""

from __future__ import annotations

import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from godb_arrow import StorageEngine

SCHEMA = pa.schema({"v": pa.int64()})


def content(engine: StorageEngine) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in engine.collections():
        collection = engine[name]
        documents = {document["_id"]: document for document in collection.find()}
        assert len(collection) == len(documents)
        assert collection.to_arrow([]).num_rows == len(documents)
        assert all(collection.get(identity) == documents[identity] for identity in documents)
        settings = collection.list_indexes(), collection.validation, collection.ttl
        found[name] = (documents, settings, collection.compression)
    return found


def in_time(function: Callable[[], Any]) -> Any:
    """Run a function on a thread, so that a lock that stays locked fails the test."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append((function(), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    stack = traceback.format_stack(sys._current_frames().get(thread.ident or 0))
    assert results, "something is still locked: " + "".join(stack[-4:])
    result, error = results[0]
    if error is not None:
        raise error
    return result


def prepare(engine: StorageEngine) -> None:
    """Create a collection in a file and one in parts, both with unsaved changes."""
    for name in ("file", "parts"):
        collection = engine.create_collection(name)
        collection.insert_many([{"_id": f"k{n}", "v": n} for n in range(5)])
        if name == "parts":
            collection.to_folder()
            engine.save()
            collection.insert_many([{"v": n} for n in range(4)])
        engine.save()
        collection.update("k1", {"v": -1})
        collection.delete("k2")
        collection.insert({"v": 9})


def bulk(engine: StorageEngine) -> None:
    engine["parts"].insert_many({"_id": f"b{n}", "text": "x" * 1000} for n in range(1100))


def attach(engine: StorageEngine) -> None:
    engine.load_collection_metadata(Path(engine.data_dir).parent / "other.godb")


def transact(engine: StorageEngine) -> None:
    """Change both collections in a transaction."""
    with engine.transaction() as tx:
        tx["parts"].insert_many([{"v": n} for n in range(70)])
        tx["parts"].delete("k0")
        tx["file"].update_many({"v": {"$gte": 3}}, {"$inc": {"v": 100}})


VERBS: dict[str, Callable[[StorageEngine], Any]] = {
    "insert": lambda e: e["file"].insert({"v": 1}),
    "insert with an id": lambda e: e["parts"].insert({"_id": "new", "v": 1}),
    "insert a deleted id": lambda e: e["parts"].insert({"_id": "k2", "v": 1}),
    "insert few": lambda e: e["file"].insert_many([{"v": n} for n in range(3)]),
    "insert many": lambda e: e["file"].insert_many([{"v": n} for n in range(70)]),
    "insert a table": lambda e: e["parts"].insert_many(pa.table({"v": [1, 2]})),
    "insert more than memory": bulk,
    "upsert": lambda e: e["parts"].upsert_many([{"_id": f"k{n}"} for n in range(6)]),
    "update": lambda e: e["parts"].update("k0", {"v": 7}),
    "update several": lambda e: e["file"].update_by_id({"k0": {"v": 7}, "k1": {"v": 8}}),
    "replace": lambda e: e["file"].replace("k0", {"w": 7}),
    "delete": lambda e: e["parts"].delete("k0"),
    "delete by a filter": lambda e: e["file"].delete_many({"v": [0, 3]}),
    "update by a filter": lambda e: e["parts"].update_many({"v": {"$lt": 2}}, {"$inc": {"v": 50}}),
    "update many by a filter": lambda e: e["file"].update_many(None, {"$set": {"w": "x" * 9}}),
    "upsert by a filter": lambda e: e["file"].update_one(
        {"v": 77}, {"$inc": {"n": 1}}, upsert=True
    ),
    "take one": lambda e: e["parts"].find_one_and_update(
        {"v": 3}, {"$set": {"v": 70}}, sort="-_id"
    ),
    "compare and swap": lambda e: e["file"].compare_and_swap("k0", e["file"].get("k0"), {"v": 8}),
    "commit a transaction": transact,
    "create an index": lambda e: e["file"].create_index("v"),
    "create a unique index": lambda e: e["file"].create_index(["v", "_id"], unique=True),
    "set a validation": lambda e: e["file"].set_validation(SCHEMA, allow_extra=True),
    "create a ttl": lambda e: e["file"].create_ttl("at", "30 days"),
    "set the compression": lambda e: e["file"].set_compression("zstd"),
    "create": lambda e: e.create_collection("new"),
    "drop": lambda e: e.drop_collection("parts"),
    "rename": lambda e: e.rename_collection("file", "renamed"),
    "save": lambda e: e.save(),
    "to a folder": lambda e: e["file"].to_folder(),
    "compact": lambda e: e.compact("parts"),
    "pack": lambda e: e.pack("parts"),
    "restore": lambda e: e.restore("parts", e.versions("parts")[0].version),
    "attach": attach,
    "stream": lambda e: list(e["file"].stream()),
}


JOURNALLED = {"commit a transaction"}
"""Verbs that need a journal."""


def opened(folder: Path, durability: str) -> StorageEngine:
    return StorageEngine(
        folder, durability=durability, sync_interval=3600, part_size="1KiB",  # type: ignore[arg-type]
        part_grace=0.001, max_memory="2MiB",
    )  # fmt: skip


def is_whole(verb: str, before: dict[str, Any], there: dict[str, Any]) -> bool:
    """Return whether a change is there as a whole, by what it adds, removes and replaces."""
    if verb == "attach":
        return set(there) - set(before) == {"other"} and len(there["other"][0]) == 1
    if verb in ("create", "drop", "rename"):
        names = set(before) ^ set(there)
        expected = {"create": {"new"}, "drop": {"parts"}, "rename": {"file", "renamed"}}[verb]
        return names == expected
    changed = [name for name in before if before[name] != there.get(name)]
    if verb == "commit a transaction":
        (file, *_), (parts, *_) = there["file"], there["parts"]
        sizes = [len(there[name][0]) - len(before[name][0]) for name in ("file", "parts")]
        large = sum(one["v"] >= 100 for one in file.values())
        return (sizes, large, "k0" in parts) == ([0, 69], 3, False)
    if len(changed) != 1 or set(before) != set(there):
        return False
    (name,) = changed
    (old, *_), (new, *_) = before[name], there[name]
    added, gone = len(set(new) - set(old)), len(set(old) - set(new))
    replaced = sum(new[key] != old[key] for key in set(old) & set(new))
    return (added, gone, replaced) == {
        "insert": (1, 0, 0), "insert with an id": (1, 0, 0), "insert a deleted id": (1, 0, 0),
        "insert few": (3, 0, 0), "insert many": (70, 0, 0), "insert a table": (2, 0, 0),
        "insert more than memory": (1100, 0, 0), "upsert": (2, 0, 4), "update": (0, 0, 1),
        "update several": (0, 0, 2), "replace": (0, 0, 1), "delete": (0, 1, 0),
        "delete by a filter": (0, 2, 0), "update by a filter": (0, 0, 4),
        "update many by a filter": (0, 0, 5), "upsert by a filter": (1, 0, 0),
        "take one": (0, 0, 1), "compare and swap": (0, 0, 1),
        "create an index": (0, 0, 0),
        "create a unique index": (0, 0, 0),
        "set a validation": (0, 0, 0),
        "create a ttl": (0, 0, 0),
        "set the compression": (0, 0, 0),
    }.get(verb)  # fmt: skip
