"""The engine's verbs, states and errors, one by one."""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.engines import crash
from support.settings import examples

import godb_arrow
from godb_arrow import CollectionState, OptionWarning, StorageEngine


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    with StorageEngine(tmp_path) as opened:
        yield opened


PEOPLE = [
    {"_id": "a", "name": "Ada", "age": 36, "home": {"city": "London"}},
    {"_id": "b", "name": "Bob", "age": 41, "home": {"city": "Berlin"}},
    {"_id": "c", "name": "Cy", "age": None, "home": {"city": "Berlin"}},
]


def people(engine: StorageEngine) -> godb_arrow.Collection:
    made = engine.create_collection("people")
    made.insert_many(PEOPLE)
    return made


# --- collections ------------------------------------------------------------------------------


@given(name=st.text(min_size=1, max_size=80).filter(lambda name: len(name.encode()) <= 255))
@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    max_examples=examples(60, long=3000),
    deadline=None,
)
def test_any_name_stays_in_the_directory_and_comes_back(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("data")
    with StorageEngine(folder / "in") as engine:
        engine.create_collection(name).insert({"v": name})
    assert os.listdir(folder) == ["in"]
    assert len(os.listdir(folder / "in" / "collections")) == 1
    with StorageEngine(folder / "in") as engine:
        assert engine.collections() == [name]
        assert engine.find_all(name)[0]["v"] == name


@pytest.mark.parametrize(
    "name", ["../out", "..", "/etc/x", "a\0b", "x" * 255, "é" * 127, "%2F", "."]
)
def test_hostile_names_are_names_like_others(name: str, tmp_path: Path) -> None:
    test_any_name_stays_in_the_directory_and_comes_back.hypothesis.inner_test(
        name, _Factory(tmp_path)
    )


class _Factory:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mktemp(self, name: str) -> Path:
        (self.folder / name).mkdir()
        return self.folder / name


@pytest.mark.parametrize("name", ["", "x" * 256, "é" * 128, "\ud800", 7, None])
def test_names_that_cannot_be(engine: StorageEngine, name: Any) -> None:
    with pytest.raises(godb_arrow.InvalidCollectionName):
        engine.create_collection(name)
    assert engine.collections() == []


def test_states(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = people(engine)
        assert collection.state is CollectionState.DIRTY
        engine.save()
        assert collection.state is CollectionState.UNLOADED
        collection.get("a")
        assert collection.state is CollectionState.LOADED
        collection.update("a", {"age": 37})
        assert collection.state is CollectionState.DIRTY
        collection.checkpoint()
        assert collection.state is CollectionState.UNLOADED
        engine.find("people", {"age": 37})
        collection.get("b")
        assert engine.info("people").state is CollectionState.LOADED
    with StorageEngine(tmp_path) as engine:
        assert engine.info("people").state is CollectionState.UNLOADED


def test_loading_is_a_state_that_others_see(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from godb_arrow.snapshots.base import Base

    with StorageEngine(tmp_path) as engine:
        people(engine)
    load, entered, go = Base._load, threading.Event(), threading.Event()

    def slowly(self: Base) -> Any:
        entered.set()
        go.wait(10)
        return load(self)

    monkeypatch.setattr(Base, "_load", slowly)
    with StorageEngine(tmp_path) as engine:
        thread = threading.Thread(target=engine.get, args=("people", "a"))
        thread.start()
        assert entered.wait(10)
        assert engine.info("people").state is CollectionState.LOADING
        assert engine.insert("people", {"_id": "late"}) == "late", "a writer need not wait"
        go.set()
        thread.join(10)


def test_information_costs_nothing_and_is_right(engine: StorageEngine) -> None:
    collection = people(engine)
    engine.save()
    info = collection.info()
    assert (info.name, info.documents) == ("people", 3)
    assert info.disk_bytes == os.path.getsize(Path(engine.data_dir, "collections/people.godb"))
    assert info.last_modified is not None
    assert abs((dt.datetime.now(dt.UTC) - info.last_modified).total_seconds()) < 60
    before = info.access_count
    collection.get("a")
    assert collection.info().access_count == before + 1
    assert [one.name for one in engine.infos()] == ["people"]
    assert repr(collection) == "<Collection 'people', loaded>"
    assert "1 collection" in repr(engine)


def test_opening_many_collections_reads_none(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        engine.create_collection("0").insert({"a": 1})
    made = (tmp_path / "collections" / "0.godb").read_bytes()
    for number in range(1, 300):
        (tmp_path / "collections" / f"{number}.godb").write_bytes(made if number % 2 else b"bad")
    with StorageEngine(tmp_path) as engine:
        assert len(engine) == 300
        assert engine.find_all("0") == [{"_id": "1", "a": 1}]
        assert engine.find_all("1") == [{"_id": "1", "a": 1}], "its name is its file's"
        with pytest.raises(godb_arrow.FormatError, match=r"2\.godb"):
            engine.find_all("2")


def test_more_collections_than_files_that_may_be_open(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        engine.create_collection("0").insert_many([{"n": n} for n in range(3)])
    made = (tmp_path / "collections" / "0.godb").read_bytes()
    for number in range(1, 400):
        (tmp_path / "collections" / f"{number}.godb").write_bytes(made)
    with StorageEngine(tmp_path) as engine:
        streams = [engine.find_all_stream(name) for name in engine.collections()[:50]]
        for name in engine.collections():
            engine.update(name, "1", {"n": name})
        engine.save()
        assert sum(info.documents for info in engine.infos()) == 1200
        assert all(engine.get(name, "1")["n"] == name for name in engine)
        assert [[one["n"] for one in stream] for stream in streams] == [[0, 1, 2]] * 50
        del streams
        if Path("/proc/self/fd").exists():
            assert len(os.listdir("/proc/self/fd")) < 300


@pytest.mark.parametrize("ending", ["close", "crash"])
def test_renamed_there_and_back(ending: str, tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path)
    people(engine)
    engine.save()
    engine.rename_collection("people", "staff")
    engine.rename_collection("staff", "people")
    engine.insert("people", {"_id": "d"})
    engine.close() if ending == "close" else crash(engine)
    with StorageEngine(tmp_path) as engine:
        assert ids(engine.find_all("people")) == ["a", "b", "c", "d"]
        assert engine.collections() == ["people"]


def test_renamed_and_dropped_handles_and_streams(engine: StorageEngine) -> None:
    collection = people(engine)
    stream = collection.find_all_stream()
    engine.rename_collection("people", "staff")
    assert collection.name == "staff"
    assert "people" not in engine
    engine.save()
    assert os.listdir(Path(engine.data_dir, "collections")) == ["staff.godb"]
    engine.drop_collection("staff")
    assert [one["_id"] for one in stream] == ["a", "b", "c"]
    with pytest.raises(godb_arrow.CollectionNotFound, match="was dropped"):
        collection.find_all()
    with pytest.raises(KeyError):
        engine["staff"]
    with pytest.raises(godb_arrow.CollectionNotFound):
        engine.drop_collection("staff")
    with pytest.raises(FileExistsError):
        people(engine)
        engine.create_collection("people")


# --- opening ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "default"),
    [
        ("max_memory", "much", 1_000_000_000),
        ("max_memory", 5, 1_000_000_000),
        ("max_memory", True, 1_000_000_000),
        ("background_save", "soon", None),
        ("background_save", -1, None),
        ("sync_interval", 0, 1.0),
        ("threads", 0, None),
    ],
)
def test_a_bad_option_falls_back_with_a_warning(
    tmp_path: Path, name: str, value: Any, default: Any
) -> None:
    with pytest.warns(OptionWarning, match=name):
        engine = StorageEngine(tmp_path, **{name: value})
    assert getattr(engine.options, name) == default
    engine.close()


def test_options_in_words(tmp_path: Path) -> None:
    with StorageEngine(
        tmp_path, max_memory="2GiB", background_save=dt.timedelta(minutes=5), sync_interval="50ms"
    ) as engine:
        assert engine.options.max_memory == 2 << 30
        assert engine.options.background_save == 300
        assert engine.options.sync_interval == 0.05


def test_one_writer_and_many_readers(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        people(engine)
        with pytest.raises(godb_arrow.DirectoryLocked, match="read_only"):
            StorageEngine(tmp_path)
        with StorageEngine(tmp_path, read_only=True) as reader:
            assert len(reader["people"]) == 3, "what is in the journal only"
            with pytest.raises(godb_arrow.ReadOnly):
                reader.insert("people", {})
            with pytest.raises(PermissionError):
                reader.create_collection("x")
            engine.insert("people", {"_id": "d"})
            engine.save()
            assert len(reader["people"]) == 3
            assert [one["_id"] for one in reader["people"]] == ["a", "b", "c"]
        with StorageEngine(tmp_path, read_only=True) as reader:
            assert len(reader["people"]) == 4
    with StorageEngine(tmp_path) as engine:
        assert len(engine["people"]) == 4


def test_a_closed_engine(tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path)
    collection = people(engine)
    stream = collection.find_all_stream()
    reader = collection.stream_batches()
    next(stream)
    engine.close()
    engine.close()
    assert engine.closed
    for call in (collection.find_all, lambda: collection.insert({}), engine.collections,
                 lambda: next(stream), reader.read_all):  # fmt: skip
        with pytest.raises(godb_arrow.EngineClosed):
            call()


def test_the_lock_is_free_after_a_failed_opening(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        people(engine)
        crash(engine)
    segment = max((tmp_path / "journal").iterdir())
    good = segment.read_bytes()
    segment.write_bytes(b"x" + good[1:])
    with pytest.raises(godb_arrow.CorruptFile):
        StorageEngine(tmp_path)
    segment.write_bytes(good)
    StorageEngine(tmp_path).close()


# --- documents --------------------------------------------------------------------------------


def test_ids_are_never_given_twice(tmp_path: Path) -> None:
    given: list[str] = []
    for clean in (True, False, True):
        engine = StorageEngine(tmp_path)
        if "c" not in engine:
            engine.create_collection("c")
        given += [engine.insert("c", {}), *engine.insert_many("c", [{}, {}])]
        engine.delete("c", given[-1])
        engine.delete("c", given[-2])
        engine.close() if clean else crash(engine)
    assert given == [str(n) for n in range(1, 10)]
    with StorageEngine(tmp_path) as engine:
        engine.insert("c", {"_id": 40})
        assert engine.insert("c", {}) == "41"


def test_insert_many_takes_all_that_has_rows(engine: StorageEngine) -> None:
    frame = pd.DataFrame({"n": [1, 2], "when": pd.to_datetime(["2026-01-01", None], utc=True)})
    for number, data in enumerate(
        [
            frame,
            pa.Table.from_pandas(frame),
            pa.Table.from_pandas(frame).to_reader(),
            frame.to_dict("records"),
            iter(frame.to_dict("records")),
        ]
    ):
        collection = engine.create_collection(f"c{number}")
        assert collection.insert_many(data) == ["1", "2"]
        assert collection.to_pandas()["n"].tolist() == [1, 2]
        engine.save()
        assert collection.to_pandas()["when"].isna().tolist() == [False, True]
    assert engine["c0"].insert_many([]) == []


def test_a_batch_is_inserted_whole_or_not_at_all(engine: StorageEngine) -> None:
    collection = people(engine)
    for bad in (
        [{"_id": "d"}, {"_id": "a"}],
        [{"_id": "d"}, {"_id": "d"}],
        [{"_id": "d"}, {"x": object()}],
        [{"_id": "d"}, 5],
    ):
        with pytest.raises(godb_arrow.GodbError):
            collection.insert_many(bad)
        assert len(collection) == 3
    with pytest.raises(godb_arrow.DocumentNotFound):
        collection.update_by_id({"a": {"age": 1}, "zz": {"age": 1}})
    assert collection.get("a")["age"] == 36


def test_types_of_a_table_are_kept_through_saving_and_crashing(tmp_path: Path) -> None:
    table = pa.table(
        {"day": pa.array([dt.date(2026, 1, 1)], pa.date32()), "n": pa.array([1], pa.int8())}
    )
    engine = StorageEngine(tmp_path)
    collection = engine.create_collection("c")
    collection.insert_many(table)
    assert collection.to_arrow(["day", "n"]).schema.types == table.schema.types
    crash(engine)
    engine = StorageEngine(tmp_path)
    assert engine.to_arrow("c", ["day", "n"]).schema.types == table.schema.types
    engine.close()
    with StorageEngine(tmp_path) as engine:
        assert engine.to_arrow("c", ["day", "n"]).equals(table)
        engine.insert_many("c", table)
        assert engine.to_arrow("c", ["day"]).schema.types == [pa.date32()]
        engine.insert("c", {"day": "a text"})
        assert engine["c"].schema.field("day").type.extension_name == "arrow.json"
        assert engine.count("c") == 3


def test_a_type_that_no_document_has_any_more_is_forgotten(engine: StorageEngine) -> None:
    collection = engine.create_collection("c")
    collection.insert({"_id": "2", "n": 0})
    for value in (None, "text", [1]):
        engine.save()
        collection.replace("2", {"n": value})
        assert collection.to_arrow(["n"]).column("n").to_pylist() == [value]
        assert collection.find({"_id": "2"}) == [{"_id": "2", "n": value}]
        assert collection.count(pc.field("n").is_valid()) == (value is not None)


def test_a_given_schema_need_not_fit_what_is_gone(engine: StorageEngine) -> None:
    collection = engine.create_collection("c")
    collection.insert_many([{"n": "text"}, {"n": 2}, {"n": 3}])
    engine.save()
    collection.replace("1", {"n": 1})
    schema = pa.schema({"_id": pa.string(), "n": pa.int64()})
    table = collection.stream(schema=schema).reader().read_all()
    assert sorted(table.column("n").to_pylist()) == [1, 2, 3]


def test_find(engine: StorageEngine) -> None:
    collection = people(engine)
    for _ in range(2):
        assert ids(collection.find({"home.city": "Berlin"})) == ["b", "c"]
        assert ids(collection.find(pc.field("age") > 36)) == ["b"]
        assert ids(collection.find({"age": None})) == ["c"]
        assert ids(collection.find({"name": ["Ada", "Cy", "?"]})) == ["a", "c"]
        assert collection.find({"_id": "a"}, columns=["home.city"]) == [{"home.city": "London"}]
        assert ids(collection.find(limit=1, offset=1)) == ["b"]
        assert collection.find(limit=0) == []
        assert collection.count({"home.city": "Berlin"}) == 2
        assert "a" in collection
        assert 5 not in collection
        assert collection.find({"nmae": "Ada"}) == []
        with pytest.raises(godb_arrow.FieldNotFound, match="did you mean 'name'"):
            collection.delete_many({"nmae": None})
        assert collection.delete_many({"nmae": "Ada"}, check_fields=False) == 0
        engine.save()
    with pytest.raises(godb_arrow.InvalidOption):
        collection.find(limit=-1)
    assert engine.create_collection("none").find({"anything": 1}) == []


def ids(documents: Any) -> list[str]:
    return [one["_id"] for one in documents]


def test_what_a_caller_does_to_a_document_changes_nothing(engine: StorageEngine) -> None:
    collection = people(engine)
    collection.get("a")["home"]["city"] = "?"
    given = {"_id": "d", "tags": ["x"]}
    collection.insert(given)
    given["tags"].append("y")  # type: ignore[attr-defined]
    assert collection.get("a") == PEOPLE[0]
    assert collection.get("d") == {"_id": "d", "tags": ["x"]}


def test_update_merges_and_replace_replaces(engine: StorageEngine) -> None:
    collection = people(engine)
    assert collection.update("a", {"age": 37, "new": 1}) == PEOPLE[0] | {"age": 37, "new": 1}
    collection.replace("b", {"only": True})
    assert collection.get("b") == {"_id": "b", "only": True}
    with pytest.raises(godb_arrow.InvalidDocument, match="never changes"):
        collection.update("a", {"_id": "z"})
    with pytest.raises(godb_arrow.InvalidDocument, match="'a'"):
        collection.update("a", {"x": object()})
    collection.upsert_many([{"_id": "a", "v": 1}, {"_id": "new", "v": 2}])
    assert collection.get("a") == {"_id": "a", "v": 1}
    assert len(collection) == 4
    assert collection.delete_many({"v": [1, 2]}) == 2
    assert collection.delete_many(None) == 2
    assert collection.find_all() == []


def test_pages_neither_skip_nor_repeat_while_others_write(engine: StorageEngine) -> None:
    collection = engine.create_collection("c")
    collection.insert_many([{"_id": f"{n:03d}", "n": n} for n in range(0, 100, 2)])
    seen: list[str] = []
    cursor = None
    step = 0
    while True:
        page = collection.find_page(limit=7, cursor=cursor)
        seen += ids(page.documents)
        cursor = page.cursor
        if cursor is None:
            break
        step += 1
        collection.delete(seen[0])
        seen.pop(0)
        collection.update("098", {"n": step})
        collection.insert({"_id": f"{step * 14 + 1:03d}x"})
        if step % 2:
            engine.save()
    assert len(set(seen)) == len(seen)
    assert {f"{n:03d}" for n in range(0, 100, 2)} <= set(seen) | {
        f"{n:03d}" for n in range(0, 16, 2)
    }
    found = collection.find_page(pc.field("n") > 90, limit=2)
    assert ids(found.documents) == ["092", "094"]
    assert ids(collection.find_page(pc.field("n") > 90, cursor=found.cursor).documents) == ["096"]
    for bad in ("nonsense", "", 5, "AQ=="):
        with pytest.raises(godb_arrow.InvalidCursor):
            collection.find_page(cursor=bad if bad != "AQ==" else "Ag")  # type: ignore[arg-type]


# --- streams ----------------------------------------------------------------------------------


def test_streams_are_snapshots(engine: StorageEngine) -> None:
    collection = people(engine)
    engine.save()
    readers = [collection.stream_batches(), collection.stream(columns=["_id"]).reader()]
    documents = collection.find_all_stream()
    collection.delete("a")
    collection.insert({"_id": "z"})
    engine.save()
    collection.insert({"_id": "y"})
    engine.drop_collection("people")
    for reader in readers:
        assert reader.read_all().column("_id").to_pylist() == ["a", "b", "c"]
    assert ids(documents) == ["a", "b", "c"]


def test_a_stream_that_is_left_is_collected(engine: StorageEngine) -> None:
    collection = engine.create_collection("c")
    collection.insert_many(pa.table({"n": range(200_000)}))
    engine.save()
    stream = collection.stream()
    next(stream)
    documents = collection.find_all_stream()
    next(documents)
    assert engine.memory_stats().streams == 2
    with collection.find_all_stream() as closed:
        next(closed)
    assert list(closed) == []
    del stream, documents, closed
    gc.collect()
    assert engine.memory_stats().streams == 0
    for _ in range(500):
        if not any(t.name == "godb-arrow-worker" for t in threading.enumerate()):
            break
        time.sleep(0.02)
    else:
        raise AssertionError("a thread is left")
    assert engine.memory_stats().stream_bytes == 0


def test_async_for(engine: StorageEngine) -> None:
    collection = people(engine)

    async def read() -> tuple[list[str], int]:
        found = [one["_id"] async for one in collection.find_all_stream()]
        rows = 0
        async for batch in collection.stream(batch_size=2):
            rows += batch.num_rows
        return found, rows

    assert asyncio.run(read()) == (["a", "b", "c"], 3)


def test_batches_from_memory_are_as_those_from_the_file(engine: StorageEngine) -> None:
    collection = engine.create_collection("c")
    collection.insert_many(pa.table({"n": range(1000), "s": [str(n) for n in range(1000)]}))
    engine.save()
    collection.delete_many({"n": [1, 5, 999]})
    collection.update("8", {"n": -1})
    for options in (
        {},
        {"columns": ["s"]},
        {"filter": pc.field("n") > 500},
        {"columns": ["n", "_id"]},
    ):
        engine._components.memory.cache.shrink(0)
        cold = collection.stream_batches(**options).read_all()
        collection.stream_batches().read_all()
        warm = collection.stream_batches(**options).read_all()
        assert warm.equals(cold)
        assert max(b.num_rows for b in collection.stream(batch_size=100)) == 100


def test_a_handle_is_an_arrow_stream_again_and_again(engine: StorageEngine) -> None:
    collection = people(engine)
    for _ in range(2):
        assert pa.table(collection).num_rows == 3
    assert sorted(one["_id"] for one in collection) == ["a", "b", "c"]


# --- memory and indexes -----------------------------------------------------------------------


def test_a_collection_larger_than_the_limit_is_streamed(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, max_memory="2MiB") as engine:
        collection = engine.create_collection("c")
        for part in range(20):
            collection.insert_many([{"_id": f"{part}-{n}", "t": "x" * 400} for n in range(500)])
        engine.save()
        assert len(collection) == 10_000
        assert collection.get("19-499")["t"] == "x" * 400
        assert collection.state is CollectionState.UNLOADED
        assert sum(1 for _ in collection) == 10_000
        collection.update("0-0", {"t": "new"})
        assert collection.find({"_id": "0-0"})[0]["t"] == "new"
        stats = engine.memory_stats()
        assert stats.alloc_mb <= stats.limit_mb == 2
        assert stats.peak_mb < 2.5
        endless = ({"t": "x" * 100} for _ in iter(int, 1))
        with pytest.raises(MemoryError, match="change fewer documents"):
            collection.upsert_many(endless)
        assert len(collection) == 10_000


@pytest.mark.parametrize(
    "change", ["insert", "update", "delete", "rename", "index", "index after rename"]
)
def test_what_changes_while_the_file_is_written_stays_in_the_journal(
    change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from godb_arrow.engine import checkpointer as module

    write = module.save_snapshot
    engine = StorageEngine(tmp_path)
    collection = people(engine)
    if change == "index after rename":
        engine.rename_collection("people", "staff")

    def meanwhile(*arguments: Any, **options: Any) -> int:
        written = write(*arguments, **options)
        monkeypatch.undo()
        if change == "insert":
            collection.insert({"_id": "late"})
        elif change == "update":
            collection.update("a", {"age": 0})
        elif change == "delete":
            collection.delete("b")
        elif change.startswith("index"):
            collection.create_index("age")
        return written

    monkeypatch.setattr(module, "save_snapshot", meanwhile)
    engine.save()
    if change == "rename":
        engine.rename_collection("people", "staff")
    expected = collection.find_all()
    assert collection.state is CollectionState.DIRTY
    crash(engine)
    with StorageEngine(tmp_path) as engine:
        (name,) = engine.collections()
        assert name == collection.name
        found = {one["_id"]: one for one in engine.find_all(name)}
        assert found == {one["_id"]: one for one in expected}
        assert engine[name].indexes == collection.indexes
        assert len(engine[name]) == len(expected)


def test_a_journal_of_changes_to_the_same_document_stays_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from godb_arrow.engine import saver as module

    monkeypatch.setattr(module, "MAX_JOURNAL_BYTES", 20_000)
    with StorageEngine(tmp_path) as engine:
        collection = people(engine)
        for number in range(2000):
            collection.update("a", {"age": number})
        assert engine.memory_stats().journal_bytes < 25_000
        assert engine.stats().checkpoints > 3
        crash(engine)
    with StorageEngine(tmp_path) as engine:
        assert engine.get("people", "a")["age"] == 1999


def test_a_full_disk_stops_writers_only_when_memory_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from godb_arrow.storage import local

    def fail(source: str, target: str) -> None:
        raise OSError(28, "no space left")

    engine = StorageEngine(tmp_path, max_memory="1MiB")
    collection = engine.create_collection("c")
    inserted = 0
    with monkeypatch.context() as patch:
        patch.setattr(local.disk, "replace", fail)
        with pytest.raises(godb_arrow.MemoryLimitExceeded) as raised:
            while True:
                collection.insert({"n": inserted, "t": "x" * 2000})
                inserted += 1
        assert isinstance(raised.value.__cause__, godb_arrow.DiskFull)
        assert inserted > 300
    assert len(collection) == inserted
    with pytest.raises(godb_arrow.DiskFull):
        engine.save()
    collection.insert({})
    engine.close()
    with StorageEngine(tmp_path) as engine:
        assert len(engine["c"]) == inserted + 1


@pytest.mark.parametrize("policy", [godb_arrow.LRU(), godb_arrow.LFU(), godb_arrow.TTL(60)])
def test_views_of_many_collections_stay_within_the_limit(tmp_path: Path, policy: Any) -> None:
    with StorageEngine(tmp_path, max_memory="1MiB", eviction_policy=policy) as engine:
        for number in range(8):
            made = engine.create_collection(f"c{number}")
            made.insert_many([{"_id": str(n), "t": f"{number} {n}" * 40} for n in range(1000)])
        for _ in range(3):
            for number in range(8):
                assert engine.get(f"c{number}", "7")["t"] == f"{number} 7" * 40
        stats = engine.memory_stats()
        assert stats.evictions > 0
        assert stats.cache_bytes <= 1 << 20


def test_indexes(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = people(engine)
        collection.insert_many([{"name": f"n{n}", "age": n % 50, "home": {"city": "X"}}
                                for n in range(500)])  # fmt: skip
        engine.save()
        assert collection.explain({"age": 36}).index is None
        plain = ids(collection.find({"age": 36})), ids(collection.find(pc.field("age") >= 48))
        collection.create_index("age")
        collection.create_index("home.city")
        explained = collection.explain({"age": 36})
        assert (explained.index, explained.documents) == ("age", 503)
        assert explained.candidates == 11
        assert (
            ids(collection.find({"age": 36})),
            ids(collection.find(pc.field("age") >= 48)),
        ) == plain
        assert ids(collection.find({"home.city": "Berlin"})) == ["b", "c"]
        assert collection.explain(pc.field("home", "city") == "London").candidates == 1
        table = collection.to_arrow(["_id"], {"age": 36})
        assert table.column("_id").to_pylist() == plain[0]
        collection.update("a", {"age": 1})
        collection.insert({"_id": "z", "age": 36})
        assert set(ids(collection.find({"age": 36}))) == {*plain[0], "z"} - {"a"}
        engine.save()
        assert set(ids(collection.find({"age": 36}))) == {*plain[0], "z"} - {"a"}
        with pytest.raises(godb_arrow.InvalidFilter):
            collection.create_index("home")
    with StorageEngine(tmp_path) as engine:
        assert engine["people"].indexes == ("age", "home.city")
        assert engine.explain("people", {"age": 36}).index == "age"
        engine.drop_index("people", "age")
        assert engine.explain("people", {"age": 36}).index is None


def test_indexes_have_the_shape_that_go_db_gives_them(tmp_path: Path) -> None:
    import lz4.block
    import msgpack

    with StorageEngine(tmp_path) as engine:
        people(engine)
        for field in ("age", "name", "home.city", "not there"):
            engine.create_index("people", field)
    raw = (tmp_path / "collections" / "people.godb").read_bytes()
    body = lz4.block.decompress(raw[8:], uncompressed_size=10 * len(raw))
    found = msgpack.unpackb(body, strict_map_key=False)["indexes"]
    assert found == {"people": {"age": ["a", "b"], "name": ["a", "b", "c"]}}


# --- files of others --------------------------------------------------------------------------


def test_a_single_file_is_taken_in_lazily_and_written_back(tmp_path: Path) -> None:
    path = tmp_path / "all.godb"
    godb_arrow.write_godb(PEOPLE, path, "people")
    godb_arrow.write_godb([{"x": 1}, {"x": 2}], path, "numbers", if_exists="append")
    before = path.read_bytes()
    folder = tmp_path / "data"
    engine = StorageEngine(folder)
    assert engine.load_collection_metadata(path) == {"people": 3, "numbers": 2}
    assert engine["people"].info().documents == 3
    assert engine["people"].state is CollectionState.DIRTY, "it has no file of its own yet"
    engine.insert("numbers", {"x": 3})
    with pytest.raises(godb_arrow.CollectionExists):
        engine.load_collection_metadata(path)
    crash(engine)
    with StorageEngine(folder) as engine:
        assert engine.find_all("people") == PEOPLE
        assert [one["x"] for one in engine.find_all("numbers")] == [1, 2, 3]
        assert engine.save_to_file(tmp_path / "out.godb") == 6
    assert path.read_bytes() == before
    path.unlink()
    with StorageEngine(folder) as engine:
        assert engine.find_all("people") == PEOPLE
    assert godb_arrow.list_collections(tmp_path / "out.godb") == {"numbers": 3, "people": 3}


def test_a_renamed_file_of_somebody_else_keeps_what_it_has(tmp_path: Path) -> None:
    import lz4.block
    import msgpack
    from support.handmade import file_of

    folder = tmp_path / "collections"
    folder.mkdir()
    content = {"collections": {"c": {"7": {"a": 1}}}, "metadata": {"owner": "me"}, "more": [1]}
    (folder / "c.godb").write_bytes(file_of(msgpack.packb(content)))
    with StorageEngine(tmp_path) as engine:
        engine.rename_collection("c", "d")
    raw = (folder / "d.godb").read_bytes()
    body = msgpack.unpackb(lz4.block.decompress(raw[8:], uncompressed_size=10 * len(raw)))
    assert (body["more"], body["metadata"]["owner"]) == ([1], "me")
    assert body["collections"] == {"d": {"7": {"a": 1}}}


def test_a_file_of_somebody_else_with_an_id_twice(tmp_path: Path) -> None:
    from support.handmade import file_of, mapping, string

    entries = [(string(key), mapping((string("v"), bytes([n])))) for n, key in enumerate("aab")]
    body = mapping((string("collections"), mapping((string("c"), mapping(*entries)))))
    for change in ("update", "upsert", "delete"):
        folder = tmp_path / change / "collections"
        folder.mkdir(parents=True)
        (folder / "c.godb").write_bytes(file_of(body))
        with StorageEngine(tmp_path / change) as engine:
            assert engine.get("c", "a")["v"] == 1, "the last one counts, as in go-db"
            if change == "update":
                engine.update("c", "a", {"v": 9})
            elif change == "upsert":
                engine.upsert_many("c", [{"_id": "a", "v": 9}])
            else:
                engine.delete("c", "a")
            engine.save()
            found = {one["_id"]: one["v"] for one in engine.find_all("c")}
            assert found == ({"b": 2} if change == "delete" else {"a": 9, "b": 2})
            assert len(engine["c"]) == len(found)


def test_documents_that_do_not_fit_are_read_in_one_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from godb_arrow.snapshots.base import Base

    with StorageEngine(tmp_path, max_memory="1MiB") as engine:
        collection = engine.create_collection("c")
        for part in range(10):
            collection.insert_many([{"_id": f"{part}-{n}", "t": "x" * 900} for n in range(400)])
        engine.save()
        passes = 0
        runs = Base.runs

        def counted(self: Base) -> Any:
            nonlocal passes
            passes += 1
            return runs(self)

        monkeypatch.setattr(Base, "runs", counted)
        assert collection.update_by_id({f"{n}-7": {"t": n} for n in range(10)}) == 10
        assert passes <= 3
        monkeypatch.undo()
        assert [one["t"] for one in collection.find({"_id": ["0-7", "9-7"]})] == [0, 9]


def test_a_file_of_somebody_else_keeps_what_it_has(tmp_path: Path) -> None:
    import msgpack
    from support.handmade import file_of

    folder = tmp_path / "data" / "collections"
    folder.mkdir(parents=True)
    content = {
        "collections": {"c": {"7": {"_id": "7", "a": 1}, "x": {"a": 2}}},
        "metadata": {"owner": "somebody"},
        "more": [1, 2],
    }
    (folder / "c.godb").write_bytes(file_of(msgpack.packb(content)))
    with StorageEngine(tmp_path / "data") as engine:
        assert engine["c"].get("x") == {"_id": "x", "a": 2}
        assert engine.insert("c", {}) == "8"
    import lz4.block

    raw = (folder / "c.godb").read_bytes()
    body = msgpack.unpackb(lz4.block.decompress(raw[8:], uncompressed_size=10 * len(raw)))
    assert body["more"] == [1, 2]
    assert body["metadata"]["owner"] == "somebody"
    assert body["collections"]["c"]["x"] == {"a": 2}, "copied as it was"


# --- background -------------------------------------------------------------------------------


def wait(condition: Any) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_the_saver_saves(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, background_save="20ms") as engine:
        collection = people(engine)
        time.sleep(0.1)
        assert collection.state is CollectionState.DIRTY, "not before it is started"
        engine.start_background_workers()
        engine.start_background_workers()
        wait(lambda: collection.state is CollectionState.UNLOADED)
        engine.stop_background_workers()
        engine.stop_background_workers()
        (health,) = [one for one in engine.stats().workers if one.name == "saver"]
        assert health.runs >= 1
        assert health.failures == 0
        assert not health.running


def test_a_worker_of_ones_own_and_its_failures(tmp_path: Path) -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        raise RuntimeError("no luck")

    with StorageEngine(tmp_path) as engine:
        engine.start_background_workers()
        engine.add_worker("mine", "10ms", work)
        wait(lambda: len(calls) > 2)
        with pytest.raises(godb_arrow.InvalidOption):
            engine.add_worker("mine", 1, work)
        engine.stop_background_workers()
        (health,) = [one for one in engine.stats().workers if one.name == "mine"]
        assert health.failures == health.runs == len(calls)
        assert health.last_error == "RuntimeError: no luck"
        engine.remove_worker("mine")
        with pytest.raises(godb_arrow.WorkerNotFound):
            engine.remove_worker("mine")


def test_what_the_saver_could_not_save_is_raised_at_the_next_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from godb_arrow.storage import local

    engine = StorageEngine(tmp_path, background_save="10ms")
    collection = people(engine)

    def fail(source: str, target: str) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as patch:
        patch.setattr(local.disk, "replace", fail)
        engine.start_background_workers()
        wait(lambda: engine.stats().failed_checkpoints)
        with pytest.raises(godb_arrow.DiskFull):
            engine.close()
        assert not engine.closed, "nothing is lost"
    assert collection.find_all() == PEOPLE
    with pytest.raises(godb_arrow.DiskFull):
        engine.save()
    engine.save()
    engine.close()
    with StorageEngine(tmp_path) as engine:
        assert engine.find_all("people") == PEOPLE


def test_durability_checkpoint_keeps_what_was_saved(tmp_path: Path) -> None:
    engine = StorageEngine(tmp_path, durability="checkpoint")
    people(engine)
    engine.save()
    engine.insert("people", {"_id": "late"})
    crash(engine)
    with StorageEngine(tmp_path) as engine:
        assert engine.find_all("people") == PEOPLE


@pytest.mark.parametrize("durability", ["commit", "interval", "checkpoint"])
@pytest.mark.parametrize("again", [False, True])
def test_what_was_saved_survives_a_journal_that_was_not_trimmed(
    durability: Any, again: bool, tmp_path: Path
) -> None:
    engine = StorageEngine(tmp_path, durability=durability)
    if again:
        people(engine).checkpoint()
        engine.drop_collection("people")
    collection = people(engine)
    assert collection.checkpoint()  # unlike save, it leaves the journal as it is
    crash(engine)
    with StorageEngine(tmp_path) as engine:
        assert engine.find_all("people") == PEOPLE


@pytest.mark.parametrize("durability", ["interval", "checkpoint"])
def test_what_was_taken_in_and_saved_survives_a_journal_that_was_not_trimmed(
    durability: Any, tmp_path: Path
) -> None:
    path = tmp_path / "all.godb"
    godb_arrow.write_godb(PEOPLE, path, "people")
    engine = StorageEngine(tmp_path / "data", durability=durability)
    engine.load_collection_metadata(path)
    engine.update("people", "a", {"age": 1})
    engine["people"].checkpoint()
    path.unlink()
    crash(engine)
    with StorageEngine(tmp_path / "data") as engine:
        assert engine.get("people", "a")["age"] == 1


def test_nothing_is_left_open_without_closing(tmp_path: Path) -> None:
    code = (
        "import sys; from godb_arrow import StorageEngine\n"
        "engine = StorageEngine(sys.argv[1], background_save=60)\n"
        "engine.start_background_workers()\n"
        "engine.create_collection('c').insert({'a': 1})"
    )
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path)], check=True, timeout=60
    )
    assert os.listdir(tmp_path / "collections") == ["c.godb"]


def test_no_warnings_in_ordinary_use(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with StorageEngine(tmp_path) as engine:
            people(engine)
            engine.to_pandas("people")
