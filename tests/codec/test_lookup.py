"""Sorted keys, documents by id, and filters in one step: both codecs, and beside a full search."""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.settings import examples

from godb_arrow import codec
from godb_arrow.codec.field_values import parts_of
from godb_arrow.codec.reference import lookup as reference
from godb_arrow.documents.ids import ids_of
from godb_arrow.documents.loading import load_run
from godb_arrow.query.predicate import compile_filter
from godb_arrow.snapshots.id_index import IdIndex

native = pytest.importorskip("godb_arrow.codec.native.lookup")
CODECS = [reference, native]

SCALARS = st.sampled_from([
    None, True, False, 0, -0.0, 1, 1.0, 1.5, -5, 127, 128, 2**31, 2**53, 2**53 + 1, 2.0**53,
    2**63, 2**64 - 1, -(2**63), float("nan"), float("inf"), -float("inf"), 1e-300, "", "a", "ä",
    "b", "z" * 31, "z" * 32, "z" * 64, "z" * 64 + "a", "\udcff", b"", b"a", b"\xff", b"z" * 70,
    dt.datetime(2020, 1, 1, tzinfo=dt.UTC), msgpack.Timestamp(-(2**60), 7),
])  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from(["a", "b", "a.b"]), inner, max_size=2),
    ),
    max_leaves=4,
)
DOCUMENTS = st.lists(
    st.dictionaries(st.sampled_from(["v", "v.a", "w", "_id"]), VALUES, max_size=3), max_size=12
)
PATHS = st.sampled_from(["v", "v.a", "v.a.b", "w", "x"])
LITERALS = SCALARS.filter(lambda value: not isinstance(value, msgpack.Timestamp))
OPERATORS = st.dictionaries(
    st.sampled_from(["$gt", "$gte", "$lt", "$lte", "$eq"]), LITERALS, min_size=1, max_size=3
)
FILTERS = st.dictionaries(
    PATHS,
    st.one_of(
        LITERALS,
        st.lists(LITERALS, max_size=11),
        OPERATORS,
        st.builds(lambda values: {"$in": values}, st.lists(LITERALS, max_size=3)),
    ),
    min_size=1,
    max_size=3,
)


def entries_of(documents: list[dict[str, Any]]) -> codec.Entries:
    packed = b"".join(codec.pack_entry(str(n), one) for n, one in enumerate(documents))
    return codec.scan_entries(packed, 0, len(documents), len(packed) + 1, 0)


def keys_of(module: Any, field: str, chunks: list[codec.Entries]) -> Any:
    builder = module.KeysBuilder(parts_of(field))
    for entries in chunks:
        builder.add(entries)
    return builder.keys()


@settings(max_examples=examples(200, long=3000))
@given(DOCUMENTS, PATHS, st.lists(st.tuples(SCALARS, SCALARS), max_size=3))
def test_both_codecs_have_the_same_keys(
    documents: list[dict[str, Any]], field: str, ranges: list[Any]
) -> None:
    entries = entries_of(documents)
    pure, kernel = (keys_of(module, field, [entries]) for module in CODECS)
    assert pure.arrays() == kernel.arrays()
    assert (pure.documents, pure.has_lists, pure.others) == (
        kernel.documents,
        kernel.has_lists,
        kernel.others,
    )
    alike = [(low, high) for low, high in ranges if type(low) is type(high)]
    alike += [(low, None) for low, _ in ranges if isinstance(low, (int, float, str, bytes))]
    for one in alike:
        assert pure.rows([one]) == kernel.rows([one]), one
        assert pure.count([one]) == kernel.count([one]), one


@settings(max_examples=examples(150, long=2000))
@given(st.lists(DOCUMENTS, min_size=1, max_size=3), PATHS, st.randoms(use_true_random=False))
def test_merged_keys_are_those_of_all_documents(
    files: list[list[dict[str, Any]]], field: str, chance: Any
) -> None:
    kept_documents: list[dict[str, Any]] = []
    places = []
    for documents in files:
        place = np.full(len(documents), -1, np.int64)
        for row, document in enumerate(documents):
            if chance.random() < 0.7:
                place[row] = len(kept_documents)
                kept_documents.append(document)
        places.append(place)
    for module in CODECS:
        keys = [keys_of(module, field, [entries_of(documents)]) for documents in files]
        merged = module.SortedKeys.merge(keys, places, len(kept_documents))
        whole = keys_of(module, field, [entries_of(kept_documents)])
        assert merged.arrays() == whole.arrays()
        assert merged.has_lists >= whole.has_lists


@settings(max_examples=examples(300, long=6000))
@given(DOCUMENTS, FILTERS, st.integers(-1, 4))
def test_a_filter_in_one_step_is_the_compiled_one(
    documents: list[dict[str, Any]], filter: dict[str, Any], limit: int
) -> None:
    query = native.plain_filter(filter)
    if query is None:
        return
    entries = entries_of(documents)
    right = codec.select(entries, compile_filter(filter)).tolist()
    wanted = right if limit < 0 else right[:limit]
    raw = b"".join(
        bytes(entries.data[entries.bounds[2 * row] : entries.bounds[2 * row + 2]]) for row in wanted
    )
    located = native.Located([entries.between(0, 3), entries.between(3, len(entries))]
                             if len(entries) > 3 else [entries])  # fmt: skip
    nothing = (None,) * len(query.paths)
    keys = tuple(keys_of(native, path, [entries]) for path in query.paths)
    for known in (nothing, keys, (*nothing[1:], keys[-1])):
        assert query.search(located, known, (), (), 0, 100, limit) == (len(wanted), raw)
        assert query.search(located, known, (), (), 0, 100, limit, True)[0] == len(wanted)
    # Superseded rows, and ids that are newer elsewhere, do not count.
    gone = native.RowSet(np.array(right[:1], np.int64) + 7)
    assert query.search(located, keys, (gone,), (), 7, 100, -1)[0] == len(right[1:])
    newer = ({str(row) for row in right[1:]},)
    assert query.search(located, keys, (), newer, 0, 100, -1)[0] == len(right[:1])


