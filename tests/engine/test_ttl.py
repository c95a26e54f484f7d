"""Lifetimes: expired documents are deleted, and no others, by one worker that writes."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest
from support.engines import crash

import godb_arrow
from godb_arrow import Follower, StorageEngine, promote, restore_backup
from godb_arrow.engine import expirer
from godb_arrow.engine.rule_changes import set_expiry

NOW = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def at(engine: StorageEngine, now: dt.datetime) -> StorageEngine:
    engine._components.expirer.clock = now.timestamp
    return engine


def in_background(engine: StorageEngine) -> None:
    """Run the worker once."""
    engine._components.workers._running = True
    try:
        engine._components.expirer.expire_in_background()
    finally:
        engine._components.workers._running = False


def unsaved(engine: StorageEngine) -> None:
    pass


def parts(engine: StorageEngine) -> None:
    engine["c"].to_folder()


@pytest.mark.parametrize(
    "state", [unsaved, StorageEngine.save, parts], ids=lambda one: one.__name__
)
def test_expired_documents_are_deleted_and_no_others(
    tmp_path: Path, state: Callable[[StorageEngine], None]
) -> None:
    with StorageEngine(tmp_path) as engine:
        found = at(engine, NOW).create_collection("c")
        found.create_ttl("at", "30 days")
        found.insert_many([
            {"_id": "old", "at": NOW - 31 * DAY},
            {"_id": "edge", "at": NOW - 30 * DAY},
            {"_id": "nanoseconds", "at": msgpack.Timestamp(0, 1)},
            {"_id": "list", "at": [NOW, NOW - 40 * DAY]},
            {"_id": "new", "at": NOW - 29 * DAY},
            {"_id": "future", "at": NOW + DAY},
            {"_id": "text", "at": "2020-01-01"},
            {"_id": "number", "at": 0},
            {"_id": "null", "at": None},
            {"_id": "absent"},
        ])  # fmt: skip
        state(engine)
        assert len(found) == 10  # they are read until they are deleted
        assert found.expire() == 4
        left = {"new", "future", "text", "number", "null", "absent"}
        assert {one["_id"] for one in found.find()} == left
        assert found.expire() == 0
        at(engine, NOW + 2 * DAY)
        in_background(engine)
        assert "new" not in found
        assert engine.stats().expired_documents == 5
        assert found.explain({"at": {"$lt": NOW}}).index == "at"


def test_a_lifetime_is_a_setting_of_the_collection(tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path / "data")
    found = engine.create_collection("c")
    found.create_ttl("at", 0)
    found.create_ttl("meta.until", dt.timedelta(days=400))
    expected = {"at": dt.timedelta(0), "meta.until": dt.timedelta(days=400)}
    assert found.ttl == expected
    found.create_ttl("at", "1h")
    expected["at"] = dt.timedelta(hours=1)
    crash(engine)
    for ending in (StorageEngine.close, crash, StorageEngine.close):
        engine = StorageEngine(tmp_path / "data")
        assert engine["c"].ttl == expected
        assert engine["c"].indexes == ("at", "meta.until")
        if ending is crash:
            engine["c"].to_folder()
        ending(engine)  # type: ignore[operator]
    with StorageEngine(tmp_path / "data") as engine:
        engine.backup(tmp_path / "backup")
        engine["c"].drop_ttl("at")
        del expected["at"]
        assert engine["c"].ttl == expected
        assert engine["c"].indexes == ("at", "meta.until")
        assert engine.create_collection("d").ttl == {}
    with StorageEngine(tmp_path / "data") as engine:
        assert engine["c"].ttl == expected
    restore_backup(tmp_path / "backup", tmp_path / "restored")
    with StorageEngine(tmp_path / "restored") as engine:
        assert set(engine["c"].ttl) == {"at", "meta.until"}
    assert godb_arrow.verify_godb(tmp_path / "data").ok


@pytest.mark.parametrize("after", [-1, "soon", None, True, float("nan"), "2000000 days"])
def test_impossible_lifetimes_are_refused(tmp_path: Path, after: Any) -> None:
    with StorageEngine(tmp_path) as engine:
        found = engine.create_collection("c")
        with pytest.raises(godb_arrow.InvalidOption, match="expire_after"):
            found.create_ttl("at", after)
        assert (found.ttl, found.indexes) == ({}, ())


def test_a_validation_stays_beside_a_lifetime(tmp_path: Path) -> None:
    import pyarrow as pa

    with StorageEngine(tmp_path) as engine:
        found = engine.create_collection("c")
        found.set_validation(pa.schema({"at": pa.timestamp("us", "UTC")}))
        found.create_ttl("at", "1h")
        with pytest.raises(godb_arrow.SchemaViolation):
            found.insert({"at": 1})
        found.set_validation(None)
        assert set(found.ttl) == {"at"}


def test_deletions_are_journalled_and_in_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expirer, "_BATCH_DOCUMENTS", 10)
    engine = at(StorageEngine(tmp_path), NOW)
    found = engine.create_collection("c")
    found.create_ttl("at", 0)
    found.insert_many({"n": n, "at": NOW - DAY if n % 2 else NOW + DAY} for n in range(70))
    changes = found._store.changes
    assert found.expire() == 35
    assert found._store.changes - changes == 4
    crash(engine)
    with StorageEngine(tmp_path) as engine:
        assert sorted(one["n"] for one in engine["c"].find()) == list(range(0, 70, 2))


def test_a_document_that_is_changed_meanwhile_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with at(StorageEngine(tmp_path), NOW) as engine:
        found = engine.create_collection("c")
        found.create_ttl("at", 0)
        found.insert_many([{"_id": "a", "at": NOW - DAY}, {"_id": "b", "at": NOW - DAY}])
        from godb_arrow.engine.deleter import CollectionDeleter

        original = CollectionDeleter._delete

        def meanwhile(self: Any, ids: list[str], version: int | None = None) -> int | None:
            if "a" in ids:
                monkeypatch.setattr(CollectionDeleter, "_delete", original)
                found.update("a", {"at": NOW + DAY})
            return original(self, ids, version)

        monkeypatch.setattr(CollectionDeleter, "_delete", meanwhile)
        assert found.expire() == 1
        assert [one["_id"] for one in found.find()] == ["a"]


def test_readers_and_followers_delete_nothing(tmp_path: Path) -> None:
    with at(StorageEngine(tmp_path / "data"), NOW) as engine:
        found = engine.create_collection("c")
        found.create_ttl("at", 0)
        found.insert({"at": NOW - DAY})
        with Follower(tmp_path / "data", tmp_path / "followed") as follower:
            follower.step()
        with StorageEngine(tmp_path / "data", read_only=True) as reader:
            assert "expirer" not in [one.name for one in reader.stats().workers]
            assert set(reader["c"].ttl) == {"at"}
            with pytest.raises(godb_arrow.ReadOnly):
                reader["c"].expire()
            with pytest.raises(godb_arrow.ReadOnly):
                reader["c"].create_ttl("x", 1)
            assert len(reader["c"]) == 1
        with Follower(tmp_path / "data", tmp_path / "followed") as follower:
            follower.step()
            assert found.expire() == 1
            follower.step()
    promote(tmp_path / "followed")
    with StorageEngine(tmp_path / "followed") as engine:
        assert len(engine["c"]) == 0
        at(engine, NOW)
        engine["c"].insert({"at": NOW})
        assert engine["c"].expire() == 1  # it is a follower no longer


def test_a_failure_is_counted_and_raised_by_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = at(StorageEngine(tmp_path), NOW)
    for name in ("a", "b"):
        found = engine.create_collection(name)
        found.create_ttl("at", 0)
        found.insert({"at": NOW - DAY})
    original = expirer.CollectionDeleter.delete_many

    def failing(self: Any, *args: Any, **keywords: Any) -> int:
        if self._store.name == "a":
            raise godb_arrow.DiskFull("no space")
        return original(self, *args, **keywords)

    monkeypatch.setattr(expirer.CollectionDeleter, "delete_many", failing)
    engine.remove_worker("expirer")
    engine.add_worker("expirer", 0.01, engine._components.expirer.expire_in_background)
    engine.start_background_workers()
    (worker,) = [
        one for one in engine._components.workers._workers.values() if one.name == "expirer"
    ]
    for _ in range(500):
        if worker.health().failures:
            break
        time.sleep(0.01)
    assert worker.health().failures
    assert "no space" in str(worker.health().last_error)
    assert not engine.health().ok
    assert len(engine["b"]) == 0  # the other collection was not kept from it
    engine.stop_background_workers()
    with pytest.raises(godb_arrow.DiskFull):
        engine.save()
    monkeypatch.setattr(expirer.CollectionDeleter, "delete_many", original)
    engine.start_background_workers()
    for _ in range(500):
        if len(engine["a"]) == 0:
            break
        time.sleep(0.01)
    assert len(engine["a"]) == 0
    engine.stop_background_workers()
    engine._components.failure.take()
    engine.close()


def test_a_stopped_worker_ends_after_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expirer, "_BATCH_DOCUMENTS", 10)
    with at(StorageEngine(tmp_path), NOW) as engine:
        found = engine.create_collection("c")
        found.create_ttl("at", 0)
        found.insert_many({"at": NOW - DAY} for _ in range(50))
        engine._components.expirer.expire_in_background()  # the workers are not running
        assert len(found) == 50
        goes_on = iter([True, False])
        assert engine._components.expirer.expire(found._store, lambda: next(goes_on)) == 10


def test_writers_and_the_worker_together(tmp_path: Path) -> None:
    """What is inserted with a later moment is never deleted."""
    with at(StorageEngine(tmp_path), NOW) as engine:
        found = engine.create_collection("c")
        found.create_ttl("at", 0)
        stopping = threading.Event()

        def expire() -> None:
            while not stopping.is_set():
                found.expire()

        thread = threading.Thread(target=expire)
        thread.start()
        kept = []
        for number in range(300):
            kept.append(found.insert({"at": NOW + DAY, "n": number}))
            found.insert({"at": NOW - DAY})
        stopping.set()
        thread.join()
        found.expire()
        assert sorted(one["_id"] for one in found.find()) == sorted(kept)
        assert engine.stats().expired_documents == 300


def test_collections_without_a_lifetime_stay_unused(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        for number in range(20):
            engine.create_collection(f"c{number}").insert({"at": NOW - DAY})
        engine["c7"].create_ttl("at", 0)
    with at(StorageEngine(tmp_path), NOW) as engine:
        for _ in range(2):
            in_background(engine)
            used = [one.name for one in engine._components.catalog.used()]
            assert used == ["c7"]
        assert len(engine["c7"]) == 0
        assert len(engine["c8"]) == 1


def test_rules_that_a_disk_refuses_once_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.create_ttl("at", 0)
        users.insert({"at": NOW - DAY})
    with at(StorageEngine(tmp_path), NOW) as engine:

        def refused(path: str) -> Any:
            raise godb_arrow.StorageError("too many open files")

        with monkeypatch.context() as patched:
            patched.setattr(engine._components.directory, "base", refused)
            in_background(engine)
        assert [name for name, _ in engine._components.catalog.unused()] == ["users"]
        in_background(engine)
        assert len(engine["users"]) == 0


@pytest.mark.parametrize("field", ["$x", "$and", "$date.x"])
def test_a_field_that_filters_cannot_name_has_no_lifetime(tmp_path: Path, field: str) -> None:
    with StorageEngine(tmp_path) as engine:
        found = engine.create_collection("c")
        with pytest.raises(godb_arrow.InvalidFilter, match=r"begin with \$"):
            found.create_ttl(field, 0)
        assert (found.ttl, found.indexes) == ({}, ())
        found.create_ttl("a.$b", 0)  # an inner name, which filters can search
        found.insert({"a": {"$b": dt.datetime(2020, 1, 1)}})
        assert found.expire() == 1
        for name in (5, None, b"x", ["a"]):
            for verb in (lambda name: found.create_ttl(name, 0), found.drop_ttl):
                with suppress(godb_arrow.InvalidFilter):
                    verb(name)
        assert set(found.ttl) == {"a.$b"}


def test_a_broken_lifetime_keeps_no_other_from_being_applied(tmp_path: Path) -> None:
    """An earlier program recorded lifetimes of fields that no filter can name."""
    with at(StorageEngine(tmp_path), NOW) as engine:
        found = engine.create_collection("c")
        set_expiry(found._store, "$x", 0)
        found.create_ttl("at", 0)
        set_expiry(found._store, "$y", 0)
        found.insert_many([{"at": NOW - DAY}, {"at": NOW + DAY}])
        with pytest.raises(godb_arrow.InvalidFilter, match=r"\$x"):
            found.expire()
        assert (len(found), engine.stats().expired_documents) == (1, 1)
        found.insert({"at": NOW - DAY})
        with pytest.raises(godb_arrow.InvalidFilter):
            in_background(engine)
        assert len(found) == 1
        engine._components.failure.take()
        found.drop_ttl("$x")
        found.drop_ttl("$y")
        found.drop_index("$x")
        assert (set(found.ttl), found.indexes) == ({"at"}, ("at", "$y"))
        assert found.expire() == 0


def test_documents_beyond_one_search_expire_in_one_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(expirer, "_SEARCHED_DOCUMENTS", 10)
    with at(StorageEngine(tmp_path), NOW) as engine:
        found = engine.create_collection("c")
        found.create_ttl("at", 0)
        found.insert_many({"at": NOW - DAY} for _ in range(25))
        assert found.expire() == 25
        assert len(found) == 0
