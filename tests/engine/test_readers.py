"""Readers of a directory that another process writes: each collection is whole at any moment."""

from __future__ import annotations

import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.disks import FaultyDisk, using
from support.settings import LONG
from support.writers import SteppedWriter

import godb_arrow
from godb_arrow import CollectionNotFound, StorageEngine
from godb_arrow.directory.data_directory import DataDirectory
from godb_arrow.engine import fragments

Content = dict[str, dict[str, int]]
WATCHERS = 4
OPTIONS: Any = {"part_size": "4KiB", "part_grace": 0.001, "keep_versions": 3}
FILE = "insert_many([{'_id': str(n), 'v': n} for n in range(20)])"
FOLDER = "insert_many([{'_id': str(n), 'v': n, 'text': 'x' * 100} for n in range(150)])"
OTHERS = FOLDER.replace("'v': n", "'v': n + 100_000")  # of the same ids and sizes
A_FILE = f"engine.create_collection('a').{FILE}; engine.save()"
A_FOLDER = f"engine.create_collection('a').{FOLDER}; engine.save()"
SAVE = "engine.save()"
STEPS = {
    "a file is replaced": [A_FILE, "engine['a'].insert({'_id': 'new', 'v': 1})", SAVE],
    "a file becomes a folder": [A_FILE, f"engine['a'].{FOLDER.replace('insert', 'upsert')}", SAVE],
    "parts are added": [A_FOLDER, f"engine['a'].{FOLDER.replace('str(n)', 'str(-n - 1)')}", SAVE],
    "parts are joined": [
        f"{A_FOLDER}; engine['a'].delete_many({{'v': list(range(0, 150, 2))}}); {SAVE}",
        "engine.compact()",
    ],
    "a folder becomes a file": [A_FOLDER, "engine.pack('a')"],
    "a file is renamed": [A_FILE, "engine.rename_collection('a', 'b')", SAVE],
    "a folder is renamed": [A_FOLDER, "engine.rename_collection('a', 'b')", SAVE],
    "a file is dropped": [A_FILE, "engine.drop_collection('a')", SAVE],
    "a folder is dropped": [A_FOLDER, "engine.drop_collection('a')", SAVE],
    "a file is dropped and made again": [
        A_FILE, "engine.drop_collection('a')", "engine.create_collection('a')",
        f"engine['a'].{FILE.replace(': n', ': n + 100')}", SAVE,
    ],
    "a folder is dropped and made again": [
        A_FOLDER, "engine.drop_collection('a')", "engine.create_collection('a')",
        f"engine['a'].{OTHERS}", SAVE,
    ],
    "a folder is renamed, and another takes its name": [
        A_FOLDER, "engine.rename_collection('a', 'b')", "engine.create_collection('a')",
        f"engine['a'].{OTHERS}", SAVE,
    ],
    "a file takes the name of one that is dropped": [
        f"{A_FILE}; engine.create_collection('b').{OTHERS}; {SAVE}",
        "engine.drop_collection('b')", "engine.rename_collection('a', 'b')", SAVE,
    ],
    "a collection is made": [
        A_FILE.replace("'a'", "'b'"), "engine.create_collection('a')", SAVE,
    ],
    "a version comes back": [
        f"{A_FOLDER}; engine['a'].delete('0'); {SAVE}",
        "engine.restore('a', engine.versions('a')[-2].version)",
    ],
}  # fmt: skip


def of(collection: Any) -> dict[str, int]:
    return {one["_id"]: one["v"] for one in collection.find_all()}


def read(engine: StorageEngine, name: str) -> dict[str, int] | None:
    """The documents of a collection, found in several ways; None where there is no such one."""
    try:
        collection = engine[name]
        found = of(collection)
        assert len(collection) == len(found)
        table = collection.to_arrow(["_id", "v"]).to_pydict() if found else {"_id": [], "v": []}
        assert dict(zip(table["_id"], table["v"], strict=True)) == found
        for identity in list(found)[:1] + list(found)[-1:]:
            assert collection.get(identity)["v"] == found[identity]
        assert collection.info().documents == len(found)
    except CollectionNotFound:
        assert name not in engine and name not in engine.collections()
        return None
    assert name in engine.collections()
    return found


def reader(folder: Path) -> StorageEngine:
    return StorageEngine(folder, read_only=True)


