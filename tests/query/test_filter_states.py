"""A mapping filter means the same in every state of a collection, and for every verb."""

from __future__ import annotations

import io
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from support import filter_model
from support.filters import dense_case, documents, filters
from support.settings import LONG

import godb_arrow
from godb_arrow import Follower, StorageEngine

# What a document looks like does not matter here as much as where it is.
rows = st.lists(documents, min_size=1, max_size=8)
changes = st.lists(st.tuples(st.sampled_from("uud"), st.integers(0, 20), documents), max_size=4)

CASES = int(os.environ.get("GODB_ARROW_FILTER_CASES", "50000"))
"""Cases of the long run: one filter in one state by one verb."""
FILTERS_PER_COLLECTION = 6
QUICKLY: dict[str, Any] = {
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.generate],  # an example takes too long to be shrunk
}
pytestmark = pytest.mark.filterwarnings("ignore::godb_arrow.CompatibilityWarning")


def model_of(collection: Any) -> list[dict[Any, Any]]:
    return list(collection)


def ids(found: list[dict[Any, Any]]) -> list[str]:
    return sorted(document["_id"] for document in found)


def find(collection: Any, filter: dict[str, Any]) -> list[str]:
    return ids(collection.find(filter))


def count(collection: Any, filter: dict[str, Any]) -> int:
    return int(collection.count(filter))


def pages(collection: Any, filter: dict[str, Any]) -> list[str]:
    found, cursor = [], None
    while True:
        page = collection.find_page(filter, limit=3, cursor=cursor)
        found += page.documents
        cursor = page.cursor
        if cursor is None:
            return ids(found)


def stream(collection: Any, filter: dict[str, Any]) -> list[str]:
    with collection.stream_batches(["_id"], filter) as reader:
        return sorted(reader.read_all().column("_id").to_pylist())


def table(collection: Any, filter: dict[str, Any]) -> list[str]:
    return sorted(collection.to_arrow(None, filter).column("_id").to_pylist())


def stored(collection: Any, filter: dict[str, Any]) -> list[str]:
    return sorted(one for run in collection.stored_entries(filter) for one in run.ids())


def explain(collection: Any, filter: dict[str, Any]) -> bool:
    explanation = collection.explain(filter)
    return bool(explanation.candidates >= 0 and explanation.documents == len(collection))


ENGINE_VERBS: list[Callable[[Any, dict[str, Any]], Any]] = [
    find, count, pages, stream, table, stored, explain,
]  # fmt: skip
READING_VERBS: list[Callable[[Any, dict[str, Any]], Any]] = [stream, table, stored]


def wanted_of(verb: Callable[..., Any], matching: list[str]) -> Any:
    if verb is explain:
        return True
    return len(matching) if verb is count else matching


def check(
    collection: Any, filter_list: list[dict[str, Any]], verbs: list[Callable[..., Any]], state: str
) -> int:
    """Compare each verb with the model; return the number of comparisons."""
    all_documents = model_of(collection)
    for filter in filter_list:
        matching = ids([one for one in all_documents if filter_model.matches(one, filter)])
        for verb in verbs:
            found = verb(collection, filter)
            assert found == wanted_of(verb, matching), (state, verb.__name__, filter)
    return len(filter_list) * len(verbs)


def check_deletes(collection: Any, filter: dict[str, Any], state: str) -> int:
    kept = [one["_id"] for one in collection if not filter_model.matches(one, filter)]
    before = len(collection)
    deleted = collection.delete_many(filter, check_fields=False)
    assert (deleted, ids(list(collection))) == (before - len(kept), sorted(kept)), (state, filter)
    return 1


def change(collection: Any, script: list[Any]) -> None:
    for verb, number, document in script:
        known = sorted(one["_id"] for one in collection)
        if verb == "d" and known:
            collection.delete(known[number % len(known)])
        else:
            collection.upsert_many([{"_id": f"c{number}", **document}])


@contextmanager
def engine_in(folder: Path, **options: Any) -> Iterator[StorageEngine]:
    with StorageEngine(folder, background_save=None, **options) as engine:
        yield engine


