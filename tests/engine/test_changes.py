"""The change feed: each change once, in order, from a token that outlives the engine."""

from __future__ import annotations

import asyncio
import datetime as dt
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.engines import crash

import godb_arrow
from godb_arrow import ChangesLost, InvalidCursor, StorageEngine


def seen(feed: Any) -> list[tuple[Any, ...]]:
    return [(change.operation, change.id, (change.document or {}).get("n")) for change in feed]


def applied(documents: dict[str, Any], feed: Any) -> dict[str, Any]:
    """Return documents after the changes of a feed."""
    for change in feed:
        if change.operation == "delete":
            documents.pop(change.id, None)
        elif change.operation == "drop":
            documents.clear()
        else:
            documents[change.id] = change.document
    return documents


def documents_of(collection: Any) -> dict[str, Any]:
    return {document["_id"]: document for document in collection}


def changed(collection: Any) -> list[tuple[Any, ...]]:
    """Change a collection in all ways, and return the changes."""
    collection.insert({"n": 1})
    collection.insert_many([{"_id": "a", "n": 2}, {"_id": "b", "n": 3}])
    collection.update("a", {"n": 4})
    collection.upsert_many([{"_id": "b", "n": 5}, {"_id": "c", "n": 6}])
    collection.delete("a")
    collection.update_many({"n": 6}, {"$inc": {"n": 1}})
    collection.delete_many({"n": 5})
    collection.delete_many({"n": 7})
    return [
        ("insert", "1", 1), ("insert", "a", 2), ("insert", "b", 3), ("update", "a", 4),
        ("update", "b", 5), ("insert", "c", 6), ("delete", "a", None), ("update", "c", 7),
        ("delete", "b", None), ("delete", "c", None),
    ]  # fmt: skip