def content(folder: Path) -> Content:
    with reader(folder) as engine:
        return {name: of(engine[name]) for name in engine.collections()}


class Watcher:
    """Readers that were opened before a change, in all states of use."""

    def __init__(self, folder: Path) -> None:
        self.unused = reader(folder)
        self.counted = reader(folder)
        for name in self.counted.collections():
            len(self.counted[name])  # its files are known, and not open
        self.handles = reader(folder)
        self.handle_of = {name: self.handles[name] for name in self.handles.collections()}
        self.used = reader(folder)
        self.streams = {name: iter(self.used[name]) for name in self.used.collections()}
        self.begun = {name: [next(stream)] for name, stream in self.streams.items()}
        files = (folder / "collections").glob("*.godb")
        self.opened = {path.stem: godb_arrow.open_godb(path) for path in files}

    def look(self, states: list[Content]) -> None:
        """Check that each reader finds each collection whole, as it is in one of the states."""
        names = sorted({name for state in states for name in state})
        for engine in (self.unused, self.counted, self.used, self.unused):
            found = {name: read(engine, name) for name in names}
            for name in names:
                assert found[name] in [state.get(name) for state in states], name
            assert any(one is not None for one in found.values()) or {} in states
        for name, handle in self.handle_of.items():
            try:
                assert of(handle) in [state.get(name) for state in states]
            except CollectionNotFound:
                assert any(name not in state for state in states)
        before = states[0]
        for name, stream in self.streams.items():
            documents = self.begun[name] + list(stream)
            assert {one["_id"]: one["v"] for one in documents} == before[name], "a stream goes on"
        for name, opened in self.opened.items():
            assert of_file(opened) == before[name], "an open file stays as it is"
        for engine in (self.unused, self.counted, self.handles, self.used):
            engine.close()


def of_file(collection: Any) -> dict[str, int]:
    found = {one["_id"]: one["v"] for one in collection}
    assert len(collection) == len(found)
    return found


def states_of(folder: Path, copy: Path, statements: list[str]) -> tuple[list[Content], int]:
    """What statements lead to one after the other, and how many calls of the disk they take."""
    shutil.copytree(folder, copy)
    disk = FaultyDisk()
    states = []
    with StorageEngine(copy, **OPTIONS) as engine, using(disk):
        for statement in ["None", *statements]:
            exec(statement, {"engine": engine})
            states.append({name: of(engine[name]) for name in engine.collections()})
    return states, len(disk.calls)