def run_states(
    folder: Path,
    made: list[dict[str, Any]],
    script: list[Any],
    filter_list: list[dict[str, Any]],
    indexed: tuple[str, ...],
    part_size: str,
) -> int:
    """Lead a collection through its states, and compare in each of them."""
    cases = 0
    # Padding makes the documents more than a part of the smaller size has.
    padded = [{"_id": f"k{n}", **document, "pad": "x" * 150} for n, document in enumerate(made)]
    with ExitStack() as stack:
        engine = stack.enter_context(engine_in(folder / "data", part_size=part_size))
        collection = engine.create_collection("c")
        collection.insert_many(padded)
        for field in indexed:
            with suppress(godb_arrow.InvalidFilter):  # its values have no order
                collection.create_index(field)
        cases += check(collection, filter_list, ENGINE_VERBS, "unsaved")
        engine.save()
        cases += check(collection, filter_list, ENGINE_VERBS, "saved")
        collection.to_arrow()  # batches are cached from now on
        cases += check(collection, filter_list, READING_VERBS, "cached")
        change(collection, script)
        cases += check(collection, filter_list, ENGINE_VERBS, "changed")
        engine.save()
        cases += check(collection, filter_list, ENGINE_VERBS, "with deleted rows")
        assert bool(collection.versions()) == (part_size == "1KiB")
        for version in collection.versions():
            old = collection.at_version(version.version)
            cases += check(old, filter_list[:2], READING_VERBS, "version")
        with StorageEngine(folder / "data", read_only=True) as reader:
            cases += check(reader["c"], filter_list, ENGINE_VERBS, "read-only")
        with Follower(folder / "data", folder / "follower") as follower:
            follower.step()
            with StorageEngine(folder / "follower", read_only=True) as reader:
                cases += check(reader["c"], filter_list, ENGINE_VERBS, "follower")
            change(collection, [("u", 3, {"a": 1}), ("d", 0, {})])
            follower.step()  # It has the journal of changes that no file has.
            with StorageEngine(folder / "follower", read_only=True) as reader:
                assert ids(list(reader["c"])) == ids(list(collection))
                cases += check(reader["c"], filter_list, ENGINE_VERBS, "follower of changes")
        engine.save()
        shutil.copytree(folder / "data", folder / "copy", ignore=lambda *_: ["godb_arrow.lock"])
        engine.compact("c")
        cases += check(collection, filter_list, ENGINE_VERBS, "compacted")
        file = io.BytesIO()
        godb_arrow.write_godb(list(collection), file, "c")
        for filter in filter_list:
            matching = ids([one for one in collection if filter_model.matches(one, filter)])
            read = godb_arrow.read_table(file.getvalue(), columns=["_id"], filter=filter)
            assert sorted(read.column("_id").to_pylist()) == matching, ("file", filter)
            cases += 1
        cases += check(godb_arrow.open_godb(file.getvalue()), filter_list, READING_VERBS, "handle")
    with engine_in(folder / "copy", part_size=part_size) as engine:
        cases += check(engine["c"], filter_list, ENGINE_VERBS, "reopened")
        for filter in filter_list:
            cases += check_deletes(engine["c"], filter, "reopened")
            engine["c"].upsert_many(padded[:3])
    return cases


# Files of this size have pieces with statistics; documents between those that are random are alike.
def filler(count: int, size: int) -> list[dict[str, Any]]:
    return [{"_id": f"f{n}", "a": n, "c": f"t{n:04}", "pad": "x" * size} for n in range(count)]


indexes = st.sampled_from([(), ("a",), ("a", "c"), ("a.b", "b")])


def run_once(data: Any) -> int:
    made, script = data.draw(rows), data.draw(changes)
    filter_list = [data.draw(filters()) for _ in range(FILTERS_PER_COLLECTION // 2)]
    number = data.draw(st.integers(0, 2**32))
    for case in range(number, number + FILTERS_PER_COLLECTION // 2):
        dense, filter = dense_case(case)
        made = [*made, *dense]
        filter_list.append(filter)
    part_size = data.draw(st.sampled_from(["1KiB", "128MiB"]))
    indexed = data.draw(indexes)
    folder = Path(tempfile.mkdtemp())
    try:
        return run_states(folder, made, script, filter_list, indexed, part_size)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@settings(max_examples=8, **QUICKLY)
@given(st.data())
def test_filters_mean_the_same_in_every_state(data: st.DataObject) -> None:
    assert run_once(data) > 0


@pytest.mark.skipif(not LONG, reason="takes an hour; set GODB_ARROW_LONG=1")
def test_filters_mean_the_same_in_many_cases() -> None:
    done = 0
    for number in itertools.count():

        @seed(number)
        @settings(max_examples=20, database=None, **QUICKLY)
        @given(st.data())
        def run(data: st.DataObject) -> None:
            nonlocal done
            done += run_once(data)

        run()
        if done >= CASES:
            break
    print(f"{done:,} cases")
