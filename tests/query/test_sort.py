"""Sorting, pages in an order, distinct values, samples and shapes of documents."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import random
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.settings import LONG, examples

import godb_arrow
from godb_arrow import StorageEngine
from godb_arrow.query.sort_order import parse_sort
from godb_arrow.snapshots import sorting

UTC = dt.UTC
PHASES = set(Phase) - (set() if LONG else {Phase.shrink, Phase.explain})
ABSENT = object()

NUMBERS = [0, 1, -1, 1.5, -0.0, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63, 2**64 - 1,
           -(2**63), float(2**53), float(2**63), float(2**64), 1e300, -1e300, math.inf, -math.inf,
           math.nan]  # fmt: skip
SCALARS = [*NUMBERS, None, ABSENT, True, False, "", "a", "b", "é", "x" * 70, "x" * 70 + "y",
           b"", b"\xff", dt.datetime(2024, 1, 1, tzinfo=UTC),
           dt.datetime(1900, 1, 1, 0, 0, 0, 5, tzinfo=UTC), msgpack.Timestamp(5, 7),
           msgpack.ExtType(7, b"x"), {"b": 1}, {}]  # fmt: skip
VALUES = st.recursive(
    st.sampled_from(SCALARS),
    lambda inner: st.lists(inner.filter(lambda v: v is not ABSENT), max_size=3),
    max_leaves=4,
)


def place(value: Any) -> tuple[Any, ...]:
    """Return the place of a scalar in the order of all values."""
    if value is ABSENT or value is None:
        return (2,)
    if isinstance(value, bool):
        return (9, value)
    if isinstance(value, (int, float)):
        return (3,) if math.isnan(value) else (4, value)
    if isinstance(value, str):
        return (5, value.encode())
    if isinstance(value, dict):
        return (6,)
    if isinstance(value, bytes):
        return (8, value)
    if isinstance(value, dt.datetime):
        delta = value - dt.datetime(1970, 1, 1, tzinfo=UTC)
        return (10, delta // dt.timedelta(microseconds=1) * 1000)
    if isinstance(value, msgpack.Timestamp):
        return (10, value.seconds * 10**9 + value.nanoseconds)
    return (11,)


def flat(value: Any) -> list[Any]:
    """Return the values of a list that count: elements, and elements of lists in it."""
    if not isinstance(value, list):
        return [value]
    found = []
    for element in value:
        inner = element if isinstance(element, list) else [element]
        found += [one for one in inner if not isinstance(one, list)]
    return found


def expected(documents: list[dict[str, Any]], sort: Any) -> list[str]:
    """Return the ids of documents in an order, by Python's own sort."""
    ordered = sorted(documents, key=lambda one: one["_id"])
    for key in reversed(parse_sort(sort)):

        def of(document: dict[str, Any], key: Any = key) -> tuple[Any, ...]:
            value = document.get(key.field, ABSENT)
            inner = [place(one) for one in flat(value)]
            found = (max if key.descending else min)(inner, default=(1,))
            if key.nulls_first is key.descending and found == (2,):
                return (255,)
            return found

        ordered.sort(key=of, reverse=key.descending)
    return [one["_id"] for one in ordered]


SORTS = ["v", "-v", {"v": 1, "w": -1}, ["w", "-v"], [("v", 1, "last")], [("v", -1, "first")],
         [("w", "descending"), ("v", "ascending", "last")]]  # fmt: skip


def stored(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in one.items() if v is not ABSENT} for one in documents]


