"""Interrupts at every call and every line of the package: a change is there whole or not at all."""

from __future__ import annotations

import ast
import functools
import itertools
import random
import shutil
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pytest
from support.settings import LONG

import godb_arrow
from godb_arrow import StorageEngine

PACKAGE = str(Path(godb_arrow.__file__).parent)
# An interrupt in a finalizer is reported and ignored by Python.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
DURABILITIES = ["interval", "commit", "checkpoint"]
PLACES = 300 if LONG else 3  # of the calls and lines of a verb, at the most


@pytest.fixture(autouse=True)
def no_leaked_files() -> None:
    """Allow files that stay open: an interrupt may come between opening one and noting it."""


@functools.cache
def _unreal(path: str) -> frozenset[int]:
    """The lines of ``with`` and ``try`` of a file.

    Python looks for signals after calls, and as functions and rounds of a loop begin. So no signal
    comes between the end of a ``with`` block and the release of its lock, or as ``try`` begins;
    an error raised by a tracer there is not handled by the statement around it.
    """
    lines: set[int] = set()
    for node in ast.walk(ast.parse(Path(path).read_text())):
        if isinstance(node, (ast.With, ast.Try)):
            lines.update(range(node.lineno, node.body[0].lineno))
    return frozenset(lines)


def unreal(frame: FrameType) -> frozenset[int]:
    return _unreal(frame.f_code.co_filename)


class Interrupter:
    """Raises KeyboardInterrupt at a place: the n-th call or line of the package."""

    def __init__(self, place: int) -> None:
        self.left = place
        self.passed = 0
        self.raised = ""

    def __call__(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "call" or (event == "line" and frame.f_lineno not in unreal(frame)):
            self.left -= 1
            self.passed += 1
            if self.left == 0:
                self.raised = f"{frame.f_code.co_filename}:{frame.f_lineno}"
                sys.settrace(None)
                raise KeyboardInterrupt
        return self

    def run(self, function: Callable[[], Any]) -> bool:
        """Run a function; returns whether it ended before the place came."""
        sys.settrace(self)
        try:
            function()
        except KeyboardInterrupt:
            return False
        finally:
            sys.settrace(None)
        return not self.raised


def content(engine: StorageEngine) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in engine.collections():
        collection = engine[name]
        documents = {document["_id"]: document for document in collection.find()}
        assert len(collection) == len(documents)
        assert collection.to_arrow([]).num_rows == len(documents)
        assert all(collection.get(identity) == documents[identity] for identity in documents)
        found[name] = (documents, collection.indexes, collection.compression)
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
    thread.join(10)
    stack = traceback.format_stack(sys._current_frames().get(thread.ident or 0))
    assert results, "something is still locked: " + "".join(stack[-4:])
    result, error = results[0]
    if error is not None:
        raise error
    return result


def prepare(engine: StorageEngine) -> None:
    """A collection in a file, one in parts, and changes of both that are not saved."""
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
    "update several": lambda e: e["file"].update_many({"k0": {"v": 7}, "k1": {"v": 8}}),
    "replace": lambda e: e["file"].replace("k0", {"w": 7}),
    "delete": lambda e: e["parts"].delete("k0"),
    "delete by a filter": lambda e: e["file"].delete_many({"v": [0, 3]}),
    "create an index": lambda e: e["file"].create_index("v"),
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
NEITHER_BEFORE_NOR_AFTER = {"restore"}  # it saves what there is, and then goes back


def places(seed: str, total: int) -> list[int]:
    """Choose some of the places of a verb, and one behind them all."""
    chosen = random.Random(seed).sample(range(1, total + 1), min(PLACES, total))
    return [*sorted(chosen), total + 1]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    godb_arrow.write_godb([{"_id": "o", "v": 1}], folder / "other.godb", "other")
    with StorageEngine(folder / "data", part_size="1KiB", part_grace=0.001) as engine:
        prepare(engine)
        engine.close(discard=True)
    return folder


def opened(folder: Path, durability: str) -> StorageEngine:
    return StorageEngine(
        folder, durability=durability, sync_interval=3600, part_size="1KiB",  # type: ignore[arg-type]
        part_grace=0.001, max_memory="2MiB",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "durability"),
    [
        (verb, durability)
        for index, verb in enumerate(VERBS)
        for durability in (DURABILITIES if LONG else [DURABILITIES[index % 3]])
    ],
)
def test_an_interrupt_leaves_a_change_whole_or_undone(
    verb: str, durability: str, prepared: Path, tmp_path: Path
) -> None:
    shutil.copy(prepared / "other.godb", tmp_path / "other.godb")
    shutil.copytree(prepared / "data", tmp_path / "counted")
    engine = opened(tmp_path / "counted", durability)
    content(engine)
    counting = Interrupter(1 << 60)
    counting.run(lambda: VERBS[verb](engine))
    engine.close()
    for number, place in enumerate(places(verb + durability, counting.passed)):
        folder = tmp_path / str(number)
        shutil.copytree(prepared / "data", folder)
        engine = opened(folder, durability)
        before = content(engine)
        interrupter = Interrupter(place)
        ended = interrupter.run(lambda e=engine: VERBS[verb](e))
        message = f"{verb} interrupted at {interrupter.raised}"
        there = in_time(lambda e=engine: content(e))
        if not ended and verb not in NEITHER_BEFORE_NOR_AFTER:
            assert there == before or is_whole(verb, before, there), message
        in_time(lambda e=engine: e.create_collection("later").insert({"_id": "l", "v": 1}))
        if verb != "drop":
            some = next(name for name in ("file", "renamed") if name in engine)
            in_time(lambda e=engine, name=some: e[name].insert({"_id": "later"}))
        there = in_time(lambda e=engine: content(e))
        if durability != "checkpoint":
            crashed = tmp_path / f"{number}-crashed"
            shutil.copytree(folder, crashed)
            with StorageEngine(crashed) as recovered:
                assert content(recovered) == there, message
            shutil.rmtree(crashed)
        in_time(engine.close)
        with StorageEngine(folder) as again:
            assert content(again) == there, message
        shutil.rmtree(folder)


def is_whole(verb: str, before: dict[str, Any], there: dict[str, Any]) -> bool:
    """Return whether a change is there as a whole, by what it adds, removes and replaces."""
    if verb == "attach":
        return set(there) - set(before) == {"other"} and len(there["other"][0]) == 1
    if verb in ("create", "drop", "rename"):
        names = set(before) ^ set(there)
        expected = {"create": {"new"}, "drop": {"parts"}, "rename": {"file", "renamed"}}[verb]
        return names == expected
    changed = [name for name in before if before[name] != there.get(name)]
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
        "delete by a filter": (0, 2, 0), "create an index": (0, 0, 0),
        "set the compression": (0, 0, 0),
    }.get(verb)  # fmt: skip


@pytest.mark.parametrize("durability", DURABILITIES)
def test_an_interrupted_close_can_be_repeated(
    durability: str, prepared: Path, tmp_path: Path
) -> None:
    for number in itertools.count():
        place = 1 + number * (17 if LONG else 211)
        folder = tmp_path / str(number)
        shutil.copytree(prepared / "data", folder)
        engine = opened(folder, durability)
        engine["file"].insert({"_id": "new"})
        expected = content(engine)
        interrupter = Interrupter(place)
        ended = interrupter.run(engine.close)
        in_time(engine.close)
        with StorageEngine(folder) as again:
            assert content(again) == expected, interrupter.raised
        shutil.rmtree(folder)
        if ended:
            break
