"""Constraints in rare states: former values, threads in between, and files of others.

Each test fails if the guard that it names is removed.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import godb_arrow
from godb_arrow import DuplicateValue, SchemaViolation, StorageEngine, codec
from godb_arrow.documents.fitting import Misfit, fitting
from godb_arrow.engine import bulk_writer, constraints, indexing
from godb_arrow.engine.bulk import BulkInsert
from godb_arrow.engine.checkpointer import Checkpointer
from godb_arrow.engine.collection import Collection
from godb_arrow.engine.constraints import Constraints
from godb_arrow.engine.rule_changes import set_expiry
from godb_arrow.snapshots import unique
from godb_arrow.snapshots.entry_runs import scan
from godb_arrow.snapshots.index_names import IndexDefinition, hashes_of
from godb_arrow.snapshots.overlay import Overlay

UNIQUE = IndexDefinition(("v",), True)
MANY = 5_000  # documents above which a bulk is searched by its sorted keys
TEXT = "x" * 500


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[StorageEngine]:
    with StorageEngine(tmp_path / "data") as engine:
        yield engine


def collection(engine: StorageEngine, *, name: str = "c") -> Collection:
    found = engine.create_collection(name)
    found.create_index("v", unique=True)
    return found


# --- former values --------------------------------------------------------------------------------


def test_a_value_becomes_free_in_an_older_part(engine: StorageEngine) -> None:
    """`_UniqueValues.check` compares a saved row only if the row is current."""
    found = collection(engine)
    found.to_folder()
    found.insert_many([{"_id": str(n), "v": n} for n in range(100)])
    engine.save()
    found.update("1", {"v": 1001})
    found.delete("2")
    engine.save()
    found.insert({"_id": "one", "v": 1})
    found.insert({"_id": "two", "v": 2})
    for value in (1001, 1, 2, 3):
        with pytest.raises(DuplicateValue):
            found.insert({"v": value})


@pytest.mark.parametrize("given", [False, True])
def test_a_value_becomes_free_in_a_large_bulk(engine: StorageEngine, given: bool) -> None:
    """`_UniqueValues._check_bulk` compares a document only if it is current."""
    found = collection(engine)
    key = "_id" if given else "k"
    ids = found.insert_many([{key: f"d{n}", "v": n} for n in range(MANY)])
    found.update(ids[0], {"v": -1})
    found.delete(ids[1])
    found.replace(ids[2], {"v": None})
    for value in range(3):
        found.insert({"v": value})
    for value in (-1, 0, 1, 2, 3, MANY - 1):
        with pytest.raises(DuplicateValue):
            found.insert({"v": value})
    swapped = [{"_id": ids[3], "v": 4}, {"_id": ids[4], "v": 3}]
    found.upsert_many(swapped)
    with pytest.raises(DuplicateValue):
        found.upsert_many([*swapped[:1], {"_id": ids[5], "v": 3}])


@pytest.mark.parametrize("more", [0, 70, MANY])
@pytest.mark.parametrize("is_table", [False, True])
def test_of_documents_with_one_id_the_last_counts(
    engine: StorageEngine, more: int, is_table: bool
) -> None:
    """`Constraints.claim_run` skips values of documents that a later one replaces."""
    found = collection(engine)

    def upsert(*rows: tuple[str, int]) -> None:
        documents = [{"_id": identity, "v": value} for identity, value in rows]
        documents += [{"_id": f"m{n}", "v": 100 + n} for n in range(more)]
        found.upsert_many(pa.Table.from_pylist(documents) if is_table else documents)

    upsert(("a", 1), ("a", 2), ("b", 1))
    assert (found.get("a")["v"], found.get("b")["v"]) == (2, 1)
    upsert(("a", 5), ("b", 5), ("b", 6))
    upsert(("a", 6), ("a", 7), ("b", 6))
    with pytest.raises(DuplicateValue):
        upsert(("a", 7), ("b", 8), ("b", 7))
    assert {one["_id"]: one["v"] for one in found.find({"v": {"$lt": 100}})} == {"a": 7, "b": 6}


def test_another_overlay_has_other_values(engine: StorageEngine) -> None:
    """`_UniqueValues.prepare` keeps no values of a former overlay."""
    made, base = Constraints([UNIQUE]), engine.create_collection("c")._store.base
    full, empty = Overlay(), Overlay()
    made.claim(base, empty, {"a": codec.pack({"v": 1})})
    versions: dict[str, bytes | None] = {"b": codec.pack({"v": 1})}
    full.plan_change(versions, [])(None)
    with pytest.raises(DuplicateValue):
        made.claim(base, full, {"a": codec.pack({"v": 1})})
    made.claim(base, empty, {"a": codec.pack({"v": 1})})


# --- threads in between ---------------------------------------------------------------------------


def test_a_document_inserted_while_values_are_compared(
    engine: StorageEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`add_index` compares again if the collection changed."""
    found = engine.create_collection("c")
    found.insert({"_id": "a", "v": 1})
    compare, ids = indexing._compare, iter("bcd")

    def comparing(*args: Any) -> None:
        compare(*args)
        identity = next(ids, None)
        if identity is not None:
            found.insert({"_id": identity, "v": 1 if identity == "d" else identity})

    monkeypatch.setattr(indexing, "_compare", comparing)
    with pytest.raises(DuplicateValue) as raised:
        found.create_index("v", unique=True)
    assert sorted(raised.value.ids) == ["a", "d"]
    assert found.indexes == ()
    found.delete("d")
    found.create_index("v", unique=True)
    assert found.indexes == ("v",)