@pytest.mark.parametrize("name", STEPS)
def test_each_collection_is_whole_at_each_call_of_the_disk(tmp_path: Path, name: str) -> None:
    """Another process is stopped before each call; readers old and new read everything then."""
    first, *statements = STEPS[name]
    prepared = tmp_path / "prepared"
    with StorageEngine(prepared, **OPTIONS) as engine:
        exec(first, {"engine": engine})
    states, calls = states_of(prepared, tmp_path / "tried", statements)
    apart = max(1, calls // WATCHERS)
    for offset in range(apart) if LONG else [apart // 2]:
        folder = tmp_path / str(offset)
        shutil.copytree(prepared, folder)
        with SteppedWriter(folder) as writer:
            watchers = [Watcher(folder) for _ in range(calls // apart + 2)]
            at = 0
            for stop, _ in enumerate(writer.step("; ".join(statements))):
                if LONG or stop % 10 == 0:
                    found = content(folder)
                    assert found in states[at:], "neither whole nor as new as before"
                    at = states.index(found, at)
                if stop % apart == offset and watchers:
                    watchers.pop().look(states)
            assert content(folder) == states[-1]
            for watcher in watchers:
                watcher.look(states)


@contextmanager
def few_files(count: int) -> Iterator[None]:
    """Engines that are opened in the block keep fewer files open."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


AGAIN = "drop_collection('a'); engine.create_collection('a').insert_many(others); engine.save()"


@pytest.mark.parametrize("change", ["pack('a')", "drop_collection('a')", AGAIN])
def test_a_collection_of_more_files_than_may_be_open_at_once(tmp_path: Path, change: str) -> None:
    """What was read is right; the rest is an error that says so, and the next read is whole."""
    rows = [{"_id": str(n), "v": n, "text": "x" * 3000} for n in range(100)]
    with StorageEngine(tmp_path, **OPTIONS) as engine:
        engine.create_collection("a").insert_many(rows)
        engine.save()
        with few_files(128):
            reading = reader(tmp_path)
        stream, kept = iter(reading["a"]), iter(reading["a"])
        found = [next(stream)["v"] for _ in range(3)]
        next(kept)
        others = [{**row, "v": 1000 + row["v"]} for row in rows]
        exec(f"engine.{change}", {"engine": engine, "others": others})
        with pytest.raises(godb_arrow.SourceNotFound, match="read the collection again"):
            found.extend(document["v"] for document in stream)
        assert found == list(range(len(found)))
        if change == "pack('a')":
            assert [one["v"] for one in reading["a"]] == list(range(100))
        elif change == AGAIN:
            assert [one["v"] for one in reading["a"]] == list(range(1000, 1100))
        else:
            with pytest.raises(CollectionNotFound):
                reading["a"].find_all()
        del stream, kept
        reading.close()


def test_a_part_that_is_missing_for_good_is_an_error(tmp_path: Path) -> None:
    rows = [{"_id": str(n), "v": n, "text": "x" * 3000} for n in range(10)]
    with StorageEngine(tmp_path, **OPTIONS) as engine:
        engine.create_collection("a").insert_many(rows)
    (tmp_path / "collections" / "a.parts" / "00000003.godb").unlink()
    with reader(tmp_path) as engine, pytest.raises(godb_arrow.SourceNotFound, match="00000003"):
        engine["a"].find_all()


def test_a_name_is_found_as_soon_as_there_is_one(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, **OPTIONS) as engine, reader(tmp_path) as reading:
        assert "a" not in reading
        with pytest.raises(CollectionNotFound):
            reading["a"]
        engine.create_collection("a").insert({"v": 1})
        assert "a" in reading and reading.collections() == ["a"]
        assert len(reading["a"]) == 1
        engine.insert("a", {"v": 2})
        assert len(reading["a"]) == 1, "what was read stays as it was"
        with reader(tmp_path) as another:
            assert len(another["a"]) == 2


def test_a_collection_that_is_renamed_while_a_reader_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has one of the two names, and is whole."""
    with StorageEngine(tmp_path, **OPTIONS) as engine:
        engine.create_collection("a").insert({"v": 1})
        engine.save()
        original = DataDirectory.files
        looks = []

        def list_then_rename(directory: DataDirectory) -> dict[str, str]:
            found = original(directory)
            looks.append(found)
            if len(looks) == 1:
                engine.rename_collection("a", "b")
                engine.save()
            return found

        monkeypatch.setattr(DataDirectory, "files", list_then_rename)
        with reader(tmp_path) as reading:
            assert reading.collections() == ["b"]
            assert len(reading["b"]) == 1


def test_fragments_follow_a_collection_that_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StorageEngine(tmp_path, **OPTIONS) as engine:
        engine.create_collection("a").insert({"v": 1})
        engine.save()
        original = fragments.saved_place
        places = []

        def place_then_move(directory: str, collection: str | None) -> str:
            places.append(original(directory, collection))
            if len(places) == 1:
                engine["a"].to_folder()
            return places[-1]

        monkeypatch.setattr(fragments, "saved_place", place_then_move)
        found, _ = fragments.fragments_of(tmp_path, "a")
        assert [one.documents for one in found] == [1]
        assert places[0].endswith(".godb") and places[-1].endswith(".parts")


def test_a_file_that_was_closed_and_replaced_is_read_as_a_whole(tmp_path: Path) -> None:
    """A reader keeps few files open: count and documents are of the same one all the time."""
    with StorageEngine(tmp_path, **OPTIONS) as engine:
        for n in range(30):
            engine.create_collection(f"c{n}").insert({"v": 0})
        engine.save()
        with few_files(64):
            reading = reader(tmp_path)
        stream = iter(reading["c0"])
        assert [len(reading[f"c{n}"]) for n in range(30)] == [1] * 30
        for n in range(30):
            engine.insert_many(f"c{n}", [{"v": n}, {"v": 1}])
        engine.save()
        for n in range(30):
            values = [one["v"] for one in reading[f"c{n}"]]
            assert values in ([0], [0, n, 1]) and len(reading[f"c{n}"]) == len(values)
        assert len(reading["c5"]) == 3, "its file was closed"
        assert [one["v"] for one in stream] == [0], "and that of a stream was not"
        reading.close()
