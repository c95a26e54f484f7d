"""What one operation costs beside ten collections and beside thousands, in counted calls."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.disks import CountingDisk, using
from support.engines import crash
from support.settings import LONG

from godb_arrow import StorageEngine


def calls_of(work: Callable[[], Any]) -> int:
    """Count the functions that are called, of Python and of C."""
    count = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.fixture
def disk() -> Iterator[CountingDisk]:
    with using(CountingDisk()) as disk:
        yield disk


OPERATIONS: dict[str, Callable[[StorageEngine], Any]] = {
    "create": lambda engine: engine.create_collection("new"),
    "drop": lambda engine: engine.drop_collection("c1"),
    "drop what is not saved": lambda engine: engine.drop_collection("unsaved"),
    "rename": lambda engine: engine.rename_collection("c2", "another"),
    "create under a former name": lambda engine: engine.create_collection("c3"),
    "checkpoint": lambda engine: engine["c4"].checkpoint(),
    "info": lambda engine: engine.info("c5"),
}


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.usefixtures("disk")
def test_an_operation_calls_as_much_beside_many_collections(operation: str, tmp_path: Path) -> None:
    counts = []
    for collections in (10, 1000 if LONG else 80):
        with StorageEngine(tmp_path / str(collections)) as engine:
            for number in range(collections):
                engine.create_collection(f"c{number}").insert({"v": 1})
            engine.save()
            for name in engine.collections():  # all of them have views in the cache
                assert engine[name].find({"v": 1})
            engine["c4"].insert({"v": 2})
            engine.create_collection("unsaved").insert({"v": 1})
            engine.rename_collection("c3", "former")
            counts.append(calls_of(lambda: OPERATIONS[operation](engine)))
    few, many = counts
    assert many < 1.5 * few


@pytest.mark.usefixtures("disk")
def test_a_save_checkpoints_what_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []
    with StorageEngine(tmp_path) as engine:
        for number in range(50):
            engine.create_collection(f"c{number}").insert({"v": 1})
        engine.save()
        engine["c7"].insert({"v": 2})
        engine["c8"].set_compression("zstd")
        engine.rename_collection("c9", "another")
        saver = engine._components.saver
        checkpoint = saver.checkpoint
        monkeypatch.setattr(
            saver, "checkpoint", lambda one: (tried.append(one.name), checkpoint(one))
        )
        engine.save()
        assert sorted(tried) == ["another", "c7", "c8"]
        tried.clear()
        engine.save()
        assert tried == []


def test_names_that_are_used_again_and_again(tmp_path: Path) -> None:
    """Former files follow their collections, also after a crash, and nothing is mixed up."""
    engine = StorageEngine(tmp_path)
    long = "n" * 250  # its file is named by a hash
    for name in ("a", long, "b"):
        engine.create_collection(name).insert({"v": name})
    engine.save()
    for name, new_name in (("a", "x"), (long, "a"), ("b", long), ("x", "b")):
        engine.rename_collection(name, new_name)
    engine.create_collection("x").insert({"v": "x"})
    engine.drop_collection("x")
    engine.create_collection("x").insert({"v": "new"})
    crash(engine)
    expected = {"a": long, long: "b", "b": "a", "x": "new"}
    with StorageEngine(tmp_path) as engine:
        assert {name: engine[name].get("1")["v"] for name in engine} == expected
        engine.create_collection("y").insert({"v": "y"})
        engine.rename_collection("x", "z")
        engine.rename_collection("z", "x")
    with StorageEngine(tmp_path) as engine:
        assert {name: engine[name].get("1")["v"] for name in engine} == {**expected, "y": "y"}
        for name in list(engine):
            engine.drop_collection(name)
        assert os.listdir(tmp_path / "collections") == []
        assert not len(engine._components.former_files)
