"""Record batches of a change feed: the rows of its changes, in bounded memory."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from support.peaks import peak_bytes
from support.settings import for_seeds

from godb_arrow import StorageEngine, codec
from godb_arrow.engine import change_batches
from godb_arrow.engine.change_batches import GatheredChanges
from godb_arrow.engine.change_token import ChangeToken
from godb_arrow.engine.change_units import BegunUnit, ChangeUnit
from godb_arrow.file.hints import JournalPosition
from godb_arrow.memory.limit import Memory

MEBIBYTE = 1 << 20


def change(engine: StorageEngine, source: random.Random) -> None:
    """Make one change of any kind."""
    users, orders = engine["users"], engine["orders"]
    kind = source.randrange(7)
    ids = [str(source.randrange(60)) for _ in range(source.randrange(1, 9))]
    rows = [{"_id": one, "n": source.random(), "t": "t" * source.randrange(90)} for one in ids]
    if kind == 0:
        users.insert({"n": source.random()})
    elif kind == 1:
        users.insert_many({"n": source.random()} for _ in range(source.choice([1, 3, 40])))
    elif kind == 2:
        orders.upsert_many([*{one["_id"]: one for one in rows}.values()])
    elif kind == 3:
        users.delete_many({"_id": {"$in": ids}})
    elif kind == 4:
        with engine.transaction() as tx:
            tx["users"].insert_many({"t": "x" * 30} for _ in range(source.choice([1, 30])))
            tx["orders"].delete_many({"_id": {"$in": ids}})
            tx["orders"].upsert_many([*{one["_id"]: one for one in rows}.values()])
    elif kind == 5:
        engine.create_collection("other").insert({"n": 1.5})
        engine.drop_collection("other")
    else:
        engine.save()


def row_of(change: Any) -> tuple[Any, ...]:
    fields = {key: value for key, value in (change.document or {}).items() if key != "_id"}
    return (
        change.operation, change.collection, change.id, change.sequence, change.time, change.net,
        fields,
    )  # fmt: skip


def rows_of(batch: Any) -> list[tuple[Any, ...]]:
    """Return the changes of a batch or table."""
    rows = []
    for row in batch.to_pylist():
        known = [row.pop(f"_{name}") for name in
                 ("operation", "collection", "id", "sequence", "time", "net")]  # fmt: skip
        fields = {key: value for key, value in row.items() if value is not None}
        rows.append((*known, fields))
    return rows


@for_seeds(8, long=200)
def test_batches_have_the_changes_that_iteration_lists(seed: int) -> None:
    source = random.Random(seed)
    is_net = source.random() < 0.3
    options: Any = {"versions": "all", "keep_changes": 0 if is_net else "1GiB"}
    with tempfile.TemporaryDirectory() as folder, StorageEngine(folder, **options) as engine:
        for name in ("users", "orders"):
            engine.create_collection(name)
        engine.save()
        for _ in range(3):
            change(engine, source)
        engine.save()
        opened = source.choice([engine.changes, engine["users"].changes, engine["orders"].changes])
        if is_net:
            opened = engine["users"].changes
        token = opened().token
        for _ in range(25):
            change(engine, source)
        if is_net:
            engine["users"].insert({"n": -1.0})
            engine.save()
        feed = opened(since=token)
        plain: list[tuple[Any, ...]] = []
        complete = [0]  # changes of whole units among so many changes
        for listed in feed:
            plain.append(row_of(listed))
            complete.append(len(plain) if listed.last else complete[-1])
        assert rows_of(opened(since=token).to_arrow()) == plain
        assert not is_net or plain[0][5], "the changes are compared"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(change_batches, "_MIN_BYTES", source.choice([1, 900, 1 << 20]))
            patch.setattr(change_batches, "_MAX_SHARE", 1 << 40)
            patch.setattr(change_batches, "_WAITING_BYTES", source.choice([1, 500, 1 << 20]))
            patch.setattr(change_batches, "_MAX_VALUES", source.choice([1, 20, 1 << 20]))
            for split in (False, True):
                most = source.choice([1, 2, 7, 1_000])
                feed, rows = opened(since=token), []
                for batch in feed.batches(most, split=split):
                    rows += rows_of(batch)
                    assert not split or batch.num_rows <= most
                    assert split or complete[len(rows)] == len(rows)
                    if source.random() < 0.2:
                        again = [row_of(one) for one in opened(since=feed.token)]
                        assert again == plain[complete[len(rows)] :]
                assert rows == plain
                assert engine._components.memory.streams == 0
            feed = opened(since=token)
            mixed: list[tuple[Any, ...]] = []
            while len(mixed) < len(plain):
                if source.random() < 0.5:
                    mixed.append(row_of(next(feed)))
                else:
                    mixed += rows_of(next(feed.batches(source.choice([1, 3]), split=True)))
                left = [row_of(one) for one in opened(since=feed.token)]
                assert left == plain[complete[len(mixed)] :]
            assert mixed == plain


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, int]:
    """Data directory with a transaction of 12 MB; the token before it, and its size."""
    folder = tmp_path_factory.mktemp("feed")
    source = random.Random(0)
    documents = [{"n": n, "t": source.randbytes(300).hex()} for n in range(20_000)]
    with StorageEngine(folder) as engine:
        users = engine.create_collection("users")
        token = users.changes().token
        with engine.transaction() as tx:
            tx["users"].insert_many(documents)
    return folder, token, 20_000 * 620


def test_split_batches_take_little_beside_the_record(folder: tuple[Path, str, int]) -> None:
    path, token, size = folder
    with StorageEngine(path, max_memory="8MiB", read_only=True) as engine:
        feed = engine["users"].changes(since=token)
        memory = engine._components.memory
        next(feed)
        record = memory.streams
        tokens: list[str] = []
        counts: list[int] = []

        def read() -> None:
            for batch in feed.batches(1 << 20, split=True):
                assert batch.nbytes < 1.3 * MEBIBYTE
                assert memory.streams in (0, record), "a batch that is returned counts no longer"
                counts.append(batch.num_rows)
                tokens.append(feed.token)

        peak = peak_bytes(read)
        assert sum(counts) == 19_999 and len(counts) > 10
        assert {*tokens[:-1]} == {token} and tokens[-1] != token
        assert peak < 1.1 * size + 5 * MEBIBYTE, f"{peak / MEBIBYTE:.1f} MiB"
        assert memory.streams == 0


@pytest.mark.skipif(codec.BACKEND != "native", reason="has Python objects of all documents")
@pytest.mark.parametrize("way", ["batches", "to_arrow"])
def test_a_whole_transaction_is_in_memory_twice(folder: tuple[Path, str, int], way: str) -> None:
    path, token, size = folder
    with StorageEngine(path, max_memory="8MiB", read_only=True) as engine:
        feed = engine["users"].changes(since=token)
        counts: list[int] = []

        def read() -> None:
            found = [feed.to_arrow()] if way == "to_arrow" else feed.batches()
            counts.extend(one.num_rows for one in found)

        peak = peak_bytes(read)
        assert counts == [20_000]
        assert peak < 2.4 * size, f"{peak / size:.2f} times the documents"
        assert engine._components.memory.peak > 1.8 * size, "the documents are counted"


def test_changes_that_were_taken_are_released() -> None:
    changes = GatheredChanges(Memory(1 << 20))
    row: Any = ("insert", "c", "1", b"\x80", None)
    assert changes.add(
        BegunUnit(
            ChangeUnit(1, None, [row]), iter([(row, True)]), ChangeToken(JournalPosition("", 1))
        ),
        split=False,
    )
    assert changes.take()[0] == b"\xa11\x80"
    assert changes.take()[0] == b""


def test_a_batch_of_large_documents_ends_with_their_bytes(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="8MiB") as engine:
        users = engine.create_collection("users")
        feed = users.changes()
        for n in range(12):
            users.insert({"n": n, "t": "x" * 300_000})
        sizes = [batch.num_rows for batch in feed.batches()]
        assert sizes == [4, 4, 4]
        feed = users.changes()
        users.insert_many([{"n": 1}, {"n": 2}])
        users.insert_many({"n": n} for n in range(5))
        assert [batch.num_rows for batch in feed.batches(4, split=True)] == [4, 3]


@pytest.mark.parametrize("split", [False, True])
def test_a_batch_of_many_columns_has_few_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: bool
) -> None:
    monkeypatch.setattr(change_batches, "_MAX_VALUES", 20_000)
    monkeypatch.setattr(change_batches, "_WAITING_BYTES", 2_000)
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        feed = users.changes()
        for call in range(10 if split else 200):
            count = 60 if split else 3
            users.insert_many({f"f{call} {n} {k}": 1 for k in range(6)} for n in range(count))
        batches = [*feed.batches(split=split)]
        assert sum(batch.num_rows for batch in batches) == 600
        assert all(batch.num_rows * batch.num_columns < 45_000 for batch in batches)
        assert 5 < len(batches) < 100


def test_changes_of_many_calls_are_packed_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed: list[int] = []
    pack = GatheredChanges._pack

    def counted(self: Any, size: int) -> None:
        packed.append(size)
        pack(self, size)

    monkeypatch.setattr(GatheredChanges, "_pack", counted)
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        feed = users.changes()
        for n in range(2_000):
            users.insert({"n": n})
        assert [batch.num_rows for batch in feed.batches()] == [2_000]
        assert len(packed) < 5


def test_a_live_feed_does_not_wait_inside_of_a_transaction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        feed = users.changes(follow=True)
        batches = feed.batches(3, split=True)
        users.insert({"n": 0})
        assert next(batches).num_rows == 1
        waits: list[float] = []
        monkeypatch.setattr(feed._closed, "wait", waits.append)
        users.insert_many({"n": n} for n in range(10))
        assert [next(batches).num_rows for _ in range(4)] == [3, 3, 3, 1]
        assert len(waits) <= 1
        feed.close()