@settings(max_examples=examples(25, long=1000), deadline=None, phases=PHASES)
@given(st.lists(st.tuples(VALUES, VALUES), max_size=25), st.sampled_from(SORTS), st.data())
def test_documents_sort_as_their_values(rows: list[Any], sort: Any, data: Any) -> None:
    import tempfile

    documents = stored([{"_id": str(n), "v": v, "w": w} for n, (v, w) in enumerate(rows)])
    wanted = expected(documents, sort)
    limit = data.draw(st.integers(1, 6))
    with tempfile.TemporaryDirectory() as folder, StorageEngine(folder) as engine:
        collection = engine.create_collection("c")
        if data.draw(st.booleans()):
            collection.to_folder()
        half = data.draw(st.integers(0, len(documents)))
        collection.insert_many(documents[:half])
        engine.save()
        collection.insert_many(documents[half:])
        if data.draw(st.booleans()):
            engine.save()
        if data.draw(st.booleans()):
            collection.create_index("v")
            collection.create_index("w")
        assert [one["_id"] for one in collection.find(sort=sort)] == wanted
        assert [one["_id"] for one in collection.find(sort=sort, limit=limit)] == wanted[:limit]
        skipped = collection.find(sort=sort, limit=limit, offset=3)
        assert [one["_id"] for one in skipped] == wanted[3 : 3 + limit]
        assert pages_of(collection, sort, limit) == wanted


def pages_of(collection: godb_arrow.Collection, sort: Any, limit: int) -> list[str]:
    found: list[str] = []
    cursor = None
    while True:
        page = collection.find_page(sort=sort, limit=limit, cursor=cursor)
        assert len(page.documents) <= limit
        found += [one["_id"] for one in page.documents]
        if page.cursor is None:
            return found
        cursor = page.cursor


@pytest.mark.parametrize(
    ("sort", "files"), [("n", 16), ("-n", 2), (["t", "-n"], 3), ({"t": -1}, 16)]
)
def test_more_documents_than_memory_are_merged_from_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sort: Any, files: int
) -> None:
    monkeypatch.setattr(sorting, "_MIN_SORTED_BYTES", 20_000)
    monkeypatch.setattr(sorting, "_MAX_SHARE", 64)
    monkeypatch.setattr(sorting, "_MAX_BATCH_BYTES", 4_000)
    monkeypatch.setattr(sorting, "_FILES_AT_ONCE", files)
    written: list[int] = []
    merged: list[int] = []
    merge = sorting._Sorter._merged

    def counted(self: Any, open_files: Any) -> Any:
        merged.append(len(open_files))
        return merge(self, open_files)

    monkeypatch.setattr(sorting._Sorter, "_merged", counted)
    write = sorting._Sorter._write
    monkeypatch.setattr(sorting._Sorter, "_write",
                        lambda self: (written.append(1), write(self))[1])  # fmt: skip
    documents = [{"_id": f"{n:04d}", "n": n * 7919 % 1000, "t": f"t{n % 7}"} for n in range(3000)]
    with StorageEngine(tmp_path, max_memory="1MiB", part_size="20KiB") as engine:
        collection = engine.create_collection("c")
        for start in range(0, 3000, 200):
            collection.insert_many(documents[start : start + 200])
        engine.save()
        found = [one["_id"] for one in collection.find_all_stream(sort=sort)]
        assert found == expected(documents, sort)
        assert len(written) > 2
        first = [one["_id"] for one in collection.find(sort=sort, limit=2500)]
        assert first == found[:2500]
        assert collection.find({"n": {"$lt": 3}}, sort=sort, limit=1)[0]["n"] < 3
        assert engine._components.memory.streams == 0
        assert files == 16 or max(merged) <= 2 * files + 2, "few files of each level"
        assert files == 16 or len(merged) > 2
        written.clear()
        few = collection.find(sort=sort, limit=10)
        assert [one["_id"] for one in few] == found[:10]
        assert not written, "a few documents need no file"


def test_an_index_names_the_first_documents(tmp_path: Path) -> None:
    documents = [{"_id": f"{n:05d}", "n": n * 7919 % 10_007 % 5000} for n in range(10_000)]
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many(documents)
        collection.create_index("n")
        engine.save()
        deleted = {one["_id"] for one in documents if one["n"] < 3}
        collection.delete_many({"n": {"$lt": 3}})
        collection.insert_many([{"_id": "new", "n": 3}])
        left = [one for one in documents if one["_id"] not in deleted] + [{"_id": "new", "n": 3}]
        read: list[int] = []
        take = sorting._named
        original = sorting._Sorter.table_of

        def counted(self: Any, match: Any) -> Any:
            read.append(len(match[1]))
            return original(self, match)

        sorting._Sorter.table_of = counted  # type: ignore[method-assign]
        try:
            for sort in ("n", "-n"):
                read.clear()
                found = [one["_id"] for one in collection.find(sort=sort, limit=10)]
                assert found == expected(left, sort)[:10]
                assert sum(read) < 30
        finally:
            sorting._Sorter.table_of = original  # type: ignore[method-assign]
        assert take is sorting._named


