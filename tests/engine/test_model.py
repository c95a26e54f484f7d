"""The engine beside a dict: whatever is done, with reopening and crashes in between."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from support.engines import crash
from support.settings import LONG

import godb_arrow
from godb_arrow import Follower, StorageEngine, promote
from godb_arrow.engine import deleter, pending
from godb_arrow.options import COMPRESSIONS, CompressionName
from godb_arrow.snapshots import deletions

NAMES = st.sampled_from(["users", "a/b", "..", "%7E", "é" * 120])
IDS = st.sampled_from(["1", "2", "3", "10", "x", "y", "ü"])
VALUES = st.one_of(st.integers(-5, 5), st.text(max_size=3), st.none(), st.floats(0, 1))
FIELDS = st.dictionaries(st.sampled_from(["n", "s", "m"]), VALUES, max_size=3)
Documents = dict[str, dict[Any, Any]]


class EngineMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp()
        self.follower = self.folder + "f"
        self.model: dict[str, Documents] = {}
        self.used: dict[str, set[str]] = {}  # ids that were ever there
        self.snapshots: list[tuple[Any, list[dict[Any, Any]]]] = []
        self.engine = self.open()
        self.token = self.engine.changes().token
        self.changed: dict[str, Documents] = {}  # documents that the changes maintain

    def open(self) -> StorageEngine:
        return StorageEngine(self.folder, max_memory="2MiB", sync_interval=60)

    @initialize()
    def begin(self) -> None:
        self.engine.create_collection("users")
        self.model["users"] = {}
        self.used["users"] = set()

    def exists(self, name: str) -> bool:
        if name in self.model:
            return True
        with pytest.raises(godb_arrow.CollectionNotFound):
            self.engine[name]
        return False

    @rule(name=NAMES)
    def create(self, name: str) -> None:
        if name in self.model:
            with pytest.raises(godb_arrow.CollectionExists):
                self.engine.create_collection(name)
            return
        self.engine.create_collection(name)
        self.model[name] = {}
        self.used[name] = set()

    @rule(name=NAMES)
    def drop(self, name: str) -> None:
        if self.exists(name):
            self.engine.drop_collection(name)
            del self.model[name]

    @rule(name=NAMES, new=NAMES)
    def rename(self, name: str, new: str) -> None:
        if not self.exists(name):
            return
        if new in self.model:
            with pytest.raises(godb_arrow.CollectionExists):
                self.engine.rename_collection(name, new)
            return
        self.engine.rename_collection(name, new)
        self.model[new] = self.model.pop(name)
        self.used[new] = self.used.pop(name)

    @rule(name=NAMES, identity=st.none() | IDS, fields=FIELDS)
    def insert(self, name: str, identity: str | None, fields: dict[str, Any]) -> None:
        if not self.exists(name):
            return
        if identity is None:
            made = self.engine.insert(name, fields)
            assert made not in self.used[name], "an id was given twice"
            self.put(name, made, fields)
        elif identity in self.model[name]:
            with pytest.raises(godb_arrow.DuplicateId):
                self.engine.insert(name, {"_id": identity, **fields})
        else:
            self.engine.insert(name, {"_id": identity, **fields})
            self.put(name, identity, fields)

    def put(self, name: str, identity: str, fields: dict[str, Any]) -> None:
        self.model[name].pop(identity, None)
        self.model[name][identity] = {"_id": identity, **fields}
        self.used[name].add(identity)

    @rule(name=NAMES, count=st.integers(0, 200), table=st.booleans())
    def insert_many(self, name: str, count: int, table: bool) -> None:
        if not self.exists(name):
            return
        rows = [{"n": i, "s": str(i)} for i in range(count)]
        data: Any = pa.Table.from_pylist(rows) if table and rows else rows
        made = self.engine.insert_many(name, data)
        assert not set(made) & self.used[name]
        for identity, fields in zip(made, rows, strict=True):
            self.put(name, identity, fields)

    @rule(name=NAMES, ids=st.lists(IDS, max_size=4), upsert=st.booleans(), fields=FIELDS)
    def insert_given(self, name: str, ids: list[str], upsert: bool, fields: dict[str, Any]) -> None:
        if not self.exists(name):
            return
        documents = [{"_id": one, **fields, "k": i} for i, one in enumerate(ids)]
        if upsert:
            self.engine.upsert_many(name, documents)
        elif len(set(ids)) < len(ids) or set(ids) & self.model[name].keys():
            with pytest.raises(godb_arrow.DuplicateId):
                self.engine.insert_many(name, documents)
            return
        else:
            self.engine.insert_many(name, documents)
        for document in documents:
            self.put(name, str(document["_id"]), {k: v for k, v in document.items() if k != "_id"})

    @rule(name=NAMES, identity=IDS, fields=FIELDS, replace=st.booleans())
    def change(self, name: str, identity: str, fields: dict[str, Any], replace: bool) -> None:
        if not self.exists(name):
            return
        verb = self.engine.replace if replace else self.engine.update
        if identity not in self.model[name]:
            with pytest.raises(godb_arrow.DocumentNotFound):
                verb(name, identity, fields)
            return
        verb(name, identity, fields)
        before = {} if replace else self.model[name][identity]
        self.put(name, identity, {k: v for k, v in (before | fields).items() if k != "_id"})

    @rule(name=NAMES, ids=st.lists(IDS, min_size=1, max_size=3, unique=True))
    def update_by_id(self, name: str, ids: list[str]) -> None:
        if not self.exists(name):
            return
        changes = {one: {"u": i} for i, one in enumerate(ids)}
        if not set(ids) <= self.model[name].keys():
            with pytest.raises(godb_arrow.DocumentNotFound):
                self.engine.update_by_id(name, changes)
            return
        assert self.engine.update_by_id(name, changes) == len(ids)
        for identity, fields in changes.items():
            merged = self.model[name][identity] | fields
            self.put(name, identity, {k: v for k, v in merged.items() if k != "_id"})

    @rule(name=NAMES, number=st.integers(0, 100), upsert=st.booleans())
    def update_many(self, name: str, number: int, upsert: bool) -> None:
        if not self.exists(name):
            return
        documents = self.model[name]
        chosen = [k for k, one in documents.items()
                  if type(one.get("n")) in (int, float) and one["n"] >= number]  # fmt: skip
        changes = {"$inc": {"m.k": 2}, "$set": {"u": number}}
        if not upsert and not any("n" in one for one in documents.values()):
            return  # the collection may never have had the field
        result = self.engine[name].update_many({"n": {"$gte": number}}, changes, upsert=upsert)
        assert result.matched == len(chosen)
        assert (result.upserted is not None) == (upsert and not chosen)
        if result.upserted is not None:
            self.put(name, result.upserted, {"m": {"k": 2}, "u": number})
        for identity in chosen:
            document = documents[identity]
            inner = document.get("m", {})
            merged = document | {"m": {**inner, "k": inner.get("k", 0) + 2}, "u": number}
            self.put(name, identity, {k: v for k, v in merged.items() if k != "_id"})

    @rule(name=NAMES, field=st.sampled_from(["n", "s", "_id"]), descending=st.booleans())
    def sort(self, name: str, field: str, descending: bool) -> None:
        if not self.exists(name):
            return
        found = self.engine.find(name, sort={field: -1 if descending else 1})
        ids = [one["_id"] for one in found]
        assert sorted(ids) == sorted(self.model[name])
        first = self.engine.find(name, sort={field: -1 if descending else 1}, limit=3)
        assert [one["_id"] for one in first] == ids[:3]
        if field == "_id":
            assert ids == sorted(ids, reverse=descending)

    @rule(name=NAMES, identity=IDS)
    def delete(self, name: str, identity: str) -> None:
        if not self.exists(name):
            return
        if identity not in self.model[name]:
            with pytest.raises(godb_arrow.DocumentNotFound):
                self.engine.delete(name, identity)
            return
        self.engine.delete(name, identity)
        del self.model[name][identity]

    @rule(name=NAMES, number=st.integers(0, 100))
    def delete_many(self, name: str, number: int) -> None:
        if not self.exists(name):
            return
        documents = self.model[name]
        if not any(isinstance(one.get("n"), int) for one in documents.values()):
            return
        try:
            deleted = self.engine.delete_many(name, pc.field("n") >= number)
        except godb_arrow.InvalidFilter:
            return  # the field has mixed types
        gone = [k for k, one in documents.items()
                if isinstance(one.get("n"), (int, float)) and one["n"] >= number]  # fmt: skip
        assert deleted == len(gone)
        for identity in gone:
            del documents[identity]

    @rule(name=NAMES, fields=st.sampled_from(["n", "s", "_id", ["n", "s"], ["s", "m", "n"]]))
    def index(self, name: str, fields: str | list[str]) -> None:
        if self.exists(name):
            try:
                self.engine.create_index(name, fields)
            except godb_arrow.InvalidFilter:
                return

    @rule(name=NAMES, fields=st.sampled_from(["s", "k", ["n", "s"]]))
    def unique_index(self, name: str, fields: str | list[str]) -> None:
        """Create an index if no two documents share a value, and drop it: others may share one."""
        if not self.exists(name):
            return
        names = [fields] if isinstance(fields, str) else fields
        values = [tuple(one.get(name) for name in names) for one in self.model[name].values()]
        values = [one for one in values if None not in one]
        if len(set(values)) == len(values):
            self.engine.create_index(name, fields, unique=True)
            if values:
                document = dict(zip(names, values[0], strict=True))
                with pytest.raises(godb_arrow.DuplicateValue):
                    self.engine.insert(name, document)
                with pytest.raises(godb_arrow.DuplicateValue):
                    self.engine.insert_many(name, [{}, document])
            self.engine.drop_index(name, fields)
        else:
            with pytest.raises(godb_arrow.DuplicateValue):
                self.engine.create_index(name, fields, unique=True)

    @rule(name=NAMES, number=st.integers(-5, 5), text=st.sampled_from(["", "1", "a", "7"]))
    def find_by_two_fields(self, name: str, number: int, text: str) -> None:
        if not self.exists(name):
            return
        found = {one["_id"] for one in self.engine.find(name, {"n": number, "s": text})}
        assert found == {
            identity
            for identity, one in self.model[name].items()
            if one.get("n") == number and one.get("s") == text and not isinstance(one["n"], bool)
        }

    @rule(name=NAMES)
    def find_by_text(self, name: str) -> None:
        if not self.exists(name):
            return
        found = {one["_id"] for one in self.engine.find(name, {"_id": ["1", "2", "x"]})}
        assert found == {"1", "2", "x"} & self.model[name].keys()

    @rule(name=NAMES, limit=st.integers(1, 50))
    def pages(self, name: str, limit: int) -> None:
        if not self.exists(name):
            return
        found, cursor = [], None
        while True:
            page = self.engine.find_page(name, limit=limit, cursor=cursor)
            found += [one["_id"] for one in page.documents]
            cursor = page.cursor
            if cursor is None:
                break
        assert found == sorted(self.model[name])

    @rule(name=NAMES)
    def snapshot(self, name: str) -> None:
        if self.exists(name) and len(self.snapshots) < 3:
            wanted = [dict(one) for one in self.model[name].values()]
            self.snapshots.append((self.engine.find_all_stream(name), wanted))

    @precondition(lambda self: self.snapshots)
    @rule()
    def read_snapshot(self) -> None:
        stream, wanted = self.snapshots.pop()
        assert by_id(stream) == by_id(wanted)

    @rule()
    def save(self) -> None:
        self.engine.save()

    @rule(name=NAMES)
    def checkpoint(self, name: str) -> None:
        if self.exists(name):
            self.engine[name].checkpoint()

    @rule(clean=st.booleans())
    def reopen(self, clean: bool) -> None:
        self.snapshots.clear()
        if clean:
            self.engine.close()
        else:
            crash(self.engine)
        self.engine = self.open()

    @rule(name=NAMES, compression=st.sampled_from([*COMPRESSIONS, "zstd:5"]))
    def compress(self, name: str, compression: CompressionName) -> None:
        if self.exists(name):
            self.engine[name].set_compression(compression)
            assert self.engine[name].compression == compression

    @rule(take_over=st.booleans())
    def follow(self, take_over: bool) -> None:
        """A follower has everything, and can take over at any time."""
        with Follower(self.folder, self.follower) as follower:
            follower.step()
        with StorageEngine(self.follower, read_only=True) as engine:
            assert engine.collections() == sorted(self.model)
            for name, documents in self.model.items():
                assert by_id(engine[name]) == by_id(documents.values())
        if take_over:
            self.snapshots.clear()
            crash(self.engine)
            shutil.rmtree(self.folder)
            promote(self.follower)
            self.folder, self.follower = self.follower, self.follower + "f"
            self.engine = self.open()

    @rule()
    def read_changes(self) -> None:
        """A copy that changes maintain has every document, whatever happened since."""
        feed, copy = self.engine.changes(self.token), self.changed
        for change in feed:
            documents = copy.setdefault(change.collection, {})
            if change.operation == "drop":
                documents.clear()
            elif change.operation == "rename":
                assert change.to is not None
                copy[change.to] = copy.pop(change.collection)
            else:
                assert change.id is not None
                if not change.net:
                    assert (change.id in documents) == (change.operation != "insert"), change
                documents.pop(change.id, None)
                if change.document is not None:
                    documents[change.id] = change.document
        self.token = feed.token
        for name in copy.keys() | self.model.keys():
            wanted = self.model.get(name, {})
            assert by_id(copy.get(name, {}).values()) == by_id(wanted.values()), name

    @rule()
    def evict(self) -> None:
        self.engine._components.memory.cache.shrink(0)

    @rule()
    def single_file(self) -> None:
        path = Path(self.folder) / "all.godb"
        self.engine.save_to_file(path)
        assert godb_arrow.list_collections(path) == {k: len(v) for k, v in self.model.items()}
        for name, documents in self.model.items():
            assert by_id(godb_arrow.read_documents(path, name)) == by_id(documents.values())

    @invariant()
    def same(self) -> None:
        assert self.engine.collections() == sorted(self.model)
        for name, documents in self.model.items():
            assert len(self.engine[name]) == len(documents)
            assert by_id(self.engine[name]) == by_id(documents.values())
            for identity in ("1", "x"):
                assert (identity in self.engine[name]) == (identity in documents)
            table = self.engine.to_arrow(name)
            assert sorted(table.column("_id").to_pylist() if documents else []) == sorted(documents)

    def teardown(self) -> None:
        self.snapshots.clear()
        self.engine.close()
        for path in Path(self.folder, "collections").iterdir():
            assert not godb_arrow.verify_godb(path).problems
        shutil.rmtree(self.folder)
        shutil.rmtree(self.follower, ignore_errors=True)


def by_id(documents: Any) -> dict[str, Any]:
    found = {}
    for document in documents:
        assert document["_id"] not in found
        found[document["_id"]] = document
    return found


class PartsMachine(EngineMachine):
    """The same with collections that soon have several files, and with their earlier states."""

    def __init__(self) -> None:
        # Ids of a collection (names are given again), a version of it, and what that had.
        self.states: list[tuple[set[str], int, list[dict[Any, Any]]]] = []
        super().__init__()

    def open(self) -> StorageEngine:
        return StorageEngine(
            self.folder, max_memory="2MiB", sync_interval=60, part_size="1KiB", keep_versions=3,
            part_grace=0.001,
        )  # fmt: skip

    @rule(name=NAMES)
    def remember(self, name: str) -> None:
        """What is saved now can be read later, as long as its version is there."""
        if self.exists(name):
            self.engine.save()
            versions = self.engine.versions(name)
            if versions:
                wanted = [dict(one) for one in self.model[name].values()]
                assert versions[-1].documents == len(wanted)
                self.states.append((self.used[name], versions[-1].version, wanted))

    @rule(name=NAMES, go_back=st.booleans())
    def look_back(self, name: str, go_back: bool) -> None:
        if not self.exists(name):
            return
        versions = {info.version for info in self.engine.versions(name)}
        known = [(version, wanted) for used, version, wanted in self.states
                 if used is self.used[name] and version in versions]  # fmt: skip
        for version, wanted in known:
            assert by_id(self.engine.at_version(name, version)) == by_id(wanted)
        if go_back and known:
            version, wanted = known[0]
            self.engine.restore(name, version)
            self.model[name] = by_id(dict(one) for one in wanted)

    @precondition(lambda self: self.model)
    @rule(
        count=st.integers(0, 150),
        places=st.lists(st.integers(0, 400), max_size=40),
        save=st.booleans(),
        then=st.sampled_from(["nothing", "compact", "a step", "pack"]),
    )
    def work(self, count: int, places: list[int], save: bool, then: str) -> None:
        """A day of a collection that has several files."""
        name = min(self.model)
        documents = self.model[name]
        for first in range(0, count, 50):
            rows = [{"n": n, "s": "x" * (n % 9)} for n in range(first, min(count, first + 50))]
            made = self.engine.insert_many(name, rows)
            for identity, fields in zip(made, rows, strict=True):
                self.put(name, identity, fields)
            self.engine.save()
        ids = list(documents)
        chosen = list(dict.fromkeys(ids[place % len(ids)] for place in places)) if ids else []
        updated, deleted = chosen[::2], chosen[1::2]
        assert self.engine.update_by_id(name, {one: {"w": 1} for one in updated}) == len(updated)
        for identity in updated:
            merged = documents[identity] | {"w": 1}
            self.put(name, identity, {k: v for k, v in merged.items() if k != "_id"})
        for identity in deleted:
            self.engine.delete(name, identity)
            del documents[identity]
        if save:
            self.engine.save()
        if then == "compact":
            self.engine.compact(name)
        elif then == "a step":
            self.engine[name]._maintainer.compact(pause=lambda: True)
        elif then == "pack":
            self.engine.pack(name)
        assert self.engine[name].get(updated[-1])["w"] == 1 if updated else True
        assert not (deleted and deleted[-1] in self.engine[name])


class PackedDeletionsMachine(PartsMachine):
    """The same where each deletion by a filter is stored as a deletion of many documents."""

    def __init__(self) -> None:
        self.patches = ExitStack()
        for place, name, value in ((deleter, "MAX_SINGLE_DELETIONS", 0),
                                   (pending, "MAX_SINGLE_DELETIONS", 0),
                                   (deletions, "IDS_AT_ONCE", 3)):  # fmt: skip
            self.patches.enter_context(patch.object(place, name, value))
        super().__init__()

    def teardown(self) -> None:
        super().teardown()
        self.patches.close()

    @rule(name=NAMES, places=st.lists(st.integers(0, 400), max_size=40), by=st.booleans())
    def delete_places(self, name: str, places: list[int], by: bool) -> None:
        """Delete documents anywhere, directly or in a transaction, and insert some again."""
        if not self.exists(name) or not self.model[name]:
            return
        documents = self.model[name]
        ids = [*documents]
        chosen = list(dict.fromkeys(ids[place % len(ids)] for place in places))
        if by:
            with self.engine.transaction() as transaction:
                assert transaction[name].delete_many({"_id": chosen[::2]}) == len(chosen[::2])
                assert transaction[name].delete_many({"_id": chosen}) == len(chosen[1::2])
        else:
            assert self.engine.delete_many(name, {"_id": chosen}) == len(chosen)
        assert self.engine.delete_many(name, {"_id": chosen}) == 0
        for identity in chosen:
            del documents[identity]
        self.engine.insert_many(name, [{"_id": one, "again": 1} for one in chosen[::3]])
        for identity in chosen[::3]:
            self.put(name, identity, {"again": 1})


SETTINGS = settings(
    max_examples=1000 if LONG else 15,
    stateful_step_count=60 if LONG else 30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=set(Phase) - ({Phase.shrink, Phase.explain} if not LONG else set()),
    report_multiple_bugs=False,
)
TestEngine = EngineMachine.TestCase
TestEngine.settings = SETTINGS
TestParts = PartsMachine.TestCase
TestParts.settings = SETTINGS
TestPackedDeletions = PackedDeletionsMachine.TestCase
TestPackedDeletions.settings = SETTINGS if LONG else settings(SETTINGS, max_examples=8)