def test_plain_filters_are_recognized() -> None:
    for filter in ({"a": 1}, {"a": [1, "x"]}, {"a.b": {"$gte": 1, "$lt": 2}, "c": True}):
        assert native.plain_filter(filter) is not None, filter
    for filter in (
        {}, {"_id": "1"}, {"$or": []}, {"a": {"$regex": "x"}}, {"a": float("nan")}, {"a": {}},
        {"a": []}, {"a": {"$gt": None}}, {"a": {"b": 1}}, {"a": 2**64}, {"a": "ä"}, {1: 2}, None,
    ):  # fmt: skip
        assert native.plain_filter(filter) is None, filter
    assert reference.plain_filter({"a": 1}) is None


def test_the_first_rows_of_many_are_found_without_sorting_them() -> None:
    chance = np.random.default_rng(3)
    numbers = chance.permutation(20_000).tolist()
    entries = entries_of([{"v": n, "even": n % 2 == 0} for n in numbers])
    located = native.Located([entries])
    keys = keys_of(native, "v", [entries])
    flags = keys_of(native, "even", [entries])
    for low, limit in ((0, 10), (5_000, 1), (3, 5_000), (17_000, 20_000), (19_999, 3)):
        query = native.plain_filter({"v": {"$gte": low}})
        number, raw = query.search(located, (keys,), (), (), 0, 30_000, limit)
        right = [row for row, n in enumerate(numbers) if n >= low][:limit]
        found = codec.scan_entries(raw, 0, number, len(raw) + 1, 0)
        assert list(map(int, found.ids())) == right
    query = native.plain_filter({"even": True})
    number, raw = query.search(located, (flags,), (), (), 0, 30_000, 5)
    found = codec.scan_entries(raw, 0, number, len(raw) + 1, 0)
    assert list(map(int, found.ids())) == [r for r, n in enumerate(numbers) if n % 2 == 0][:5]
    assert query.search(located, (flags,), (), (), 0, 3_000, -1) is None, "too many to be tested"


@settings(max_examples=examples(50, long=300))
@given(st.lists(st.text(max_size=20), max_size=40), st.lists(st.text(max_size=20), max_size=5))
def test_documents_are_found_by_id(ids: list[str], others: list[str]) -> None:
    ids = [one.encode("utf-8", "replace").decode() for one in ids]
    others = [one.encode("utf-8", "replace").decode() for one in others]
    packed = b"".join(codec.pack_entry(key, {"n": n}) for n, key in enumerate(ids))
    entries = codec.scan_entries(packed, 0, len(ids), len(packed) + 1, 0)
    index = IdIndex.build([ids_of(entries)])
    for rows in (index.rows, index.rows.astype(np.uint32)):
        for module in CODECS:
            located = module.Located([entries])
            search = module.IdSearch(index.hashes, rows)
            for key in {*ids, *others, "nobody"}:
                right = [n for n, one in enumerate(ids) if one == key]
                found = search.find(located, key)
                assert (found is None) == (not right)
                assert search.may_have(key) or not right
                if right:
                    assert codec.load(found) == {"n": right[-1]}
                deleted = set(right[-1:]).__contains__
                earlier = search.find(located, key, deleted)
                assert (None if earlier is None else codec.load(earlier)["n"]) == (
                    right[-2] if len(right) > 1 else None
                )


@settings(max_examples=examples(100, long=1000))
@given(DOCUMENTS)
def test_found_entries_become_the_dicts_of_a_run(documents: list[dict[str, Any]]) -> None:
    entries = entries_of(documents)
    raw = bytes(entries.raw())
    found = native.load_found(raw, len(entries))
    assert repr(found) == repr([*load_run(entries)])
    assert reference.load_found(raw, len(entries)) is None
    if documents:
        assert native.load_found(raw[:-1], len(entries)) is None
        assert native.load_found(raw, len(entries) + 1) is None
        assert native.load_found(raw + b"\x01", len(entries)) is None
        assert native.load_found(raw, len(entries) - 1) in (None, [])


@pytest.mark.parametrize("size", [1, 3_000, 100_000])
@pytest.mark.parametrize("count", [31, 32, 33, 64, 100])
def test_many_found_entries_become_dicts_in_one_call(count: int, size: int) -> None:
    entries = entries_of([{"n": n, "text": "x" * size} for n in range(count)])
    raw = bytes(entries.raw())
    assert native.load_found(raw, count) == [*load_run(entries)]
    odd = codec.pack("b") + b"\x81\xa1x\xd4\xff\x00"
    assert native.load_found(raw + odd, count + 1) is None


def test_what_the_reference_must_decode_is_left_to_it() -> None:
    odd = codec.pack_entry("a", {}) + codec.pack("b") + b"\x81\xa1x\xd4\xff\x00"
    assert native.load_found(odd, 2) is None
