"""Rows of record batches match as the documents that they would be stored as."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import filter_model
from support.filters import filters
from support.strategies import tables

import godb_arrow
from godb_arrow import codec
from godb_arrow.documents.encoding import encode_rows
from godb_arrow.documents.ids import IdSequence
from godb_arrow.documents.rows import rows_of
from godb_arrow.query import rows as rows_module
from godb_arrow.query.predicate import compile_filter
from godb_arrow.query.projection import narrow
from godb_arrow.query.rows import RowSelector


@given(tables(), filters(), st.sampled_from(["a", "b", "c"]))
def test_rows_match_as_their_documents(table: pa.Table, filter: dict[str, Any], name: str) -> None:
    if not table.num_columns:
        return
    renamed = [name, *(f"x{n}" for n in range(1, table.num_columns))]
    table = table.rename_columns(renamed).combine_chunks()
    try:
        stored = list(
            encode_rows(rows_of(table, None), None, False, IdSequence(), max_document_bytes=1 << 20)
        )
    except godb_arrow.GodbError:
        return
    documents = [codec.load(run.entries().document(i)) for run in stored
                 for i in range(len(run.entries()))]  # fmt: skip
    for document in documents:
        document.pop("_id")
    expected = [n for n, one in enumerate(documents) if filter_model.matches(one, filter)]
    selector = RowSelector(compile_filter(filter))
    found: list[int] = []
    first = 0
    for batch in table.to_batches():
        found += (selector.select(batch) + first).tolist()
        first += batch.num_rows
    assert found == expected


@pytest.mark.parametrize("ids", [pa.array([1, 2, None]), pa.array(["1", "2", None])])
def test_ids_of_rows_are_compared_as_text_and_may_be_null(ids: pa.Array) -> None:
    batch = pa.record_batch({"_id": ids, "n": [1, 2, 3]})
    for filter, rows in (({"_id": 2}, [1]), ({"_id": ["1", 2]}, [0, 1]), ({"_id": None}, [2])):
        assert RowSelector(compile_filter(filter)).select(batch).tolist() == rows


def test_rows_without_the_fields_of_a_filter() -> None:
    batch = pa.record_batch({"n": [1, 2]})
    for filter, count in (({"x": 1}, 0), ({"x": None}, 2), ({"_id": 1}, 0), ({}, 2)):
        assert len(RowSelector(compile_filter(filter)).select(batch)) == count
    reader = narrow(pa.table({"n": [1, 2, 3]}).to_reader(), [], {"n": {"$gt": 1}})
    assert sum(one.num_rows for one in reader) == 2


def test_columns_of_other_types_match_by_value() -> None:
    batch = pa.record_batch({
        "day": [dt.date(2020, 1, 1), dt.date(2020, 1, 2)],
        "price": [decimal.Decimal("1.50"), decimal.Decimal("2.00")],
        "wait": pa.array([dt.timedelta(seconds=1), None]),
        "kind": pa.array(["a", "b"]).dictionary_encode(),
    })  # fmt: skip
    for filter, rows in (
        ({"day": {"$gt": dt.datetime(2020, 1, 1, 12)}}, [1]),
        ({"price": decimal.Decimal("1.5")}, [0]),
        ({"price": {"$gt": decimal.Decimal("1.9")}}, [1]),
        ({"wait": dt.timedelta(seconds=1)}, [0]),
        ({"kind": {"$ne": "a"}}, [1]),
    ):
        assert RowSelector(compile_filter(filter)).select(batch).tolist() == rows


def test_many_rows_are_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module, "_ROWS_AT_ONCE", 7)
    batch = pa.record_batch({"n": list(range(50))})
    found = RowSelector(compile_filter({"n": {"$gte": 20, "$lt": 40}})).select(batch)
    assert found.tolist() == list(range(20, 40))