def test_a_document_inserted_before_a_bulk_becomes_visible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`BulkWriter.insert` saves once more where values are unique."""
    with StorageEngine(tmp_path, max_memory="1MiB") as engine:
        found = collection(engine)
        save = Checkpointer.checkpoint_now

        def saving(self: Checkpointer) -> bool:
            saved = save(self)
            if self._store is found._store and not self._store.lock._is_owned():  # type: ignore[attr-defined]
                monkeypatch.setattr(Checkpointer, "checkpoint_now", save)
                found.insert({"_id": "meanwhile", "v": 7})
            return saved

        finish = BulkInsert.finish

        def finishing(self: BulkInsert) -> None:
            finish(self)
            monkeypatch.setattr(Checkpointer, "checkpoint_now", saving)

        monkeypatch.setattr(BulkInsert, "finish", finishing)
        with pytest.raises(DuplicateValue) as raised:
            found.insert_many([{"v": n, "text": TEXT} for n in range(3000)])
        assert "meanwhile" in raised.value.ids
        assert [one["_id"] for one in found.find()] == ["meanwhile"]


def test_a_document_inserted_while_documents_are_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`BulkWriter.replace` tries again where values are unique."""
    with StorageEngine(tmp_path, max_memory="1MiB") as engine:
        found = collection(engine)
        ids = found.insert_many([{"v": n, "text": TEXT} for n in range(3000)])
        finish, others = BulkInsert.finish, iter([-5, -6])

        def finishing(self: BulkInsert) -> None:
            finish(self)
            value = next(others, None)
            if value is not None:
                found.insert({"_id": f"v{value}", "v": value})

        monkeypatch.setattr(BulkInsert, "finish", finishing)
        with pytest.raises(DuplicateValue) as raised:
            found.update_by_id({identity: {"v": -1 - n} for n, identity in enumerate(ids)})
        assert set(raised.value.ids) & {"v-5", "v-6"}
        assert found.count({"v": {"$gte": 0}}) == 3000
        monkeypatch.setattr(BulkInsert, "finish", finish)
        found.update_by_id({identity: {"v": -10 - n} for n, identity in enumerate(ids)})
        assert found.count({"v": {"$lt": 0}}) == 3002


@pytest.mark.parametrize("verb", ["insert", "replace"])
def test_a_bulk_compares_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """`BulkWriter` checks the new files before the manifest names them."""
    checked: list[int] = []
    check = bulk_writer.check_files

    def checking(store: Any, wanted: Any, first: int) -> None:
        checked.append(len(wanted.parts) - first)
        check(store, wanted, first)

    monkeypatch.setattr(bulk_writer, "check_files", checking)
    with StorageEngine(tmp_path, max_memory="1MiB") as engine:
        found = collection(engine)
        ids = found.insert_many([{"v": n, "text": TEXT} for n in range(3000)])
        before = found.find_all()
        with pytest.raises(DuplicateValue):
            if verb == "insert":
                more = [{"v": n, "text": TEXT} for n in [*range(5999, 2999, -1), 7]]
                found.insert_many(more)
            else:
                found.update_by_id({key: {"v": 5} for key in ids})
        assert found.find_all() == before
        assert all(count > 0 for count in checked)


# --- files and memory -----------------------------------------------------------------------------


