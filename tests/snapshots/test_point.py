"""Searches by indexes in memory find what the stream of all documents finds, in its order."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import filter_model
from support.settings import examples

from godb_arrow import StorageEngine, codec
from godb_arrow.engine.collection import Collection
from godb_arrow.snapshots.overlay import Overlay

VALUES = st.sampled_from([None, 1, 2, 2.0, "a", "b", True, [1, "a"], {"x": 1}, 2**53 + 1])
DOCUMENT = st.fixed_dictionaries({}, optional={"v": VALUES, "w": VALUES})
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), DOCUMENT),
        st.tuples(st.just("many"), st.lists(DOCUMENT, min_size=65, max_size=70)),
        st.tuples(st.just("given"), st.lists(DOCUMENT, min_size=65, max_size=70)),
        st.tuples(st.just("update"), st.integers(0, 300), DOCUMENT),
        st.tuples(st.just("delete"), st.integers(0, 300)),
        st.tuples(st.just("save")),
        st.tuples(st.just("compact")),
    ),
    min_size=1,
    max_size=12,
)
CONDITIONS: list[dict[str, Any]] = [
    {"v": 1}, {"v": 2}, {"v": None}, {"v": ["a", 2]}, {"v": {"$gte": 1, "$lt": 3}}, {"w": "a"},
    {"v": {"$gt": "a"}, "w": {"$lte": 2}}, {"v": True}, {"w": {"$in": [1, None]}},
]  # fmt: skip


def step(engine: StorageEngine, collection: Collection, what: Any, number: int) -> None:
    ids = [one["_id"] for one in collection]
    match what:
        case ("insert", document):
            collection.insert(document)
        case ("many", documents):
            collection.insert_many(documents)
        case ("given", documents):
            given = [{"_id": f"{number}-{n}", **one} for n, one in enumerate(documents)]
            collection.insert_many(given)
        case ("update", at, document) if ids:
            collection.update(ids[at % len(ids)], document)
        case ("delete", at) if ids:
            collection.delete(ids[at % len(ids)])
        case ("save",):
            engine.save()
        case ("compact",):
            engine.compact()


def check(collection: Collection, condition: dict[str, Any]) -> None:
    right = [one for one in collection if filter_model.matches(one, condition)]
    assert list(collection.find_all_stream(condition)) == right
    assert collection.find(condition) == right
    assert collection.count(condition) == len(right)
    for limit, offset in ((1, 0), (3, 2), (0, 0)):
        found = collection.find(condition, limit=limit, offset=offset)
        assert found == right[offset : offset + limit]


@settings(
    max_examples=examples(25, long=300),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(STEPS, st.sampled_from([1024, 1 << 27]))
def test_point_searches_find_what_streams_find(
    tmp_path_factory: pytest.TempPathFactory, steps: list[Any], part_size: int
) -> None:
    folder = tmp_path_factory.mktemp("point")
    with StorageEngine(folder, part_size=part_size, background_save=None) as engine:
        collection = engine.create_collection("c")
        collection.create_index("v")
        for number, what in enumerate(steps):
            step(engine, collection, what, number)
            check(collection, CONDITIONS[number % len(CONDITIONS)])
        for condition in CONDITIONS:
            check(collection, condition)


def test_later_changes_supersede_unsaved_documents(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.create_index("v")
        collection.insert_many([{"v": n % 3} for n in range(70)])
        for number in range(1, 70, 9):
            check(collection, {"v": 1})
            collection.update(str(number), {"v": 7})
            collection.delete(str(number + 1))
            collection.insert({"v": 1, "new": number})
            check(collection, {"v": 1})
            check(collection, {"v": {"$gte": 1}})


def test_deleted_rows_of_parts_are_not_found(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, part_size="1KiB") as engine:
        collection = engine.create_collection("c")
        collection.create_index("v")
        collection.insert_many([{"v": n % 3, "s": "x" if n % 2 else n} for n in range(200)])
        engine.save()
        check(collection, {"v": 1})
        for number in range(2, 200, 20):
            collection.delete(str(number))
            collection.update(str(number + 3), {"v": 1})
            check(collection, {"v": 1})  # unsaved changes supersede rows of the base
            check(collection, {"v": {"$lte": 1}, "s": "x"})
            engine.save()
            check(collection, {"v": 1})  # the manifest has the deleted rows
            assert str(number) not in collection
            assert collection.get(number + 3)["v"] == 1
        collection.compact(thorough=True)
        check(collection, {"v": 1})
        collection.insert_many([{"v": 1} for _ in range(100)])
        check(collection, {"v": 1})
        collection.insert_many([{"_id": f"given {n}", "v": 1} for n in range(100)])
        check(collection, {"v": 1})


@pytest.mark.skipif(codec.BACKEND == "reference", reason="only the kernel has plain filters")
def test_an_index_answers_without_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.create_index("n")
        collection.insert_many([{"n": n, "m": {"k": n % 3}} for n in range(2_000)])
        engine.save()
        collection.find({"n": 5})  # loads documents and index
        collection.update("7", {"n": -1})
        accesses = collection.info().access_count
        assert len(collection.find({"n": {"$gte": 0}})) == 1_999, "too many to be tested singly"
        assert collection.find({"n": 5}, limit=1)
        assert collection.info().access_count == accesses + 2
        monkeypatch.setattr(Collection, "find_all_stream", None)
        assert [one["_id"] for one in collection.find({"n": 5})] == ["6"]
        assert collection.find({"n": -1}, columns=["m.k"]) == [{"m.k": 0}]
        assert collection.find({"n": 6}) == []
        assert collection.count({"n": {"$gte": 10, "$lt": 20}, "m.k": 1}) == 4


def test_what_is_kept_with_frozen_changes_is_of_one_base() -> None:
    frozen = Overlay().freeze()
    for number in (1, 2, 1):
        base: Any = SimpleNamespace(number=number, deleted=np.array([number], np.int64))
        assert frozen.superseded_rows(base).tolist() == [number]
        assert frozen.schema(base) is None
        frozen.note_schema(base, pa.schema({str(number): pa.int64()}))
        schema = frozen.schema(base)
        assert schema is not None
        assert schema.names == [str(number)]


def test_changes_are_frozen_once_until_the_next_change(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": n} for n in range(100)])
        overlay: Overlay = collection._store.overlay
        frozen = overlay.freeze()
        assert overlay.freeze() is frozen
        assert collection.count({"n": 5}) == 1
        assert overlay.freeze() is frozen
        collection.insert({"n": 5})
        assert overlay.freeze() is not frozen
        assert collection.count({"n": 5}) == 2
        collection.delete("6")
        assert collection.count({"n": 5}) == 1
        assert sum(map(len, frozen.runs())) == 100


def test_keys_of_unsaved_documents_count_as_memory(tmp_path: Path) -> None:
    with StorageEngine(tmp_path / "data") as engine:
        collection = engine.create_collection("c")
        collection.create_index("v")
        collection.create_index("w")
        collection.insert_many([{"_id": f"a{n}", "v": n, "w": str(n)} for n in range(5_000)])
        before = engine.memory_stats().changes_bytes
        assert collection.find({"v": 7})[0]["w"] == "7"
        one = engine.memory_stats().changes_bytes
        assert 5_000 * 12 <= one - before < 5_000 * 40
        assert collection.find({"w": "7"})[0]["v"] == 7
        both = engine.memory_stats().changes_bytes
        assert both > one
        collection.find({"v": 8})
        assert engine.memory_stats().changes_bytes == both
        engine.save()
        assert engine.memory_stats().changes_bytes == 0
