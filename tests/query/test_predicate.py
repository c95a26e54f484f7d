"""Mapping filters mean what the table says, in both codecs."""

from __future__ import annotations

import decimal
import pickle
import random
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import filter_model
from support.filters import dense_case, documents, entries_of, filters
from support.settings import examples
from support.strategies import odd_keys, values

import godb_arrow
from godb_arrow import codec
from godb_arrow.codec import Entries, MeasuredEntries, reference
from godb_arrow.query.predicate import alternatives, compile_filter

native = pytest.importorskip("godb_arrow.codec.native")


def expected(entries: Entries, filter: dict[str, Any]) -> list[int]:
    documents = (
        {**codec.load(entries.document(index)), "_id": entries.id(index)}
        for index in range(len(entries))
    )
    return [i for i, one in enumerate(documents) if filter_model.matches(one, filter)]


@settings(max_examples=examples(400, long=10_000))
@given(st.lists(documents, max_size=6), filters())
def test_both_codecs_find_what_the_model_finds(
    rows: list[dict[str, Any]], filter: dict[str, Any]
) -> None:
    entries = entries_of(rows)
    predicate = compile_filter(filter)
    wanted = expected(entries, filter)
    assert reference.select(entries, predicate).tolist() == wanted
    assert native.select(entries, predicate).tolist() == wanted


INTEGERS = (0, 1, -2, 127, 128, -129, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63))
FRACTIONS = (0.5, -0.5, 1.5, -1.5, -2.5, 127.5, -128.5, 2.0**31 + 0.5, 2.0**53, 2.0**63, -(2.0**63))