def test_pages_in_an_order_neither_repeat_nor_skip_while_documents_change(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"_id": f"{n:03d}", "n": n // 3} for n in range(90)])
        page = collection.find_page(sort="-n", limit=10)
        seen = [one["_id"] for one in page.documents]
        while page.cursor is not None:
            collection.insert({"n": 99})
            collection.delete(seen[-1])
            page = collection.find_page(sort="-n", limit=10, cursor=page.cursor)
            seen += [one["_id"] for one in page.documents]
        assert len(seen) == len(set(seen)) == 90
        cursor = collection.find_page(sort="n", limit=10).cursor
        for wrong in (None, "-n", ["n", "m"]):
            with pytest.raises(godb_arrow.InvalidCursor):
                collection.find_page(sort=wrong, limit=10, cursor=cursor)
        plain = collection.find_page(limit=10).cursor
        for wrong in (plain, "x", "Ag", "ApI", cursor + "AA" if cursor else ""):
            with pytest.raises(godb_arrow.InvalidCursor):
                collection.find_page(sort="n", cursor=wrong)


@pytest.mark.parametrize(
    "sort",
    [
        "",
        [],
        {},
        5,
        b"n",
        [("n",)],
        [("n", 2)],
        [("n", True)],
        [("n", 1, "middle")],
        [1],
        ["n", "n"],
        {"n": "up"},
        [("n", [1])],
        [("n", 1, ["last"])],
    ],
)
def test_an_order_that_makes_no_sense_is_refused(tmp_path: Path, sort: Any) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        with pytest.raises(godb_arrow.InvalidOption):
            collection.find(sort=sort)


def test_find_one_and_get_with_a_default(tmp_path: Path) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        assert users.find_one() is None
        users.insert_many([{"n": 2}, {"n": 1}])
        assert users.find_one({"n": 1}) == {"_id": "2", "n": 1}
        assert users.find_one(sort="n", columns=["n"]) == {"n": 1}
        assert users.get("9", None) is None
        assert engine.get("users", "9", {"n": 0}) == {"n": 0}
        assert users.get("1", None) == {"_id": "1", "n": 2}
        with pytest.raises(godb_arrow.DocumentNotFound):
            users.get("9")


def test_distinct_values_are_equal_only_once(tmp_path: Path) -> None:
    values = [1, 1.0, True, None, "a", ["a", "b", 2], [], [[3], 4], {"k": 1.0}, {"k": 1}, math.nan,
              -math.nan, b"a", 2**64 - 1, dt.datetime(2024, 1, 1, tzinfo=UTC),
              msgpack.Timestamp(1, 1), msgpack.ExtType(7, b"x")]  # fmt: skip
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"v": value} for value in values] + [{"w": {"x": [{"y": 5}, 6]}}])
        found = collection.distinct("v")
        kinds = [(type(value).__name__, str(value)) for value in found]
        assert kinds == [
            ("NoneType", "None"), ("float", "nan"), ("int", "1"), ("int", "2"), ("int", "4"),
            ("int", "18446744073709551615"), ("str", "a"), ("str", "b"), ("bytes", "b'a'"),
            ("bool", "True"), ("Timestamp", str(msgpack.Timestamp(1, 1))),
            ("datetime", "2024-01-01 00:00:00+00:00"), *kinds[12:],
        ]  # fmt: skip
        assert kinds[12:] == [("dict", "{'k': 1.0}"), ("list", "[3]"),
                              ("ExtType", str(msgpack.ExtType(7, b"x")))]  # fmt: skip
        assert collection.distinct("w.x.y") == [5]
        assert collection.distinct("v", {"v": "a"}) == [2, "a", "b"]
        assert collection.distinct("_id") == sorted(one["_id"] for one in collection)
        assert collection.distinct("z") == []
        with pytest.raises(godb_arrow.InvalidOption):
            collection.distinct("")


