"""Runs of indexes: they name every document that matches, whatever the documents hold."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import handmade
from support.settings import LONG, examples

import godb_arrow
from godb_arrow import StorageEngine, codec
from godb_arrow.query.predicate import alternatives, compile_filter
from godb_arrow.snapshots import find, indexes, point
from godb_arrow.snapshots.held import keys_of
from godb_arrow.snapshots.index_run import pack_run, unpack_run

pytestmark = pytest.mark.usefixtures("trusted_records_in_module")

SCALARS = st.sampled_from([
    None, True, False, 0, -0.0, 1, 1.0, 1.5, -5, 2**53, 2**53 + 1, 2.0**53, 2**63, 2**64 - 1,
    -(2**63), float("nan"), float("inf"), -float("inf"), 1e-300, "", "a", "ä", "b", "z" * 64,
    "z" * 64 + "a", "\udcff", b"", b"a", b"\xff", b"z" * 70,
    dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2020, 1, 1, 0, 0, 0, 5, tzinfo=dt.UTC),
    msgpack.Timestamp(-(2**60), 7), msgpack.Timestamp(1_577_836_800, 999_999_999),
])  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "b", "a.b"]), inner, max_size=2),
    ),
    max_leaves=5,
)
DOCUMENTS = st.lists(
    st.dictionaries(st.sampled_from(["v", "v.a", "v.a.b", "w"]), VALUES, max_size=3),
    max_size=8,
)
FIELDS = st.sampled_from(["v", "v.a", "v.a.b", "w"])
LITERALS = SCALARS.filter(lambda value: not isinstance(value, msgpack.Timestamp))
CONDITIONS = st.one_of(
    LITERALS,
    st.lists(LITERALS, max_size=3),
    st.dictionaries(
        st.sampled_from(["$gt", "$gte", "$lt", "$lte", "$eq"]), LITERALS, min_size=1, max_size=2
    ),
    st.builds(lambda values: {"$in": values}, st.lists(LITERALS, max_size=3)),
    st.builds(lambda low, high: {"$elemMatch": {"$gte": low, "$lt": high}}, LITERALS, LITERALS),
)
FILTERS = st.recursive(
    st.dictionaries(FIELDS, CONDITIONS, min_size=1, max_size=2),
    lambda inner: st.one_of(
        st.builds(lambda found: {"$or": found}, st.lists(inner, min_size=1, max_size=2)),
        st.builds(lambda found: {"$and": found}, st.lists(inner, min_size=1, max_size=2)),
    ),
    max_leaves=3,
)


def entries_of(documents: list[dict[str, Any]]) -> codec.Entries:
    packed = b"".join(codec.pack_entry(str(n), one) for n, one in enumerate(documents))
    return codec.scan_entries(packed, 0, len(documents), len(packed) + 1, 0)


@settings(max_examples=examples(200, long=3000))
@given(DOCUMENTS, FIELDS, FILTERS)
def test_no_matching_document_is_missing(
    documents: list[dict[str, Any]], field: str, condition: dict[str, Any]
) -> None:
    entries = entries_of(documents)
    predicate = compile_filter(condition)
    right = codec.select(entries, predicate).tolist()
    built = keys_of(field, [entries])
    stored = unpack_run(pack_run(built), len(documents))
    assert stored is not None
    for ranges in alternatives(predicate):
        if all(one.field == field for one in ranges):
            for run in (built, stored):
                assert set(right) <= set(candidates(run, ranges))


def candidates(keys: Any, ranges: Any) -> list[int]:
    rows = np.frombuffer(keys.rows([(one.low, one.high) for one in ranges]), np.int64)
    assert len(rows) <= keys.count([(one.low, one.high) for one in ranges])
    return list(rows.tolist())


@settings(max_examples=examples(100, long=3000))
@given(st.lists(DOCUMENTS, min_size=1, max_size=3), FIELDS)
def test_a_run_of_several_chunks_is_the_run_of_all(
    chunks: list[list[dict[str, Any]]], field: str
) -> None:
    whole = keys_of(field, [entries_of([one for chunk in chunks for one in chunk])])
    parts = keys_of(field, [entries_of(chunk) for chunk in chunks])
    assert pack_run(whole) == pack_run(parts)


@settings(
    max_examples=examples(30, long=400),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    deadline=None,
)
@given(st.data())
def test_an_engine_finds_the_same_with_indexes_and_without(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    part_size = data.draw(st.sampled_from([1024, 1 << 27]))
    folder = tmp_path_factory.mktemp("engine")
    numbers = iter(range(1_000))
    with StorageEngine(folder, part_size=part_size) as engine:
        collection = engine.create_collection("c")
        for field in data.draw(st.sets(FIELDS, min_size=1)):
            collection.create_index(field)
        for _ in range(data.draw(st.integers(1, 3))):
            for document in data.draw(DOCUMENTS):
                collection.insert({**document, "_id": f"d{next(numbers)}", "pad": "x" * 200})
            ids = [one["_id"] for one in collection.find_all()]
            if ids:
                gone = data.draw(st.sets(st.sampled_from(ids), max_size=3))
                for identity in gone:
                    collection.delete(identity)
                changed = data.draw(st.sampled_from(ids))
                if changed not in gone:
                    collection.update(changed, {"v": data.draw(SCALARS)})
            if data.draw(st.booleans()):
                engine.save()
            if data.draw(st.booleans()):
                engine.compact()
            condition = data.draw(FILTERS)
            check_same(collection, condition)
        engine.save()
        conditions = data.draw(st.lists(FILTERS, min_size=1, max_size=3))
        for condition in conditions:
            check_same(collection, condition)
    with StorageEngine(folder, read_only=True) as engine:
        for condition in conditions:
            check_same(engine["c"], condition)


def check_same(collection: Any, condition: dict[str, Any]) -> None:
    """Compare a search by indexes with a search of all documents."""
    predicate = compile_filter(condition)
    found = [one["_id"] for one in collection.find(condition)]
    _, runs = collection._entries()
    entries = [entries for entries in runs if len(entries)]
    right = [run.id(row) for run in entries for row in codec.select(run, predicate).tolist()]
    assert sorted(found) == sorted(right)
    assert collection.count(condition) == len(right)


BREAKS = {"no numbers": 0, "no strings": 2, "no NaN": 6, "no nulls": 7}


def without_kind(keys: Any, kind: int) -> Any:
    """Return sorted keys without those of one kind."""
    numbers, texts, rows = keys.arrays()
    if kind == 0:
        numbers[0] = b""
    if kind == 2:
        texts[0] = (bytes(4), b"")
    rows[kind] = b""
    return codec.SortedKeys.of(
        keys.documents,
        keys.has_lists,
        [np.frombuffer(found, np.uint64) for found in numbers],
        [(np.frombuffer(e, np.uint32), np.frombuffer(t, np.uint8)) for e, t in texts],
        [np.frombuffer(found, np.uint32) for found in rows],
    )


@pytest.mark.parametrize("case", BREAKS)
def test_a_broken_index_is_noticed(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [1, "x", None, float("nan"), [1, "x"], 2.5]
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.create_index("v")
        collection.insert_many([{"v": value} for value in values])
        engine.save()
        for value in (1, "x", None, float("nan")):
            check_same(collection, {"v": value})
        whole = find.sorted_keys

        def broken(file: Any, field: str) -> Any:
            return without_kind(whole(file, field), BREAKS[case])

        monkeypatch.setattr(find, "sorted_keys", broken)
        monkeypatch.setattr(point, "cached_keys", broken)
        with pytest.raises(AssertionError):
            for value in (1, "x", None, float("nan")):
                check_same(collection, {"v": value})


def packed_run() -> bytes:
    documents = [{"v": value} for value in (1, 2, "a", "b", b"x", None, True, 1.5)]
    return pack_run(keys_of("v", [entries_of(documents)]))


def test_a_forged_run_is_not_used() -> None:
    whole = packed_run()
    assert unpack_run(whole, 8) is not None
    assert unpack_run(whole, 7) is None
    assert unpack_run(whole, 9) is None
    for size in range(len(whole)):
        assert unpack_run(whole[:size], 8) is None
    head = msgpack.unpackb(whole[16 : 16 + whole[8]])
    for number in (-1, 2**64 - 1, True, None, [-1, 0], [0, -1]):
        for name in head:
            packed = msgpack.packb({**head, name: number})
            forged = whole[:8] + len(packed).to_bytes(8, "little") + packed + whole[16 + whole[8] :]
            assert unpack_run(forged, 8) is None or name == "lists"
    rng = np.random.default_rng(5)
    for _ in range(3000):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 2).tolist():
            damaged[at] = int(rng.integers(0, 256))
        run = unpack_run(bytes(damaged), 8)
        if run is not None:  # it names rows of the file, and nothing raises
            for literal in (None, True, 1, "a", b"a"):
                (ranges,) = alternatives(compile_filter({"v": literal}))
                assert set(candidates(run, ranges)) <= set(range(8))


def test_lists_and_mixed_fields_have_indexes(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"tags": ["a", "b"], "v": 1}, {"tags": ["b"], "v": "x"}, {"w": 1}])
        for field in ("tags", "v"):
            collection.create_index(field)
        engine.save()
        for condition, ids in (
            ({"tags": "b"}, ["1", "2"]), ({"tags": ["a", "c"]}, ["1"]), ({"v": "x"}, ["2"]),
            ({"v": 1.0}, ["1"]), ({"v": None}, ["3"]), ({"v": {"$gte": 1}, "tags": "b"}, ["1"]),
        ):  # fmt: skip
            explained = collection.explain(condition)
            assert explained.index in ("tags", "v", "v, tags")
            assert explained.candidates == len(ids)
            assert [one["_id"] for one in collection.find(condition)] == ids
        collection.insert({"tags": ["b"]})
        assert collection.explain({"tags": "a"}).candidates == 2, "the unsaved document is one"
        assert collection.count({"tags": "b"}) == 3


def test_a_condition_on_an_element_knows_lists_in_lists(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.create_index("v.w")
        values: list[Any] = [[[3]], [["x", 3], 1], [3], [[[3]]], 3, [[]]]
        collection.insert_many([{"v": {"w": value}} for value in values])
        engine.save()
        for condition in ({"$elemMatch": {"$gte": 2}}, {"$elemMatch": {"$eq": 3}}, 3, [3, "x"]):
            check_same(collection, {"v.w": condition})
        assert collection.count({"v.w": {"$elemMatch": {"$gte": 2}}}) == 3


def test_documents_are_read_in_order_where_most_of_them_are_candidates(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.create_index("n")
        collection.insert_many([{"n": n} for n in range(20_000)])
        engine.save()
        assert collection.explain({"n": {"$gte": 10_000}}).index is None
        assert collection.explain({"n": {"$gte": 10_000, "$lt": 10_010}}).candidates == 11
        assert collection.count({"n": {"$gte": 10_000, "$lt": 10_010}}) == 10


def rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"n": n, "v": n if n % 3 else f"text {n}", "tags": [n % 7, "x"], "pad": str(n) * 20}
        for n in range(first, first + count)
    ]


QUERIES: list[dict[str, Any]] = [
    {"n": 5_000}, {"v": "text 3000"}, {"n": {"$gte": 10, "$lt": 20}}, {"v": {"$in": [4, "text 9"]}},
]  # fmt: skip


@pytest.mark.parametrize("part_size", [1_600_000, 1 << 27])
@pytest.mark.parametrize("compression", ["lz4", "zstd", "none"] if LONG else ["lz4"])
def test_runs_are_stored_with_each_file(
    part_size: int, compression: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StorageEngine(tmp_path, part_size=part_size, compression=compression) as engine:
        collection = engine.create_collection("c")
        for field in ("n", "v"):
            collection.create_index(field)
        collection.insert_many(rows(20_000))
        engine.save()
        collection.delete_many({"n": [7, 15, 9_999]})
        collection.insert_many(rows(20_000, 20_000))
        engine.save()
        engine.compact()
        wanted = [sorted(one["n"] for one in collection.find(query)) for query in QUERIES]
    files = [*tmp_path.rglob("*.godb")]
    assert all(godb_arrow.verify_godb(path).ok for path in files)
    if compression == "lz4":
        assert all(handmade.go_read(path.read_bytes())["collections"] for path in files)
    monkeypatch.setattr(indexes, "keys_of", None)  # nothing is built
    with StorageEngine(tmp_path, read_only=True) as engine:
        for query, right in zip(QUERIES, wanted, strict=True):
            explained = engine["c"].explain(query)
            assert explained.index is not None
            assert explained.candidates < 30
            assert sorted(one["n"] for one in engine["c"].find(query)) == right


def test_a_damaged_run_is_built_again(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, compression="none") as engine:
        collection = engine.create_collection("c")
        collection.create_index("n")
        collection.insert_many(rows(20_000))
        engine.save()
    (path,) = tmp_path.rglob("*.godb")
    data = bytearray(path.read_bytes())
    at = data.index(b"GODX")
    data[at + 100] ^= 1
    path.write_bytes(data)
    assert not godb_arrow.verify_godb(path).ok
    with StorageEngine(tmp_path, read_only=True) as engine:
        assert engine["c"].explain({"n": 5}).candidates == 1
        assert [one["n"] for one in engine["c"].find({"n": 5})] == [5]