@pytest.mark.parametrize("operator", ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in"])
def test_integers_of_every_form_beside_fractions(operator: str) -> None:
    shapes = (lambda n: n, lambda n: [n], lambda n: ["x", n], lambda n: {"w": n}, lambda n: [[n]])
    rows = [{"v": shape(number)} for number in INTEGERS for shape in shapes]
    rows += [{"v": {"w": [number]}} for number in INTEGERS]
    entries = entries_of(rows)
    for literal in (*FRACTIONS, *INTEGERS, decimal.Decimal("1.5"), decimal.Decimal(2**63)):
        value = [literal] if operator == "$in" else literal
        for path in ("v", "v.w"):
            filter = {path: {operator: value}}
            predicate = compile_filter(filter)
            wanted = expected(entries, filter)
            assert reference.select(entries, predicate).tolist() == wanted, filter
            assert native.select(entries, predicate).tolist() == wanted, filter


def test_dense_cases() -> None:
    for number in range(examples(2500, long=200_000)):
        rows, filter = dense_case(number)
        entries = entries_of(rows)
        predicate = compile_filter(filter)
        wanted = expected(entries, filter)
        assert reference.select(entries, predicate).tolist() == wanted, (number, rows, filter)
        assert native.select(entries, predicate).tolist() == wanted, (number, rows, filter)


LITERALS = [
    None, True, False, 0, 1, 1.0, -1, 2**63, 0.5, float("nan"), "", "a", "b" * 40, b"a",
    [], [1], ["a", None], {}, {"x": 1}, {"x": [1, {"y": None}]}, decimal.Decimal("2.50"), 2**70,
]  # fmt: skip


def test_alternatives_of_one_field_are_looked_up_together() -> None:
    filters = [{"n": 1}, {"s": "a"}, {"n": {"$in": [2, None]}}, {"n": {"$gt": 5}}]
    joined = [{"n": {"$in": [1, 2, None]}}, {"s": "a"}, {"n": {"$gt": 5}}]
    assert compile_filter({"$or": filters}) == compile_filter({"$or": joined})
    assert compile_filter({"$or": [{"n": 1}, {"n": 2}]}) == compile_filter({"n": [1, 2]})
    assert compile_filter({"$nor": [{"n": 1}, {"n": 2}]}) == compile_filter({"n": {"$nin": [1, 2]}})
    rows = [{"n": 1}, {"n": 2}, {}, {"n": 9}, {"s": "a", "n": 4}, {"n": 4}]
    entries, predicate = entries_of(rows), compile_filter({"$or": filters})
    for select in (reference.select, native.select):
        assert select(entries, predicate).tolist() == [0, 1, 2, 3, 4]


def test_many_values_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    source = random.Random(5)
    stored = [one for one in LITERALS if type(one) is not decimal.Decimal and one != 2**70]

    def some(most: int) -> list[Any]:
        return source.sample(stored, most)

    for number in range(examples(200, long=4_000)):
        monkeypatch.setattr(
            "godb_arrow.codec.native.programs._MIN_JOINED", source.choice([1, 3, 9])
        )
        rows: list[dict[str, Any]] = [{}, {"v": None}, {"v": [None] * 3}, {"v": some(19)[:-1]}]
        rows += [{"v": some(source.randrange(20))} for _ in range(4)]
        rows += [{"v": source.choice(LITERALS[:20])}, {"v": [{"w": one} for one in some(15)]}]
        rows += [
            {"v": [{"w": some(8)}, 5, {"w": some(18)}]},
            {"v": {"w": some(19)}},
            {"v": [some(9)]},
        ]
        chosen = source.sample(LITERALS, source.choice([1, 2, 4, 9, 12, 16]))
        if source.random() < 0.6:  # all in some of the rows
            mirrored = [one for one in chosen[::-1] if type(one) is not decimal.Decimal]
            rows.append({"v": [*(one for one in mirrored if one != 2**70), "2.5"], "w": 1})
        path = source.choice(["v", "v", "v.w", "_id"])
        condition: dict[str, Any] = {"$all": chosen}
        if path == "v" and source.random() < 0.2:
            condition = {"$elemMatch": condition}
        filter: dict[str, Any] = {path: condition}
        if source.random() < 0.3:
            filter = {"$nor": [filter, {"w": 1}]}
        entries = entries_of(rows)
        wanted = expected(entries, filter)
        predicate = compile_filter(filter)
        assert reference.select(entries, predicate).tolist() == wanted, (number, filter)
        assert native.select(entries, predicate).tolist() == wanted, (number, filter)


def test_dense_cases_with_joined_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("godb_arrow.codec.native.programs._MIN_JOINED", 1)
    for number in range(examples(500, long=200_000)):
        rows, filter = dense_case(number)
        entries = entries_of(rows)
        predicate = compile_filter(filter)
        wanted = reference.select(entries, predicate).tolist()
        assert native.select(entries, predicate).tolist() == wanted, (number, rows, filter)


def test_many_values_of_all_take_linear_time() -> None:
    def seconds(count: int) -> float:
        entries = entries_of([{"v": [{"a": number} for number in range(count)]}])
        predicate = compile_filter({"v": {"$all": [{"a": number} for number in range(count)]}})
        native.select(entries, predicate)  # compiles it
        started = time.process_time()
        assert native.select(entries, predicate).tolist() == [0]
        return time.process_time() - started

    assert min(seconds(4000) for _ in range(3)) < 30 * min(seconds(500) for _ in range(3))


@pytest.mark.parametrize(
    ("filter", "says"),
    [
        ({"a": {"$gtt": 1}}, "did you mean \\$gt"),
        ({"a": {"$gt": 1, "b": 2}}, "beside the name 'b'"),
        ({"$orr": []}, "did you mean \\$or"),
        ({"$or": {"a": 1}}, "\\[filter, …\\]"),
        ({"$or": [1]}, "a filter is a mapping"),
        ({"a": {"$or": [{"$gt": 1}]}}, "combine whole filters"),
        ({"a": {"$in": 5}}, "\\[value, …\\]"),
        ({"a": {"$regex": "("}}, "syntax of RE2"),
        ({"a": {"$regex": "x", "$options": "i"}}, "\\(\\?i\\)"),
        ({"a": {"$type": "strng"}}, "did you mean string"),
        ({"a": {"$exists": "yes"}}, "True or False"),
        ({"a": {"$size": -1}}, "write an integer"),
        ({"a": {"$elemMatch": 5}}, "operators, or a filter"),
        ({"a": {"$elemMatch": {"$gt": 1, "b": 2}}}, "beside names"),
        ({"a": {"b": {"$gt": 1}}}, "dotted path"),
        ({"a": [{"$gt": 1}]}, "dotted path"),
        ({"a": object()}, "no document can hold"),
        ({"a": {"$eq": [2**70]}}, "no document can hold"),
        ({"a": decimal.Decimal("1e99999")}, "exponents"),
        ({1: 2}, "no string"),
    ],
)
def test_wrong_filters_are_refused(filter: Any, says: str) -> None:
    with pytest.raises(godb_arrow.InvalidFilter, match=says):
        compile_filter(filter)


def test_filters_nest_so_deep_and_no_deeper() -> None:
    filter: dict[str, Any] = {"a": 1}
    for _ in range(90):
        filter = {"$not": filter}
    assert codec.select(entries_of([{"a": 1}]), compile_filter(filter)).tolist() == [0]
    for _ in range(2000):
        filter = {"$not": filter}
    with pytest.raises(godb_arrow.InvalidFilter, match="nests deeper"):
        compile_filter(filter)


@pytest.mark.parametrize("select", [reference.select, native.select])
def test_a_damaged_document_is_reported(select: Any) -> None:
    # A timestamp has 4, 8 or 12 bytes.
    for raw in (b"\x81\xa1a\xd4\xff\x00", b"\x82\xa1a\x01\xa1b\xd4\xff\x00"):
        data = b"\xa11\x81\xa1a\x01\xa12" + raw
        entries = codec.scan_entries(data, 0, 2, len(data) + 1, 0)
        with pytest.raises(godb_arrow.CorruptFile, match="document '2'"):
            select(entries, compile_filter({"a": 1}))
        assert select(entries, compile_filter({"_id": 2})).tolist() == [1]


@given(st.lists(st.dictionaries(odd_keys, values, max_size=4), max_size=4), filters())
def test_both_codecs_agree_on_odd_documents(
    rows: list[dict[Any, Any]], filter: dict[str, Any]
) -> None:
    data = b"".join(
        codec.pack(str(index)) + twice(codec.pack(row), index) for index, row in enumerate(rows)
    )
    entries = codec.scan_entries(data, 0, len(rows), len(data) + 1, 0)
    predicate = compile_filter(filter)
    found = reference.select(entries, predicate).tolist()
    assert native.select(entries, predicate).tolist() == found
    noted = codec.scan_entries(data, 0, len(rows), len(data) + 1, 0, predicate.fields)
    assert native.select(noted, predicate).tolist() == found


def twice(document: bytes, index: int) -> bytes:
    """Add a key to a document that may be there already: the last one wins."""
    if index % 2 or document[0] >= 0x8F:
        return document
    return bytes([document[0] + 1]) + document[1:] + codec.pack("a") + codec.pack(index)


@given(st.lists(documents, min_size=1, max_size=40), filters(), st.data())
def test_documents_of_which_only_the_front_is_read(
    rows: list[dict[str, Any]], filter: dict[str, Any], data: st.DataObject
) -> None:
    # Documents repeat few layouts, so that places are predicted.
    rows = [rows[index % 3 % len(rows)] for index in range(40)]
    entries = entries_of(rows)
    predicate = compile_filter(filter)
    wanted = reference.select(entries, predicate).tolist()
    edges = np.frombuffer(entries.bounds, np.int64)[::2].copy()
    if codec.measure(entries.data, len(rows)) is not None:
        measured = MeasuredEntries(entries.data, edges, 0, partial(_scan, 0))
        for select_front in (native.select_front, reference.select_front):
            found = select_front(measured, predicate)
            assert found is not None
            assert found.tolist() == wanted


def _scan(base: int, data: bytes, count: int, fields: tuple[str, ...]) -> Entries:
    return codec.scan_entries(data, 0, count, len(data) + 1, base, fields)


def test_a_predicate_can_be_pickled_and_used_by_several_threads() -> None:
    predicate = pickle.loads(pickle.dumps(compile_filter({"a": {"$regex": "^x"}})))
    entries = entries_of([{"a": f"{'xy'[n % 2]}{n}"} for n in range(1000)])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: codec.select(entries, predicate).tolist(), range(16)))
    assert found == [list(range(0, 1000, 2))] * 16


def test_candidates_that_a_filter_names() -> None:
    def named(filter: dict[str, Any]) -> list[list[tuple[Any, ...]]]:
        found = alternatives(compile_filter(filter))
        return [[(one.field, one.low, one.high) for one in ranges] for ranges in found]

    assert named({"a": 1, "b": {"$gt": 2}}) == [[("a", 1, 1)], [("b", 2, None)]]
    assert named({"a": [1, None]}) == [[("a", 1, 1), ("a", None, None)]]
    assert named({"$or": [{"a": 1}, {"b": "x"}]}) == [[("a", 1, 1), ("b", "x", "x")]]
    assert named({"$or": [{"a": 1}, {"b": {"$ne": 1}}]}) == []
    assert named({"a": {"$elemMatch": {"$gte": 5}}}) == [[("a", 5, None)]]
    assert named({"a": {"$in": []}}) == [[]]
    assert named({"a": {"$lt": True}}) == [[]]
    assert named({"a": [[1]]}) == named({"a": {"$not": {"$gt": 1}}}) == []