def test_a_sample_has_each_document_at_most_once(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, part_size="4KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": n} for n in range(500)])
        engine.save()
        collection.insert_many([{"n": n} for n in range(500, 700)])
        collection.delete_many({"n": {"$lt": 100}})
        counts = dict.fromkeys(range(700), 0)
        for seed in range(100):
            chosen = [one["n"] for one in collection.sample(60, seed=seed)]
            assert len(set(chosen)) == 60
            for number in chosen:
                counts[number] += 1
        assert not any(counts[n] for n in range(100))
        assert all(0 < counts[n] < 30 for n in range(100, 700))
        assert collection.sample(5, seed=1) == collection.sample(5, seed=1)
        assert len(collection.sample(10_000)) == 600
        assert collection.sample(0) == []
        with pytest.raises(godb_arrow.InvalidOption):
            collection.sample(-1)


DOCUMENT = {"_id": "1", "a": 1, "b": {"c": 2, "d": 3}, "e": [{"f": 4, "g": 5}, 6, {"f": 7}]}
SHAPES: list[tuple[Any, Any]] = [
    ({"a": 0}, {"_id": "1", "b": DOCUMENT["b"], "e": DOCUMENT["e"]}),
    ({"b.c": 0, "_id": 0}, {"a": 1, "b": {"d": 3}, "e": DOCUMENT["e"]}),
    ({"e.f": 0, "b": False}, {"_id": "1", "a": 1, "e": [{"g": 5}, 6, {}]}),
    ({"a": 1}, {"_id": "1", "a": 1}),
    ({"a": True, "_id": 0}, {"a": 1}),
    ({"b.c": 1}, {"_id": "1", "b": {"c": 2}}),
    ({"e.f": 1, "_id": 0}, {"e": [{"f": 4}, {"f": 7}]}),
    ({"a.x": 1}, {"_id": "1"}),
    ({"_id": 0}, {"a": 1, "b": DOCUMENT["b"], "e": DOCUMENT["e"]}),
    ({"_id": 1}, {"_id": "1"}),
    ({}, DOCUMENT),
    ({"z": 0}, DOCUMENT),
    (["b.c"], {"b.c": 2}),
]


@pytest.mark.parametrize(("columns", "shaped"), SHAPES, ids=lambda one: str(one)[:30])
def test_columns_keep_and_drop_fields(tmp_path: Path, columns: Any, shaped: Any) -> None:
    with StorageEngine(tmp_path) as engine:
        collection = engine.create_collection("c")
        collection.insert(DOCUMENT)
        assert collection.find(columns=columns) == [shaped]
        collection.create_index("a")
        engine.save()
        assert collection.find({"a": 1}, columns=columns) == [shaped]
        assert list(collection.find_all_stream(columns=columns)) == [shaped]


@pytest.mark.parametrize(
    "columns",
    [
        {"a": 1, "b": 0},
        {"a": 2},
        {"a": "x"},
        {1: 1},
        {"": 1},
        {"a": 1, "a.b": 1},
        {"a.b": 0, "a": 0},
        "a",
    ],
)
def test_columns_that_make_no_sense_are_refused(tmp_path: Path, columns: Any) -> None:
    with StorageEngine(tmp_path) as engine, pytest.raises(godb_arrow.InvalidOption):
        engine.create_collection("c").find(columns=columns)


def test_versions_are_sorted_too(tmp_path: Path) -> None:
    with StorageEngine(tmp_path, part_size="1KiB") as engine:
        collection = engine.create_collection("c")
        collection.insert_many([{"n": n} for n in range(300)])
        engine.save()
        version = collection.at_version(collection.versions()[-1].version)
        collection.delete_many(None)
        assert [one["n"] for one in version.find(sort="-n", limit=2)] == [299, 298]
        assert version.distinct("n", {"n": {"$lt": 2}}) == [0, 1]
        assert len(version.sample(7)) == 7
        assert [one["n"] for one in itertools.islice(version.find_all_stream(sort="n"), 2)] == [
            0,
            1,
        ]