def test_stored_keys_of_another_program_are_not_trusted(
    engine: StorageEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`UniqueIndex.file_keys` reads the documents of a file that no engine wrote."""
    path = tmp_path / "f.godb"
    godb_arrow.write_godb([{"_id": "a", "v": 1}, {"_id": "b", "v": 1}], path, "f")
    engine.load_collection_metadata(path)

    def lying(file: Any, name: str) -> Any:
        entries = scan(b"".join(codec.pack(key) + codec.pack({"v": key}) for key in "ab"), 2)
        return unique.keys_of(name, [entries])

    monkeypatch.setattr(unique, "sorted_keys", lying)
    with pytest.raises(DuplicateValue):
        engine["f"].create_index("v", unique=True)
    engine["f"].delete("b")
    engine["f"].create_index("v", unique=True)
    with pytest.raises(DuplicateValue):
        engine["f"].insert({"v": 1})


def test_few_and_many_hashes_find_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """`rows_with` looks up each hash, or compares all."""
    chosen = np.random.default_rng(1)
    texts = [codec.pack(str(n)) + codec.pack({"v": int(n) % 70}) for n in range(500)]
    keys = unique.keys_of(UNIQUE.unique_name, [scan(b"".join(texts), 500)])
    hashes, _ = unique._hashes_in(keys)
    for count in (0, 1, 5, 70):
        wanted = np.concatenate([chosen.choice(np.unique(hashes), count, replace=False),
                                 chosen.integers(0, 2**63, 3, dtype=np.uint64)])  # fmt: skip
        found = []
        for rows_per_hash in (0, 10**9):
            monkeypatch.setattr(unique, "_ROWS_PER_HASH", rows_per_hash)
            found.append(unique.rows_with(keys, wanted).tolist())
        assert found[0] == found[1]
        assert len(found[0]) >= 7 * count


def test_few_and_many_keys_have_the_same_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """`_hashes` hashes each key, or all keys at once."""
    keys = [b"", b"a", b"\xff\x00", "ä".encode(), b"x" * 100]
    assert constraints._hashes(keys).tolist() == hashes_of(pa.array(keys, pa.binary())).tolist()
    monkeypatch.setattr(constraints, "_FEW_KEYS", 0)
    assert constraints._hashes(keys).tolist() == hashes_of(pa.array(keys, pa.binary())).tolist()


def test_values_of_unsaved_documents_count_as_memory(engine: StorageEngine) -> None:
    """`CollectionStore.account` counts the values of unique indexes."""
    plain, found = engine.create_collection("plain"), collection(engine)

    def counted(documents: int) -> None:
        values = found._store.changed_bytes - plain._store.changed_bytes
        least = documents * constraints._CLAIM_BYTES
        assert least <= values <= 2 * least
        assert engine.memory_stats().changes_bytes >= values

    for number in range(100):
        for one in (plain, found):
            one.insert({"v": number})
    counted(100)
    for one in (plain, found):
        one.insert_many([{"v": number} for number in range(100, 300)])
    counted(300)
    for one in (plain, found):
        one.update("1", {"v": -1})
    counted(300)
    engine.save()
    assert found._store.changed_bytes == plain._store.changed_bytes
    with engine.transaction() as tx:
        tx["plain"].insert({"v": -1})
        tx["c"].insert({"v": -2})
    counted(1)


# --- lifetimes ------------------------------------------------------------------------------------


def test_a_lifetime_longer_than_time_deletes_nothing(engine: StorageEngine) -> None:
    """`Expirer` does not search for moments before the year 1."""
    found = engine.create_collection("c")
    set_expiry(found._store, "at", 86_400 * 365 * 5_000)  # by a later program
    found.insert_many([{"at": None}, {}, {"at": dt.datetime(1, 1, 1)}, {"at": "x"}])
    assert found.expire() == 0
    assert len(found) == 4


def test_a_refused_file_keeps_no_other_from_being_applied(engine: StorageEngine) -> None:
    """`Expirer.expire_in_background` skips collections whose files must not be opened."""
    for name in ("a", "b"):
        found = engine.create_collection(name)
        found.create_ttl("at", 0)
        found.insert({"at": dt.datetime(2020, 1, 1)})
    engine.save()
    base, workers = engine["a"]._store.base, engine._components.workers
    base.refusal = godb_arrow.CorruptFile("a link", offset=0)
    workers._running = True
    try:
        engine._components.expirer.expire_in_background()
    finally:
        workers._running, base.refusal = False, None
    assert (len(engine["a"]), len(engine["b"])) == (1, 0)


# --- types ----------------------------------------------------------------------------------------

FITS: list[tuple[pa.DataType, list[Any], list[Any]]] = [
    (pa.list_(pa.int64(), 2), [[1, 2], [None, 1]], [[], [1], [1, 2, 3], 1, "ab"]),
    (pa.list_(pa.list_(pa.bool_(), 1), 1), [[[True]], [None]], [[[]], [[True], [True]], [[1]]]),
    (pa.binary(2), [b"ab"], [b"", b"a", b"abc", "ab"]),
    (pa.float16(), [2**11, -(2**11), 65504.0, -1e-9], [2**11 + 1, -(2**11) - 1, 65505.0, True]),
    (pa.float32(), [2**24, -(2**24), 3e38, float("inf")], [2**24 + 1, -(2**24) - 1, 1e39, "1"]),
    (pa.float64(), [2**53, -(2**53), 1e308, float("nan")], [2**53 + 1, -(2**53) - 1, 2**64 - 1]),
    (pa.int8(), [-128, 127], [-129, 128, 1.0, True]),
    (pa.uint16(), [0, 65535], [-1, 65536]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "fits", "others"), FITS, ids=lambda one: str(one)[:30])
def test_values_at_the_edges_of_types(
    engine: StorageEngine, kind: pa.DataType, fits: list[Any], others: list[Any]
) -> None:
    """`fitting` compares sizes of lists, and integers with what floats hold exactly."""
    check = fitting(pa.schema({"v": kind}), allow_extra=False)
    found = engine.create_collection("c")
    found.set_validation(pa.schema({"v": kind}))
    for value in fits:
        check({"v": value}, ())
        found.insert({"v": value})
    verbs: list[Callable[[Any], Any]] = [found.insert, lambda one: found.insert_many([one, {}])]
    for value in others:
        with pytest.raises(Misfit):
            check({"v": value}, ())
        for verb in verbs:
            with pytest.raises(SchemaViolation) as raised:
                verb({"v": value})
            assert raised.value.path.startswith("v")
    assert len(found) == len(fits)