def test_each_change_is_listed_in_order(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        engine.create_collection("others").insert({"n": 0})
        token = users.snapshot().token
        before = dt.datetime.now(dt.UTC)
        expected = changed(users)
        feed = users.changes(since=token)
        changes = list(feed)
        assert [(c.operation, c.id, (c.document or {}).get("n")) for c in changes] == expected
        assert all(before <= change.time <= dt.datetime.now(dt.UTC) for change in changes)
        numbers = [change.sequence for change in changes]
        assert numbers == sorted(numbers)
        assert [c.id for c in changes if not c.last] == ["a", "b"], "one call is one unit"
        assert not any(change.net for change in changes)
        assert list(users.changes(since=feed.token)) == []
        users.insert({"n": 9})
        assert seen(users.changes(since=feed.token)) == [("insert", "2", 9)]
        assert seen(users.changes()) == []


@pytest.mark.parametrize("way", ["saved", "closed", "crashed", "compacted", "reader"])
def test_a_token_outlives(tmp_path: Path, way: str) -> None:
    engine = StorageEngine(tmp_path, part_size="1KiB" if way == "compacted" else "1MiB")
    users = engine.create_collection("users")
    users.insert({"n": 0, "_id": "x"})
    engine.save()
    token = users.snapshot().token
    expected = changed(users)
    if way in ("saved", "compacted"):
        for first in range(0, 300, 100):
            ids = users.insert_many({"n": n} for n in range(first, first + 100))
            expected += [("insert", ids[n], first + n) for n in range(100)]
            engine.save()
            engine.compact()
    if way == "crashed":
        crash(engine)
    elif way == "closed":
        engine.close()
    if way in ("closed", "crashed"):
        engine = StorageEngine(tmp_path)
        engine.insert("users", {"n": 8})
        expected.append(("insert", "2", 8))
    if way == "reader":
        with StorageEngine(tmp_path, read_only=True) as reader:
            assert seen(reader["users"].changes(since=token)) == expected
    else:
        feed = engine["users"].changes(since=token)
        assert seen(feed) == expected
        assert seen(engine["users"].changes(since=feed.token)) == []
    engine.close()


def test_a_transaction_is_one_unit(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users, _ = (engine.create_collection(name) for name in ("users", "orders"))
        users.insert({"_id": "a", "n": 0})
        feed = engine.changes()
        token = feed.token
        with engine.transaction() as tx:
            tx["users"].insert({"_id": "b", "n": 1})
            tx["users"].update("a", {"n": 2})
            tx["orders"].insert({"_id": "o", "n": 3})
        first = next(feed)
        assert feed.token == token, "the transaction is not whole yet"
        rest = list(feed)
        changes = [first, *rest]
        assert {(c.collection, c.operation, c.id) for c in changes} == {
            ("users", "insert", "b"), ("users", "update", "a"), ("orders", "insert", "o"),
        }  # fmt: skip
        assert len({change.sequence for change in changes}) == 1
        assert [change.last for change in changes] == [False, False, True]
        assert list(engine.changes(since=feed.token)) == []
        only = list(engine.changes(since=token, collections=["orders"]))
        assert [(c.id, c.last) for c in only] == [("o", True)]


def test_batches_have_whole_units_and_the_token_after_them(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        token = users.snapshot().token
        for first in range(0, 50, 10):
            users.insert_many({"n": n, "t": "x"} for n in range(first, first + 10))
        users.delete("3")
        feed = users.changes(since=token)
        tokens, rows = [], []
        for batch in feed.batches(15):
            assert batch.schema.names == [
                "_operation", "_sequence", "_time", "_net", "_collection", "_id", "n", "t"
            ]  # fmt: skip
            rows.append(batch.num_rows)
            tokens.append(feed.token)
        assert rows == [20, 20, 11]
        assert len(list(users.changes(since=tokens[0]))) == 31
        assert list(users.changes(since=tokens[-1])) == []
        table = users.changes(since=token).to_arrow()
        assert table.column("_operation").to_pylist() == ["insert"] * 50 + ["delete"]
        assert table.column("n").to_pylist()[-2:] == [49, None]
        empty = users.changes().to_arrow()
        assert (empty.num_rows, empty.schema.names[:2]) == (0, ["_operation", "_sequence"])


@pytest.mark.parametrize("way", ["batches", "table", "changes"])
@pytest.mark.parametrize("is_net", [False, True])
def test_a_unit_that_was_begun_is_continued(tmp_path: Path, way: str, is_net: bool) -> None:
    with StorageEngine(tmp_path, versions="all", keep_changes=0) as engine:
        users = engine.create_collection("users")
        users.insert({"_id": "0"})
        engine.save()
        token = users.snapshot().token
        users.insert_many([{"_id": str(n)} for n in range(1, 4)])
        if is_net:
            engine.save()
        feed = users.changes(token)
        assert (next(feed).id, feed.token) == ("1", token)
        if way == "batches":
            rest = [row["_id"] for batch in feed.batches(1) for row in batch.to_pylist()]
        elif way == "table":
            rest = feed.to_arrow()["_id"].to_pylist()
        else:
            second = next(feed)
            assert (second.id, second.net, feed.token) == ("2", is_net, token)
            rest = [second.id, next(feed).id]
            assert feed.token != token, "the unit ends with its last change"
        assert rest == ["2", "3"]
        assert list(feed) == []
        assert list(users.changes(feed.token)) == []


def test_a_failed_step_ends_the_feed_before_its_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        for read in (next, lambda feed: next(feed.batches()), lambda feed: feed.to_arrow()):
            feed = users.changes()
            token = feed.token
            users.insert_many([{"n": 1}, {"n": 2}])
            with monkeypatch.context() as patched:
                for name in ("_change", "batch_of"):
                    patched.setattr(f"godb_arrow.engine.changes.{name}", _fail)
                with pytest.raises(MemoryError):
                    read(feed)
            users.insert({"n": 3})
            assert list(feed) == []
            assert feed.token == token
            assert len(list(users.changes(token))) == 3


def _fail(*_: Any, **__: Any) -> Any:
    raise MemoryError


def test_batches_end_when_another_thread_closes_the_feed(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        token = users.snapshot().token
        for n in range(300):
            users.insert({"n": n})
        failures: list[BaseException] = []

        def read(feed: Any, begun: threading.Event) -> None:
            try:
                for _ in feed.batches(1):
                    begun.set()
            except BaseException as error:
                failures.append(error)

        for _ in range(20):
            feed, begun = users.changes(token, follow=True), threading.Event()
            thread = threading.Thread(target=read, args=(feed, begun))
            thread.start()
            begun.wait()
            feed.close()
            thread.join(10)
            assert not thread.is_alive()
        assert failures == []


def test_a_live_feed_waits_for_changes(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        feed = users.changes(follow=True)
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.extend(feed))
        thread.start()
        for n in range(50):
            users.insert({"n": n})
            if n % 10 == 0:
                engine.save()
        later = users.changes(feed.token, follow=True)
        while len(found) < 50:
            assert thread.is_alive()
        feed.close()
        thread.join()
        assert [change.document["n"] for change in found] == list(range(50))
        users.insert({"n": 50})
        assert next(later).document["n"] in range(51)
        later.close()
        closed = users.changes(follow=True)
    with pytest.raises(godb_arrow.EngineClosed):
        next(closed)


def test_an_asynchronous_feed(tmp_path: Path) -> None:
    async def first_three(feed: Any) -> list[Any]:
        found = []
        async for change in feed:
            found.append(change.document["n"])
            if len(found) == 3:
                feed.close()
        return found

    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        feed = users.changes(follow=True)
        writer = threading.Timer(0.1, lambda: [users.insert({"n": n}) for n in range(3)])
        writer.start()
        assert asyncio.run(first_three(feed)) == [0, 1, 2]
        writer.join()


def test_idle_asynchronous_feeds_occupy_no_thread(tmp_path: Path) -> None:
    async def wait_for_all(users: Any) -> list[Any]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(1))

        async def first(feed: Any) -> Any:
            async for change in feed:
                return change.id
            return None

        feeds = [users.changes(follow=True) for _ in range(3)]
        readers = [asyncio.create_task(first(feed)) for feed in feeds]
        await asyncio.sleep(0.1)
        await asyncio.wait_for(asyncio.to_thread(users.insert, {"_id": "a"}), 10)
        return await asyncio.wait_for(asyncio.gather(*readers), 10)

    with StorageEngine(tmp_path) as engine:
        assert asyncio.run(wait_for_all(engine.create_collection("users"))) == ["a"] * 3


def test_another_process_follows(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        engine.save()
        with StorageEngine(tmp_path, read_only=True) as reader:
            feed = reader["users"].changes(follow=True)
            for n in range(20):
                users.insert({"n": n})
                if n % 5 == 0:
                    engine.save()
            assert [next(feed).document["n"] for _ in range(20)] == list(range(20))
            feed.close()


def test_old_changes_are_removed_by_size_and_age(tmp_path: Path) -> None:
    for options, lost in (
        ({"keep_changes": 0}, True), ({"keep_changes": "100KiB"}, True),
        ({"keep_changes_for": "1ms"}, True), ({"keep_changes": "10MB"}, False),
    ):  # fmt: skip
        path = tmp_path / str(options)
        with StorageEngine(path, **options) as engine:
            users = engine.create_collection("users")
            token = users.snapshot().token
            for n in range(4):
                users.insert({"n": n, "t": "x" * 30_000})
                engine.save()
            if lost:
                with pytest.raises(ChangesLost, match=r"removed.*snapshot\(\)"):
                    list(users.changes(since=token))
            else:
                assert len(list(users.changes(since=token))) == 4
            token = users.snapshot().token
            users.insert({"n": 5})
            assert len(list(users.changes(since=token))) == 1
        size = sum(file.stat().st_size for file in (path / "changes").glob("*"))
        assert size <= {"100KiB": 100 << 10}.get(options.get("keep_changes"), 10 << 20)


def test_versions_have_net_changes_beyond_the_journal(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, versions="all", keep_changes=0, part_grace="1ms") as engine:
        users = engine.create_collection("users")
        users.insert_many({"_id": str(n), "n": n} for n in range(100))
        engine.save()
        start = users.changes()
        assert list(start) == []
        documents = documents_of(users)
        for n in range(5):
            users.insert({"_id": f"new{n}", "n": n})
            users.update("7", {"n": -n})
            users.update("8", {"n": 8})
            users.delete(str(50 + n))
            engine.save()
            engine.compact()
        users.delete("new4")
        with pytest.raises(ChangesLost):
            list(users.changes(since=start.token))
        engine.tag("users", "now")
        feed = users.changes()
        list(feed)
        token = feed.token
        documents = documents_of(users)
        users.upsert_many([{"_id": "9", "n": 99}, {"_id": "x", "n": 1}])
        users.delete("10")
        users.insert({"_id": "short", "n": 1})
        engine.save()
        users.delete("short")
        engine.save()
        users.update("x", {"n": 2})
        changes = list(users.changes(since=token))
        assert {(c.operation, c.id, c.net) for c in changes} == {
            ("update", "9", True), ("insert", "x", True), ("delete", "10", True),
        }  # fmt: skip
        assert applied(documents, changes) == documents_of(users)


def test_changes_that_no_record_has_are_compared(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="2MB", part_size="256KiB", versions="all") as engine:
        users = engine.create_collection("users")
        users.insert_many({"_id": str(n), "n": n} for n in range(10))
        documents, token = documents_of(users), users.snapshot().token
        users.insert_many({"n": n, "t": "x" * 500} for n in range(4000))  # larger than memory
        users.delete("1")
        feed = users.changes(since=token)
        changes = list(feed)
        assert sum(change.net for change in changes) >= 4000
        assert applied(documents, changes) == documents_of(users)
        engine.restore("users", users.versions()[-2].version)
        assert applied(documents, users.changes(since=feed.token)) == documents_of(users)


def test_saves_without_a_journal_are_compared(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, durability="checkpoint", versions="all") as engine:
        users = engine.create_collection("users")
        engine.save()
        documents, token = documents_of(users), users.snapshot().token
        for n in range(3):
            users.insert({"n": n})
            engine.save()
        users.delete("1")
        engine.save()
        assert applied(documents, users.changes(since=token)) == documents_of(users)
    with StorageEngine(tmp_path, durability="checkpoint") as engine:
        small = engine.create_collection("small")
        token = small.snapshot().token
        small.insert({"n": 1})
        engine.save()
        with pytest.raises(ChangesLost, match="no record of the journal"):
            list(small.changes(since=token))


@pytest.mark.parametrize("way", ["renamed", "twice", "name given again", "reopened", "reader"])
def test_compared_changes_of_a_renamed_collection(tmp_path: Path, way: str) -> None:
    options: dict[str, Any] = {"durability": "checkpoint", "versions": "all"}
    engine = StorageEngine(tmp_path, **options)
    users = engine.create_collection("users")
    engine.create_collection("others").insert({"n": 9})
    engine.save()
    token = engine.changes().token
    users.insert_many([{"_id": "a", "n": 1}, {"_id": "b", "n": 2}])
    engine.save()
    users.delete("a")
    engine.save()
    engine.rename_collection("users", "people")
    if way == "twice":
        engine.rename_collection("people", "persons")
    if way == "name given again":
        engine.create_collection("users").insert({"_id": "z", "n": 5})
        engine.save()
    if way in ("reopened", "reader"):
        engine.close()
        engine = StorageEngine(tmp_path, **({"read_only": True} if way == "reader" else options))
    with engine:
        changes = [(c.operation, c.collection, c.id, c.to) for c in engine.changes(token)]
    expected = [
        ("insert", "users", "a", None), ("insert", "users", "b", None),
        ("delete", "users", "a", None), ("rename", "users", None, "people"),
    ]  # fmt: skip
    if way == "twice":
        expected.append(("rename", "people", None, "persons"))
    if way == "name given again":
        expected.append(("insert", "users", "z", None))
    assert changes == expected


def test_names_are_followed(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        token, start = users.snapshot().token, engine.changes().token
        users.insert({"n": 1})
        engine.rename_collection("users", "people")
        users.insert({"n": 2})
        assert seen(users.changes(since=token)) == [("insert", "1", 1), ("insert", "2", 2)]
        other = engine.create_collection("users")
        with pytest.raises(InvalidCursor, match="of the collection 'people'"):
            list(other.changes(since=token))
        engine.drop_collection("people")
        again = engine.create_collection("people")
        again.insert({"n": 3})
        assert [c.operation for c in again.changes(since=token)] == [
            "insert", "insert", "drop", "insert",
        ]  # fmt: skip
        assert [(c.operation, c.collection, c.to) for c in engine.changes(since=start)] == [
            ("insert", "users", None), ("rename", "users", "people"), ("insert", "people", None),
            ("drop", "people", None), ("insert", "people", None),
        ]  # fmt: skip
        godb_arrow.write_godb([{"n": 1}], tmp_path / "loaded.godb", "loaded")
        engine.load_collection_metadata(tmp_path / "loaded.godb")
        with pytest.raises(ChangesLost, match="'loaded' was loaded from a file"):
            list(engine.changes(since=start))


def test_failover_continues_or_refuses(tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path / "data")
    users = engine.create_collection("users")
    replica = engine.replicate_to(tmp_path / "copy", mode="acknowledged")
    token = users.snapshot().token
    for n in range(3):
        users.insert({"n": n})
        engine.save()
        replica.step()
    users.insert({"n": 3})
    feed = users.changes(since=token)
    next(feed), next(feed)
    middle = feed.token
    replica.stop()
    users.insert({"n": 4})  # the follower never has it
    ahead = users.changes(since=token)
    assert len(list(ahead)) == 5
    crash(engine)
    godb_arrow.promote(tmp_path / "copy")
    with StorageEngine(tmp_path / "copy") as promoted:
        promoted.insert("users", {"n": 10})
        promoted.save()
        later = seen(promoted["users"].changes(since=middle))
        assert later == [("insert", "3", 2), ("insert", "4", 3), ("insert", "5", 10)]
        with pytest.raises(ChangesLost, match="which lost changes"):
            list(promoted["users"].changes(since=ahead.token))


def _token_of_a_run_without_changes(folder: Path, way: str) -> str:
    """Reopen a directory, change nothing, and return a token of the end."""
    if way == "reader":
        StorageEngine(folder).close()
        with StorageEngine(folder, read_only=True) as reader:
            return reader.changes().token
    with StorageEngine(folder) as engine:
        users = engine["users"]
        if way == "snapshot":
            return users.snapshot().token
        feed = users.changes() if way == "collection" else engine.changes()
        if way == "read":
            assert list(feed) == []
        return feed.token


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("way", ["engine", "collection", "read", "snapshot", "reader"])
def test_a_run_without_changes_needs_no_copy(tmp_path: Path, way: str, saved: bool) -> None:
    """A token of a run without changes is valid in a follower that never saw this run."""
    data, copy = tmp_path / "data", tmp_path / "copy"
    engine = StorageEngine(data)
    engine.create_collection("users").insert({"n": 1})
    if saved:
        engine.save()
    with godb_arrow.Follower(data, copy) as follower:
        follower.step()
    crash(engine)
    token = _token_of_a_run_without_changes(data, way)
    shutil.rmtree(data)
    godb_arrow.promote(copy)
    with StorageEngine(copy) as promoted:
        promoted.insert("users", {"n": 2})
        of_all = way in ("engine", "read", "reader")
        feed = promoted.changes(token) if of_all else promoted["users"].changes(token)
        assert seen(feed) == [("insert", "2", 2)]


def test_a_run_without_changes_replaces_removed_ones(tmp_path: Path) -> None:
    """A token stays valid where only changes before it were removed, through idle runs, too."""
    from godb_arrow.engine.change_token import ChangeToken

    with StorageEngine(tmp_path) as engine:
        engine.create_collection("users").insert({"n": 1})
    token = _token_of_a_run_without_changes(tmp_path, "engine")
    for kept in sorted((tmp_path / "changes").iterdir())[:-1]:
        kept.unlink()  # the records
    tokens = [token]
    for _ in range(2):
        with StorageEngine(tmp_path) as engine:
            feed = engine.changes(tokens[-1])
            assert list(feed) == []
            tokens.append(feed.token)
    earlier = ChangeToken.unpack(token)  # as before: it names the run without changes
    earlier = ChangeToken(earlier.position._replace(run=earlier.begun), None, earlier.offset)
    tokens.append(earlier.pack())
    with StorageEngine(tmp_path) as engine:
        engine.insert("users", {"n": 2})
        for one in tokens:
            feed = engine.changes(one)
            assert seen(feed) == [("insert", "2", 2)]
            assert seen(engine.changes(feed.token)) == []


def test_a_restored_backup_refuses_older_tokens(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "data") as engine:
        users = engine.create_collection("users")
        token = users.snapshot().token
        users.insert({"n": 1})
        engine.backup(tmp_path / "backups")
        assert len(list(users.changes(since=token))) == 1
    godb_arrow.restore_backup(tmp_path / "backups", tmp_path / "restored")
    with StorageEngine(tmp_path / "restored") as engine:
        engine.insert("users", {"n": 2})
        with pytest.raises(ChangesLost):
            list(engine["users"].changes(since=token))


def test_a_journal_that_was_removed_refuses_tokens(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        engine.create_collection("users").insert({"n": 1})
        token = engine["users"].snapshot().token
        engine.save()
        engine.insert("users", {"n": 2})
    shutil.rmtree(tmp_path / "journal")
    with StorageEngine(tmp_path) as engine:
        engine.insert("users", {"n": 3})
        engine.save()
        with pytest.raises(ChangesLost):
            list(engine["users"].changes(since=token))


@pytest.mark.parametrize("token", ["", "x", "é", "AAAA", 5, b"", "A" * 60])
def test_what_is_no_token_is_refused(tmp_path: Path, token: Any) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        for feed in (engine.changes, users.changes):
            with pytest.raises(InvalidCursor, match="is not a token"):
                feed(since=token)
        with pytest.raises(InvalidCursor, match="of all collections"):
            users.changes(since=engine.changes().token)
        with pytest.raises(InvalidCursor, match="of the collection 'users'"):
            engine.changes(since=users.changes().token)


def test_a_reader_that_is_too_slow_is_told(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, keep_changes="128KiB") as engine:
        users = engine.create_collection("users")
        feed = users.changes(follow=True)
        users.insert({"n": 0})
        assert next(feed).id == "1"
        for n in range(1, 6):
            users.insert({"n": n})
            engine.save()
        with pytest.raises(ChangesLost, match="removed"):
            list(feed)
        feed.close()
        ended = users.changes(since=users.snapshot().token, follow=True)
        ended.close()
        assert list(ended) == []


def test_records_of_earlier_versions_have_no_label(tmp_path: Path) -> None:
    from godb_arrow.directory.records import Record
    from godb_arrow.engine.change_units import RecordReader

    entry = godb_arrow.codec.pack("1") + godb_arrow.codec.pack({"_id": "1"})
    record = Record(7, {"op": "write", "c": "users", "k": [1], "d": ["2"]}, [entry], b"")
    unit = RecordReader(lambda _: iter(())).unit(record)
    assert unit is not None
    assert [row[0] for row in unit.rows] == ["upsert", "delete"]
    assert unit.time is None
    with pytest.raises(godb_arrow.CorruptFile, match="record 7"):
        RecordReader(lambda _: iter(())).unit(Record(7, {"op": "write", "c": "u"}, [], b""))
    with pytest.raises(ChangesLost, match="changes 7 to 9 were lost"):
        RecordReader(lambda _: iter(())).unit(Record(7, {"op": "lost", "to": 9}, [], b""))


def test_a_token_of_a_reader_is_no_newer_than_its_documents(tmp_path: Path) -> None:
    writer = StorageEngine(tmp_path)
    names = ("users", "others")
    for name in names:
        writer.create_collection(name).insert({"_id": "a", "n": 1})
    writer.save()
    with StorageEngine(tmp_path, read_only=True) as reader:
        known = {name: reader[name] for name in names}
        assert [len(collection) for collection in known.values()] == [1, 1]
        for name in names:
            writer[name].insert({"_id": "b", "n": 2})
        writer.create_collection("later")
        for step in ("new name", "removed file"):
            if step == "removed file":
                writer.drop_collection("others")
                writer.create_collection("others").insert({"_id": "c", "n": 3})
                writer["users"].insert({"_id": "c", "n": 3})
                writer.save()
            known["later"] = reader["later"]
            of_all = reader.changes()
            before = {name: documents_of(collection) for name, collection in known.items()}
            for name, collection in known.items():
                snapshot = collection.snapshot()
                feed = collection.changes(since=snapshot.token)
                assert applied(documents_of(snapshot), feed) == documents_of(writer[name]), step
            if step == "new name":
                changes = list(of_all)
                for name, documents in before.items():
                    mine = iter([change for change in changes if change.collection == name])
                    assert applied(documents, mine) == documents_of(writer[name])
    writer.close()


@pytest.mark.parametrize("durability", ["interval", "checkpoint"])
@pytest.mark.parametrize("way", ["dropped", "renamed"])
def test_versions_of_another_collection_are_not_compared(
    tmp_path: Path, durability: Any, way: str
) -> None:
    with StorageEngine(tmp_path, durability=durability, versions="all") as engine:
        token = engine.changes().token
        users = engine.create_collection("users")
        for key in "ab":
            users.insert({"_id": key})
            engine.save()
        users.restore(users.versions()[0].version)
        expected = ["insert", "insert", "delete"]
        assert [change.operation for change in engine.changes(token)] == expected
        if way == "dropped":
            engine.drop_collection("users")
        else:
            engine.rename_collection("users", "people")
        again = engine.create_collection("users")
        for key in "xyzw":
            again.insert({"_id": key})
            engine.save()
        if way == "renamed":
            changes = [(c.operation, c.id) for c in engine.changes(token)]
            assert changes[:3] == [("insert", "a"), ("insert", "b"), ("delete", "b")]
            assert changes[3:] == [("rename", None), *(("insert", key) for key in "xyzw")]
            return
        with pytest.raises(ChangesLost, match="no record of the journal"):
            list(engine.changes(token))


def test_a_single_file_that_grows_to_a_folder_has_no_version_before(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, durability="checkpoint", part_size="1KiB") as engine:
        users = engine.create_collection("users")
        users.insert_many([{"_id": "a"}, {"_id": "b"}])
        engine.save()
        token = users.snapshot().token
        users.delete("b")
        users.insert_many({"n": n, "t": "x" * 100} for n in range(100))
        engine.save()
        assert users.versions()
        with pytest.raises(ChangesLost, match="no record of the journal"):
            list(users.changes(token))


def test_a_failed_change_is_no_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from godb_arrow.snapshots import part_folder

    with StorageEngine(tmp_path, versions="all") as engine:
        users = engine.create_collection("users")
        for key in "ab":
            users.insert({"_id": key})
            engine.save()
        documents, token = documents_of(users), users.snapshot().token
        with monkeypatch.context() as patched:
            patched.setattr(part_folder, "write_manifest", _fail)
            with pytest.raises(MemoryError):
                users.restore(1)
        users.insert({"_id": "c"})
        engine.save()
        changes = list(users.changes(token))
        assert [(change.operation, change.id) for change in changes] == [("insert", "c")]
        assert applied(documents, changes) == documents_of(users)


def test_a_live_feed_waits_for_an_announced_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from godb_arrow.snapshots import part_folder

    announced, write = threading.Event(), part_folder.write_manifest

    def write_late(*arguments: Any) -> None:
        announced.set()
        threading.Event().wait(0.1)
        write(*arguments)

    with StorageEngine(tmp_path, durability="checkpoint", versions="all") as engine:
        users = engine.create_collection("users")
        engine.save()
        token = users.snapshot().token
        users.insert({"_id": "a"})
        monkeypatch.setattr(part_folder, "write_manifest", write_late)
        saver = threading.Thread(target=engine.save)
        saver.start()
        announced.wait()
        assert [change.id for change in users.changes(token)] == ["a"]
        saver.join()


@pytest.mark.parametrize("way", ["other", "renamed away", "renamed there", "swapped"])
def test_a_token_of_another_collection_is_refused_before_its_changes(
    tmp_path: Path, way: str
) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        token = users.snapshot().token
        if way == "other":
            other = engine.create_collection("others")
            users.insert({"_id": "a"})
        else:
            engine.rename_collection("users", "people")
            users.insert({"_id": "a"})
            other = engine.create_collection("users")
            if way != "renamed away":
                engine.rename_collection("people", "later")
                engine.rename_collection("users", "people")
                if way == "swapped":
                    engine.rename_collection("later", "users")
        feed = other.changes(token)
        with pytest.raises(InvalidCursor, match=f"and not of '{other.name}'"):
            next(feed)
        assert feed.token == token
        assert [change.id for change in users.changes(token)] == ["a"]


def test_columns_of_changes_keep_fields_of_the_same_name(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        feed = users.changes()
        fields = {"_operation": "mine", "_time": 5, "_time_": 6, "_net": None, "n": 1}
        users.insert({"_id": "a", **fields})
        (row,) = feed.to_arrow().to_pylist()
        assert (row["_operation"], row["_operation_"], row["_id"]) == ("insert", "mine", "a")
        assert (row["_time__"], row["_time_"], row["_net_"], row["n"]) == (5, 6, None, 1)


@pytest.mark.parametrize("saved", [False, True])
def test_an_offset_of_a_token_changes_no_result(tmp_path: Path, saved: bool) -> None:
    from godb_arrow.engine.change_token import ChangeToken

    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        feed = users.changes(follow=True)
        tokens = [ChangeToken.unpack(feed.token)]
        for n in range(6):
            users.insert({"_id": str(n), "t": "x" * 100 * n})
            if saved and n % 2:
                engine.save()
            next(feed)
            tokens.append(ChangeToken.unpack(feed.token))
        feed.close()
        ends = [2, 4, 6] if saved else [6]  # where a segment ends, which has no record to compare
        offsets = [token.offset for n, token in enumerate(tokens) if n not in ends]
        offsets += [None, (99, 64), (1, 0), (1, 10**9)]
        for n, token in enumerate(tokens):
            for offset in [token.offset, *offsets]:
                forged = ChangeToken(token.position, token.collection, offset)
                ids = [change.id for change in users.changes(forged.pack())]
                assert ids == [str(k) for k in range(n, 6)], offset


def test_a_change_is_synced_before_it_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from godb_arrow.storage import local

    synced: list[int] = []
    sync, this = local.disk.fsync, threading.get_ident()

    def note(descriptor: int) -> None:
        if threading.get_ident() == this:
            synced.append(descriptor)
        sync(descriptor)

    with (
        StorageEngine(tmp_path) as engine,
        StorageEngine(tmp_path, read_only=True) as reader,
    ):
        users = engine.create_collection("users")
        for place in (engine, reader):
            feed = place["users"].changes()
            users.insert({"n": 1})
            with monkeypatch.context() as patched:
                patched.setattr(local.disk, "fsync", note)
                assert next(feed).operation == "insert"
            assert synced
            synced.clear()


@pytest.mark.parametrize("way", ["drop", "restore"])
def test_a_version_of_a_token_is_not_one_of_a_later_collection(tmp_path: Path, way: str) -> None:
    with StorageEngine(tmp_path, versions="all", keep_changes=0) as engine:
        users = engine.create_collection("users")
        for key in "ab":
            users.insert({"_id": key})
            engine.save()
        feed = users.changes()
        assert list(feed) == []
        if way == "drop":
            engine.drop_collection("users")
            users = engine.create_collection("users")
        for key in "xyz":
            users.insert({"_id": key})
            engine.save()
        if way == "drop":
            with pytest.raises(ChangesLost, match="removed"):
                list(users.changes(feed.token))
        else:
            assert [change.id for change in users.changes(feed.token)] == ["x", "y", "z"]


def test_kept_changes_have_the_permissions_of_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    folder.chmod(0o750)
    with StorageEngine(folder) as engine:
        users = engine.create_collection("users")
        for n in range(2):
            users.insert({"n": n})
            engine.save()
        kept = sorted((folder / "changes").iterdir())
        assert {path.stat().st_mode & 0o777 for path in kept} == {0o640}
        Path(users.path).chmod(0o600)
        users.insert({"n": 2})
        engine.save()
        assert {path.stat().st_mode & 0o777 for path in kept} == {0o600}
        assert {path.stat().st_mode & 0o077 for path in (folder / "changes").iterdir()} == {0}


@pytest.mark.parametrize("reopened", [False, True])
def test_a_token_has_no_version_with_later_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reopened: bool
) -> None:
    from godb_arrow.engine import changes

    saved_version = changes._saved_version

    def saved_late(*arguments: Any) -> Any:
        users.insert({"_id": "late"})
        engine.save()
        return saved_version(*arguments)

    options: dict[str, Any] = {"versions": "all", "keep_changes": "1MiB" if reopened else 0}
    engine = StorageEngine(tmp_path, **options)
    users = engine.create_collection("users")
    users.insert({"_id": "a"})
    engine.save()
    if reopened:
        engine.close()
        engine = StorageEngine(tmp_path, **options)
        users = engine["users"]
    with engine:
        feed = users.changes()
        with monkeypatch.context() as patched:
            patched.setattr(changes, "_saved_version", saved_late)
            assert list(feed) == []
        shutil.rmtree(tmp_path / "changes", ignore_errors=True)
        with pytest.raises(ChangesLost):
            list(users.changes(feed.token))


def test_a_collection_that_gets_a_chosen_name_is_not_listed(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        token = engine.changes().token
        engine.create_collection("users").insert({"n": 1})
        feed = engine.changes(token, collections=["people"])
        engine.rename_collection("users", "people")
        with pytest.raises(ChangesLost, match="'users' was renamed to 'people'"):
            list(feed)


def test_a_follower_removes_changes_with_its_source(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "data", keep_changes="128KiB") as engine:
        users = engine.create_collection("users")
        replica = engine.replicate_to(tmp_path / "copy", mode="acknowledged")
        seen_names = set()
        for n in range(6):
            users.insert({"n": n})
            engine.save()
            replica.step()
            kept = [
                {path.name for path in (tmp_path / place / "changes").glob("*")}
                for place in ("data", "copy")
            ]
            assert kept[0] == kept[1]
            seen_names |= kept[0]
        assert len(seen_names) > len(kept[0])


def test_a_token_names_no_version_without_its_last_changes(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, versions="all", keep_changes=0) as engine:
        users = engine.create_collection("users")
        users.insert({"n": 1})
        engine.save()
        feed = users.changes()
        users.insert({"n": 2})
        assert [change.id for change in feed] == ["2"]
        engine.save()
        users.insert({"n": 3})
        engine.save()
        with pytest.raises(ChangesLost):  # not the second document again
            list(users.changes(feed.token))