def pages(collection: godb_arrow.Collection, sort: Any, limit: int) -> list[list[str]]:
    """Return the ids of all pages."""
    found, cursor = [], None
    while True:
        page = collection.find_page(limit=limit, sort=sort, cursor=cursor)
        found.append([document["_id"] for document in page.documents])
        cursor = page.cursor
        if cursor is None:
            return found


_PAGED = [
    None, True, False, 0, 1, 1.0, 1.5, -1, 2**53, 2**53 + 1, 2.0**53, 2**63, float("nan"), "", "a",
    "ab", "b" * 300, b"", b"a", dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    dt.datetime(2020, 1, 1, 0, 0, 0, 5, tzinfo=dt.UTC),
]  # fmt: skip


@pytest.mark.parametrize("part_size", ["1GiB", "8KiB"])
@pytest.mark.parametrize("seed", range(20 if LONG else 1))
def test_pages_of_an_index_are_those_of_all_documents(
    tmp_path: Path, seed: int, part_size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("godb_arrow.snapshots.index_order._MIN_ROWS", 20)
    monkeypatch.setattr("godb_arrow.snapshots.index_order._MAX_ROWS_SHARE", 1)
    source = random.Random(seed)
    with StorageEngine(tmp_path, part_size=part_size) as engine:
        users = engine.create_collection("users")
        rows = [{"v": source.choice(_PAGED), "w": "x" * 40} for _ in range(80)]
        rows += [{"w": 1}] * 3 + [{"v": number} for number in source.sample(range(90), 20)]
        users.insert_many(rows)
        engine.save()
        users.delete_many({"_id": {"$in": [str(source.randrange(100)) for _ in range(15)]}})
        users.insert_many({"v": source.choice(_PAGED)} for _ in range(9))
        users.update_many({"_id": {"$in": ["3", "9", "100"]}}, {"$set": {"v": 7}})
        orders: list[Any] = ["v", "-v", [("v", 1, "first")], [("v", -1, "last")]]
        wanted = [
            pages(users, sort, limit) for sort in orders for limit in ([7, 30] if LONG else [9])
        ]
        users.create_index("v")
        assert [
            pages(users, sort, limit) for sort in orders for limit in ([7, 30] if LONG else [9])
        ] == wanted


def test_a_later_page_of_an_index_reads_few_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with StorageEngine(tmp_path) as engine:
        users = engine.create_collection("users")
        users.insert_many({"v": number * 7 % 20_011} for number in range(20_000))
        users.create_index("v")
        engine.save()
        first = users.find_page(limit=50, sort="v")
        monkeypatch.setattr("godb_arrow.snapshots.sorting.matching", None)
        last = users.find_page(limit=50, sort="v", cursor=first.cursor)
        assert [document["v"] for document in last.documents] == list(range(50, 100))


@pytest.mark.parametrize("part_size", ["1GiB", "8KiB"])
def test_pages_without_room_for_all_ids_are_the_same(
    tmp_path: Path, part_size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = random.Random(4)
    with StorageEngine(tmp_path, part_size=part_size) as engine:
        users = engine.create_collection("users")
        ids = [f"{source.choice('aé€😀Z')}{source.randrange(10_000)}" for _ in range(600)]
        users.insert_many({"_id": one, "n": at % 3} for at, one in enumerate(dict.fromkeys(ids)))
        engine.save()
        users.delete_many({"_id": {"$in": ids[:40]}})
        users.insert_many({"_id": f"new{number}", "n": 1} for number in range(30))

        def all_pages(filter: Any) -> list[list[str]]:
            found, cursor = [], None
            while True:
                page = users.find_page(filter, limit=37, cursor=cursor)
                found.append([document["_id"] for document in page.documents])
                cursor = page.cursor
                if cursor is None:
                    return found

        wanted = all_pages(None)
        assert [*itertools.chain(*wanted)] == sorted(document["_id"] for document in users.find())
        monkeypatch.setattr("godb_arrow.snapshots.pages._may_order_ids", lambda base: False)
        assert all_pages(None) == wanted
        some = [*itertools.chain(*all_pages({"n": 1}))]
        assert some == sorted(document["_id"] for document in users.find({"n": 1}))
