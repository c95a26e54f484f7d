"""Columns answer a predicate as the documents do, or not at all."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from support.filters import columns, documents, entries_of, filters

from godb_arrow import codec
from godb_arrow.query.column_selection import select_in_columns
from godb_arrow.query.predicate import compile_filter
from godb_arrow.schema import DocumentSummary, infer_schema


def answers(rows: list[dict[str, Any]], filter: dict[str, Any]) -> tuple[Any, list[int]]:
    entries = entries_of(rows)
    summary = DocumentSummary()
    codec.infer(entries, summary)
    batch = codec.decode_batch(entries, codec.plan_columns(infer_schema(summary)))
    predicate = compile_filter(filter)
    found = select_in_columns(batch, predicate)
    return found if found is None else found.tolist(), codec.select(entries, predicate).tolist()


@given(columns, st.sampled_from(["a", "b"]), filters())
def test_columns_of_one_type(values: list[Any], name: str, filter: dict[str, Any]) -> None:
    found, expected = answers(
        [{name: value, "c": index} for index, value in enumerate(values)], filter
    )
    assert found is None or found == expected


@given(st.lists(documents, min_size=1, max_size=5), filters())
def test_any_documents(rows: list[dict[str, Any]], filter: dict[str, Any]) -> None:
    found, expected = answers(rows, filter)
    assert found is None or found == expected


def test_frequent_filters_are_answered() -> None:
    rows = [{"n": n, "f": n / 2, "s": f"t{n}", "b": n % 2 == 0, "m": None} for n in range(6)]
    rows.append({})
    for filter, expected in (
        ({"n": 3}, [3]), ({"n": 3.0}, [3]), ({"n": 3.5}, []), ({"n": [1, None]}, [1, 6]),
        ({"n": {"$gt": 3.5}}, [4, 5]), ({"n": {"$lte": 0.5}}, [0]), ({"f": 1.5}, [3]),
        ({"f": {"$lt": 1}}, [0, 1]), ({"s": "t2"}, [2]), ({"s": {"$gte": "t4"}}, [4, 5]),
        ({"s": {"$regex": "[01]$"}}, [0, 1]), ({"b": True}, [0, 2, 4]), ({"b": 1}, []),
        ({"n": {"$ne": 3}}, [0, 1, 2, 4, 5, 6]), ({"m": None}, list(range(7))), ({"_id": 4}, [4]),
        ({"$or": [{"n": 1}, {"s": "t5"}]}, [1, 5]), ({}, list(range(7))), ({"s": 5}, []),
    ):  # fmt: skip
        assert answers(rows, filter) == (expected, expected), filter


def test_keys_that_are_no_strings_are_no_fields() -> None:
    rows: list[Any] = [{1: 5}, {1: 6}]
    found, expected = answers(rows, {"1": None})
    assert (found, expected) == (None, [0, 1])
